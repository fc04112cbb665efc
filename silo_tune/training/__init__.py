"""One unit, from its parent's state to a committed result. Knows no Ray."""
