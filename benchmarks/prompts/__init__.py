"""Prompt files of the project's own."""
