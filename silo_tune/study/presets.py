"""Presets: a published way to set the learning rate as peak schedule × profile × what happens after a prune.

A preset is expanded when a study is read: what it leaves out comes from the study, what the study writes beside it
wins, and the run records what it stood for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from silo_tune.errors import unknown
from silo_tune.schedules.peaks import rounded, s_curve
from silo_tune.schedules.shapes import make_profile
from silo_tune.study.parts import REWIND_POINT

Arm = dict[str, Any]
Args = Mapping[str, Any]

# The S counts as risen where it has come within this share of its end (ours).
RISEN = 0.99
# A fine-tuning rate below this multiple of the dense peak is no rate that trains (ours).
LEAST_END = 1e-3


@dataclass(frozen=True)
class Setting:
    """What a preset may know of its study.

    Attributes:
        cycles: of the study, the dense one included.
        epochs: of this arm's retraining.
        own_epochs: the same where the arm itself says so, else None.
        dense_epochs, dense_max_lr: of the dense training; None beside a checkpoint.
        dense_profile: its shape, as a table.
        retrain_profile: the study's shape of a cycle, as a table.
        curve: constants of SILO here (eps, delta, beta, q): those of the judged arm, or of the network's recipe.
        pruned: planned pruned fractions of the first cycles, far enough for the S to rise.
        tuned: does a [pilot] find the constants that are left out?
        leader: the judged arm where the pilot finds its two ends, else None.
    """

    cycles: int
    epochs: int
    own_epochs: int | None
    dense_epochs: int | None
    dense_max_lr: float | None
    dense_profile: Mapping[str, Any]
    retrain_profile: Mapping[str, Any]
    curve: Mapping[str, float]
    pruned: Sequence[float]
    tuned: bool
    leader: str | None = None


@dataclass(frozen=True)
class Preset:
    """One named way to set the learning rate.

    Attributes:
        line: one line for `silo-tune list presets`.
        source: where it is from; "ours" for a control of this project.
        takes: arguments beside those of every arm.
        make: the arm's table.
    """

    line: str
    source: str
    takes: tuple[str, ...]
    make: Callable[[Setting, Args], Arm]


def expand(name: str, setting: Setting, args: Args) -> Arm:
    """The arm that a preset stands for.

    Args:
        name: of the preset.
        setting: what it may know of the study.
        args: the preset's own arguments.

    Raises:
        ValueError: an unknown preset or argument, or something that the study does not give.
    """
    if name not in PRESETS:
        raise ValueError(unknown("preset", name, PRESETS))
    takes = PRESETS[name].takes
    extra = [key for key in args if key not in takes]
    if extra:
        raise ValueError(
            f"preset {name!r} takes no {', '.join(map(repr, extra))}; beside the keys of every arm it takes "
            f"{', '.join(takes) or 'nothing'}"
        )
    for key, value in args.items():
        _check_type(key, value)
    return {"mode": "schedule", "preset": name, **PRESETS[name].make(setting, args)}


def _check_type(key: str, value: Any) -> None:
    if key == "to":
        if not isinstance(value, str) or not REWIND_POINT.fullmatch(value):
            raise ValueError(f'to is "init", "K ep" (epochs) or "K it" (steps) of the dense training, got {value!r}')
    elif not isinstance(value, (int, float)) or isinstance(value, bool):
        raise ValueError(f"{key} is a number, got {value!r}")


# --- peaks over cycles ---


def _constant(setting: Setting, args: Args, published: float | None = None) -> Arm:
    """A constant peak: as given, left to the pilot, as published, or that of the dense training."""
    rate = args.get("max_lr")
    if rate is None and not setting.tuned:
        rate = setting.dense_max_lr if published is None else published
        if rate is None:
            raise ValueError("needs max_lr: [dense] is a checkpoint, so there is no peak to take over")
    return {"schedule": {"name": "constant", **({} if rate is None else {"max_lr": rate})}}


def _curve(setting: Setting, args: Args) -> dict[str, float]:
    """Constants of SILO: those given before those of the study; ε and δ are left to a pilot that finds them."""
    known = {**setting.curve, **args}
    if setting.tuned and "eps" not in args and "delta" not in args:
        return {key: known[key] for key in ("beta", "q", "midpoint") if key in known}
    missing = [key for key in ("eps", "delta") if key not in known]
    if missing:
        raise ValueError(f"needs {' and '.join(missing)}: this network has no recipe that gives them")
    return {key: known[key] for key in ("eps", "delta", "beta", "q", "midpoint") if key in known}


def _silo(setting: Setting, args: Args) -> Arm:
    return {"schedule": {"name": "silo", **_curve(setting, args)}}


def _low(setting: Setting, args: Args) -> Arm:
    return _end(setting, args, "low")


def _high(setting: Setting, args: Args) -> Arm:
    return _end(setting, args, "high")


def _end(setting: Setting, args: Args, end: str) -> Arm:
    """A constant at ε or ε + δ: those of the judged arm, if need be as its pilot finds them."""
    curve = _curve(setting, args)
    if "eps" in curve:
        return _constant(setting, {"max_lr": curve["eps"] + (curve["delta"] if end == "high" else 0.0)})
    if setting.leader is None:
        return _constant(setting, {})
    return {"schedule": {"name": "constant"}, "ends": {"arm": setting.leader, "end": end}}


def _linear(setting: Setting, args: Args) -> Arm:
    curve = _curve(setting, {key: value for key, value in args.items() if key != "over"})
    ends = {"start": curve["eps"], "end": curve["eps"] + curve["delta"]} if "eps" in curve else {}
    return {"schedule": {"name": "linear", **ends, "over": args.get("over", risen(setting.pruned, curve))}}


def risen(pruned: Sequence[float], curve: Mapping[str, float]) -> int:
    """The first cycle at which the S has risen: a ramp over so many cycles is as long as the S."""
    beta, q, midpoint = curve.get("beta", 5.0), int(curve.get("q", 1)), curve.get("midpoint", 0.5)
    tops = (m + q for m, gamma in enumerate(pruned) if s_curve(gamma, beta, midpoint) >= RISEN)
    return next(tops, max(1, len(pruned) - 1))


def _falling(setting: Setting, args: Args) -> Arm:
    """base − δ / (1 + (x / (2(1 − p) − x))^β) over the surviving fraction x: the S of SILO, falling."""
    if not 0 < args.get("p", 0.12) < 0.5:
        raise ValueError(f"p lies in (0, 0.5), got {args['p']}")
    shape = {"beta": args.get("beta", 50.0), "q": 0, "midpoint": 1.0 - args.get("p", 0.12), "direction": "falling"}
    if setting.tuned and "base" not in args and "delta" not in args:
        return {"schedule": {"name": "silo", **shape}, "profile": "constant"}
    base, delta = args.get("base", 0.001), args.get("delta", 0.00075)
    if delta >= base:
        raise ValueError(f"delta {delta} must be below base {base}: the peak would fall to 0")
    return {"schedule": {"name": "silo", "eps": base - delta, "delta": delta, **shape}, "profile": "constant"}


# --- shapes inside a cycle ---


def _shaped(profile: str | dict[str, Any], published: float | None = None) -> Callable[[Setting, Args], Arm]:
    """A constant peak with a shape of its own."""
    return lambda setting, args: {**_constant(setting, args, published), "profile": profile}


def _warmed(setting: Setting, args: Args) -> Arm:
    """The study's own warm-up and drops, or the usual ones where it has another shape."""
    own = str(setting.retrain_profile.get("name")).startswith("warmup-drop")
    return {**_constant(setting, args), **({} if own else {"profile": "warmup-drop"})}


