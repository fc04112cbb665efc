"""Everything that a run says about its schedule, as plain tables: `summarise(frame, study) -> Summary`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from silo_analysis.estimates import (
    against,
    budgets,
    climbing,
    containment,
    cost,
    luck,
    mechanism,
    needed,
    oracle,
    oracles_compared,
    ranking,
    regret,
    sequential,
    tuning,
)
from silo_analysis.estimates.climbing import Climb
from silo_analysis.estimates.examples import ChainScores, chain_scores, mcnemar_table
from silo_analysis.estimates.frames import (
    ALSO,
    ARMS,
    CROSSFIT,
    CURVES,
    CYCLES,
    GAPS,
    INTERVALS,
    REGRET,
    VERDICTS,
    typed,
)
from silo_analysis.estimates.interval import interval_of
from silo_analysis.estimates.oracle import OracleCycle
from silo_analysis.estimates.oracles_compared import Pair
from silo_analysis.estimates.regret import Endpoint
from silo_analysis.estimates.stats import Estimate, holm, share_interval
from silo_analysis.estimates.tuning import Savings, Tuning
from silo_analysis.estimates.typical import paired_interval
from silo_tune.planner.winner import gain
from silo_tune.results.columns import also_columns
from silo_tune.results.example_rows import Examples
from silo_tune.results.remembered import remembered
from silo_tune.results.searches import SearchRecord
from silo_tune.study.arms import OracleArm
from silo_tune.study.model import Study
from silo_tune.study.wording import counts_examples, worded


@dataclass(frozen=True)
class Summary:
    """Tables of one run. Scores are as they are (an accuracy in [0, 1]); differences are gains: more is better.

    Attributes:
        study: the study.
        verdict_oracle: the Oracle that interval, verdict and cycle regret come from, None without one.
        chain_oracle: the greedy Oracle that chain gap and primary endpoint come from, None without one.
        cycles: one row per decided cycle (`CYCLES`), from those two Oracles.
        intervals: per Oracle and cycle (`INTERVALS`).
        verdicts: per Oracle, cycle and tested arm (`VERDICTS`); Holm is over the cycles of one Oracle and arm. An
            undetermined one has the range of seeds that it would take (`needed.seeds_for_verdict`).
        curves: per Oracle, cycle and rate: means and spreads over seeds (`CURVES`).
        arms: per arm and cycle: means and spreads of what its chains go on with (`ARMS`).
        also: further scores per score, arm and cycle (`ALSO`), of the study's that have some.
        regret, crossfit: per Oracle, cycle and seed (`REGRET`, `CROSSFIT`).
        gaps: per greedy Oracle, cycle and seed (`GAPS`).
        luck: what of a greedy Oracle's chain gap is luck and what its rates, where the run can tell (`LUCK`).
        against: the judged schedule against every other schedule arm, overall and per cycle (`AGAINST`).
        mcnemar: per arm and cycle, examples that only one of two chains gets right (`MCNEMAR`): the judged schedule
            against every other schedule arm and the chain Oracle. Without rows where the run has no examples.
        scores: what each chain does on each test example, as far as it is known.
        endpoint: the primary endpoint, None without a greedy Oracle or the schedule.
        ranking: arms with chains, the best first, each with its rank interval (`RANKING`).
        budgets: what schedule arms trained per retrained cycle (`BUDGETS`).
        spreads, slopes: of gradients and representations, for the schedule and the controls (`SPREADS`, `SLOPES`).
        cost: per arm (`cost.COLUMNS`).
        pair: the greedy Oracle and the one conditioned on the schedule, None unless both have rows.
        compared: per cycle that both have (`COMPARED`).
        searches: arm → its pilot or tune search, as far as they were given.
        savings: arm → where the units of its search went.
        tuning_curves: the best of n chains, per search (`TUNING_CURVE`).
        climbs: arm → what the last part of its search's chains brought, where that is known.
        tuning: how the schedule arms came by their constants.
        troubles: rows that diverged or failed, those of searches included.
        mixed: seed → kinds of device, for each seed whose units were trained on several.
        reached: (arm, seed) → last cycle that the chain has closed with something to go on with.
        ended: (arm, seed) of chains that ended before their last cycle: nothing of theirs is to come.
        seeds: replicates that have any ordinary row.
        n_val: validation examples, None without results.
        remembered: a warning where a checkpoint seems to know validation images, else None.
        looks: that were made, in a study of seeds until decided: its verdicts are `sequential.judge_looks`.
    """

    study: Study
    verdict_oracle: str | None
    chain_oracle: str | None
    cycles: pd.DataFrame
    intervals: pd.DataFrame
    verdicts: pd.DataFrame
    curves: pd.DataFrame
    arms: pd.DataFrame
    also: pd.DataFrame
    regret: pd.DataFrame
    crossfit: pd.DataFrame
    gaps: pd.DataFrame
    luck: pd.DataFrame
    against: pd.DataFrame
    mcnemar: pd.DataFrame
    scores: ChainScores
    endpoint: Endpoint | None
    ranking: pd.DataFrame
    budgets: pd.DataFrame
    spreads: pd.DataFrame
    slopes: pd.DataFrame
    cost: pd.DataFrame
    pair: Pair | None
    compared: pd.DataFrame
    searches: Mapping[str, SearchRecord]
    savings: Mapping[str, Savings]
    tuning_curves: pd.DataFrame
    climbs: Mapping[str, Climb]
    tuning: Tuning
    troubles: pd.DataFrame
    mixed: Mapping[int, tuple[str, ...]]
    reached: Mapping[tuple[str, int], int]
    ended: frozenset[tuple[str, int]]
    seeds: tuple[int, ...]
    n_val: int | None
    remembered: str | None
    looks: int = 0

    @property
    def schedule(self) -> str:
        """Name of the judged arm; the run may lack it."""
        return self.study.report.schedule

    @property
    def tolerance(self) -> float:
        """Difference of scores that counts as none; of accuracies in [0, 1]."""
        return self.study.report.tolerance


@worded(lambda frame, study, *_, **__: study)
def summarise(
    frame: pd.DataFrame,
    study: Study,
    searches: Mapping[str, SearchRecord] | None = None,
    examples: Examples | None = None,
    looks: int | None = None,
) -> Summary:
    """Compute every table of a run.

    Args:
        frame: rows as in `columns.COLUMNS`; a run under way or with failures is fine. Only cost, troubles and savings
            look at the rows of searches.
        study: its study.
        searches: arm → its pilot or tune search.
        examples: which examples its chains got right, as of `results.records.read`; without them there is no interval
            over seeds and test examples.
        looks: that were made, in a study of seeds until decided; left out, those whose seeds all have rows.
    """
    plan = _look_plan(frame, study, looks)
    whole, study = study, _as_trained(frame, study)
    given, searches = searches, searches or {}
    rows = tuning.ordinary(frame)
    groups = oracle.oracle_cycles(rows, study)
    present = {name for name, _ in groups}
    schedule, tolerance = study.report.schedule, study.report.tolerance
    judge_by, chain_by = oracle.verdict_oracle(study, present), oracle.greedy_oracle(study, present)
    gains = oracle.as_gains(rows, study)
    chains = regret.chain_rows(gains)
    scores = chain_scores(chains, examples if counts_examples(study.scored) else None)
    regrets = typed([row for g in groups.values() for row in regret.cycle_regret(g, schedule)], REGRET)
    crossfit = typed([row for g in groups.values() for row in regret.crossfit_regret(g, schedule)], CROSSFIT)
    gaps = _gaps(chains, study)
    intervals = typed([_interval(group, tolerance, study) for group in groups.values()], INTERVALS)
    verdicts = _verdicts(groups, study, plan)
    own_chains = regret.chain_rows(_with_winners(gains, study))
    arms = _arms(own_chains, study)
    parts = CycleParts(intervals, verdicts, arms, regrets, crossfit, gaps)
    n_val = rows["n_val"].dropna()
    cycles = _cycles(study, judge_by, chain_by, parts)
    weights = cycles.set_index("cycle")["weights_remaining"].to_dict()
    pair = oracles_compared.pair_of(study, present)
    ratios = mechanism.log_ratios(chains, study)
    return Summary(
        study=whole,
        verdict_oracle=judge_by,
        chain_oracle=chain_by,
        cycles=cycles,
        intervals=intervals,
        verdicts=verdicts,
        curves=typed([row for group in groups.values() for row in _curve(group, study)], CURVES),
        arms=arms,
        also=typed(list(_also(own_chains, study)), ALSO),
        regret=regrets,
        crossfit=crossfit,
        gaps=gaps,
        luck=luck.luck_table(gains, chains, study),
        against=against.against_table(chains, study, scores),
        mcnemar=mcnemar_table(scores, schedule, [*against.others(study), *([chain_by] if chain_by else [])], study),
        scores=scores,
        endpoint=_endpoint(gaps, study, chain_by, scores),
        ranking=ranking.rank_arms(chains, study),
        budgets=budgets.budget_table(chains, study),
        spreads=mechanism.spread_table(ratios),
        slopes=mechanism.slope_table(ratios),
        cost=cost.cost_table(frame, study),
        pair=pair,
        compared=oracles_compared.compare(groups, pair, schedule, tolerance, weights),
        searches=searches,
        savings={name: tuning.savings(found, frame, study.cycles) for name, found in searches.items()},
        tuning_curves=climbing.tuning_curves(searches, study.scored.sign),
        climbs={
            name: climb
            for name, found in searches.items()
            if (climb := climbing.climb_of(found, tolerance)) is not None
        },
        tuning=tuning.tuning_of(frame, study, given),
        troubles=_troubles(frame),
        mixed=_mixed(frame),
        reached=_reached(chains),
        ended=_ended(rows, study, _reached(chains)),
        seeds=tuple(sorted(int(seed) for seed in rows["seed"].dropna().unique())),
        n_val=int(n_val.min()) if len(n_val) else None,
        remembered=_remembered(rows, study),
        looks=0 if plan is None else plan.done,
    )


def _look_plan(frame: pd.DataFrame, study: Study, looks: int | None) -> sequential.LookPlan | None:
    """When a study of seeds until decided looked; None for another."""
    if not study.looks:
        return None
    seeds, have = study.replicates.seeds, set(tuning.ordinary(frame)["seed"].dropna().astype(int))
    whole = sum(have.issuperset(seeds[:n]) for n in study.looks)
    return sequential.LookPlan(study.looks, seeds, whole if looks is None else looks)


def _as_trained(frame: pd.DataFrame, study: Study) -> Study:
    """The study with the seeds that its looks called for: nobody misses the others."""
    have = set(tuning.ordinary(frame)["seed"].dropna().astype(int))
    if not study.looks or not have:
        return study
    seeds = tuple(seed for seed in study.replicates.seeds if seed in have)
    return study.model_copy(update={"replicates": study.replicates.model_copy(update={"seeds": seeds})})


# --- per Oracle and cycle ---


def _interval(group: OracleCycle, tolerance: float, study: Study) -> dict[str, Any]:
    row: dict[str, Any] = {"oracle": group.oracle, "cycle": group.cycle, "n_seeds": len(group.seeds)}
    if (found := interval_of(group, tolerance)) is None:
        return row
    return row | {
        "interval_low": found.low,
        "interval_high": found.high,
        "unbounded_low": found.unbounded_low,
        "unbounded_high": found.unbounded_high,
        "clipped": found.clipped,
        "segments": "; ".join(f"{low:.4g} to {high:.4g}" for low, high in found.segments),
        "best_max_lr": found.best,
        "best_score": gain(found.best_score, study.scored.sign),
        "width_decades": found.width_decades,
    }


def _verdicts(
    groups: Mapping[tuple[str, int], OracleCycle], study: Study, plan: sequential.LookPlan | None
) -> pd.DataFrame:
    rows = []
    for (name, cycle), group in groups.items():
        tests = list(dict.fromkeys([study.report.schedule, *study.tests_of(name), *group.tested]))
        arms = [arm for arm in tests if arm in study.arms]
        known_controls = oracle.controls(study, arms)
        for arm in arms:
            row = {"oracle": name, "cycle": cycle, "arm": arm, "control": arm in known_controls}
            rows.append(row | _verdict(group, arm, study.report.tolerance, plan))
    table = typed(rows, VERDICTS)
    for _, index in table.groupby(["oracle", "arm"], sort=False).groups.items():
        for kind in ("p_inside", "p_outside"):
            p = table.loc[index, kind].dropna()
            table.loc[p.index, f"{kind}_holm"] = holm(p.tolist())
    return table


def _verdict(group: OracleCycle, arm: str, tolerance: float, plan: sequential.LookPlan | None) -> dict[str, Any]:
    if plan is None:
        verdict = containment.judge(group, arm, tolerance)
    else:
        verdict = sequential.judge_looks(group, arm, tolerance, plan).verdict
    return {
        "max_lr": verdict.max_lr,
        "verdict": verdict.name,
        "point_verdict": _point_verdict(group, verdict.max_lr, tolerance),
        "reason": verdict.reason,
        "n_seeds": verdict.n_seeds,
        **_collapses(verdict.collapsed, verdict.n_seeds),
        "p_inside": verdict.p_inside,
        "p_outside": verdict.p_outside,
        **_needed(group, arm, verdict.name, tolerance),
    }


def _collapses(collapsed: int, seeds: int) -> dict[str, float]:
    """In how many seeds a training collapsed, with the exact 95 % interval of that share."""
    if not seeds:
        return {}
    low, high = share_interval(collapsed, seeds)
    return {"collapsed": collapsed, "collapsed_low": low, "collapsed_high": high}


def _needed(group: OracleCycle, arm: str, verdict: str, tolerance: float) -> dict[str, int]:
    found = needed.seeds_for_verdict(group, arm, tolerance) if verdict == "undetermined" else None
    return {} if found is None else {"needed_low": found[0], "needed_high": found[1]}


def _point_verdict(group: OracleCycle, rate: float | None, tolerance: float) -> str | None:
    interval = interval_of(group, tolerance)
    if rate is None or interval is None:
        return None
    return "inside" if interval.contains(rate) else "outside"


def _curve(group: OracleCycle, study: Study) -> list[dict[str, Any]]:
    names: dict[float, list[str]] = {}
    for arm, rate in group.tested.items():
        names.setdefault(rate, []).append(arm)
    return [
        {
            "oracle": group.oracle,
            "cycle": group.cycle,
            "max_lr": rate,
            "asked": bool(group.asked[i]),
            "tests": ",".join(names.get(rate, [])) or None,
            **_level("val", group.val[:, i], study),
            **_level("test", group.test[:, i], study),
            "n": int(np.isfinite(group.val[:, i]).sum()),
            "collapsed": int(group.collapsed[:, i].sum()),
        }
        for i, rate in enumerate(group.rates.tolist())
    ]


def _level(name: str, gains: Any, study: Study) -> dict[str, float | None]:
    """Mean and spread of a score, as it is and not as a gain."""
    estimate = paired_interval(gain(np.asarray(gains, dtype=float), study.scored.sign))
    return {f"{name}_mean": estimate.mean, f"{name}_spread": estimate.spread}


# --- per arm and chain ---


def _with_winners(rows: pd.DataFrame, study: Study) -> pd.DataFrame:
    """The rows of means per arm: a conditioned Oracle counts with its own winners, not with the arm it follows."""
    others = [name for name, arm in study.arms.items() if isinstance(arm, OracleArm) and arm.prefix != "own"]
    return rows.assign(continued=rows["continued"] & ~rows["arm"].isin(others))


def _arms(chains: pd.DataFrame, study: Study) -> pd.DataFrame:
    return typed(
        [_arm(str(arm), int(cycle), rows, study) for (arm, cycle), rows in _grouped(chains, ["arm", "cycle"])], ARMS
    )


def _also(chains: pd.DataFrame, study: Study) -> Iterator[dict[str, Any]]:
    for name in study.task.also if study.task is not None else ():
        columns = {part: column for column, part, of in also_columns(study) if of == name and column in chains}
        for (arm, cycle), rows in _grouped(chains, ["arm", "cycle"]) if columns else ():
            values = {part: oracle.numbers(rows, column) for part, column in columns.items()}
            yield {
                "score": name,
                "arm": str(arm),
                "cycle": int(cycle),
                "weights_remaining": rows["weights_remaining"].mean(),
                **{f"{part}_median": np.nanmedian(v) if np.isfinite(v).any() else None for part, v in values.items()},
                "trained": int(np.isfinite(values["test"]).sum()),
                "n_seeds": len(rows),
            }


def _grouped(frame: pd.DataFrame, by: list[str]) -> Any:
    return frame.groupby(by, sort=False)


def _arm(arm: str, cycle: int, rows: pd.DataFrame, study: Study) -> dict[str, Any]:
    rates = oracle.numbers(rows, "max_lr")
    rates = rates[np.isfinite(rates)]
    remaining = oracle.numbers(rows, "weights_remaining")
    remaining = remaining[np.isfinite(remaining)]
    test = paired_interval(gain(oracle.numbers(rows, "test_score"), study.scored.sign))
    return {
        "arm": arm,
        "cycle": cycle,
        "weights_remaining": float(remaining.mean()) if len(remaining) else None,
        "max_lr": float(np.median(rates)) if len(rates) else None,
        **_level("test", oracle.numbers(rows, "test_score"), study),
        **_level("val", oracle.numbers(rows, "val_score"), study),
        "test_median": test.median,
        "test_low": test.low,
        "test_high": test.high,
        "n_seeds": test.n,
        "diverged": int((rows["status"] == "diverged").sum()),
        **_trained(rows[rows["test_score"].notna()]),
    }


def _trained(rows: pd.DataFrame) -> dict[str, float]:
    """In how many seeds a chain's training succeeded, with the exact 95 % interval of that share."""
    if not len(rows):
        return {}
    trained = int((~oracle.collapsed_rows(rows)).sum())
    low, high = share_interval(trained, len(rows))
    return {"trained": trained, "trained_low": low, "trained_high": high}


