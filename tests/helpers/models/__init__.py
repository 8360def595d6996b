"""Small models: real networks and pipelines with random weights."""