SLR = {"name": "warmup-drop", "warmup": 0.1, "warmup_shape": "cosine", "start": 0.01, "drops": [0.55, 0.775]}
# Momentum runs against the rate, as published with it (Smith & Topin 2018).
AGAINST = [0.95, 0.85]
ONE_CYCLE = {"name": "one-cycle", "momentum": AGAINST}
CLR = {"name": "one-cycle", "rising": 0.1, "start_div": 100.0, "end_div": 100.0, "momentum": AGAINST}
LLR = {"name": "linear", "warmup": 0.1, "warmup_shape": "cosine"}


def _adaptive(setting: Setting, args: Args) -> Arm:
    constants = {key: value for key, value in args.items() if key == "train_epochs"}
    return {"schedule": {**_constant(setting, args)["schedule"], "name": "allr", **constants}, "profile": LLR}


# --- going back to the dense training ---


def _dense(setting: Setting, what: str) -> tuple[int, float]:
    if setting.dense_epochs is None or setting.dense_max_lr is None:
        raise ValueError(f"{what}, and [dense] is a checkpoint, whose training is not part of this study")
    if "function" in setting.dense_profile:
        raise ValueError(f"{what}, and its profile is a function, which cannot be replayed; take a registered one")
    return setting.dense_epochs, setting.dense_max_lr


