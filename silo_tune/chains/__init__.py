"""The planner: which unit may be trained next, what a closed cycle decides, and whose weights may go.

Plain Python, without Ray or torch.
"""

from silo_tune.chains.chain import TOLD, Candidate, Chain, winner_of
from silo_tune.chains.layout import Layout
from silo_tune.chains.planner import Counts, Journal, Planner
from silo_tune.chains.search import Search

__all__ = ["TOLD", "Candidate", "Chain", "Counts", "Journal", "Layout", "Planner", "Search", "winner_of"]