def _reached(chains: pd.DataFrame) -> dict[tuple[str, int], int]:
    last = _grouped(chains[chains["key"].notna()], ["arm", "seed"])["cycle"].max()
    return {(str(arm), int(seed)): int(cycle) for (arm, seed), cycle in last.items()}


def _ended(rows: pd.DataFrame, study: Study, reached: Mapping[tuple[str, int], int]) -> frozenset[tuple[str, int]]:
    """Chains that cannot go on: in their last cycle every candidate diverged or failed, or they follow such an arm."""
    found = set()
    for (arm, seed), own in _grouped(rows, ["arm", "seed"]):
        last = own[own["cycle"] == own["cycle"].max()]
        if last["cycle"].iloc[0] < study.cycles - 1 and last["status"].isin(["diverged", "failed"]).all():
            found.add((str(arm), int(seed)))
    for name in oracle.oracles(study):
        leader = str(oracle.prefix_of(study, name))
        for seed in (seed for arm, seed in list(found) if arm == leader):
            if reached.get((name, seed), -1) >= reached.get((leader, seed), -1):
                found.add((name, seed))
    return frozenset(found)


def _gaps(chains: pd.DataFrame, study: Study) -> pd.DataFrame:
    schedule = study.report.schedule
    greedy = [name for name in oracle.oracles(study) if oracle.prefix_of(study, name) is None]
    rows: list[dict[str, Any]] = []
    for name in greedy if schedule in study.arms else []:
        first = min(oracle.first_cycle(study, name), oracle.first_cycle(study, schedule))
        rows += regret.chain_gaps(chains, name, schedule, first).to_dict("records")  # type: ignore[arg-type]
    return typed(rows, GAPS)


