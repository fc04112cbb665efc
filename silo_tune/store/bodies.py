"""What the sealed files of a run hold: keys, types and ranges. A file that holds something else counts as damaged.

Keys that are not known here are left alone, so that files of later versions can be read; a key with a default was added
later, and files of earlier versions lack it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from silo_tune.planner.unit import canonical_json
from silo_tune.planner.winner import best_training, winner_of
from silo_tune.store.storage import Corrupt

# No study counts further, and JSON readers of other languages hold such numbers exactly.
_MOST = 2**53
Count = Annotated[int, Field(ge=0, le=_MOST)]
Share = Annotated[float, Field(ge=0, le=1)]
# +1 where more is better, -1 where less is.
Sign = Literal[1, -1]
Rate = Annotated[float, Field(ge=0)]
Key = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Status = Literal["ok", "diverged", "failed"]


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("no name has such characters")
    return text


def _whole(text: str) -> str:
    text.encode()  # half a character of two is no text, and no table holds it
    return text


def _keyed(spec: dict[str, Any]) -> dict[str, Any]:
    canonical_json(spec).encode()  # of which a key is made
    return spec


Name = Annotated[str, AfterValidator(_printable)]
Text = Annotated[str, AfterValidator(_whole)]


class _Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)


class _State(_Body):
    file: Annotated[str, Field(pattern=r"^state-[0-9a-f]+\.safetensors$")]
    sha256: str


class _Examples(_Body):
    file: Annotated[str, Field(pattern=r"^examples-[0-9a-f]+\.bin$")]
    sha256: str


class Result(_Body):
    """RUN/units/…/result.json and restate-N.json."""

    key: Key
    unit: Annotated[dict[str, Any], AfterValidator(_keyed)]
    status: Literal["ok", "diverged"]
    error: Text | None
    max_lr: Rate | None
    sparsity: Share
    weights_remaining: Share
    val_score: float | None
    val_loss: float | None
    n_val: Count
    test_score: float | None
    test_loss: float | None = None
    n_test: Count
    score: Name | None = None
    sign: Sign | None = None
    guess_score: float | None = None
    guess_loss: float | None = None
    train_loss: float | None
    classes: Count
    prunable: Count | None = None
    parameters: Count | None = None
    threads: Count | None = None
    epochs: Count
    steps: Count
    train_seconds: Rate
    wall_seconds: Rate | None = None
    realised_peak_lr: Rate | None
    device: Name
    version: Name
    state: _State | None
    examples: _Examples | None = None
    grad_spread: float | None = None
    activation_spread: float | None = None
    activation_spread_norm: float | None = None


class _Asked(_Body):
    candidate: Count
    key: Key
    peak: dict[str, Any] | None
    asked: bool
    tests: list[str]
    repeat: Count = 0


class _Told(_Body):
    candidate: Count
    repeat: Count
    key: Key
    status: Status
    max_lr: Rate | None
    val_score: float | None
    val_loss: float | None
    sign: Sign | None = None
    guess_score: float | None = None
    error: Text | None
    classes: Count | None = None
    measured: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")] | None = None


class Decision(_Body):
    """RUN/chains/…/cycle-M-round-N.json."""

    arm: str
    seed: Count
    trial: Count | None = None
    params: dict[str, float] | None = None
    cycle: Count
    round: Count
    parent: Key | None
    asked: list[_Asked]
    told: list[_Told]
    closes: bool
    winner: Key | None


class _Point(_Body):
    trial: Count
    round: Count
    params: dict[str, float]
    objective: float | None
    told: float | None
    stopped: Count | None
    rungs: dict[Annotated[str, Field(pattern=r"^\d+$")], float]
    ended: dict[str, Text]


class Round(_Body):
    """RUN/chains/ARM/search/round-N.json."""

    arm: str
    kind: Literal["pilot", "tune"]
    round: Count
    seeds: Annotated[list[Count], Field(min_length=1)]
    counted: list[Count]
    size: Count | None = None
    points: Annotated[list[_Point], Field(min_length=1)]


class Importance(_Body):
    """RUN/chains/ARM/search/importance.json."""

    points: Count
    shares: dict[str, float]


class Facts(_Body):
    """RUN/data.json."""

    content: str
    sample: str | None = None
    classes: Count
    n_train: Count
    n_val: Count
    n_test: Count
    shape: list[Count] = []
    streamed: bool = False
    listing: str | None = None
    notices: list[str] = []


class Held(_Body):
    """RUN/lease/N.json."""

    host: Name
    pid: Annotated[int, Field(ge=0, lt=2**31)]
    attempt: Name
    started: str | None


class LookFile(_Body):
    """RUN/looks/look-N.json: what a look at the verdicts decided for later seeds."""

    look: Count
    looks: list[Count]
    seeds: list[int]
    verdicts: dict[str, str]
    decided: dict[str, Count]
    dropped: dict[str, dict[str, list[Rate]]]
    skipped: dict[str, list[int]]
    rows: str
    over: bool


def shaped(kind: type[BaseModel], body: Mapping[str, Any]) -> None:
    """Raises Corrupt, naming the key, when a body is not of its kind."""
    try:
        kind.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise Corrupt(f"{'.'.join(map(str, first['loc']))}: {first['msg'].lower()}") from None


def texts(body: Mapping[str, Any]) -> None:
    """Raises Corrupt unless every value is a text, as in RUN/functions.json."""
    for key, value in body.items():
        if not isinstance(value, str):
            raise Corrupt(f"{key}: it is no text")


def _winner(told: Sequence[Mapping[str, Any]], first: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """By the rule of the chain: a first round of one rate with repeats is that of a schedule's `best_of`."""
    rates = {outcome["max_lr"] for outcome in first["told"]}
    luck = len(rates) == 1 and any(outcome["repeat"] > 0 for outcome in first["told"])
    return (best_training if luck else winner_of)(told)


