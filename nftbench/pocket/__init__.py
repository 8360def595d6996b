"""The pocket world: scenes, a policy and judges small enough to live in the repository."""
