"""What a run leaves on disk: images, scores, rows."""
