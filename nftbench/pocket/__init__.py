"""The pocket world: scenes, a policy and rewards small enough to live in the repository."""
