"""A study without what is wrong in it: where some of a study is refused, the rest is looked at all the same."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from silo_tune.errors import StudyError
from silo_tune.study.model import Study

Problem = tuple[str, str]
Table = dict[str, Any]

# What stands in for a part that the study must have and that is wrong as a whole.
INSTEAD: Table = {
    "name": "stand-in",
    "cycles": 3,
    "data": {"name": "digits"},
    "model": {"name": "lenet-300-100"},
    "dense": {"epochs": 1, "max_lr": 0.1},
    "retrain": {"epochs": 1},
    "replicates": {"seeds": [0]},
    "arms": {"constant": {"mode": "schedule", "schedule": {"name": "constant", "max_lr": 0.1}}},
}
# What is left of a part first: what names it, without what is said of it.
CORE = {"data": ("name", "path"), "model": ("name", "function", "version", "head"), "dense": ("checkpoint",)}
# What stands in for a single key that a part must have, and that no other key depends on.
KEYS_INSTEAD = {"retrain.epochs": 1}
# What a study says nothing of whose part is a stand-in; and what a look at its data and network says nothing of.
UNSAID: dict[str, tuple[str, ...]] = {"cycles": ("arms", "prune")}
UNSEEN: dict[str, tuple[str, ...]] = {
    **UNSAID,
    "data": ("task", "model", "dense", "prune", "report", "cluster"),
    "model": ("dense", "prune", "cluster"),
}
ROUNDS = 6
SECONDS = 3.0  # after which no further round begins: all is told in under ten


def all_problems(
    table: Mapping[str, Any],
    problems: Sequence[Problem],
    parse: Callable[[Table], Study],
    look: Callable[[Study], Iterable[Problem]],
) -> list[Problem]:
    """The problems of a study, and those that they hid.

    Args:
        table: of the study file.
        problems: found so far; the keys that they name are left out, and what is left is looked at, again and again.
        parse: makes a study of a table, or raises StudyError.
        look: finds what is wrong with a study that can be parsed.
    """
    found, latest, left = list(problems), list(problems), copy.deepcopy(dict(table))
    missing: set[str] = set()  # parts that are stand-ins, and arms that are left out
    began = time.monotonic()
    for _ in range(ROUNDS):
        for key, _message in latest:
            _leave_out(left, key, missing)
        if time.monotonic() - began > SECONDS:
            break
        try:
            study, blind = parse(copy.deepcopy(left)), UNSEEN
            latest = list(look(study))
        except StudyError as error:
            latest, blind = error.problems, UNSAID
        if not latest:
            break
        gone = missing.union(*(blind.get(part, ()) for part in missing))
        found += [problem for problem in latest if _is_new(problem, found, gone)]
    return found


def _leave_out(table: Table, key: str, missing: set[str]) -> None:
    part, _, rest = key.partition(".")
    if key in KEYS_INSTEAD and isinstance(table.get(part), dict):
        table[part][rest] = KEYS_INSTEAD[key]
        return
    if part == "arms" and (arm := _arm_of(table.get("arms"), rest)):
        del table["arms"][arm]
        missing.add(arm)
        rest = "" if not table["arms"] else rest
    elif rest and _popped(table.get(part), rest):
        return
    if part == "arms" and rest:
        return
    whole = table.pop(part, None)
    written = {"name": whole} if isinstance(whole, str) else whole if isinstance(whole, dict) else {}
    core = {name: written[name] for name in CORE.get(part, ()) if name in written}
    if core and core != whole:
        table[part] = core
    elif part in INSTEAD:
        table[part] = copy.deepcopy(INSTEAD[part])
        missing.add(part)


def _arm_of(arms: Any, rest: str) -> str | None:
    """The arm of a key below [arms]; a name may have dots."""
    names = [str(name) for name in arms if f"{rest}.".startswith(f"{name}.")] if isinstance(arms, Mapping) else []
    return max(names, key=len, default=None)


def _popped(part: Any, rest: str) -> bool:
    """Was the key, or the item of a list, in this part, and is it out of it now?"""
    *parents, last = rest.split(".")
    for parent in parents:
        part = part.get(parent) if isinstance(part, dict) else None
    if isinstance(part, list) and last.isdigit() and int(last) < len(part):
        del part[int(last)]
        return True
    if not isinstance(part, dict) or last not in part:
        return False
    del part[last]
    return True


def _is_new(problem: Problem, found: Iterable[Problem], gone: set[str]) -> bool:
    """Is it a mistake of the study, and not one that was told, or that comes of what is gone: parts, and arms?"""
    key, message = problem
    if key.split(".")[0] in gone or any(f"'{arm}'" in message for arm in gone):
        return False
    # Of a part that was wrong as a whole its core is looked at.
    inside = any(f"{key}.".startswith(f"{told}.") and (told == key or "." in told) for told, _ in found)
    # What is said of a part may come of a key that is out of it; not that its own name is unknown.
    above = any(told.startswith(f"{key}.") for told, _ in found) and not message.startswith("unknown ")
    return not inside and not above
