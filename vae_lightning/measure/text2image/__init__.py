"""What `test` studies of a text-to-image model."""
