"""One iteration of the loop: the rollout, the update, and the trainer that goes from one to the next."""
