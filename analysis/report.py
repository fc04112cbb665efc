"""The report of a run: one self-contained page, its figures and its tables, as bytes by relative path."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from html import escape
from typing import Any

import jinja2
import pandas as pd
import tomli_w
from markupsafe import Markup

from analysis.oracle import describe, numbers
from analysis.plots import save_figures
from analysis.stats import paired_interval
from analysis.summary import Summary, summarise
from analysis.wording import DASH, interval_text, known, p_value, percent, points, rate, seconds, width_text
from silo_tune.study import Study

_MOST_TROUBLES = 200


@dataclass(frozen=True)
class Table:
    """A table of text: the first column heads its row, the columns named in `words` are set left."""

    head: tuple[str, ...]
    rows: list[tuple[str, ...]]
    words: frozenset[str] = frozenset()


def render(frame: pd.DataFrame, study: Study, ledger: Mapping[str, Any]) -> dict[str, bytes]:
    """report.html, figures/NAME.svg, figures/NAME.png and tables/NAME.csv; the same run gives the same bytes.

    Args:
        frame: rows as in `silo_tune.results.COLUMNS`.
        study: the run's study.
        ledger: "created" (text), "environment" (name → text) and "changes" (accepted later); each may be missing.
    """
    summary = summarise(frame, study)
    figures = save_figures(frame, summary)
    files = {f"figures/{name}.{kind}": data for name, kinds in figures.items() for kind, data in kinds.items()}
    files |= {f"tables/{name}.csv": _csv(table) for name, table in tables(summary).items()}
    page = _page(summary, ledger, {name: kinds["svg"] for name, kinds in figures.items()}, sorted(files))
    return {"report.html": page.encode(), **files}


def tables(summary: Summary) -> dict[str, pd.DataFrame]:
    """The tables of tables/NAME.csv; accuracies and their differences are in [0, 1], rates and seconds as they are."""
    return {
        "cycles": summary.cycles,
        "intervals": summary.intervals,
        "verdicts": summary.verdicts,
        "response-curves": summary.curves,
        "arms": summary.arms,
        "regret": summary.regret,
        "regret-crossfit": summary.crossfit,
        "chain-gaps": summary.gaps,
        "cost": summary.cost,
        "diverged-and-failed": summary.troubles,
    }


def _csv(table: pd.DataFrame) -> bytes:
    return table.to_csv(index=False, lineterminator="\n").encode()


def _page(summary: Summary, ledger: Mapping[str, Any], svgs: Mapping[str, bytes], files: list[str]) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("analysis"), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    study, troubles = summary.study, trouble_table(summary)
    return environment.get_template("report.html.j2").render(
        title=study.report.title or study.name,
        study=study,
        summary=summary,
        facts=_facts(summary, ledger),
        figures=[_figure(name, svg.decode(), summary) for name, svg in svgs.items()],
        cycles=cycle_table(summary),
        verdicts=verdict_table(summary),
        regrets=regret_table(summary),
        cost=cost_table(summary),
        troubles=replace(troubles, rows=troubles.rows[:_MOST_TROUBLES]),
        more_troubles=max(0, len(troubles.rows) - _MOST_TROUBLES),
        verdict_oracle=describe(study, summary.verdict_oracle) if summary.verdict_oracle else None,
        chain_oracle=describe(study, summary.chain_oracle) if summary.chain_oracle else None,
        tolerance=points(summary.tolerance, signed=False),
        toml=tomli_w.dumps(study.model_dump(mode="json", exclude_none=True)),
        environment=dict(ledger.get("environment") or {}),
        changes=[(str(c.get("at", "")), ", ".join(map(str, c.get("keys", ())))) for c in ledger.get("changes") or ()],
        files=files,
    )


def _facts(summary: Summary, ledger: Mapping[str, Any]) -> list[tuple[str, str]]:
    study = summary.study
    facts = [
        ("Judged schedule", summary.schedule),
        ("Cycles", f"0 to {study.cycles - 1}, pruning {percent(study.prune.rate, 0)} % of the remaining weights each"),
        ("Seeds", ", ".join(map(str, summary.seeds)) or DASH),
        ("Tolerance", f"{points(summary.tolerance, signed=False)} points"),
        ("Model and data", f"{study.model.name or study.model.function}, {study.data.name or study.data.function}"),
        ("Validation images", str(summary.n_val) if summary.n_val else DASH),
        ("Tuning", "not equally tuned (no pilot chains)"),
    ]
    return [*facts, ("Run made", str(ledger["created"]))] if ledger.get("created") else facts


# --- tables of text ---


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


def regret_table(summary: Summary) -> Table:
    """Per cycle: means over seeds with 95 % paired t intervals of regret and gap, in points."""
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
    """Verdict of every tested arm per cycle of the verdict's Oracle, with its Holm-corrected p value."""
    own = summary.verdicts[summary.verdicts["oracle"] == summary.verdict_oracle]
    arms = [str(arm) for arm in dict.fromkeys(own["arm"])]
    rows = []
    for cycle, group in own.groupby("cycle"):
        cells = {str(row["arm"]): _verdict_text(row) for _, row in group.iterrows()}
        rows.append((str(cycle), *(cells.get(arm, DASH) for arm in arms)))
    reasons = {str(row["cycle"]): row["reason"] for _, row in own[own["arm"] == summary.schedule].iterrows()}
    head = ("Cycle", *arms, f"Why, for {summary.schedule}")
    full = [(*row, reasons[row[0]] if known(reasons.get(row[0])) else DASH) for row in rows]
    return Table(head, full, frozenset(head[1:]))


