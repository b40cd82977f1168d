"""What only developers run: ahead-of-time compilation, SASS, budgets, rehearsal, report, tuning."""
