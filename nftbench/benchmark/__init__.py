"""What is asked and how: benchmarks, suites, prompt files, protocols."""
