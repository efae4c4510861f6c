"""A run's folder and loggers."""
