"""What came out: one CSV a benchmark."""
