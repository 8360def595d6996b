"""Rewards that read."""
