"""In what the studies of several runs differ, and which differences keep them together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from silo_tune.errors import BadInput
from silo_tune.study.data import Data
from silo_tune.study.model import Study

Path = tuple[str, ...]
UNSET = "not set"

# What goes with a network or its data, so that groups may differ in it.
_OF_A_GROUP = ("name", "preset", "model", "data", "dense", "retrain", "replicates", "pilot", "cluster")
# What an arm asks in a group: its rates, and what it trains with. Which arm it is stays.
_OF_AN_ARM = (
    "preset", "ends", "profile", "epochs", "grid", "guided", "tests", "sampler", "trials", "batch", "seeds", "eps",
    "delta", "beta", "q", "midpoint", "over", "rungs", "keep",
)  # fmt: skip
_MOST_LINES = 12


def may_differ_in_one_study(path: Path) -> bool:
    """May two runs of one study differ in this? Only in what enters no unit's key, as its name, and in seeds."""
    if path[0] == "cluster":
        return path[1:] != ("cpus_per_unit",)
    if path[0] == "data":
        return path[1] in Data.PLACE
    return path[0] in ("name", "preset", "report") or path == ("replicates", "seeds") or path[2:] == ("preset",)


def may_differ_between_groups(path: Path) -> bool:
    """May two groups differ in this? The question stays: cycles, pruning, the judged schedule, the arms."""
    if path[0] == "arms" and len(path) > 2:
        constant = path[2] == "schedule" and path[3:] != ("name",)
        return constant or path[2] in _OF_AN_ARM
    return path[0] in _OF_A_GROUP or path in (("report", "tolerance"), ("report", "title"), ("prune", "skip"))


def differences(studies: Mapping[str, Study], allowed: Callable[[Path], bool]) -> dict[str, dict[str, Any]]:
    """Key of a study → run → its value, for each key in which the runs differ and must not."""
    flat = {run: dict(_leaves(study.model_dump(mode="json", exclude_none=True))) for run, study in studies.items()}
    found: dict[str, dict[str, Any]] = {}
    for path in dict.fromkeys(path for leaves in flat.values() for path in leaves):
        values = {run: leaves.get(path, UNSET) for run, leaves in flat.items()}
        first = next(iter(values.values()))
        if any(value != first for value in values.values()) and not allowed(path):
            found[".".join(path)] = values
    return _whole_arms(found, studies, allowed)


def _whole_arms(
    found: dict[str, dict[str, Any]], studies: Mapping[str, Study], allowed: Callable[[Path], bool]
) -> dict[str, dict[str, Any]]:
    """An arm that some runs do not have is one difference."""
    names = dict.fromkeys(name for study in studies.values() for name in study.arms)
    lacking = [name for name in names if any(name not in study.arms for study in studies.values())]
    lacking = [name for name in lacking if not allowed(("arms", name))]
    rest = {key: v for key, v in found.items() if not key.startswith(tuple(f"arms.{name}." for name in lacking))}
    arms = {
        f"arms.{name}": {run: study.arms[name].mode if name in study.arms else UNSET for run, study in studies.items()}
        for name in lacking
    }
    return {**arms, **rest}


def refuse(found: Mapping[str, Mapping[str, Any]], remedy: str) -> None:
    """Raises BadInput with a line for each difference, unless there is none."""
    if found:
        lines = [f"{key}: {told(values)}" for key, values in found.items()]
        more = [f"and {len(lines) - _MOST_LINES} more keys"] if len(lines) > _MOST_LINES else []
        raise BadInput("\n".join([*lines[:_MOST_LINES], *more, remedy]))


def told(values: Mapping[str, Any]) -> str:
    """ "4 in a, c; 8 in b"."""
    groups: list[tuple[Any, list[str]]] = []
    for run, value in values.items():
        same = next((runs for known, runs in groups if known == value), None)
        if same is None:
            groups.append((value, [run]))
        else:
            same.append(run)
    return "; ".join(f"{value} in {', '.join(runs)}" for value, runs in groups)


def _leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    if isinstance(value, dict) and value:
        for name, part in value.items():
            yield from _leaves(part, (*path, name))
    else:
        yield path, value