def _replayed(setting: Setting, args: Args) -> tuple[Arm, int, int]:
    """The last t of the T epochs of the dense training again, t being this arm's budget; and t and T."""
    epochs, rate = _dense(setting, "replays the schedule of the dense training")
    if setting.epochs > epochs:
        raise ValueError(
            f"retrains for {setting.epochs} epochs, but the dense training has only {epochs} to replay; give this arm "
            f"epochs = {epochs}"
        )
    profile = {"name": "replay", "of": dict(setting.dense_profile), "first": 1.0 - setting.epochs / epochs}
    schedule = {"name": "constant", "max_lr": args.get("max_lr", rate)}
    return {"schedule": schedule, "profile": profile}, setting.epochs, epochs


def _lr_rewinding(setting: Setting, args: Args) -> Arm:
    return {**_replayed(setting, args)[0], "after_prune": "keep"}


def _weight_rewinding(setting: Setting, args: Args) -> Arm:
    """Weights of step T − t and the schedule from there on: to init, to an epoch k, or to a step k.

    A cycle is a whole number of epochs, so with "k it", and with "init" in a shorter budget than the dense training's,
    the whole schedule is replayed in this arm's budget.
    """
    to = args.get("to")
    if to is not None and str(to).endswith(" ep"):
        total, _ = _dense(setting, "rewinds to the dense training")
        again = total - int(str(to).split()[0])
        if again < 1:
            raise ValueError(f"{to!r} leaves nothing of the dense training of {total} epochs to replay")
        if setting.own_epochs not in (None, again):
            raise ValueError(f"from {to!r} on there are {again} epochs to replay; leave epochs out")
        arm, _, _ = _replayed(replace(setting, epochs=again), args)
        return {**arm, "epochs": again, "after_prune": "rewind", "rewind_to": to}
    if to is None:
        arm, again, total = _replayed(setting, args)
        return {**arm, "after_prune": "rewind", "rewind_to": "init" if again == total else f"{total - again} ep"}
    arm, _, _ = _replayed(setting, args)
    return {**arm, "profile": dict(setting.dense_profile), "after_prune": "rewind", "rewind_to": to}


def _fine_tuning(setting: Setting, args: Args) -> Arm:
    kept = {"profile": "constant", "after_prune": "keep"}
    if "max_lr" in args:
        return {**_constant(setting, args), **kept}
    _, rate = _dense(setting, "needs max_lr: it trains on at the last rate of the dense training")
    shape = dict(setting.dense_profile)
    total = 10**6  # the end of a long budget: the number of steps is known only with the data
    end = make_profile(shape.pop("name"), shape)(total - 1, total)
    if end < LEAST_END:
        raise ValueError(
            f"needs max_lr: the dense profile {setting.dense_profile['name']!r} ends near 0, too low to train at"
        )
    return {"schedule": {"name": "constant", "max_lr": rounded(rate * end)}, **kept}


# --- pipelines ---


def _ice(setting: Setting, args: Args) -> Arm:
    curve = {key: value for key, value in args.items() if key in ICE_CURVE}
    options = {key: value for key, value in args.items() if key not in ICE_CURVE}
    return {**_falling(setting, curve), "epochs": 1, "after_prune": "keep", "pipeline": {"name": "ice", **options}}


