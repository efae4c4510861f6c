"""The sections of `test`."""
