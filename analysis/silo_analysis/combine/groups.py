"""Which of several runs are one, and which are groups."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from silo_analysis.combine.merge import merge
from silo_analysis.combine.same_study import differences, may_differ_between_groups, may_differ_in_one_study, refuse
from silo_tune.results.records import Recorded
from silo_tune.study.model import Study

_ONE_STUDY = (
    "runs are put together when their studies differ in seeds alone, and reported side by side when they differ in "
    "model or data; report these one by one, or run them anew alike"
)


@dataclass(frozen=True)
class Group:
    """Runs of one study.

    Attributes:
        name: of its folder; no two groups have the same.
        runs: names of the runs.
        recorded: what they are together.
    """

    name: str
    runs: tuple[str, ...]
    recorded: Recorded


def combine(runs: Mapping[str, Recorded]) -> list[Group]:
    """The groups of several runs, in the order of their first runs: one for all runs of one study.

    Args:
        runs: name → run; at least one.

    Raises:
        BadInput: the runs cannot be put together nor side by side; the keys and values that differ are named.
    """
    recipes = {name: run.ledger.get("recipe") for name, run in runs.items()}
    if len(set(recipes.values())) > 1:
        refuse({"recipe": recipes}, "versions of silo-tune whose numbers do not mix made these runs")
    parts: list[dict[str, Recorded]] = []
    for name, run in runs.items():
        fitting = (part for part in parts if _one_study(next(iter(part.values())).study, run.study))
        part = next(fitting, None)
        if part is None:
            parts.append({name: run})
        else:
            part[name] = run
    firsts = {name: run.study for name, run in (next(iter(part.items())) for part in parts)}
    _refuse_strangers(firsts)
    return [
        Group(name, tuple(part), merge(part))
        for name, part in zip(group_names(list(firsts.values())), parts, strict=True)
    ]


def _one_study(one: Study, other: Study) -> bool:
    return not differences({"one": one, "other": other}, may_differ_in_one_study)


def _refuse_strangers(studies: Mapping[str, Study]) -> None:
    """Raises BadInput unless any two studies differ in model or data, and in nothing that makes a question another."""
    names = list(studies)
    for i, name in enumerate(names):
        for other in names[i + 1 :]:
            pair = {name: studies[name], other: studies[other]}
            if not differences(pair, lambda path: path[0] not in ("model", "data") or may_differ_in_one_study(path)):
                refuse(differences(pair, may_differ_in_one_study), _ONE_STUDY)
    refuse(differences(studies, may_differ_between_groups), _ONE_STUDY)


def group_names(studies: list[Study]) -> list[str]:
    """A folder for each study: its name, with model and data where names are the same, with a number at the worst."""
    plain = [study.name for study in studies]
    if len(set(plain)) < len(plain):
        plain = [f"{study.name}-{_word(study.model)}-{_word(study.data)}" for study in studies]
    return [name if plain.count(name) == 1 else f"{name}-{number}" for number, name in enumerate(plain, 1)]


def _word(part: object) -> str:
    """The name of a model or data set as a part of a folder's name."""
    text = getattr(part, "name", None) or getattr(part, "function", None) or "own"
    return re.sub(r"[^A-Za-z0-9_.+-]+", "-", str(text)).strip("-.") or "own"
