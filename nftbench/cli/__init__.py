"""The command line: the only files that print."""
