"""Scenes with exact captions, and what is true of them."""
