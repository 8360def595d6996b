"""From a checkpoint and prompts to images, and what a pipeline's own calls tell."""
