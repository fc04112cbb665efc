"""Does the S matter? Against a constant peak at each of its ends, and against a straight ramp between them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from silo_analysis.answers.answer import Answer, absent, collapsed, cycles_of, joined, never_collapsed, number, way_on
from silo_analysis.answers.baselines import bare, parts
from silo_analysis.answers.effort import flat_sentences
from silo_analysis.answers.text_tables import Table
from silo_analysis.estimates.against import SIGNIFICANCE, outcome
from silo_analysis.estimates.oracle import controls, describe
from silo_analysis.estimates.ranking import FEWEST_TOLD_APART
from silo_analysis.estimates.stats import holm
from silo_analysis.estimates.summary import Summary
from silo_tune.formats import DASH, MINUS, cycle_list, difference, known, p_value, plural, points, rate, words
from silo_tune.schedules.peaks import rounded
from silo_tune.study.arms import ScheduleArm

ID = "shape"
S_CURVE = "silo"
HIGH, LOW, RAMP, TUNED = "constant at ε + δ", "constant at ε", "straight ramp", "constant of the pilot"
MOST_CONTROLS = 4
PRESETS = {HIGH: "constant-high", LOW: "constant-low", RAMP: "linear"}
_SAYS = {
    "identical": "the same trials",
    "better": "the S is better",
    "worse": "the S is worse",
    "equivalent": "equivalent",
    "undetermined": "no difference shown",
}


@dataclass(frozen=True)
class Control:
    """A control that differs from the judged schedule in its peak alone.

    Attributes:
        arm: its name.
        role: which simpler curve it is.
        constants: of its peak, in words.
    """

    arm: str
    role: str
    constants: str


def ask(summary: Summary) -> Answer:
    """The paired differences of `against`, tested over the controls alone, and whether their verdicts differ."""
    title = "Does the S matter?"
    if (why := _no_s(summary)) is not None:
        return Answer(ID, title, missing=why, figure="controls")
    found = alike(summary)
    data = compared(summary, found)
    missing = _missing(summary, found, data)
    if not data["difference"].notna().any():
        return Answer(ID, title, missing=missing, figure="controls", data=data)
    lost = never_collapsed(summary, [summary.schedule, *data.loc[data["difference"].notna(), "arm"]])
    details = (*_each(data), lost, *_corrected(data), *_verdicts(summary, found), _of_these(summary))
    numbers = tuple(
        number(
            f"S {MINUS} {row['role']} (p after Holm)",
            *(row[x] for x in ("difference", "low", "high", "n_seeds", "p_holm")),
        )
        for row in data[data["difference"].notna()].to_dict("records")
    )
    gone = collapsed(summary, [summary.schedule, *data.loc[data["difference"].notna(), "arm"]])
    verdict = f"{_conclusion(summary, data).removesuffix('.')}{gone}."
    cycles = cycles_of(summary.against)
    return Answer(ID, title, verdict, details, numbers, cycles, "controls", _table(data), data, missing)


# --- which controls ---


def _constants(summary: Summary, arm: str) -> Mapping[str, Any]:
    """A schedule arm's constants, those that a pilot found included."""
    definition = summary.study.arms[arm]
    assert isinstance(definition, ScheduleArm)
    search = summary.searches.get(arm if definition.ends is None else definition.ends.arm)
    found = {key: value for key, value in (search.args if search and search.args else {}).items() if key != "name"}
    if definition.ends is not None and found:
        found = definition.constants_at(_ends(found))
    return {**definition.schedule.args, **found}


def _ends(constants: Mapping[str, Any]) -> list[float]:
    """The two rates between which a found curve moves, rising; an S goes from ε to ε + δ."""
    if "delta" in constants:
        return [constants["eps"], rounded(constants["eps"] + constants["delta"])]
    return sorted(float(value) for value in constants.values())


def _no_s(summary: Summary) -> str | None:
    if (why := absent(summary)) is not None:
        return why
    definition = summary.study.arms[summary.schedule]
    if not isinstance(definition, ScheduleArm) or definition.schedule.name != S_CURVE:
        return (
            f'{summary.schedule} has no S to ask about: judge an arm with the schedule "{S_CURVE}" (report.schedule).'
        )
    constants = _constants(summary, summary.schedule)
    if "eps" not in constants or "delta" not in constants:
        return f"The constants of {summary.schedule} are not known yet: its pilot has to end first."
    if constants["delta"] == 0:
        if found := "".join(flat_sentences(summary, [summary.schedule])):
            return found
        return f"{summary.schedule} has delta = 0, it is a constant peak: give it a rise."
    return None


