"""What is asked: one TOML a benchmark, one a suite."""