def _endpoint(gaps: pd.DataFrame, study: Study, name: str | None, scores: ChainScores) -> Endpoint | None:
    if name is None or study.report.schedule not in study.arms:
        return None
    own = gaps[gaps["oracle"] == name]
    report = study.report
    return regret.primary_endpoint(
        own, name, report.schedule, study.cycles, study.replicates.seeds, report.tolerance, scores
    )


def _troubles(frame: pd.DataFrame) -> pd.DataFrame:
    columns = ["arm", "mode", "seed", "trial", "cycle", "max_lr", "tests", "status", "error", "train_loss"]
    return frame.loc[frame["status"].isin(["diverged", "failed"]), columns].reset_index(drop=True)


def _remembered(rows: pd.DataFrame, study: Study) -> str | None:
    columns = ["seed", "val_score", "n_val", "test_score", "n_test"]
    dense = rows.loc[rows["cycle"] == 0, columns].dropna().drop_duplicates()
    return remembered(study, (dict(zip(columns, row, strict=True)) for row in dense.itertuples(index=False)))


def _mixed(frame: pd.DataFrame) -> dict[int, tuple[str, ...]]:
    mixed = frame.loc[frame["mixed"], ["seed", "device"]].dropna().drop_duplicates()
    seeds = sorted(int(seed) for seed in mixed["seed"].unique())
    return {seed: tuple(sorted(mixed.loc[mixed["seed"] == seed, "device"])) for seed in seeds}


