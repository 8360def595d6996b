"""What is shown of numbers: tables, comparisons, leaderboards, reports."""
