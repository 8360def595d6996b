"""What is measured on rewards themselves: what they cost, and how far their variants disagree."""
