"""Did every schedule arm get the same effort: pilot chains for its constants, and steps of training?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from silo_analysis.answers.answer import Answer, number, sentence
from silo_analysis.estimates.tuning import PILOT, Savings, at_edge, best_point
from silo_tune.formats import difference, known, level_sign, percent, plural, points, rate, words
from silo_tune.planner.winner import gain
from silo_tune.results.searches import SearchRecord

if TYPE_CHECKING:
    from silo_analysis.estimates.climbing import Climb
    from silo_analysis.estimates.summary import Summary

STANDINGS = {
    "none": "not equally tuned (no pilot chains)",
    "under way": "pilots under way",
    "equal": "equally tuned",
    "unequal": "not equally tuned",
}

# Two rates that lie within this factor (a tenth of a decade) hardly differ (ours).
HARDLY = 10**0.1

ID = "effort"


def ask(summary: Summary) -> Answer:
    """Equal tuning and equal budgets: what a comparison of arms may rest on."""
    unequal = tuple(unequal_budgets(summary))
    matched = tuple(equal_budgets(summary))
    budgets = ["not a matched budget"] if unequal else ["equal budgets"] if matched else []
    rising = [arm for arm, climb in summary.climbs.items() if climb.climbing]
    open_ends = [f"{', '.join(rising)} still climbing"] if rising else []
    edges = [arm for arm, search in summary.searches.items() if search.kind == PILOT and at_edge(search, summary.study)]
    open_ends += [f"best of {', '.join(edges)} at an edge"] if edges else []
    numbers = [number(f"pilot chains of {arm}", count) for arm, count in summary.tuning.chains.items()]
    numbers += [
        number(
            f"{_last_part(climb)} of the chains of {arm}",
            climb.gain,
            seeds=len(summary.searches[arm].points[0]["seeds"]),
        )
        for arm, climb in summary.climbs.items()
    ]
    numbers += [
        number(f"steps of {row['arm']} ÷ steps of {summary.schedule}", row["ratio"])
        for row in summary.budgets.to_dict("records")
        if known(row["ratio"])
    ]
    return Answer(
        ID,
        "Did every schedule arm get the same effort?",
        sentence("; ".join([STANDINGS[summary.tuning.standing], *open_ends, *budgets])),
        (
            tuning_sentence(summary),
            *grid_sentences(summary),
            *pilot_sentences(summary),
            *flat_sentences(summary, summary.searches),
            *tuned_sentences(summary),
            *matched,
            *unequal,
        ),
        tuple(numbers),
        figure="tuning-curve",
        data=summary.budgets,
    )


def tuning_sentence(summary: Summary) -> str:
    """How the schedule arms came by their constants: equally tuned, or who got what."""
    if summary.tuning.standing == "none":
        return "Not equally tuned: the study has no pilot, so every arm has the constants that the study gives it."
    return f"{STANDINGS[summary.tuning.standing].capitalize()}: {'; '.join(_who_was_tuned(summary))}."


def _who_was_tuned(summary: Summary) -> Iterator[str]:
    tuning = summary.tuning
    due = [arm for arm, count in tuning.chains.items() if count >= tuning.planned]
    on = f"on {seed_list(tuning.seeds)}" if tuning.seeds else "on seeds of their own"
    if due:
        everyone = len(due) == len(tuning.chains) and not (tuning.written or tuning.derived)
        who, each = ("every schedule arm", "") if everyone else (", ".join(due), " each" if len(due) > 1 else "")
        yield f"{who} got {plural(tuning.planned, 'pilot chain')}{each} {on}"
    for arm, count in tuning.extra.items():
        yield f"the best of {arm} lay on an edge of its grid, which was extended by {plural(count, 'chain')}"
    for arm in (arm for arm in tuning.chains if arm not in due):
        yield f"{arm} has {tuning.chains[arm]} of {plural(tuning.planned, 'pilot chain')} {on}"
    for leader in dict.fromkeys(tuning.derived.values()):
        names = [arm for arm, other in tuning.derived.items() if other == leader]
        yield f"{' and '.join(names)} take{'s' if len(names) == 1 else ''} the rates that the pilot of {leader} found"
    if tuning.written:
        yield f"not tuned, with constants that are written in the study: {', '.join(tuning.written)}"


def grid_sentences(summary: Summary) -> Iterator[str]:
    """A grid of as many chains has many levels of one constant and few of two."""
    pilot = summary.study.pilot
    if pilot is None or pilot.proposals != "grid":
        return
    free = {len(summary.searches[arm].points[0]["params"]) for arm in summary.tuning.chains if arm in summary.searches}
    if len(free) > 1:
        yield (
            f"A grid favours arms with one constant: it tried {pilot.chains} levels of it, and {pilot.levels} of each "
            f'of two. In a new run pilot.proposals = "guided" favours them less.'
        )


def pilot_sentences(summary: Summary) -> Iterator[str]:
    """What every pilot searched and found, and whether more chains or a wider range would find better."""
    for arm, search in summary.searches.items():
        best, pilot = best_point(search), summary.study.pilot
        if search.kind != PILOT or best is None or pilot is None:
            continue
        rising = sorted(best["params"].items(), key=lambda item: float(item[1]))
        found = ", ".join(f"{name} {rate(value)}" for name, value in rising)
        edges = at_edge(search, summary.study)
        beyond = f", at an edge of what it tried ({', '.join(edges)}): a better value may lie beyond" if edges else ""
        yield (
            f"The pilot of {arm} tried {plural(len(search.points), 'point')} ({pilot.proposals}, {pilot.low:g} to "
            f"{pilot.high:g}{', and beyond' if search.extended else ''}) and found {found}, "
            f"{level_sign(gain(best['objective'], words().sign))} on validation"
            f"{'' if search.finished else ' so far'}{beyond}."
            f"{climb_words(summary, search)}"
        )


def climb_words(summary: Summary, search: SearchRecord) -> str:
    """What the last part of a search's chains brought; nothing where it is not known."""
    climb = summary.climbs.get(search.arm)
    if climb is None:
        return ""
    checked = "" if climb.elsewhere is None else f" ({points(climb.elsewhere)} on a seed that did not choose)"
    told = f" {_last_part(climb).capitalize()} of its chains brought {difference(climb.gain)}{checked}"
    return f"{told}: it was still climbing, more chains may find better." if climb.climbing else f"{told}."


