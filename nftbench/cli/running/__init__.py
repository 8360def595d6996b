"""Commands that make a run: images drawn, scored, trained on, looked into."""
