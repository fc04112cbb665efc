"""Several groups side by side: one row for each, and never a mean over them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
import pandas as pd

from silo_analysis.answers.answer import Answer
from silo_analysis.answers.missing import notes
from silo_analysis.answers.shape import controls_shown
from silo_analysis.answers.table_files import to_markdown
from silo_analysis.answers.text_tables import Table
from silo_analysis.combine.groups import Group
from silo_analysis.estimates import regret
from silo_analysis.estimates.stats import Estimate
from silo_analysis.estimates.summary import Summary
from silo_analysis.estimates.typical import paired_interval
from silo_tune.formats import DASH, MINUS, percent, points
from silo_tune.study.model import Study
from silo_tune.study.wording import worded, words_of

NO_MEAN = (
    "Every row is a study of its own, with its own tolerance and noise. No mean over rows is shown: their number is "
    "that of the networks that somebody chose, and an interval over them would say nothing of others."
)


# A group, its summary and its answers.
Judged = tuple[Group, Summary, tuple[Answer, ...]]


@dataclass(frozen=True)
class Row:
    """What the overview says of one group. Accuracies and their differences are in [0, 1].

    Attributes:
        group: its name.
        study: its study.
        seeds: that have rows.
        inside, informative, tested: cycles of the verdict's Oracle; None without one.
        endpoint: the primary endpoint, chain gap on test.
        equivalent: by TOST at the tolerance, None without an endpoint.
        regret: cycle regret on test, mean over cycles, one number per seed.
        saved: share of the Oracle's units that the schedule saves, None without one.
        against: control arm → schedule − control on test, mean over cycles ≥ 2, one number per seed.
    """

    group: str
    study: Study
    seeds: int
    inside: int | None
    informative: int | None
    tested: int | None
    endpoint: Estimate
    equivalent: bool | None
    regret: Estimate
    saved: float | None
    against: Mapping[str, Estimate]


def overview(found: Sequence[Judged]) -> dict[str, bytes]:
    """report.html, overview.csv and overview.md of several groups, whose own reports are in GROUP/report/."""
    rows = [row_of(group, summary) for group, summary, _ in found]
    return {
        "report.html": _page(rows, found).encode(),
        "overview.csv": overview_frame(rows).to_csv(index=False, lineterminator="\n").encode(),
        "overview.md": ("\n".join([*_tables(rows), _legend(rows), "", NO_MEAN]) + "\n").encode(),
    }


def overview_lines(found: Sequence[Judged]) -> list[str]:
    """The table for a terminal."""
    rows = [row_of(group, summary) for group, summary, _ in found]
    return [*_tables(rows), _legend(rows)]


# --- numbers ---


def row_of(group: Group, summary: Summary) -> Row:
    """The numbers of one group."""
    end, judged = summary.endpoint, summary.cycles[summary.cycles["verdict"] != "not tested"]
    told = judged[judged["informative"].fillna(False)]
    has = summary.verdict_oracle is not None and len(judged) > 0
    return Row(
        group=group.name,
        study=summary.study,
        seeds=len(summary.seeds),
        inside=int((told["verdict"] == "inside").sum()) if has else None,
        informative=len(told) if has else None,
        tested=len(judged) if has else None,
        endpoint=end.estimate if end is not None else Estimate(0),
        equivalent=end.equivalence.equivalent if end is not None and end.estimate.n > 1 else None,
        regret=_regret(summary),
        saved=_saved(summary),
        against=dict(_against(summary)),
    )


def _regret(summary: Summary) -> Estimate:
    own = summary.regret[summary.regret["oracle"] == summary.verdict_oracle]
    return paired_interval(own.groupby("seed")["regret_test"].mean().to_numpy(dtype=float))


def _saved(summary: Summary) -> float | None:
    cost = summary.cost[summary.cost["arm"] == (summary.chain_oracle or summary.verdict_oracle)]
    share = cost["saved_by_schedule"].dropna()
    return float(share.iloc[0]) if len(share) else None


def _against(summary: Summary) -> Iterator[tuple[str, Estimate]]:
    """Each control of the S with the paired difference schedule − control over all cycles of the endpoint."""
    overall = summary.against[summary.against["cycle"].isna()].dropna(subset=["difference"])
    named = controls_shown(summary)
    for row in overall[overall["arm"].isin(named)].astype(object).where(overall.notna(), None).to_dict("records"):
        yield (
            str(row["arm"]),
            Estimate(row["n_seeds"], row["mean"], row["difference"], row["spread"], row["low"], row["high"]),
        )


def overview_frame(rows: Sequence[Row]) -> pd.DataFrame:
    """One row per group, numbers as they are; null where there is none."""
    return pd.DataFrame([_numbers(row) for row in rows])


def _numbers(row: Row) -> dict[str, Any]:
    study = row.study
    plain = {
        "group": row.group,
        "model": study.model.title,
        "data": study.data.title,
        "seeds": row.seeds,
        "tolerance": study.report.tolerance,
        "inside": row.inside,
        "informative": row.informative,
        "tested": row.tested,
        "equivalent": row.equivalent,
        "saved": row.saved,
    }
    estimates = {"endpoint": row.endpoint, "regret": row.regret}
    estimates |= {f"{study.report.schedule}-minus-{arm}": found for arm, found in row.against.items()}
    for name, found in estimates.items():
        plain |= {name: found.median, f"{name}_low": found.low, f"{name}_high": found.high, f"{name}_seeds": found.n}
    return plain


# --- text ---


def overview_table(rows: Sequence[Row]) -> Table:
    """Verdicts, endpoint and cost as text, differences in the words of each study with 95 % intervals over seeds."""
    head = ("Study", "Model", "Data", "Seeds", "Tolerance", "Inside", "Chain gap", "TOST", "Cycle regret", "Saved, %")
    return Table(head, [_cells(row) for row in rows], frozenset({"Study", "Model", "Data", "TOST"}))


@worded(lambda row: row.study)
def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.group,
        row.study.model.title,
        row.study.data.title,
        str(row.seeds),
        points(row.study.report.tolerance, signed=False),
        DASH if row.inside is None else f"{row.inside} of {row.informative}",
        _estimate(row.endpoint),
        DASH if row.equivalent is None else "equivalent" if row.equivalent else "not shown",
        _estimate(row.regret),
        percent(row.saved, 0),
    )


def against_table(rows: Sequence[Row]) -> Table:
    """The judged schedule minus each control, likewise."""
    arms = list(dict.fromkeys(arm for row in rows for arm in row.against))
    head = ("Study", *(f"{row_schedule(rows)} {MINUS} {arm}" for arm in arms))
    body = [_against_cells(row, arms) for row in rows]
    return Table(head, body if arms else [], frozenset({"Study"}))


@worded(lambda row, arms: row.study)
def _against_cells(row: Row, arms: Sequence[str]) -> tuple[str, ...]:
    return (row.group, *(_estimate(row.against.get(arm, Estimate(0))) for arm in arms))


def row_schedule(rows: Sequence[Row]) -> str:
    """Name of the judged schedule, the same in all groups."""
    return rows[0].study.report.schedule


def _estimate(found: Estimate) -> str:
    if found.low is None or found.high is None:
        return points(found.median)
    return f"{points(found.median)} ({points(found.low)} to {points(found.high)})"


def _legend(rows: Sequence[Row]) -> str:
    judged = row_schedule(rows)
    return (
        f"Inside: informative cycles in which {judged} is inside, of all informative ones. Chain gap: the primary "
        f"endpoint, greedy Oracle {MINUS} {judged} on test, mean over cycles ≥ {regret.FIRST_ENDPOINT_CYCLE}; TOST: "
        f"equivalence within the tolerance. Cycle regret: on test, mean over cycles. {judged} {MINUS} a control: on "
        f"test, mean over cycles ≥ {regret.FIRST_ENDPOINT_CYCLE}; above 0 {judged} is better. Differences are in "
        f"{_units(rows)}, with 95 % intervals over seeds, not corrected for their number."
    )


def _units(rows: Sequence[Row]) -> str:
    """What differences are in; several where the studies have several scores."""
    return " and ".join(dict.fromkeys(words_of(row.study).in_points for row in rows))


def _tables(rows: Sequence[Row]) -> Iterator[str]:
    for table in (overview_table(rows), against_table(rows)):
        if table.rows:
            yield from (*to_markdown(table).splitlines(), "")


def _page(rows: Sequence[Row], found: Sequence[Judged]) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("silo_analysis.report"), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    return environment.get_template("overview.html.j2").render(
        judged=row_schedule(rows),
        table=overview_table(rows),
        against=against_table(rows),
        legend=_legend(rows),
        no_mean=NO_MEAN,
        groups=[
            {"name": group.name, "runs": ", ".join(group.runs), "answers": answers, "notes": notes(summary)}
            for group, summary, answers in found
        ],
    )
