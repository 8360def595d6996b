"""One TOML a suite."""
