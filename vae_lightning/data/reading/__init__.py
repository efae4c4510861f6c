"""Image files as integers: which files there are, what they are for, what is in them, and what is kept of it."""
