"""Images as uint8: decoded once into memory, or read as they are needed; split by the replicate's seed."""

from silo_tune.data.load import facts, load_data, open_data
from silo_tune.data.sets import DataSet, Labels, Pixels, Split, StreamedSet, split_rows

__all__ = ["DataSet", "Labels", "Pixels", "Split", "StreamedSet", "facts", "load_data", "open_data", "split_rows"]