def _while_training(setting: Setting, args: Args) -> Arm:
    rate = args.get("max_lr", setting.dense_max_lr)
    if rate is None:
        raise ValueError("needs max_lr: [dense] is a checkpoint, so there is no peak to take over")
    return {
        "schedule": {"name": "constant", "max_lr": rate},
        "profile": dict(setting.dense_profile),
        "after_prune": "keep",
        "own_dense": True,
        "pipeline": {"name": "while-training", "over": args.get("over", setting.cycles)},
    }


ICE_CURVE = ("base", "delta", "beta", "p")
CURVE = ("eps", "delta", "beta", "q", "midpoint")
PRESETS: dict[str, Preset] = {
    "silo": Preset("S-curve over cycles, the study's profile", "Liu et al. 2023", CURVE, _silo),
    "s-cyc": Preset(
        "S-curve over cycles, one triangle in each",
        "S-Cyc, 2021 (abstract; the triangle's low end is ours)",
        CURVE,
        lambda setting, args: {**_silo(setting, args), "profile": "triangular"},
    ),
    "lr-warmup": Preset("constant peak, warm-up then drops", "Frankle & Carbin 2019", ("max_lr",), _warmed),
    "constant": Preset("constant learning rate", "textbook", ("max_lr",), _shaped("constant")),
    "step": Preset("constant peak, step decay", "textbook", ("max_lr",), _shaped("step")),
    "cyclical": Preset("constant peak, one triangle in each cycle", "Smith 2017", ("max_lr",), _shaped("triangular")),
    "cosine": Preset("constant peak, half a cosine", "textbook", ("max_lr",), _shaped("cosine")),
    "one-cycle": Preset("constant peak, one-cycle", "textbook", ("max_lr",), _shaped(ONE_CYCLE)),
    "lr-rewinding": Preset(
        "the end of the dense training's schedule again, weights kept", "Renda et al. 2020", ("max_lr",), _lr_rewinding
    ),
    "weight-rewinding": Preset(
        'LR rewinding with the weights of then: to = "init", "K it" or "K ep"',
        "Renda et al. 2020",
        ("max_lr", "to"),
        _weight_rewinding,
    ),
    "fine-tuning": Preset(
        "constant at the dense training's last rate, weights kept", "as in Renda et al. 2020", ("max_lr",), _fine_tuning
    ),
    "slr": Preset("cosine warm-up from 1/100, ÷10 twice", "Le & Hua 2021", ("max_lr",), _shaped(SLR, 0.1)),
    "clr": Preset("one-cycle with 10 % rising", "Le & Hua 2021", ("max_lr",), _shaped(CLR)),
    "llr": Preset("10 % cosine warm-up, linear to 0", "Zimmer et al. 2023", ("max_lr",), _shaped(LLR)),
    "allr": Preset(
        "LLR whose peak is lowered where a prune did little and retraining is short",
        "Zimmer et al. 2023",
        ("max_lr", "train_epochs"),
        _adaptive,
    ),
    "ice": Preset("falling S, constant in each cycle", "ICE-Pruning 2025", ICE_CURVE, _falling),
    "ice-pruning": Preset(
        "the pipeline: block by block, fine-tuned an epoch where needed, falling S of the weights left just then",
        "ICE-Pruning 2025, public code; its threshold here is ours, see `silo-tune list deviations`",
        (*ICE_CURVE, "ratio", "threshold", "freeze"),
        _ice,
    ),
    "while-training": Preset(
        "the pipeline: filters pruned at the cycles of one training",
        "Roy et al. 2020 (abstract; the moments are ours)",
        ("max_lr", "over"),
        _while_training,
    ),
    "constant-low": Preset("control: constant ε, the study's profile", "ours", CURVE, _low),
    "constant-high": Preset("control: constant ε + δ, the study's profile", "ours", CURVE, _high),
    "linear": Preset("control: straight ramp from ε to ε + δ while the S rises", "ours", (*CURVE, "over"), _linear),
}  # fmt: skip
