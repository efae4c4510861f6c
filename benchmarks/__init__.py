"""Speed, always as a ratio of two things in one run: the machine is shared, and seconds alone mean nothing."""
