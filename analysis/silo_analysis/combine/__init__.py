"""Several runs: those of one study become one run, those of several networks or data sets become groups."""

from silo_analysis.combine.groups import Group, combine
from silo_analysis.combine.overview import overview, overview_frame, overview_lines

__all__ = ["Group", "combine", "overview", "overview_frame", "overview_lines"]
