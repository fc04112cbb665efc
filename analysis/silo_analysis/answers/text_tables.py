"""The report's tables as text: scores and differences in the words of their study, a dash where there is none."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd

from silo_analysis.answers.cells import interval_text, width_text
from silo_analysis.estimates.oracle import numbers
from silo_analysis.estimates.summary import Summary
from silo_analysis.estimates.tuning import PILOT, by_merit, parameters
from silo_analysis.estimates.typical import paired_interval
from silo_tune.formats import DASH, MINUS, known, level, p_value, percent, plural, points, rate, seconds, telling, words
from silo_tune.planner.winner import gain
from silo_tune.results.searches import SearchRecord
from silo_tune.study.wording import words_for

# With more arms than this areas of one standard deviation hide each other in a figure: only some are drawn (ours).
CROWD = 8


@dataclass(frozen=True)
class Table:
    """A table of text: the first column heads its row, the columns named in `words` are set left."""

    head: tuple[str, ...]
    rows: list[tuple[str, ...]]
    words: frozenset[str] = frozenset()


def cycle_table(summary: Summary) -> Table:
    """Per cycle: the schedule's rate, the interval, the verdict, mean regret and gap."""
    head = (
        "Cycle", "Weights, %", "max_lr", "Point interval", "Decades", "Best rate", "Point verdict", "Verdict",
        "Informative", "Regret", "Chain gap", "Seeds",
    )  # fmt: skip
    rows: list[tuple[str, ...]] = [
        (
            str(row["cycle"]),
            percent(row["weights_remaining"]),
            rate(row["max_lr"]),
            interval_text(row),
            width_text(row),
            rate(row["best_max_lr"]),
            row["point_verdict"] if known(row["point_verdict"]) else DASH,
            row["verdict"],
            "yes" if row["informative"] else "no",
            points(row["cycle_regret_test"]),
            points(row["chain_gap"]),
            str(row["n_seeds"]),
        )
        for _, row in summary.cycles.iterrows()
    ]
    return Table(head, rows, frozenset({"Verdict", "Point verdict", "Informative"}))


def score_table(summary: Summary) -> Table:
    """Test score of every arm (rows) at every share of weights left (columns), the dense network first.

    Median over seeds and its 95 % interval; k/n where only k of n trainings succeeded.
    """
    arms = summary.arms
    left = arms.dropna(subset=["weights_remaining"]).groupby("cycle")["weights_remaining"].mean()
    head = ("Arm", *(f"{percent(share)} %" for share in left))
    of: dict[tuple[str, int], Any] = {(row["arm"], row["cycle"]): row for row in arms.to_dict("records")}
    names = [name for name in summary.study.arms if (arms["arm"] == name).any()]
    rows: list[tuple[str, ...]] = [(name, *(_score(of.get((name, cycle))) for cycle in left.index)) for name in names]
    return Table(head, rows)


def also_table(summary: Summary) -> Table:
    """Further scores on test of every arm at every share of weights left: medians over the seeds that have one."""
    also = summary.also
    left = also.dropna(subset=["weights_remaining"]).groupby("cycle")["weights_remaining"].mean()
    of: dict[tuple[str, str, int], Any] = {
        (row["score"], row["arm"], row["cycle"]): row for row in also.to_dict("records")
    }
    rows: list[tuple[str, ...]] = []
    for score in summary.study.task.further if summary.study.task is not None and len(also) else ():
        with telling(words_for(score, words().example)) as its:
            for arm in [name for name in summary.study.arms if (also["arm"] == name).any()]:
                rows.append((its.axis, arm, *(_median(of.get((score.name, arm, cycle))) for cycle in left.index)))
    return Table(("Score", "Arm", *(f"{percent(share)} %" for share in left)), rows, frozenset({"Arm"}))


def _median(row: Any) -> str:
    if row is None or not known(row["test_median"]):
        return DASH
    lost = "" if row["trained"] == row["n_seeds"] else f" {row['trained']}/{row['n_seeds']}"
    return f"{level(row['test_median'])}{lost}"


def published_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Numbers that others published, as the study's file has them."""
    head = ("Published arm", "Weights, %", "Score, %" if words().share else "Score", "Source")
    body: list[tuple[str, ...]] = [
        (row["arm"], percent(row["weights_remaining"]), level(row["score"], 2), row["source"]) for row in rows
    ]
    return Table(head, body, frozenset({"Source"}))


def _score(row: Any) -> str:
    if row is None or not known(row["test_median"]):
        return DASH
    ends = f" ({level(row['test_low'])}–{level(row['test_high'])})" if known(row["test_low"]) else ""
    lost = "" if row["trained"] == row["n_seeds"] else f" {row['trained']}/{row['n_seeds']}"
    return f"{level(row['test_median'])}{ends}{lost}"


