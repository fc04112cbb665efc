"""A run on disk: storage, lease, units by key, decisions, the last snapshot."""
