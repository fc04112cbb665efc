"""The report of a run: one self-contained page, its figures and its tables, as bytes by relative path."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jinja2
import pandas as pd
import tomli_w
from markupsafe import Markup

from silo_analysis.answers import answers_of
from silo_analysis.answers.answer import Answer
from silo_analysis.answers.curve import Fitted, fit_of
from silo_analysis.answers.effort import savings_sentence, seed_list
from silo_analysis.answers.facts import facts
from silo_analysis.answers.headline import unsettled
from silo_analysis.answers.missing import notes
from silo_analysis.answers.table_files import csv_bytes, to_latex, to_markdown
from silo_analysis.answers.text_tables import (
    Table,
    also_table,
    constants_text,
    cost_table,
    cycle_table,
    distances_table,
    published_table,
    regret_table,
    score_table,
    search_table,
    trouble_table,
    verdict_table,
)
from silo_analysis.estimates.oracle import describe
from silo_analysis.estimates.summary import Summary, summarise
from silo_analysis.estimates.tuning import PILOT, at_edge, fragment, ordinary, points_table
from silo_analysis.figures import save_figures
from silo_analysis.report.inline import csv_link, inline_svg
from silo_analysis.report.outline import contents, with_anchors
from silo_tune.formats import cycle_list, plural, points, words
from silo_tune.results.example_rows import Examples
from silo_tune.results.searches import SearchRecord
from silo_tune.study.model import Study
from silo_tune.study.wording import worded

_MOST_TROUBLES = 200
_MOST_POINTS = 20
# The page begins with so many verdicts, and with this figure.
_FIRST = 5
_PICTURE = "max-lr"


def render(
    frame: pd.DataFrame,
    study: Study,
    ledger: Mapping[str, Any],
    searches: Mapping[str, SearchRecord] | None = None,
    examples: Examples | None = None,
) -> dict[str, bytes]:
    """report.html, figures/NAME.svg (.pdf, .png, .csv) and tables/NAME.csv (.md, .tex); the same run, the same bytes.

    Args:
        frame: rows as in `silo_tune.results.columns.COLUMNS`.
        study: the run's study.
        ledger: "created" (text), "environment" (name → text), "changes" (accepted later) and "notes" (files that
            contradict each other); each may be missing.
        searches: arm → its pilot or tune search.
        examples: which examples its chains got right.
    """
    summary, fit = summarise(frame, study, searches, examples), fit_of(frame, study)
    return render_summary(summary, answers_of(summary, fit), fit, frame, ledger)


@worded(lambda summary, *_, **__: summary.study)
def render_summary(
    summary: Summary, answers: tuple[Answer, ...], fit: Fitted, frame: pd.DataFrame, ledger: Mapping[str, Any]
) -> dict[str, bytes]:
    """The same, of a summary, answers and fitted curves that are there already."""
    figures = save_figures(
        ordinary(frame), summary, None if isinstance(fit, str) else fit, published=ledger.get("published") or ()
    )
    files = {f"figures/{name}.{kind}": data for name, kinds in figures.items() for kind, data in kinds.items()}
    files |= {f"tables/{name}.csv": csv_bytes(table) for name, table in tables(summary).items()}
    files |= {f"tables/answer-{answer.id}.csv": csv_bytes(answer.data) for answer in answers if answer.verdict}
    shown = text_tables(summary) | {
        f"answer-{answer.id}": answer.table for answer in answers if answer.table is not None
    }
    for name, table in shown.items():
        if table.rows:
            files |= {f"tables/{name}.md": to_markdown(table).encode(), f"tables/{name}.tex": to_latex(table).encode()}
    return {
        "report.html": _page(
            summary, answers, ledger, facts(summary, frame, ledger), figures, shown, sorted(files)
        ).encode(),
        **files,
    }


@worded(lambda summary, *_, **__: summary.study)
def text_tables(summary: Summary) -> dict[str, Table]:
    """The tables that the page shows, of tables/NAME.md and tables/NAME.tex."""
    return {
        "scores": score_table(summary),
        "further-scores": also_table(summary),
        "cycles": cycle_table(summary),
        "verdicts": verdict_table(summary),
        "oracles-apart": distances_table(summary),
        "regret": regret_table(summary),
        **{f"search-{arm}": search_table(search, _MOST_POINTS) for arm, search in summary.searches.items()},
        "cost": cost_table(summary),
        "diverged-and-failed": trouble_table(summary),
    }


def tables(summary: Summary) -> dict[str, pd.DataFrame]:
    """The tables of tables/NAME.csv; shares and their differences are in [0, 1], rates and seconds as they are."""
    return {
        "cycles": summary.cycles,
        "intervals": summary.intervals,
        "verdicts": summary.verdicts,
        "response-curves": summary.curves,
        "arms": summary.arms,
        **({"further-scores": summary.also} if len(summary.also) else {}),
        "regret": summary.regret,
        "regret-crossfit": summary.crossfit,
        "chain-gaps": summary.gaps,
        "luck": summary.luck,
        "against": summary.against,
        **({"mcnemar": summary.mcnemar} if len(summary.mcnemar) else {}),
        "ranking": summary.ranking,
        "budgets": summary.budgets,
        "oracles-compared": summary.compared,
        "spreads": summary.spreads,
        "spread-slopes": summary.slopes,
        "tuning-curve": summary.tuning_curves,
        "searches": points_table(summary.searches, summary.study.scored.sign),
        "cost": summary.cost,
        "diverged-and-failed": summary.troubles,
    }


# --- the page ---


def _page(
    summary: Summary,
    answers: tuple[Answer, ...],
    ledger: Mapping[str, Any],
    told: list[tuple[str, str]],
    figures: Mapping[str, Mapping[str, bytes]],
    shown: Mapping[str, Table],
    files: list[str],
) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("silo_analysis.report"), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    study, troubles = summary.study, shown["diverged-and-failed"]
    searches = [_search(search, summary, figures, shown) for search in summary.searches.values()]
    verdicts = {answer.figure: answer.verdict for answer in answers}
    drawn = {
        name: _drawn(name, kinds, *CAPTIONS[name], verdicts.get(name, ""))
        for name, kinds in figures.items()
        if name in CAPTIONS
    }
    body = environment.get_template("report.html.j2").render(
        study=study,
        summary=summary,
        answers=answers,
        first=answers[:_FIRST],
        picture=drawn.pop(_PICTURE, None),
        facts=told,
        scores=shown["scores"],
        also=shown["further-scores"],
        published=published_table(ledger.get("published") or ()),
        drawn=drawn,
        figures=[figure for name, figure in drawn.items() if name not in verdicts],
        unsettled=unsettled(summary),
        notes=notes(summary),
        cycles=shown["cycles"],
        verdicts=shown["verdicts"],
        regrets=shown["regret"],
        distances=shown["oracles-apart"],
        pilots=[found for found in searches if found["kind"] == PILOT],
        tunes=[found for found in searches if found["kind"] != PILOT],
        cost=shown["cost"],
        troubles=replace(troubles, rows=troubles.rows[:_MOST_TROUBLES]),
        more_troubles=max(0, len(troubles.rows) - _MOST_TROUBLES),
        verdict_oracle=describe(study, summary.verdict_oracle) if summary.verdict_oracle else None,
        looks=", ".join(map(str, study.looks)),
        chain_oracle=describe(study, summary.chain_oracle) if summary.chain_oracle else None,
        tolerance=points(summary.tolerance, signed=False),
        words=words(),
        toml=tomli_w.dumps(study.model_dump(mode="json", exclude_none=True)),
        changes=[(str(c.get("at", "")), ", ".join(map(str, c.get("keys", ())))) for c in ledger.get("changes") or ()],
        doubts=list(ledger.get("notes") or ()),
        files=files,
    )
    script = environment.get_template("page.js").render()
    return environment.get_template("page.html.j2").render(
        title=study.report.title or study.name,
        name=study.name,
        words=words(),
        facts=told,
        body=with_anchors(body),
        contents=contents(body),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


# --- searches ---


def _search(
    search: SearchRecord, summary: Summary, figures: Mapping[str, Mapping[str, bytes]], shown: Mapping[str, Table]
) -> dict[str, Any]:
    """What the page shows of one search."""
    captions = {f"search-{kind}-{search.arm}": caption for kind, caption in SEARCH_CAPTIONS.items()}
    return {
        "arm": search.arm,
        "kind": search.kind,
        "tried": plural(len(search.points), "point"),
        "finished": search.finished,
        "seeds": seed_list(sorted({seed for point in search.points for seed in point["seeds"]})),
        "counted": cycle_list(search.counted) if search.counted else "the counted cycles",
        "table": shown[f"search-{search.arm}"],
        "more": max(0, len(search.points) - _MOST_POINTS),
        "chosen": constants_text(search.args) if search.args is not None else None,
        "extended": search.extended,
        "edges": ", ".join(at_edge(search, summary.study)),
        "saved": savings_sentence(summary.savings[search.arm]),
        "fragment": fragment(search, summary.study),
        "figures": [_drawn(name, figures[name], *words) for name, words in captions.items() if name in figures],
    }


# --- figures inside the page ---

CAPTIONS = {
    "max-lr": (
        "The schedule on the Oracle's band",
        "Band: rates whose mean validation {score}, interpolated in log max_lr, is within the tolerance of the best. "
        "Thin lines: controls. Marks on the schedule: its verdict.",
    ),
    "oracles": (
        "Two Oracles",
        "Rates near the best of the Oracle that continues from its own winners (greedy) and of the one that starts "
        "every cycle from the schedule's own weights (conditioned). Where the bands part, the best rate depends on the "
        "weights that a cycle starts from. Shaded: cycles in which their verdicts on the schedule differ.",
    ),
    "response": (
        "Response curves",
        "Validation {score} over max_lr at each cycle, from the same parents. All panels have the same height in "
        "{plain_points}. The line joins the Oracle's own rates; dots are single seeds, or a band one standard "
        "deviation where they are too many.",
    ),
    "scores": (
        "Test {score} over pruning",
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
    "against": (
        "The schedule against the other arms",
        "Judged schedule − arm on test, so that above 0 (orange) the judged schedule is better. Left: mean over cycles "
        "≥ 2, paired by seed, with its 95 % interval, dotted that for new test {example}s too, where the run has them; "
        "shaded: the tolerance; an arrow: far off, with its number. "
        "Right: the same at each cycle; what is shown is so after Holm over all arms and cycles.",
    ),
    "controls": (
        "The S against simpler curves",
        "Judged schedule − control on test over pruning, median over seeds and 95 % interval, not corrected for "
        "the number of cycles; above 0 the S is better. The controls have its profile and budget.",
    ),
    "fit": (
        "Curves fitted to the responses",
        "Above: curves of each family on the rates near each cycle's best. Below: what each loses where it did not "
        "look, in {points} on validation, and the S with each beta.",
    ),
    "spread": (
        "Standard deviation of gradients and representations",
        "Standard deviations at the end of every cycle, relative to the dense network: geometric mean over seeds and "
        "one standard deviation of the logarithm. Gradients: of the loss, over surviving weights. Representations: of "
        "the hidden layers, mean over layers. Below 1 they are narrower than in the dense network.",
    ),
    "cost": (
        "Cost",
        "Distinct trials that each arm uses, those of its pilot and search included (hatched: pilot), and the time "
        "that they trained. Trials that arms share count in each of them, and once in the whole study.",
    ),
    "tuning-curve": (
        "The best of so many chains",
        "Mean validation {score} of the best of n chains per seed. Lines: expected, of any n of the points, without "
        "replacement. Steps: of the first n, where later points follow earlier ones. Band: the same point on every "
        "seed, from the least to the greatest. A line that rises at its end: more chains may find better constants.",
    ),
}  # fmt: skip
CAPTIONS["accuracy"] = CAPTIONS["scores"]  # its name where that is the score
SEARCH_CAPTIONS = {
    "importance": (
        "What mattered",
        "Share of the objective's variance that each parameter explains (fANOVA), over the points of this search and "
        "within its bounds. With few points it is a hint.",
    ),
    "slices": (
        "Objective along each parameter",
        "One mark per point. Points that were stopped early are hollow, at what was reported to the sampler: an "
        "estimate from their first cycles.",
    ),
    "contours": (
        "Objective over pairs of parameters",
        "The two or three most important parameters. Filled marks: finished points; a surface between them is drawn "
        "only where there are enough of them.",
    ),
}  # fmt: skip


def _filled(caption: str) -> str:
    """A caption in the words of its study."""
    told = words()
    return caption.format(score=told.title, example=told.example, points=told.in_points, plain_points=told.plain_points)


def _drawn(name: str, kinds: Mapping[str, bytes], title: str, caption: str, extra: str = "") -> dict[str, Any]:
    """What the macro `drawing` shows: kinds is what `save_figures` made of the figure."""
    title, caption = (_filled(text) for text in (title, caption))
    return {
        "name": name,
        "title": title,
        "caption": caption,
        "svg": Markup(inline_svg(kinds["svg"].decode(), name, f"{title}. {caption} {extra}".strip())),
        "csv": csv_link(kinds["csv"]) if "csv" in kinds else None,
        "kinds": list(kinds),
    }
