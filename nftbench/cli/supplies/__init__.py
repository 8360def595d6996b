"""Commands about what a run needs: prompts, weights, recipes, and whether they are right."""
