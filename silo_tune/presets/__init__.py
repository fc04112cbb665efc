"""Presets: names that stand for several values of a study, filled in when its file is read."""

from silo_tune.presets.arms import PRESETS, Preset, Setting, expand
from silo_tune.presets.authors import DEVIATIONS, Deviation, fill_preset
from silo_tune.presets.table import expand_presets, setting_of

__all__ = [
    "DEVIATIONS",
    "PRESETS",
    "Deviation",
    "Preset",
    "Setting",
    "expand",
    "expand_presets",
    "fill_preset",
    "setting_of",
]