def of_kind(kind: type[BaseModel]) -> Callable[[Mapping[str, Any]], None]:
    """The check that a body is of a kind."""
    return partial(shaped, kind)


def of_place(place: Mapping[str, Any], body: Mapping[str, Any]) -> None:
    """Raises Corrupt when a file is not of the place where it lies: one that was moved is as good as damaged."""
    for key, value in place.items():
        if body.get(key) != value:
            raise Corrupt(f"it says {key} {body.get(key)!r} and lies at that of {value!r}")


def complete(decision: Mapping[str, Any]) -> None:
    """Raises Corrupt unless a decision tells of each of its candidates once, and nothing else.

    Only a cycle that a look leaves out has none.
    """
    asked = [(entry["candidate"], entry["key"]) for entry in decision["asked"]]
    if (not asked and not decision.get("skipped")) or asked != [
        (outcome["candidate"], outcome["key"]) for outcome in decision["told"]
    ]:
        raise Corrupt("it was told of other candidates than it asked for")
    if len({candidate for candidate, _ in asked}) < len(asked):
        raise Corrupt("it has a candidate twice")
    for outcome in decision["told"]:
        known = outcome["val_score"] is not None and outcome["val_loss"] is not None
        if known != (outcome["status"] == "ok"):
            raise Corrupt(f"candidate {outcome['candidate']} is {outcome['status']}, and its score says otherwise")


def settled(search: Mapping[str, Any], number: int) -> None:
    """Raises Corrupt unless the points are those of a round, and each has what it was stopped by, or judged by."""
    if search.get("size", len(search["points"])) != len(search["points"]):
        raise Corrupt(f"it has {len(search['points'])} of its {search['size']} points")
    for trial, point in enumerate(search["points"], search["points"][0]["trial"]):
        if (point["trial"], point["round"]) != (trial, number):
            raise Corrupt(f"it has point {point['trial']} of round {point['round']} where point {trial} belongs")
        stopped = point["stopped"]
        if stopped is not None and (str(stopped) not in point["rungs"] or point["objective"] is not None):
            raise Corrupt(f"point {point['trial']} was stopped after cycle {stopped}, and its values say otherwise")


def won(rounds: Sequence[Mapping[str, Any]], whole: bool) -> None:
    """Raises Corrupt unless the last of a cycle's rounds names the winner that its candidates give.

    Args:
        rounds: decisions in order; a candidate that was tried again counts as it was told last.
        whole: no earlier round is missing; else any of the known candidates may have won.
    """
    last = rounds[-1]
    told = {outcome["candidate"]: outcome for decision in rounds for outcome in decision["told"]}
    best = _winner([told[candidate] for candidate in sorted(told)], rounds[0]) if last["closes"] else None
    if whole and last["winner"] != (None if best is None else best["key"]):
        raise Corrupt("its winner is not the one that its candidates give")


def whole(result: Mapping[str, Any]) -> None:
    """Raises Corrupt unless a result has everything, and what its status promises."""
    shaped(Result, result)
    known = {name: result[name] is not None for name in ("val_score", "val_loss", "state")}
    if any(there != (result["status"] == "ok") for there in known.values()):
        raise Corrupt(f"it is {result['status']}, and its {' or '.join(known)} says otherwise")
