"""Recipes: everything that a training run is made of."""
