"""Runs as one folder of HTML."""
