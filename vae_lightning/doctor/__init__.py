"""What looks a configuration over before training."""
