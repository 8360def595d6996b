"""What is minimised: one file an algorithm."""
