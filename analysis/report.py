"""The report of a run: one self-contained page, its figures and its tables, as bytes by relative path."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from html import escape
from typing import Any

import jinja2
import pandas as pd
import tomli_w
from markupsafe import Markup

from analysis.oracle import describe
from analysis.plots import save_figures
from analysis.search import PILOT, at_edge, fragment, ordinary, points_table
from analysis.summary import Summary, summarise
from analysis.text_tables import (
    constants_text,
    cost_table,
    cycle_table,
    distances_table,
    oracles_table,
    regret_table,
    search_table,
    trouble_table,
    verdict_table,
)
from analysis.wording import (
    DASH,
    STANDINGS,
    cycle_list,
    percent,
    plural,
    points,
    savings_sentence,
    seed_list,
    tuning_sentence,
)
from silo_tune.results import SearchRecord
from silo_tune.study import Study

_MOST_TROUBLES = 200
_MOST_POINTS = 20


def render(
    frame: pd.DataFrame, study: Study, ledger: Mapping[str, Any], searches: Mapping[str, SearchRecord] | None = None
) -> dict[str, bytes]:
    """report.html, figures/NAME.svg, figures/NAME.png and tables/NAME.csv; the same run gives the same bytes.

    Args:
        frame: rows as in `silo_tune.results.COLUMNS`.
        study: the run's study.
        ledger: "created" (text), "environment" (name → text) and "changes" (accepted later); each may be missing.
        searches: arm → its pilot or tune search.
    """
    return render_summary(summarise(frame, study, searches), frame, ledger)


def render_summary(summary: Summary, frame: pd.DataFrame, ledger: Mapping[str, Any]) -> dict[str, bytes]:
    """The same, of a summary that is there already."""
    figures = save_figures(ordinary(frame), summary)
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
        "oracles-compared": summary.compared,
        "spreads": summary.spreads,
        "spread-slopes": summary.slopes,
        "searches": points_table(summary.searches),
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
    searches = [_search(search, summary, svgs) for search in summary.searches.values()]
    return environment.get_template("report.html.j2").render(
        title=study.report.title or study.name,
        study=study,
        summary=summary,
        facts=_facts(summary, ledger),
        figures=[_figure(name, svg.decode(), summary) for name, svg in svgs.items() if name in CAPTIONS],
        cycles=cycle_table(summary),
        verdicts=verdict_table(summary),
        regrets=regret_table(summary),
        oracles=oracles_table(summary),
        distances=distances_table(summary),
        pilots=[found for found in searches if found["kind"] == PILOT],
        tunes=[found for found in searches if found["kind"] != PILOT],
        tuning=tuning_sentence(summary),
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


def _pruning(study: Study) -> str:
    if study.prune.rate is not None:
        return f"pruning {percent(study.prune.rate, 0)} % of the remaining {study.prune.granularity}s each"
    return (
        f"leaving {', '.join(percent(share, 1) for share in study.remaining[1:])} % of the {study.prune.granularity}s"
    )


def _facts(summary: Summary, ledger: Mapping[str, Any]) -> list[tuple[str, str]]:
    study = summary.study
    facts = [
        ("Judged schedule", summary.schedule),
        ("Cycles", f"0 to {study.cycles - 1}, {_pruning(study)}"),
        ("Seeds", ", ".join(map(str, summary.seeds)) or DASH),
        ("Tolerance", f"{points(summary.tolerance, signed=False)} points"),
        ("Model and data", f"{study.model.name or study.model.function}, {study.data.name or study.data.function}"),
        ("Validation images", str(summary.n_val) if summary.n_val else DASH),
        ("Tuning", STANDINGS[summary.tuning.standing]),
    ]
    return [*facts, ("Run made", str(ledger["created"]))] if ledger.get("created") else facts


# --- searches ---


def _search(search: SearchRecord, summary: Summary, svgs: Mapping[str, bytes]) -> dict[str, Any]:
    """What the page shows of one search."""
    figures = {f"search-{kind}-{search.arm}": caption for kind, caption in SEARCH_CAPTIONS.items()}
    return {
        "arm": search.arm,
        "kind": search.kind,
        "tried": plural(len(search.points), "point"),
        "finished": search.finished,
        "seeds": seed_list(sorted({seed for point in search.points for seed in point["seeds"]})),
        "counted": cycle_list(search.counted) if search.counted else "the counted cycles",
        "table": search_table(search, _MOST_POINTS),
        "more": max(0, len(search.points) - _MOST_POINTS),
        "chosen": constants_text(search.args) if search.args is not None else None,
        "extended": search.extended,
        "edges": ", ".join(at_edge(search, summary.study)),
        "saved": savings_sentence(summary.savings[search.arm]),
        "fragment": fragment(search, summary.study),
        "figures": [_drawn(name, svgs[name].decode(), *words) for name, words in figures.items() if name in svgs],
    }


# --- figures inside the page ---

CAPTIONS = {
    "max-lr": (
        "The schedule on the Oracle's band",
        "Band: rates whose mean validation accuracy, interpolated in log max_lr, is within the tolerance of the best. "
        "Thin lines: controls. Marks on the schedule: its verdict.",
    ),
    "oracles": (
        "Two Oracles",
        "Rates near the best of the Oracle that goes on from its own winners (greedy) and of the one that starts every "
        "cycle from the schedule's own weights (conditioned). Where the bands part, the best rate depends on the "
        "weights that a cycle starts from. Shaded: cycles in which their verdicts on the schedule differ.",
    ),
    "response": (
        "Response curves",
        "Validation accuracy over max_lr at each cycle, from the same parents. All panels have the same height in "
        "points. The line joins the Oracle's own rates; dots are single seeds.",
    ),
    "accuracy": (
        "Test accuracy over pruning",
        "Mean over seeds and one standard deviation; in a crowd of arms that of the judged schedule and the Oracles "
        "alone. An Oracle that is conditioned on a schedule shows its winner from "
        "that schedule's weights at every cycle: it is not a chain of its own.",
    ),
    "regret": (
        "Cycle regret and chain gap",
        "Left, within one Oracle's cycle: its best rate on validation against the schedule's own rate, from the same "
        "weights. Right, between chains: the greedy Oracle's arm against the schedule's arm. "
        "Above 0 the Oracle is better.",
    ),
    "spread": (
        "Spread of gradients and representations",
        "Standard deviations at the end of every cycle, relative to the dense network: geometric mean over seeds and "
        "one standard deviation of the logarithm. Gradients: of the loss, over surviving weights. Representations: of "
        "the hidden layers, mean over layers. Below 1 they are narrower than in the dense network.",
    ),
    "cost": (
        "Cost",
        "Distinct units that each arm uses, those of its pilot and search included (hatched: pilot), and the time that "
        "they trained. Units that arms share count in each of them, and once in the whole study.",
    ),
}  # fmt: skip
SEARCH_CAPTIONS = {
    "importance": (
        "What mattered",
        "Share of the objective's variance that each parameter explains (fANOVA), over the points of this search and "
        "within its bounds. With few points it is a hint.",
    ),
    "slices": (
        "Objective along each parameter",
        "One mark per point. Points that were stopped early are hollow, at what the sampler was told of them: an "
        "estimate from their first cycles.",
    ),
    "contours": (
        "Objective over pairs of parameters",
        "The two or three most important parameters. Filled marks: finished points; a surface between them is drawn "
        "only where there are enough of them.",
    ),
}  # fmt: skip


def _figure(name: str, svg: str, summary: Summary) -> dict[str, Any]:
    extra = f" {summary.headline[0]}" if name == "max-lr" and summary.headline else ""
    return _drawn(name, svg, *CAPTIONS[name], extra)


def _drawn(name: str, svg: str, title: str, caption: str, extra: str = "") -> dict[str, Any]:
    alt = f"{title}. {caption}{extra}"
    return {"name": name, "title": title, "caption": caption, "svg": Markup(inline_svg(svg, name, alt))}


def inline_svg(svg: str, name: str, alt: str) -> str:
    """An SVG file as an element of a page: ids unique by `name`, an alt text; no prolog, metadata or fixed size."""
    body = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    prefix = f"fig-{name}"
    body = re.sub(r'(\sid=")', rf"\1{prefix}-", body)
    body = re.sub(r"(url\(#|href=\"#)", rf"\1{prefix}-", body)
    body = body.replace('<style type="text/css">*{', f"<style type=\"text/css\">[id='{prefix}'] *{{", 1)
    tag, rest = body.split(">", 1)
    tag = re.sub(r'\s(width|height)="[^"]*"', "", tag)
    return f'{tag} id="{prefix}" role="img" aria-label="{escape(alt)}">{rest}'
