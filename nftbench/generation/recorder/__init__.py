"""A pipeline watched while it draws, and its network called again: what training needs, with no code for a model."""
