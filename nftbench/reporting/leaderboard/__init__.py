"""Leaderboards: CSV files, pages of them, model cards."""
