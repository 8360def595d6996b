"""Rewards by vision-language models."""
