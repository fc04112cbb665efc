"""What was run, in one line, and what its data cannot say: for the head of the page and of the terminal's summary."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from silo_analysis.answers.answer import joined
from silo_analysis.estimates.summary import Summary
from silo_tune.formats import cycle_list, difference, plural, seed_range
from silo_tune.study.model import Study

AFTER = {
    "keep": "weights kept after every prune",
    "rewind": "weights rewound after every prune",
    "reinit": "weights drawn anew after every prune (reinit)",
}
KEPT = (
    "The weights are kept after a prune, and kept weights hardly need a learning rate: a study of reinit or rewind "
    "asks more of a schedule. The authors' scripts draw them anew or rewind them."
)
MOST_NAMED = 5


def after_prune(study: Study) -> str:
    """The after-prune choice of the judged schedule."""
    arm = study.arms.get(study.report.schedule)
    return study.prune.after_prune if arm is None else study.settings(arm).after_prune


def headline(summary: Summary) -> str:
    """ "digits: lenet-300-100 on digits, weights drawn anew after every prune (reinit), 13 cycles, 5 seeds"."""
    study = summary.study
    seeds = plural(len(study.replicates.seeds), "seed")
    if study.looks:
        seeds = f"{plural(len(summary.seeds), 'seed')} (until decided: look {summary.looks} of {len(study.looks)})"
    what = f"{study.model.title} on {study.data.title}"
    return f"{study.name}: {what}, {AFTER[after_prune(study)]}, {study.cycles} cycles, {seeds}"


def unsettled(summary: Summary) -> tuple[str, ...]:
    """What these data cannot say, each with the seeds that would settle it; empty where they say everything."""
    return (*_cycles(summary), *_arms(summary))


def _cycles(summary: Summary) -> Iterator[str]:
    own = summary.verdicts[
        (summary.verdicts["oracle"] == summary.verdict_oracle)
        & (summary.verdicts["arm"] == summary.schedule)
        & (summary.verdicts["verdict"] == "undetermined")
    ]
    known = own.dropna(subset=["needed_low"]).sort_values("needed_low")
    if len(known):
        least, most = known.iloc[0], known.iloc[-1]
        seeds = f"{_seeds(least)} would (cycle {least['cycle']})"
        if len(known) > 1:
            seeds += f", {_seeds(most)} in cycle {most['cycle']}"
        cycles = cycle_list(sorted(known["cycle"]))
        yield f"Whether {summary.schedule} is inside in {cycles}: {seeds}, at a power of 80 %."
    if len(rest := own[own["needed_low"].isna()]):
        yield f"Whether {summary.schedule} is inside in {cycle_list(rest['cycle'])}, nor how many seeds it would take."


def _seeds(row: Any) -> str:
    return seed_range(row["needed_low"], row["needed_high"])


def _arms(summary: Summary) -> Iterator[str]:
    rows = summary.against[summary.against["cycle"].isna() & (summary.against["outcome"] == "undetermined")]
    known = rows.dropna(subset=["needed_low"]).sort_values("needed_low")
    named = [
        f"{row['arm']} ({difference(row['difference'])}; {_seeds(row)} would)"
        for row in known.head(MOST_NAMED).to_dict("records")
    ]
    if more := len(known) - len(named):
        named.append(f"{more} more")
    if named:
        near = difference(summary.tolerance, signed=False)
        yield (f"Whether {summary.schedule} is better than, worse than or within {near} of {joined(named, 'or')}.")
