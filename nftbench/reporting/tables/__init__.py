"""What a table is, and the tables of runs, rewards and what else commands list."""
