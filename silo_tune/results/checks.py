"""What the cells of a table may be, given its study. A table that a run derives is right by construction."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from silo_tune.results.columns import IDENTITY
from silo_tune.study.model import Study
from silo_tune.study.scores import Score

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pandas as pd

    Mask = npt.NDArray[np.bool_]

STATUSES = ("ok", "diverged", "failed")
PILOT = "pilot"
# Counts are divided: a share and its complement need not add up to the last bit.
ROUNDING = 1e-9

_PRESENT = ("arm", "mode", "seed", "cycle", "candidate", "repeat", "status", "key", "winner", "continued")
_COUNTS = ("trial", "candidate", "repeat", "n_val", "n_test", "epochs", "steps", "train_seconds")


@dataclass(frozen=True)
class Wrong:
    """Cells that cannot be.

    Attributes:
        column: its name; several names, with commas, where they do not fit together.
        expected: what it holds, as a part of a sentence.
        mask: (rows,) True where it is wrong.
    """

    column: str
    expected: str
    mask: Mask


class Limits(NamedTuple):
    """Least and greatest value, and whether the least itself is excluded."""

    least: float
    greatest: float
    open: bool
    words: str


_RANGES = {
    "sparsity": Limits(0, 1, False, "a sparsity is in [0, 1], not in percent"),
    "weights_remaining": Limits(0, 1, False, "a share is in [0, 1], not in percent"),
    "max_lr": Limits(0, float("inf"), True, "a learning rate is above 0"),
    "realised_peak_lr": Limits(0, float("inf"), False, "a learning rate is not negative"),
    "classes": Limits(1, float("inf"), False, "there is at least one class"),
    **{name: Limits(0, float("inf"), False, "it is not negative") for name in _COUNTS},
}


def problems(frame: pd.DataFrame, study: Study) -> Iterator[Wrong]:
    """Everything in a table, with the columns and types of `COLUMNS`, that does not fit its study or itself."""
    checks = [
        *_absent(frame),
        *_ranges(frame, {**_RANGES, **_of_score(study.scored)}),
        *_of_study(frame, study),
        *_together(frame),
    ]
    yield from (found for found in checks if found.mask.any())


def _absent(frame: pd.DataFrame) -> Iterator[Wrong]:
    for name in _PRESENT:
        yield Wrong(name, "every row has one", frame[name].isna().to_numpy(dtype=bool))


def _of_score(score: Score) -> dict[str, Limits]:
    """The range of the study's score, for the columns that hold one."""
    a = "an" if score.title[0].lower() in "aeiou" else "a"
    ends = f"[{score.low:g}, {score.high:g}]" if score.high < float("inf") else f"from {score.low:g} on"
    percent = ", not in percent" if score.share else ""
    found = Limits(
        score.low, score.high, False, f"{a} {score.title} is {'in ' if ends[0] == '[' else ''}{ends}{percent}"
    )
    return dict.fromkeys(("val_score", "test_score", "guess_score"), found)


def _ranges(frame: pd.DataFrame, ranges: Mapping[str, Limits]) -> Iterator[Wrong]:
    for name, (least, greatest, excluded, words) in ranges.items():
        values = _numbers(frame, name)
        below = values <= least if excluded else values < least
        yield Wrong(name, words, below | (values > greatest))


def _of_study(frame: pd.DataFrame, study: Study) -> Iterator[Wrong]:
    yield Wrong("score", f"the study is judged by {study.scored.name}", _other(frame["score"], [study.scored.name]))
    yield Wrong("status", f"choose from {', '.join(STATUSES)}", _other(frame["status"], STATUSES))
    unknown = _other(frame["arm"], study.arms)
    yield Wrong("arm", f"the study has {', '.join(study.arms)}", unknown)
    own: pd.Series[Any] = frame["arm"].map({name: arm.mode for name, arm in study.arms.items()})
    pilots = frame["arm"].map({name: PILOT for name in study.arms if study.pilots(name)})
    trial = frame["trial"].notna()
    fits = (frame["mode"] == own.where(~trial | pilots.isna(), pilots)).fillna(False).to_numpy(dtype=bool)
    yield Wrong("mode", "it is that of the arm in the study", ~fits & ~unknown & frame["mode"].notna().to_numpy())
    cycles = _numbers(frame, "cycle")
    yield Wrong("cycle", f"the study has cycles 0 to {study.cycles - 1}", (cycles < 0) | (cycles >= study.cycles))
    seeds = study.replicates.seeds
    strange = _other(frame["seed"], seeds) & ~trial.to_numpy()
    yield Wrong("seed", f"the study has {', '.join(map(str, seeds))}", strange)
    for name in study.arms:
        searched = trial.to_numpy() & (frame["arm"] == name).fillna(False).to_numpy(dtype=bool)
        due = study.search_seeds(name)
        words = f"the search of {name} has {', '.join(map(str, due)) or 'none'}"
        yield Wrong("seed", words, searched & _other(frame["seed"], due))


def _together(frame: pd.DataFrame) -> Iterator[Wrong]:
    import numpy as np

    total = _numbers(frame, "sparsity") + _numbers(frame, "weights_remaining")
    yield Wrong("sparsity, weights_remaining", "they add up to 1", abs(total - 1) > ROUNDING)
    trained = (frame["status"] == "ok").fillna(False).to_numpy(dtype=bool)
    for name in ("val_score", "test_score"):
        yield Wrong(name, "a row whose status is ok has one", trained & np.isnan(_numbers(frame, name)))
    same = frame.duplicated(list(IDENTITY), keep=False).to_numpy()
    yield Wrong(", ".join(IDENTITY), "every row has its own", same)
    yield Wrong("arm, seed, trial, cycle", "a cycle has one winner", _second_winners(frame))


def _second_winners(frame: pd.DataFrame) -> Mask:
    """Winners of cycles that have several; one unit that was asked for twice wins in both rows."""
    won = frame[frame["winner"].fillna(False).astype(bool)]
    several = won.groupby(["arm", "seed", "trial", "cycle"], dropna=False)["key"].transform("nunique") > 1
    mask: Mask = frame.index.isin(several[several].index)
    return mask


def _other(column: pd.Series[Any], known: Any) -> Mask:
    """Cells that hold something else than what is known."""
    mask: Mask = (column.notna() & ~column.isin(list(known))).to_numpy(dtype=bool)
    return mask


def _numbers(frame: pd.DataFrame, name: str) -> npt.NDArray[np.float64]:
    """A column as floats; what is null is NaN, and compares as false."""
    values: npt.NDArray[np.float64] = frame[name].to_numpy(dtype=float, na_value=float("nan"))
    return values