def controls_shown(summary: Summary) -> dict[str, str]:
    """Control → what it is; {} where there is no S to ask about."""
    return {} if _no_s(summary) is not None else {control.arm: control.role for control in alike(summary)}


def alike(summary: Summary) -> list[Control]:
    """Controls with the judged schedule's own profile, budget and after-prune choice; each curve once, four at most.

    A constant peak that is neither end of the S counts only where a pilot found it: any other says nothing of the S.
    """
    study = summary.study
    own = study.settings(study.arms[summary.schedule])
    same = [arm for arm in controls(study, list(study.arms)) if study.settings(study.arms[arm]) == own]
    found: dict[str, Control] = {}
    for control in (_control(summary, arm) for arm in same):
        if control is not None:
            found.setdefault(control.role + control.constants, control)
    order = [HIGH, LOW, RAMP, TUNED]
    return sorted(found.values(), key=lambda control: order.index(control.role))[:MOST_CONTROLS]


def _control(summary: Summary, arm: str) -> Control | None:
    s, own = _constants(summary, summary.schedule), _constants(summary, arm)
    if "max_lr" in own:
        ends = {HIGH: s["eps"] + s["delta"], LOW: s["eps"]}
        role = next((name for name, end in ends.items() if math.isclose(own["max_lr"], end, rel_tol=1e-6)), None)
        role = role or (TUNED if summary.study.searched(arm) else None)
        return None if role is None else Control(arm, role, rate(own["max_lr"]))
    if "start" in own and "end" in own:
        return Control(arm, RAMP, f"{rate(own['start'])} to {rate(own['end'])}")
    return None


# --- comparisons ---


def compared(summary: Summary, found: list[Control]) -> pd.DataFrame:
    """Overall differences S − control, Holm and TOST over these controls alone, and what they say."""
    overall, _ = parts(summary)
    of: dict[str, Any] = {str(row["arm"]): row for row in overall.to_dict("records")}
    empty: dict[str, Any] = dict.fromkeys(map(str, overall.columns))
    rows = [
        {**of.get(control.arm, empty), "arm": control.arm, "role": control.role, "constants": control.constants}
        for control in found
    ]
    tested = [row for row in rows if known(row["p"])]
    for name in ("p", "p_equivalent"):
        for row, p in zip(tested, holm([row[name] for row in tested]), strict=True):
            row[f"{name}_holm"] = p
    rows = [row | _standing(row) for row in rows]
    columns = ["arm", "role", "constants", *overall.columns.drop(["arm", "cycle", "weights_remaining"]), "within"]
    return pd.DataFrame(rows, columns=columns)


def _standing(row: dict[str, Any]) -> dict[str, Any]:
    if row["outcome"] == "identical":
        return {"within": True}
    p, p_equivalent = (row[name] if known(row[name]) else None for name in ("p_holm", "p_equivalent_holm"))
    return {
        "outcome": outcome(row["difference"], p, p_equivalent) if known(row["difference"]) else None,
        "within": p_equivalent is not None and p_equivalent < SIGNIFICANCE,
    }


def _conclusion(summary: Summary, data: pd.DataFrame) -> str:
    rows = data[data["difference"].notna()]
    if not rows["p"].notna().any():
        return f"Too few seeds to tell: a test takes {FEWEST_TOLD_APART}."
    tolerance = f"{difference(summary.tolerance, signed=False)}"
    lost, within = rows[rows["outcome"] == "worse"], rows[rows["within"]]
    if len(lost):
        beyond = (lost["high"] < -summary.tolerance).fillna(False).all()
        worse = "Significantly worse" if len(lost) == len(rows) else "No"
        margin = f", by more than the margin of {tolerance}" if beyond else ""
        return f"{worse}: {_named(lost)} did better than {summary.schedule}{margin}."
    if len(within):
        verb = "is" if len(within) == 1 else "are"
        return f"No, not beyond the tolerance: {_named(within)} {verb} within {tolerance} of it (TOST, Holm)."
    if (rows["outcome"] == "better").all():
        return f"Yes: {summary.schedule} is better than {_named(rows)}."
    open_ = rows[rows["outcome"] == "undetermined"]
    return f"Not shown: {summary.schedule} and {_named(open_)} are neither told apart nor within {tolerance} for sure."


