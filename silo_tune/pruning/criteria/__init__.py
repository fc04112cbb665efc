"""Criteria: what a prune removes first."""