def regret_table(summary: Summary) -> Table:
    """Per cycle: means over seeds with 95 % intervals of regret and gap."""
    head = (
        "Cycle", "Regret, test", "95 % interval", "Regret, validation", "Cross-fitted, test", "Chain gap, test",
        "95 % interval of the gap", "Seeds of the gap",
    )  # fmt: skip
    own = summary.regret[summary.regret["oracle"] == summary.verdict_oracle]
    gaps = summary.gaps[summary.gaps["oracle"] == summary.chain_oracle]
    rows: list[tuple[str, ...]] = [
        (
            str(row["cycle"]),
            points(row["cycle_regret_test"]),
            _ends(own[own["cycle"] == row["cycle"]], "regret_test"),
            points(row["cycle_regret_val"]),
            points(row["regret_crossfit_test"]),
            points(row["chain_gap"]),
            _ends(gaps[gaps["cycle"] == row["cycle"]], "gap_test"),
            str(row["n_chain_seeds"]),
        )
        for _, row in summary.cycles.iterrows()
    ]
    return Table(head, rows if len(own) or len(gaps) else [])


def _ends(rows: pd.DataFrame, column: str) -> str:
    estimate = paired_interval(numbers(rows, column))
    return DASH if estimate.low is None else f"{points(estimate.low)} to {points(estimate.high)}"


def verdict_table(summary: Summary) -> Table:
    """Verdict of every tested arm per cycle of the verdict's Oracle, with its Holm-corrected p value.

    A row per cycle, with the reason for the judged schedule; of a crowd of arms a row per arm.
    """
    own = summary.verdicts[summary.verdicts["oracle"] == summary.verdict_oracle]
    arms = [str(arm) for arm in dict.fromkeys(own["arm"])]
    cycles = [int(cycle) for cycle in dict.fromkeys(own["cycle"])]
    cells = {(int(row["cycle"]), str(row["arm"])): _verdict_text(row) for _, row in own.iterrows()}
    if len(arms) > CROWD:
        head = ("Arm", *(f"Cycle {cycle}" for cycle in cycles))
        rows = [(arm, *(cells.get((cycle, arm), DASH) for cycle in cycles)) for arm in arms]
        return Table(head, rows, frozenset(head[1:]))
    reasons = {int(row["cycle"]): row["reason"] for _, row in own[own["arm"] == summary.schedule].iterrows()}
    head = ("Cycle", *arms, f"Why, for {summary.schedule}")
    rows = [
        (
            str(cycle),
            *(cells.get((cycle, arm), DASH) for arm in arms),
            reasons[cycle] if known(reasons.get(cycle)) else DASH,
        )
        for cycle in cycles
    ]
    return Table(head, rows, frozenset(head[1:]))


def _verdict_text(row: Any) -> str:
    p = row["p_inside_holm"] if row["verdict"] == "inside" else row["p_outside_holm"]
    return (
        f"{row['verdict']} ({p_value(p)})" if row["verdict"] in ("inside", "outside") and known(p) else row["verdict"]
    )


def cost_table(summary: Summary) -> Table:
    """Distinct trials and training time per arm."""
    head = (
        "Arm", "Trials", "For pilots", "Only to judge others", "Shared", "Training", f"× {summary.schedule}",
        "Saved, %", "ok", "diverged", "failed",
    )  # fmt: skip
    rows = [
        (
            str(row["arm"]),
            str(row["units"]),
            str(row["pilot_units"]),
            str(row["tested_units"]),
            str(row["shared_units"]),
            seconds(row["train_seconds"]),
            f"{row['times_schedule']:.2f}" if known(row["times_schedule"]) else DASH,
            _saved(row["saved_by_schedule"]),
            *(str(row[kind]) for kind in ("ok", "diverged", "failed")),
        )
        for _, row in summary.cost.iterrows()
    ]
    return Table(head, rows)


def _saved(share: Any) -> str:
    """A share in percent; a dash where nothing is saved because the arm costs less."""
    return percent(share, 0) if known(share) and share >= 0 else DASH


def trouble_table(summary: Summary) -> Table:
    """Rows that diverged or failed, those of one arm, rate and status together; each by itself is in the CSV."""
    head = ("Arm", "max_lr", "Status", "Rows", "Cycles", "Seeds", "Why")
    troubles = summary.troubles
    pilots = (troubles["mode"] == PILOT).fillna(False)
    named = troubles.assign(arm=troubles["arm"].where(~pilots, troubles["arm"] + " (pilot)"))
    groups = named.groupby(["arm", "max_lr", "status"], sort=False, dropna=False)
    rows: list[tuple[str, ...]] = [
        (
            str(arm),
            rate(max_lr),
            str(status),
            str(len(group)),
            ", ".join(map(str, sorted(set(group["cycle"])))),
            ", ".join(map(str, sorted(set(group["seed"])))),
            _reasons(group["error"].dropna().unique().tolist()),
        )
        for (arm, max_lr, status), group in groups
    ]
    return Table(head, rows, frozenset({"Status", "Cycles", "Seeds", "Why"}))


