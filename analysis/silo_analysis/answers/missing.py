"""What is missing, and what limits the numbers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from silo_analysis.answers.headline import KEPT, after_prune
from silo_analysis.estimates.containment import FEWEST_SEEDS
from silo_analysis.estimates.oracle import conditioned_oracle, greedy_oracle, is_guided, prefix_of
from silo_analysis.estimates.regret import FIRST_ENDPOINT_CYCLE
from silo_analysis.estimates.tuning import has_chains
from silo_tune.formats import difference, plural, words
from silo_tune.results.remembered import may_be_remembered
from silo_tune.study.wording import counts_examples, worded

if TYPE_CHECKING:
    from silo_analysis.estimates.summary import Summary

_MOST_DAMAGED = 3


def no_examples() -> str:
    """Why there is no second interval, in words."""
    one = words().example
    return f"The run has no examples (which test {one}s each trial got right): no interval over test {one}s."


@worded(lambda summary, *_, **__: summary.study)
def notes(summary: Summary) -> tuple[str, ...]:
    """What is missing or limits the numbers, one sentence each; empty for a full study."""
    return (
        *_checkpoint(summary),
        *([KEPT] if after_prune(summary.study) == "keep" else []),
        *_missing_arms(summary),
        *_missing_seeds(summary),
        *_missing_rows(summary),
        *_partial_ranking(summary),
        *_weak_tests(summary),
        *_missing_examples(summary),
    )


def _checkpoint(summary: Summary) -> Iterator[str]:
    """What a checkpoint may have seen of validation."""
    if summary.remembered is not None:
        yield f"{summary.remembered}."
    if (doubt := may_be_remembered(summary.study)) is not None:
        yield f"{doubt[0].upper()}{doubt[1:]}."


def _missing_arms(summary: Summary) -> Iterator[str]:
    study, name = summary.study, summary.schedule
    if not len(summary.arms):
        searched = summary.cost["units"].sum() > 0
        yield "Only searches have results yet." if searched else "The run has no results yet."
    if name not in study.arms:
        yield f"The study has no arm {name!r} to judge (report.schedule): no verdict, regret, chain gap or cost ratio."
    if summary.verdict_oracle is None:
        yield f"The study has no Oracle, greedy or conditioned on {name}: no interval, verdict, regret or chain gap."
        return
    if name in study.arms and prefix_of(study, summary.verdict_oracle) is None:
        yield (
            f"No Oracle with results is conditioned on {name}: interval, verdict and cycle regret come from the greedy "
            f"Oracle {summary.verdict_oracle} instead, whose cycles start from its own weights."
        )
    if is_guided(summary.study, summary.verdict_oracle):
        yield (
            f"{summary.verdict_oracle} is guided: its rates differ between seeds, so that few rates have the "
            f"{FEWEST_SEEDS} seeds that a verdict takes. A grid Oracle judges better."
        )
    yield from _missing_pair(summary)
    if summary.chain_oracle is None:
        yield "The study has no greedy Oracle: no chain gap and no primary endpoint."
    if name in study.arms and name not in study.tests_of(summary.verdict_oracle):
        yield f"{summary.verdict_oracle} does not test {name}: no verdict and no cycle regret."
    if study.cycles <= FIRST_ENDPOINT_CYCLE:
        yield f"The study has no cycle ≥ {FIRST_ENDPOINT_CYCLE}: no primary endpoint."


def _missing_pair(summary: Summary) -> Iterator[str]:
    """Why two Oracles of the study are not compared."""
    names = greedy_oracle(summary.study, ()), conditioned_oracle(summary.study, ())
    if None in names or not len(summary.arms):
        return
    if summary.pair is None:
        yield f"The greedy and the conditioned Oracle ({names[0]}, {names[1]}) are not compared: not both have results."
    elif not len(summary.compared):
        yield f"{summary.pair.greedy} and {summary.pair.conditioned} have no cycle in common: they are not compared."


def _missing_seeds(summary: Summary) -> Iterator[str]:
    seeds = summary.seeds if summary.study.looks else summary.study.replicates.seeds
    absent = [seed for seed in seeds if seed not in summary.seeds]
    if absent and summary.seeds:
        yield f"No rows yet for {plural(len(absent), 'seed')}: {', '.join(map(str, absent))}."
    if len(seeds) < FEWEST_SEEDS:
        yield f"With {plural(len(seeds), 'seed')} every verdict is undetermined: it takes at least {FEWEST_SEEDS}."
    end = summary.endpoint
    if end is not None and end.cycles and summary.seeds and not end.per_seed:
        yield "No seed has every cycle of both chains: no primary endpoint."
    elif end is not None and end.cycles and summary.seeds and end.incomplete:
        names = ", ".join(map(str, end.incomplete))
        yield (
            f"The primary endpoint leaves out {plural(len(end.incomplete), 'seed')} ({names}) in which a chain has not "
            "reached every cycle; a chain that diverged counts as guessing from there on."
        )


def _missing_rows(summary: Summary) -> Iterator[str]:
    trial = summary.troubles["trial"].notna()
    status = summary.troubles.loc[~trial, "status"].value_counts()
    if diverged := int(status.get("diverged", 0)):
        yield f"{plural(diverged, 'row')} diverged: each counts as guessing in every mean, rank and difference."
    if failed := int(status.get("failed", 0)):
        yield f"{plural(failed, 'row')} failed (retries used up); no number here has them."
    if lost := int(trial.sum()):
        yield f"{plural(lost, 'row')} of searches diverged or failed: a diverged one counts as guessing there."
    if summary.mixed:
        kinds = sorted({kind for found in summary.mixed.values() for kind in found})
        mixed = ", ".join(map(str, summary.mixed))
        yield (
            f"Trials of seed{'' if len(summary.mixed) == 1 else 's'} {mixed} were trained on several kinds of device "
            f"({'; '.join(kinds)}): last bits may differ, and with them what is compared."
        )
    for (seeds, reached, ended), arms in _short_chains(summary).items():
        where = f"after cycle {reached} of {summary.study.cycles - 1}" if reached >= 0 else "at any cycle"
        why = "ended early: every candidate diverged or failed" if ended else "still to come"
        yield (
            f"{', '.join(arms)}: nothing {where} in seed{'' if len(seeds) == 1 else 's'} {', '.join(map(str, seeds))} "
            f"({why})."
        )


def _short_chains(summary: Summary) -> dict[tuple[tuple[int, ...], int, bool], list[str]]:
    """Arms whose chains stop early, by the seeds that do, the cycle after which they stop, and whether they ended."""
    short: dict[tuple[tuple[int, ...], int, bool], list[str]] = {}
    for arm in (name for name in summary.study.arms if has_chains(summary.study, name)):
        seeds: dict[tuple[int, bool], list[int]] = {}
        for seed in summary.seeds:
            stopped = summary.reached.get((arm, seed), -1), (arm, seed) in summary.ended
            seeds.setdefault(stopped, []).append(seed)
        for (reached, ended), members in seeds.items():
            if reached < summary.study.cycles - 1:
                short.setdefault((tuple(members), reached, ended), []).append(arm)
    return short


def _weak_tests(summary: Summary) -> Iterator[str]:
    if summary.n_val and summary.tolerance < 2 / summary.n_val:
        yield (
            f"The tolerance of {difference(summary.tolerance, signed=False)} is below 2 of {summary.n_val} "
            f"validation {words().example}s: a difference that small is not resolved."
        )
    edges = summary.cycles["unbounded_low"].fillna(False) | summary.cycles["unbounded_high"].fillna(False)
    if edge := int(edges.sum()):
        yield f"In {plural(edge, 'cycle')} the best rate is an edge of the Oracle's grid: no end is seen there."


def _missing_examples(summary: Summary) -> Iterator[str]:
    """Why an interval over seeds and test examples is missing, and which files of examples are damaged."""
    end, scores = summary.endpoint, summary.scores
    damaged = scores.examples.damaged if scores.examples is not None else ()
    yield from (f"Damaged: {told}." for told in damaged[:_MOST_DAMAGED])
    if (more := len(damaged) - _MOST_DAMAGED) > 0:
        yield f"{more} more files of examples are damaged."
    compared = (end is not None and end.estimate.low is not None) or summary.against["low"].notna().any()
    if not compared or not scores.lacking:
        return
    if not counts_examples(summary.study.scored):
        yield (
            f"{words().start} is no share of {words().example}s that are right: intervals are over seeds, for "
            f"these test {words().example}s."
        )
        return
    if scores.lacking == scores.trials:
        yield no_examples()
    else:
        yield (
            f"No examples (which test {words().example}s were right) of {plural(scores.lacking, 'trial')} of "
            f"{scores.trials} in the chains: no interval over test {words().example}s where they count."
        )


def _partial_ranking(summary: Summary) -> Iterator[str]:
    """Seeds and arms that the ranking lacks."""
    table, seeds = summary.ranking, summary.seeds
    ranked = table[table["rank"].notna()]
    if not len(table) or not seeds:
        return
    if not len(ranked):
        yield "No seed has every cycle of the arms that are to be compared: no ranking."
        return
    n = int(ranked["n_seeds"].max())
    if n < len(seeds):
        short = ", ".join(ranked.loc[ranked["own_seeds"] < len(seeds), "arm"])
        yield f"The ranking is over {n} of {plural(len(seeds), 'seed')}: {short} did not end every cycle in the others."
    if left := ", ".join(table.loc[table["rank"].isna(), "arm"]):
        yield f"The ranking leaves out {left}, which ended every cycle in too few seeds."
