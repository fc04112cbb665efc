"""The table of a run: derived from its decisions and results, or read where a record has the rows alone."""

from silo_tune.results.columns import COLUMNS, IDENTITY, UNSTABLE
from silo_tune.results.reading import read_table
from silo_tune.results.records import Recorded, check_place, load_run, read, read_files, write_record
from silo_tune.results.rows import rows
from silo_tune.results.searches import SearchRecord, searches
from silo_tune.results.table import make_table, mixed_devices, table, write_table

__all__ = [
    "COLUMNS",
    "IDENTITY",
    "UNSTABLE",
    "Recorded",
    "SearchRecord",
    "check_place",
    "load_run",
    "make_table",
    "mixed_devices",
    "read",
    "read_files",
    "read_table",
    "rows",
    "searches",
    "table",
    "write_record",
    "write_table",
]
