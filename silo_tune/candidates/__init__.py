"""Where a cycle's candidates and a search's points come from."""

from silo_tune.candidates.guided import Guided
from silo_tune.candidates.samplers import Dimension, Told, require_sampler, suggest
from silo_tune.candidates.sources import Heard, OneRound, Proposal, Source, grid_source, peak_of, value_of

__all__ = [
    "Dimension",
    "Guided",
    "Heard",
    "OneRound",
    "Proposal",
    "Source",
    "Told",
    "grid_source",
    "peak_of",
    "require_sampler",
    "suggest",
    "value_of",
]