def _named(rows: pd.DataFrame) -> str:
    return joined([f"the {row['role']} ({row['arm']})" for row in rows.to_dict("records")])


def _each(data: pd.DataFrame) -> Iterator[str]:
    for row in data[data["difference"].notna()].to_dict("records"):
        p = (
            f"; Holm p {p_value(row['p_holm'])}, TOST p {p_value(row['p_equivalent_holm'])}"
            if known(row["p_holm"])
            else ""
        )
        yield (f"S {MINUS} {row['role']} ({row['arm']}, {row['constants']}): {bare(row)}: {_SAYS[row['outcome']]}{p}.")


def _corrected(data: pd.DataFrame) -> Iterator[str]:
    if (tested := int(data["p_holm"].notna().sum())) > 1:
        yield (
            f"Both p are corrected (Holm) over these {tested} controls; where all arms are compared, over all of them."
        )


def _of_these(summary: Summary) -> str:
    constants = _constants(summary, summary.schedule)
    ends = f"ε = {rate(constants['eps'])} and δ = {rate(constants['delta'])}"
    return f"All this is about the S with {ends}, and about no other."


def _verdicts(summary: Summary, found: list[Control]) -> Iterator[str]:
    """Do the Oracle's verdicts tell the S from its controls?"""
    own = summary.verdicts[
        (summary.verdicts["oracle"] == summary.verdict_oracle) & (summary.verdicts["verdict"] != "not tested")
    ]
    table = own.pivot_table(index="cycle", columns="arm", values="verdict", aggfunc="first")
    if summary.verdict_oracle is None or summary.schedule not in table:
        return
    said = []
    for control in found:
        if control.arm in table:
            both = table[[summary.schedule, control.arm]].dropna()
            apart = both[both[summary.schedule] != both[control.arm]]
            said.append(f"{control.arm} {_apart(apart, len(both))}")
    if said:
        yield f"Verdicts of {describe(summary.study, summary.verdict_oracle)}, from the same rates: {'; '.join(said)}."


def _apart(apart: pd.DataFrame, cycles: int) -> str:
    if not len(apart):
        return f"the same as {apart.columns[0]} in all {cycles}"
    pairs = [
        f"{apart.columns[0]} {mine}, it {theirs} in {cycle_list(rows.index)}"
        for (mine, theirs), rows in apart.groupby(list(apart.columns))
    ]
    return f"another in {len(apart)} of {plural(cycles, 'cycle')} ({'; '.join(pairs)})"


def _table(data: pd.DataFrame) -> Table:
    head = (
        "Control",
        "Arm",
        "Its max_lr",
        words().head("S − control"),
        "95 % interval",
        "The S is",
        "Holm p",
        "TOST p",
        "Seeds",
    )
    rows: list[tuple[str, ...]] = [
        (
            row["role"],
            row["arm"],
            row["constants"],
            points(row["difference"]),
            f"{points(row['low'])} to {points(row['high'])}" if known(row["low"]) else DASH,
            row["outcome"] if known(row["outcome"]) else DASH,
            p_value(row["p_holm"]),
            p_value(row["p_equivalent_holm"]),
            str(row["n_seeds"]) if known(row["n_seeds"]) else DASH,
        )
        for row in data.to_dict("records")
    ]
    return Table(head, rows, frozenset({"Arm", "Its max_lr", "The S is"}))


def _missing(summary: Summary, found: list[Control], data: pd.DataFrame) -> str | None:
    roles = {control.role for control in found}
    lacking = [role for role in PRESETS if role not in roles]
    said = []
    if lacking:
        arms = joined([f'{PRESETS[role]} = {{ preset = "{PRESETS[role]}" }}' for role in lacking])
        said.append(f"The study has no {joined(lacking, 'or')} with the same profile and budget: add {arms}.")
    if found and not data["difference"].notna().any():
        said.append(f"No seed has every cycle ≥ 2 of the schedule and a control: {way_on(summary)}.")
    return " ".join(said) or None
