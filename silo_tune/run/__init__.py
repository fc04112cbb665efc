"""One session of a run: opened, watched, told. Knows no Ray."""
