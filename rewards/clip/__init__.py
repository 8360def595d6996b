"""Rewards that look through CLIP."""
