"""Training text-to-image policies with rewards."""
