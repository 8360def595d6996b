"""Commands that show what came out: tables, reports, leaderboards."""
