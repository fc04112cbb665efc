"""The table of a run: derived from its decisions and results, or read where a record has the rows alone."""
