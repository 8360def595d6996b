"""How the pocket world's networks are trained."""
