"""Faults done to runs on purpose, and whether what is promised holds: `make faults` prints and writes the table."""
