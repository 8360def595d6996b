"""What is done around the iterations: validation, guards, checkpoints, the log of metrics."""