def _last_part(climb: Climb) -> str:
    return "the last quarter" if climb.in_order else "the second half"


def flat_sentences(summary: Summary, arms: Iterable[str]) -> Iterator[str]:
    """Of these arms, those whose pilot found two equal rates: a constant does as well, which is a finding."""
    for arm in arms:
        search = summary.searches.get(arm)
        if search is None or search.kind != PILOT or search.best is None:
            continue
        rates = sorted(
            value for point in search.points if point["trial"] == search.best for value in point["params"].values()
        )
        if len(rates) == 2 and rates[0] < rates[1] < rates[0] * HARDLY:
            yield (
                f"The pilot of {arm} found hardly a rise, from {rate(rates[0])} to {rate(rates[1])}: a constant may do "
                f"as well."
            )
        if len(rates) == 2 and rates[0] == rates[1]:
            yield (
                f"The pilot of {arm} found delta = 0: the constant {rate(rates[0])} did as well as every rising pair "
                f"that it tried. To judge the best pair that rises, set pilot.rise = true in a new run."
            )


def tuned_sentences(summary: Summary) -> Iterator[str]:
    """The best point of every search of the S-curve's own parameters."""
    for arm, search in summary.searches.items():
        best = next((point for point in search.points if point["trial"] == search.best), None)
        if search.kind == PILOT or best is None:
            continue
        stopped = sum(point["stopped"] is not None for point in search.points)
        params = ", ".join(f"{name} {value:.4g}" for name, value in best["params"].items())
        yield (
            f"{arm}: the best of {plural(len(search.points), 'point')} ({stopped} stopped early"
            f"{'' if search.finished else ', more to come'}) is {params}, with a mean validation {words().title} of "
            f"{level_sign(gain(best['objective'], words().sign), 1)} over {plural(len(search.counted), 'cycle')} on "
            f"{seed_list(best['seeds'])}."
        )


def seed_list(seeds: Any) -> str:
    """ "seed 3", "seeds 3, 4"."""
    return f"seed{'' if len(seeds) == 1 else 's'} {', '.join(map(str, seeds))}"


def savings_sentence(found: Savings) -> str:
    """Trials that a search trained, against points × cycles × seeds."""
    rest = (
        (found.shared, "shared between chains"),
        (found.stopped, "not needed after a point was stopped"),
        (found.failed, "failed"),
        (found.missing, "not reached by chains that ended early, or still to come"),
    )
    parts = "; ".join(f"{count} {why}" for count, why in rest if count)
    total = f"{found.trained} distinct trials trained against {found.planned} (points × cycles × seeds)"
    if not found.planned or not parts:
        return f"{total}."
    return (
        f"{total}: {parts}. Sharing and stopping saved {percent((found.shared + found.stopped) / found.planned, 0)} %."
    )


def equal_budgets(summary: Summary) -> Iterator[str]:
    """All schedule arms trained equally long; nothing where one did not, or where there is one arm alone."""
    table = summary.budgets
    if len(table) > 1 and table["matched"].notna().all() and table["matched"].all():
        yield f"Equal budgets: all {len(table)} schedule arms trained the same number of steps per cycle."


def unequal_budgets(summary: Summary) -> Iterator[str]:
    """Arms that trained longer or shorter than the judged schedule, by their share of its steps."""
    table = summary.budgets
    for ratio, rows in table[~table["matched"].fillna(True)].groupby(table["ratio"].round(2), sort=True):
        share = float(str(ratio))
        if share == 1:
            told = f"about as many steps as {summary.schedule}, but not the same in every cycle"
        else:
            told = f"{share:.2f} times the steps of {summary.schedule} per cycle"
        yield f"{', '.join(rows['arm'])} trained {told}: not a matched budget."
