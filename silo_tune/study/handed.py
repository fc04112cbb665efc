"""Objects that a caller hands over and a study names: its network, its data. They live in this process, and travel with
the workspace to the processes that train; a study file cannot name them."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from silo_tune.errors import BadInput

MODEL, DATA = "silo_tune.study.handed:model", "silo_tune.study.handed:data"

_HELD: dict[str, Any] = {}


def hand_over(objects: Mapping[str, Any]) -> None:
    """Hold objects by their content's hash, for `model` and `data` to give."""
    _HELD.update(objects)


def held(hashes: set[str]) -> dict[str, Any]:
    """Those of these objects that were handed over here."""
    return {name: _HELD[name] for name in hashes if name in _HELD}


def _of(content: str) -> Any:
    if content not in _HELD:
        raise BadInput(
            f"what this study trains was handed over as an object (content {content[:12]}), which this process does "
            f"not have: call silo_tune.prune with it again"
        )
    return _HELD[content]


def model(*, content: str, **known: Any) -> Any:
    """A copy of the network that was handed over, or a new one where a function that makes it was."""
    found = _of(content)
    return found() if isinstance(found, type) or not hasattr(found, "state_dict") else copy.deepcopy(found)


def data(*, content: str) -> Any:
    """The data that was handed over."""
    return _of(content)
