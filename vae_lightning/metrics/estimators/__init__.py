"""Estimates of log p(x)."""