def _reasons(reasons: list[str]) -> str:
    if not reasons:
        return DASH
    return reasons[0] if len(reasons) == 1 else f"{reasons[0]} (and {len(reasons) - 1} more)"


# --- two Oracles ---


def oracles_table(summary: Summary) -> Table:
    """Per cycle: best rate, point interval and verdict of the greedy and of the conditioned Oracle."""
    head = (
        "Cycle", "max_lr", "Best rate, greedy", "Interval, greedy", "Verdict, greedy", "Best rate, conditioned",
        "Interval, conditioned", "Verdict, conditioned",
    )  # fmt: skip
    rows: list[tuple[str, ...]] = [
        (str(row["cycle"]), rate(row["max_lr"]), *_oracle_cells(row, "greedy"), *_oracle_cells(row, "conditioned"))
        for _, row in summary.compared.iterrows()
    ]
    return Table(head, rows, frozenset({"Verdict, greedy", "Verdict, conditioned"}))


def distances_table(summary: Summary) -> Table:
    """Per cycle: how far apart the two Oracles are."""
    head = (
        "Cycle", "Same verdict", "Best rates, decades apart", "Overlap of the intervals, %", "Rank correlation",
        "Shared rates", "Same weights in",
    )  # fmt: skip
    rows: list[tuple[str, ...]] = [
        (
            str(row["cycle"]),
            DASH if not known(row["same_verdict"]) else "yes" if row["same_verdict"] else "no",
            f"{row['distance_decades']:.2f}" if known(row["distance_decades"]) else DASH,
            percent(row["overlap"], 0),
            f"{row['rank_correlation']:.2f}".replace("-", MINUS) if known(row["rank_correlation"]) else DASH,
            str(row["shared_rates"]),
            f"{row['same_weights']} of {plural(int(row['both_seeds']), 'seed')}",
        )
        for _, row in summary.compared.iterrows()
    ]
    return Table(head, rows, frozenset({"Same verdict"}))


def _oracle_cells(row: Any, side: str) -> tuple[str, str, str]:
    """Best rate, interval, and the verdict with the point verdict where the two differ."""
    interval = {
        "interval_low": row[f"{side}_low"],
        "interval_high": row[f"{side}_high"],
        "unbounded_low": row[f"{side}_unbounded_low"],
        "unbounded_high": row[f"{side}_unbounded_high"],
    }
    return (
        rate(row[f"{side}_best"]),
        interval_text(interval),
        f"{row[f'{side}_verdict']}{_lies(row[f'{side}_contains'])}",
    )


def _lies(contains: Any) -> str:
    if not known(contains):
        return ""
    return " (in the interval)" if contains else " (not in the interval)"


# --- searches ---


def search_table(search: SearchRecord, most: int) -> Table:
    """The points of a search, the best first; at most so many."""
    columns: dict[str, Callable[[Mapping[str, Any]], str]] = {
        "Trial": lambda point: str(point["trial"]),
        "Round": lambda point: str(point["round"]),
        **{name: partial(_parameter, name) for name in parameters(search)},
        f"Mean validation {words().axis}": lambda point: level_of(point["objective"]),
    }
    if any(known(point["stopped"]) for point in search.points):
        columns["Sampler told, %" if words().share else "Sampler told"] = lambda point: level_of(point["told"])
        columns["Stopped after"] = lambda point: f"cycle {point['stopped']}" if known(point["stopped"]) else DASH
    columns["Standing"] = partial(_point_standing, search.best)
    rows = [tuple(text(point) for text in columns.values()) for point in by_merit(search)[:most]]
    return Table(tuple(columns), rows, frozenset({"Standing"}))


def level_of(objective: Any) -> str:
    """The score that an objective stands for; a dash without one."""
    return level(gain(objective, words().sign), 2) if known(objective) else DASH


def _parameter(name: str, point: Mapping[str, Any]) -> str:
    return _number(point["params"].get(name))


def _point_standing(best: int | None, point: Mapping[str, Any]) -> str:
    return "best" if point["trial"] == best else "stopped" if known(point["stopped"]) else ""


def constants_text(constants: Mapping[str, Any] | None) -> str:
    """A schedule's table in one line: "silo: eps 0.03, delta 0.04"."""
    if constants is None:
        return DASH
    name = constants.get("name", constants.get("function"))
    rest = ", ".join(f"{key} {_number(value)}" for key, value in constants.items() if key not in ("name", "function"))
    return f"{name}: {rest}" if rest else str(name)


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value) if known(value) else DASH
