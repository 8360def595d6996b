"""The policies of a training run: one network (`trained`), several sets of weights (`weights`)."""
