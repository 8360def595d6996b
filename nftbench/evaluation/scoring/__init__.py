"""Rewards over images that lie on disk: loaded, asked batch by batch, each score kept with what it was given for."""