def _verdict_text(row: Any) -> str:
    p = row["p_inside_holm"] if row["verdict"] == "inside" else row["p_outside_holm"]
    return (
        f"{row['verdict']} ({p_value(p)})" if row["verdict"] in ("inside", "outside") and known(p) else row["verdict"]
    )


def cost_table(summary: Summary) -> Table:
    """Distinct units and training time per arm."""
    head = ("Arm", "Units", "Shared", "Training", f"× {summary.schedule}", "Saved, %", "ok", "diverged", "failed")
    rows = [
        (
            str(row["arm"]),
            str(row["units"]),
            str(row["shared_units"]),
            seconds(row["train_seconds"]),
            f"{row['times_schedule']:.2f}" if known(row["times_schedule"]) else DASH,
            percent(row["saved_by_schedule"], 0),
            *(str(row[kind]) for kind in ("ok", "diverged", "failed")),
        )
        for _, row in summary.cost.iterrows()
    ]
    return Table(head, rows)


def trouble_table(summary: Summary) -> Table:
    """Rows that diverged or failed, those of one arm, rate and status together; each by itself is in the CSV."""
    head = ("Arm", "max_lr", "Status", "Rows", "Cycles", "Seeds", "Why")
    groups = summary.troubles.groupby(["arm", "max_lr", "status"], sort=False, dropna=False)
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


# --- figures inside the page ---

CAPTIONS = {
    "max-lr": (
        "The schedule on the Oracle's band",
        "Band: rates whose mean validation accuracy, interpolated in log max_lr, is within the tolerance of the best. "
        "Thin lines: controls. Marks on the schedule: its verdict.",
    ),
    "response": (
        "Response curves",
        "Validation accuracy over max_lr at each cycle, from the same parents. All panels have the same height in "
        "points. The line joins the Oracle's own rates; dots are single seeds.",
    ),
    "accuracy": (
        "Test accuracy over pruning",
        "Mean over seeds and one standard deviation. An Oracle that is conditioned on a schedule shows its winner from "
        "that schedule's weights at every cycle: it is not a chain of its own.",
    ),
    "regret": (
        "Cycle regret and chain gap",
        "Left, within one Oracle's cycle: its best rate on validation against the schedule's own rate, from the same "
        "weights. Right, between chains: the greedy Oracle's arm against the schedule's arm. "
        "Above 0 the Oracle is better.",
    ),
    "cost": (
        "Cost",
        "Distinct units that each arm uses and the time that they trained. Units that arms share count in each of "
        "them, and once in the whole study.",
    ),
}  # fmt: skip


def _figure(name: str, svg: str, summary: Summary) -> dict[str, Any]:
    title, caption = CAPTIONS[name]
    alt = f"{title}. {caption}"
    if name == "max-lr" and summary.headline:
        alt += f" {summary.headline[0]}"
    return {"name": name, "title": title, "caption": caption, "svg": Markup(inline_svg(svg, name, alt))}


def inline_svg(svg: str, name: str, alt: str) -> str:
    """An SVG file as an element of a page: ids unique by `name`, an alt text; no prolog, metadata or fixed size."""
    body = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    prefix = f"fig-{name}"
    body = re.sub(r'(\sid=")', rf"\1{prefix}-", body)
    body = re.sub(r"(url\(#|href=\"#)", rf"\1{prefix}-", body)
    body = body.replace('<style type="text/css">*{', f'<style type="text/css">#{prefix} *{{', 1)
    tag, rest = body.split(">", 1)
    tag = re.sub(r'\s(width|height)="[^"]*"', "", tag)
    return f'{tag} id="{prefix}" role="img" aria-label="{escape(alt)}">{rest}'
