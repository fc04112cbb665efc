"""Masks, filters, criteria, and the prune at the start of a cycle."""