# --- per cycle ---


@dataclass(frozen=True)
class CycleParts:
    """The tables that a cycle's row is put together from."""

    intervals: pd.DataFrame
    verdicts: pd.DataFrame
    arms: pd.DataFrame
    regret: pd.DataFrame
    crossfit: pd.DataFrame
    gaps: pd.DataFrame


def _cycles(study: Study, judge_by: str | None, chain_by: str | None, parts: CycleParts) -> pd.DataFrame:
    schedule = study.report.schedule
    first = oracle.first_cycle(study, schedule) if schedule in study.arms else 1
    return typed([_cycle(study, cycle, judge_by, chain_by, parts) for cycle in range(first, study.cycles)], CYCLES)


def _cycle(study: Study, cycle: int, judge_by: str | None, chain_by: str | None, parts: CycleParts) -> dict[str, Any]:
    def at(table: pd.DataFrame, name: str | None) -> pd.DataFrame:
        return table[(table["cycle"] == cycle) & (table["oracle"] == name)] if name is not None else table.iloc[:0]

    arms = parts.arms[parts.arms["cycle"] == cycle]
    own = arms[arms["arm"] == study.report.schedule]
    interval, verdicts = at(parts.intervals, judge_by), at(parts.verdicts, judge_by)
    judged = verdicts[verdicts["arm"] == study.report.schedule]
    known = verdicts[verdicts["control"]]
    regrets, gap = at(parts.regret, judge_by), _estimate(at(parts.gaps, chain_by), "gap_test")
    weights = arms["weights_remaining"].dropna()
    return {
        "cycle": cycle,
        "weights_remaining": float(weights.mean()) if len(weights) else study.remaining[cycle],
        "max_lr": _first(judged, "max_lr", _first(own, "max_lr")),
        **{name: _first(interval, name) for name in INTERVALS if name in CYCLES and name not in ("cycle", "n_seeds")},
        "verdict": _first(judged, "verdict", "not tested"),
        **{name: _first(judged, name) for name in ("point_verdict", "reason", "p_inside_holm", "p_outside_holm")},
        "controls": "; ".join(f"{arm}: {name}" for arm, name in zip(known["arm"], known["verdict"], strict=True))
        or None,
        "informative": bool((known["verdict"] == "outside").any()),
        "cycle_regret_test": _estimate(regrets, "regret_test").median,
        "cycle_regret_val": _estimate(regrets, "regret_val").median,
        "regret_crossfit_test": _estimate(at(parts.crossfit, judge_by), "regret_test").median,
        "chain_gap": gap.median,
        "chain_gap_spread": gap.spread,
        "n_seeds": _first(interval, "n_seeds", 0),
        "n_chain_seeds": gap.n,
    }


def _first(table: pd.DataFrame, column: str, otherwise: Any = None) -> Any:
    """The cell of a table of at most one row; `otherwise` where it is missing or null."""
    cell = table[column].iloc[0] if len(table) else None
    return otherwise if cell is None or pd.isna(cell) else cell


def _estimate(table: pd.DataFrame, column: str) -> Estimate:
    return paired_interval(oracle.numbers(table, column))
