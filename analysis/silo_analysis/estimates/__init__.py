"""Statistics of a table: intervals, verdicts, regret, contrasts, ranks, costs."""
