"""Images as uint8: decoded once into memory, or read as they are needed; split by the replicate's seed."""
