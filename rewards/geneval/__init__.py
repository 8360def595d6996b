"""GenEval: object-focused prompts judged by detection, colour and position."""
