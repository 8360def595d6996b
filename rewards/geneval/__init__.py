"""GenEval: object-focused prompts, scored by detection, colour and position."""
