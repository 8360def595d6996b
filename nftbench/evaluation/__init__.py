"""Generate, score, aggregate; and whether a run's numbers are those of its images."""
