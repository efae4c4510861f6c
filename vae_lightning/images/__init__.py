"""Reading and writing image files and arrays."""
