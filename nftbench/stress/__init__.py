"""Signs of reward hacking: one checkpoint in other words, by other seeds and guidance."""
