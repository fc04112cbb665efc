"""Search strategies replayed on a recorded grid: what they would have found, and for how many units. Trains nothing.

A replay is exact within a cycle only. The recorded responses of a cycle belong to the weights that the Oracle's cycle
started from, and another winner would have given the next cycle other weights.

What is simulated:
- Truth of a cycle: mean over seeds of the recorded accuracies, smooth in log max_lr as for fitted curves. So one lucky
  grid point is no peak.
- Noise: what is left of each recorded accuracy without its seed's level and its rate's level. Every training draws anew
  from these, so that no search can learn the noise of a recorded point. Differences between seeds in the *shape* of the
  response count as noise, so the noise is rather too large than too small. A cycle that one seed alone has closed takes
  the noise of the others; a run with one seed tells nothing of noise, and none is used.
- Divergence: a rate diverges where the recorded rate nearest to it (in log) collapsed, in the seed that a repetition
  plays; seeds take turns.
- Regret: truth at the best rate minus truth at the chosen one. A search chooses by what it measured, noise included.
"""

from silo_analysis.replay.landscape import Landscape, RecordedGrid, landscape_of, recorded_grid
from silo_analysis.replay.replay_tables import replay, replay_lines, title
from silo_analysis.replay.strategies import (
    GRID,
    REPETITIONS,
    SAMPLERS,
    TRIALS,
    Played,
    Strategy,
    available_samplers,
    play,
    search,
    strategies,
)

__all__ = [
    "GRID",
    "REPETITIONS",
    "SAMPLERS",
    "TRIALS",
    "Landscape",
    "Played",
    "RecordedGrid",
    "Strategy",
    "available_samplers",
    "landscape_of",
    "play",
    "recorded_grid",
    "replay",
    "replay_lines",
    "search",
    "strategies",
    "title",
]
