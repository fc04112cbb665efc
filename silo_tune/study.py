"""The Study: one TOML file, the whole truth about a run, as frozen pydantic models that refuse extra keys."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from silo_tune import names
from silo_tune.errors import BadInput, Problems, unknown
from silo_tune.profiles import make_profile, resolve_profile
from silo_tune.schedules import AdaptiveSchedule, Schedule, make_schedule, pruned_fractions

ARM_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")
FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
REWIND_POINT = re.compile(r"init|[1-9]\d* (ep|it)")


# Frozen models hold tuples; TOML and most people write lists.
LISTED = Field(strict=False)


class Frozen(BaseModel):
    """Frozen; an unknown key and a value of another type are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Named(Frozen):
    """A registered name with its arguments, or a user's function.

    Written `"x"`, `{ name = "x", … }` or `{ function = "m:f", version = "1", … }`.
    """

    name: str | None = None
    function: str | None = None
    version: str | None = None
    args: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, raw: Any) -> Any:
        if isinstance(raw, str):
            return {"name": raw}
        if isinstance(raw, Mapping) and "args" not in raw:
            own = {key: raw[key] for key in ("name", "function", "version") if key in raw}
            return {**own, "args": {key: value for key, value in raw.items() if key not in own}}
        return raw

    @model_validator(mode="after")
    def _check(self) -> Named:
        if (self.name is None) == (self.function is None):
            raise ValueError("give either name or function")
        if self.function is None:
            assert self.name is not None
            self.check_name(self.name, self.args)
            return self
        if not FUNCTION.fullmatch(self.function):
            raise ValueError(f'function is written "package.module:name", got {self.function!r}')
        if not self.version:
            raise ValueError("a function needs a version; change it when the function changes its numbers")
        return self

    @classmethod
    def check_name(cls, name: str, args: Mapping[str, Any]) -> None:
        """Raises ValueError unless the name and arguments are registered."""
        raise NotImplementedError

    @model_serializer
    def _flat(self) -> dict[str, Any]:
        return self.resolved()

    def resolved(self) -> dict[str, Any]:
        """The flat table; what enters a unit's key."""
        if self.function is not None:
            return {"function": self.function, "version": self.version, **self.args}
        return {"name": self.name, **self.args}


class ModelRef(Named):
    @classmethod
    def check_name(cls, name: str, args: Mapping[str, Any]) -> None:
        if not name.startswith(names.TIMM_PREFIX):
            if name not in names.MODELS:
                raise ValueError(unknown("model", name, [*names.MODELS, "timm:NAME"]))
            names.check_name("model", names.MODELS, name, args)


class CriterionRef(Named):
    @classmethod
    def check_name(cls, name: str, args: Mapping[str, Any]) -> None:
        names.check_name("criterion", names.CRITERIA, name, args)


class ProfileRef(Named):
    @classmethod
    def check_name(cls, name: str, args: Mapping[str, Any]) -> None:
        make_profile(name, args)

    @model_validator(mode="after")
    def _registered(self) -> ProfileRef:
        if self.function is not None:
            raise ValueError("a profile is one of the registered names, not a function")
        return self

    def resolved(self) -> dict[str, Any]:
        assert self.name is not None
        return resolve_profile(self.name, self.args)

    @model_serializer
    def _as_written(self) -> dict[str, Any]:
        return {"name": self.name, **self.args}


class ScheduleRef(Named):
    @classmethod
    def check_name(cls, name: str, args: Mapping[str, Any]) -> None:
        # An adaptive schedule may leave train_epochs to the study; stand in for it here.
        make_schedule(name, {"train_epochs": 1, **args} if name == "allr" else args)

    def make(self, train_epochs: int | None) -> Schedule | AdaptiveSchedule:
        """The schedule. A user's function is imported here and becomes a fixed schedule.

        Raises:
            BadInput: the function cannot be imported.
        """
        if self.function is not None:
            return _UserSchedule(names.resolve(self.function), self.args)
        assert self.name is not None
        if self.name == "allr" and "train_epochs" not in self.args:
            return make_schedule(self.name, {**self.args, "train_epochs": train_epochs})
        return make_schedule(self.name, self.args)

    @property
    def adaptive(self) -> bool:
        """True when the worker resolves the peak."""
        return self.name == "allr"


class _UserSchedule:
    def __init__(self, function: Any, args: Mapping[str, Any]) -> None:
        self.function, self.args = function, args

    def peak(self, cycle: int, pruned: Sequence[float]) -> float:
        return float(self.function(cycle, pruned, **self.args))


class Data(Frozen):
    """[data]: which images, how they are split and augmented. `path` and `download` never enter a unit's key."""

    name: str | None = None
    function: str | None = None
    version: str | None = None
    path: str | None = None
    download: bool = True
    image_key: str | None = None
    label_key: str | None = None
    size: int | None = Field(default=None, ge=1)
    args: dict[str, Any] = Field(default_factory=dict)
    val_share: float = Field(default=0.2, gt=0, lt=1)
    test_share: float = Field(default=0.2, gt=0, lt=1)
    split_seed: int = Field(default=0, ge=0)
    train_images: int | None = Field(default=None, ge=1)
    val_images: int | None = Field(default=None, ge=1)
    test_images: int | None = Field(default=None, ge=1)
    augment: Annotated[tuple[Literal["crop", "flip"], ...], LISTED] = ()
    crop_padding: int = Field(default=4, ge=1, le=64)

    PLACE: ClassVar[tuple[str, ...]] = ("path", "download")
    SPLIT: ClassVar[tuple[str, ...]] = (
        "val_share", "test_share", "split_seed", "train_images", "val_images", "test_images",
    )  # fmt: skip
    AUGMENT: ClassVar[tuple[str, ...]] = ("augment", "crop_padding")

    @model_validator(mode="after")
    def _check(self) -> Data:
        given = {key: getattr(self, key) for key in ("image_key", "label_key", "size")}
        given = {key: value for key, value in given.items() if value is not None}
        if (self.name is None) == (self.function is None):
            raise ValueError("give either name or function")
        if self.function is not None and not FUNCTION.fullmatch(self.function):
            raise ValueError(f'function is written "package.module:name", got {self.function!r}')
        if self.function is not None and not self.version:
            raise ValueError("a function needs a version; change it when the function changes its data")
        if self.name is not None:
            names.check_name("data set", names.DATA, self.name, {**given, **self.args})
        if self.name in ("huggingface", "folder") and not self.path:
            raise ValueError(f"data set {self.name!r} needs a path")
        return self

    def source(self) -> dict[str, Any]:
        """The part of the data's identity that says which images; no path."""
        dump = self.model_dump(mode="json", exclude_none=True)
        return {key: value for key, value in dump.items() if key not in (*self.PLACE, *self.SPLIT, *self.AUGMENT)}

    def split(self) -> dict[str, Any]:
        """The part that says how they are split."""
        return {key: value for key in self.SPLIT if (value := getattr(self, key)) is not None}

    def augmentation(self) -> dict[str, Any]:
        """The part that says how training batches are augmented."""
        names_ = sorted(set(self.augment))
        return {"augment": names_, **({"crop_padding": self.crop_padding} if "crop" in names_ else {})}

    def place(self) -> str | None:
        """`path` with `~`, `${VAR}` and `${VAR:-default}` filled in.

        Raises:
            BadInput: the path names a variable that is not set and has no default.
        """
        return None if self.path is None else expand(self.path)


def expand(path: str) -> str:
    """Fill in `${VAR}`, `${VAR:-default}` and a leading `~`. Raises BadInput for a variable that is not set."""

    def value(match: re.Match[str]) -> str:
        found = os.environ.get(match["name"]) or match["default"]
        if found is None:
            raise BadInput(
                f"data.path: the variable {match['name']} is not set (path {path!r}); set it, or give a path"
            )
        return found

    filled = re.sub(r"\$\{(?P<name>\w+)(?::-(?P<default>[^}]*))?\}", value, path)
    return os.path.expanduser(filled)


class SGD(Frozen):
    name: Literal["sgd"] = "sgd"
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=5e-4, ge=0)
    nesterov: bool = False

    @model_validator(mode="after")
    def _check(self) -> SGD:
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs a momentum above 0")
        return self


class AdamW(Frozen):
    name: Literal["adamw"] = "adamw"
    betas: Annotated[tuple[float, float], LISTED] = (0.9, 0.999)
    eps: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)


Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Dense(Frozen):
    """[dense]: cycle 0, trained once per seed and shared by all arms; or a pretrained network.

    `checkpoint` is a safetensors file, or "timm" for the pretrained weights of a `timm:` model.
    """

    epochs: int | None = Field(default=None, ge=1)
    max_lr: Rate | None = None
    profile: ProfileRef = ProfileRef(name="warmup-drop")
    checkpoint: str | None = None

    @model_validator(mode="after")
    def _check(self) -> Dense:
        if self.checkpoint is None and (self.epochs is None or self.max_lr is None):
            raise ValueError("give epochs and max_lr, or a checkpoint")
        if self.checkpoint is not None and (self.epochs is not None or self.max_lr is not None):
            raise ValueError("a checkpoint is not trained again: leave epochs and max_lr out")
        return self


class Prune(Frozen):
    """[prune]: what a prune removes and what happens to the weights that stay."""

    rate: float = Field(default=0.2, gt=0, lt=1)
    criterion: CriterionRef = CriterionRef(name="magnitude")
    scope: Literal["global", "layerwise"] = "global"
    granularity: Literal["weight"] = "weight"
    skip: Annotated[tuple[str, ...], LISTED] = ()
    after_prune: Literal["keep", "rewind", "reinit"] = "keep"
    rewind_to: str = "init"

    @field_validator("rewind_to")
    @classmethod
    def _point(cls, value: str) -> str:
        if not REWIND_POINT.fullmatch(value):
            raise ValueError(
                f'rewind_to is "init", "K ep" (epochs) or "K it" (steps) of the dense training, got {value!r}'
            )
        return value


class Retrain(Frozen):
    """[retrain]: the training of one cycle; batch, optimizer and precision also hold for the dense cycle."""

    epochs: int = Field(ge=1)
    batch: int = Field(default=64, ge=1)
    profile: ProfileRef = ProfileRef(name="warmup-drop")
    optimizer: Annotated[SGD | AdamW, Field(discriminator="name")] = SGD()
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"


class Replicates(Frozen):
    seeds: Annotated[tuple[Annotated[int, Field(ge=0, lt=2**53)], ...], LISTED]

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value or len(set(value)) != len(value):
            raise ValueError(f"give at least one seed, each once, got {list(value)}")
        return value


class Grid(Frozen):
    """A grid of max_lr, evenly spaced in log from `low` to `high`."""

    low: Rate
    high: Rate
    points: int = Field(ge=1, le=1000)

    @model_validator(mode="after")
    def _check(self) -> Grid:
        if self.points > 1 and self.low >= self.high:
            raise ValueError(f"the grid is upside down: low {self.low} is not below high {self.high}")
        return self

    def values(self) -> list[float]:
        """The rates, rising."""
        if self.points == 1:
            return [self.low]
        span = math.log(self.high / self.low)
        inner = [self.low * math.exp(span * i / (self.points - 1)) for i in range(1, self.points - 1)]
        return [float(f"{x:.12g}") for x in (self.low, *inner, self.high)]


class ArmBase(Frozen):
    """What every arm may set for itself; what it leaves out comes from [retrain] and [prune]."""

    profile: ProfileRef | None = None
    epochs: int | None = Field(default=None, ge=1)
    after_prune: Literal["keep", "rewind", "reinit"] | None = None
    rewind_to: str | None = None
    own_dense: bool = False

    _point = field_validator("rewind_to")(lambda cls, v: v if v is None else Prune._point(v))


class ScheduleArm(ArmBase):
    """A fixed or adaptive peak schedule: one candidate per cycle."""

    mode: Literal["schedule"]
    schedule: ScheduleRef


class OracleArm(ArmBase):
    """Several candidates per cycle from one parent; the best on validation wins.

    `prefix = "own"` is the greedy Oracle, `"arm:NAME"` the conditioned one. `tests` are arms whose own values are
    always among the candidates; left out, every fixed-peak arm that is comparable.
    """

    mode: Literal["oracle"]
    grid: Grid
    prefix: str = "own"
    tests: Annotated[tuple[str, ...], LISTED] | None = None

    @property
    def prefix_arm(self) -> str | None:
        """The arm that gives the parents, or None for the Oracle's own winners."""
        return self.prefix.removeprefix("arm:") if self.prefix.startswith("arm:") else None

    @field_validator("prefix")
    @classmethod
    def _prefix(cls, value: str) -> str:
        if value != "own" and not (value.startswith("arm:") and value != "arm:"):
            raise ValueError(f'prefix is "own" or "arm:NAME", got {value!r}')
        return value


Arm = Annotated[ScheduleArm | OracleArm, Field(discriminator="mode")]


class Report(Frozen):
    """[report]: which schedule is judged, against which tolerance.

    `tolerance` is a difference of accuracies in [0, 1]: 0.005 is half a point.
    """

    tolerance: float = Field(default=0.005, gt=0, lt=1)
    schedule: str = "silo"
    title: str | None = None


class Cluster(Frozen):
    """[cluster]: resources. Only `cpus_per_unit` (the thread count) can change numbers, so only it is decided."""

    cpus_per_unit: int = Field(default=1, ge=1)
    gpus_per_unit: float = Field(default=0.0, ge=0)
    memory_per_unit_gb: float | None = Field(default=None, gt=0)
    max_concurrent: int | None = Field(default=None, ge=1)
    max_failures: int = Field(default=2, ge=0)
    device: str = "auto"
    partial_seconds: float = Field(default=5.0, ge=0)
    keep: Literal["needed", "all"] = "needed"


class Study(Frozen):
    """One study. `cycles` counts the dense one: cycles 0 … cycles − 1."""

    name: str
    cycles: int = Field(ge=1, le=1000)
    data: Data
    model: ModelRef
    dense: Dense
    prune: Prune = Prune()
    retrain: Retrain
    replicates: Replicates
    arms: dict[str, Arm]
    report: Report = Report()
    cluster: Cluster = Cluster()

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        if not ARM_NAME.fullmatch(value):
            raise ValueError(f"a name is letters, digits and . _ + -, got {value!r}")
        return value

    @model_serializer(mode="wrap")
    def _without_none(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in handler(self).items() if value is not None}

    @model_validator(mode="after")
    def _cross(self) -> Study:
        problems = [*_arm_problems(self), *_dense_problems(self)]
        if problems:
            raise Problems(problems)
        return self

    @property
    def remaining(self) -> list[float]:
        """Planned share of weights remaining at each cycle."""
        return [(1.0 - self.prune.rate) ** cycle for cycle in range(self.cycles)]

    @property
    def pruned(self) -> list[float]:
        """Planned cumulative pruned fraction at each cycle."""
        return pruned_fractions(self.remaining)

    def schedule_of(self, arm: ScheduleArm) -> Schedule | AdaptiveSchedule:
        """The schedule of an arm, with what the study fills in."""
        return arm.schedule.make(self.dense.epochs)

    def settings(self, arm: ScheduleArm | OracleArm) -> ArmSettings:
        """What a cycle ≥ 1 of this arm is trained with, the arm's own choices before the study's."""
        after = arm.after_prune or self.prune.after_prune
        return ArmSettings(
            profile=(arm.profile or self.retrain.profile).resolved(),
            epochs=arm.epochs or self.retrain.epochs,
            after_prune=after,
            rewind_to=(arm.rewind_to or self.prune.rewind_to) if after == "rewind" else None,
            own_dense=arm.own_dense,
        )

    def tests_of(self, oracle: str) -> tuple[str, ...]:
        """The arms whose values an Oracle always tries: as asked, or every comparable fixed-peak arm."""
        arm = self.arms[oracle]
        assert isinstance(arm, OracleArm)
        return arm.tests if arm.tests is not None else tuple(self.comparable(arm))

    def comparable(self, oracle: OracleArm) -> Iterator[str]:
        """Fixed-peak arms with the Oracle's own profile, after-prune choice and budget."""
        for name, arm in self.arms.items():
            if isinstance(arm, ScheduleArm) and not _incomparable(self, oracle, arm):
                yield name


class ArmSettings(Frozen):
    """Resolved settings of one arm's retraining."""

    profile: dict[str, Any]
    epochs: int
    after_prune: Literal["keep", "rewind", "reinit"]
    rewind_to: str | None
    own_dense: bool


def _incomparable(study: Study, oracle: OracleArm, arm: ScheduleArm) -> str | None:
    if arm.schedule.adaptive:
        return "its peak is adaptive"
    ours, theirs = study.settings(oracle).model_dump(), study.settings(arm).model_dump()
    differing = [key for key in ours if ours[key] != theirs[key]]
    return f"its {', '.join(differing)} differ from the Oracle's" if differing else None


def _arm_problems(study: Study) -> Iterator[tuple[str, str]]:
    if not study.arms:
        yield "arms", "a study needs at least one arm"
    for name, arm in study.arms.items():
        if not ARM_NAME.fullmatch(name):
            yield f"arms.{name}", "an arm's name is letters, digits and . _ + -"
        if isinstance(arm, OracleArm):
            yield from _oracle_problems(study, name, arm)
        else:
            yield from _peak_problems(study, name, arm)
    shown = study.arms.get(study.report.schedule)
    if shown is None:
        if study.report.schedule != "silo":  # the default may be absent
            yield "report.schedule", unknown("arm", study.report.schedule, study.arms)
    elif not isinstance(shown, ScheduleArm):
        yield "report.schedule", f"{study.report.schedule!r} is an Oracle; name a schedule arm"


def _oracle_problems(study: Study, name: str, arm: OracleArm) -> Iterator[tuple[str, str]]:
    schedule_arms = [key for key, other in study.arms.items() if isinstance(other, ScheduleArm)]
    if arm.prefix_arm is not None:
        if arm.prefix_arm not in schedule_arms:
            yield f"arms.{name}.prefix", unknown("schedule arm", arm.prefix_arm, schedule_arms)
        elif study.arms[arm.prefix_arm].own_dense != arm.own_dense:
            yield f"arms.{name}.prefix", f"own_dense differs from that of {arm.prefix_arm!r}"
    for test in arm.tests or ():
        other = study.arms.get(test)
        if not isinstance(other, ScheduleArm):
            yield f"arms.{name}.tests", unknown("schedule arm", test, schedule_arms)
        elif reason := _incomparable(study, arm, other):
            yield f"arms.{name}.tests", f"{test!r} cannot be tested by this Oracle: {reason}"


def _peak_problems(study: Study, name: str, arm: ScheduleArm) -> Iterator[tuple[str, str]]:
    if arm.schedule.function is not None:
        return  # imported by the planner, which checks every value it is given
    if arm.schedule.adaptive:
        if study.dense.checkpoint is not None and "train_epochs" not in arm.schedule.args:
            yield f"arms.{name}.schedule", "needs train_epochs, because [dense] is a checkpoint"
        if arm.own_dense:
            yield f"arms.{name}.own_dense", "an adaptive peak is undefined before the first prune"
        return
    schedule = study.schedule_of(arm)
    assert isinstance(schedule, Schedule)
    peaks = [schedule.peak(cycle, study.pruned) for cycle in range(study.cycles)]
    if not all(math.isfinite(peak) and peak > 0 for peak in peaks):
        yield f"arms.{name}.schedule", f"gives a max_lr that is not above 0: {peaks}"


def _rewind_problems(study: Study) -> Iterator[tuple[str, str]]:
    """An epoch to rewind to must lie within the dense training; a number of steps is known only with the data."""
    assert study.dense.epochs is not None
    for name, arm in study.arms.items():
        point = study.settings(arm).rewind_to
        if point is not None and point.endswith(" ep") and int(point.split()[0]) > study.dense.epochs:
            key = "prune.rewind_to" if arm.rewind_to is None else f"arms.{name}.rewind_to"
            yield key, f"{point!r} is beyond the dense training of {study.dense.epochs} epochs"


def _dense_problems(study: Study) -> Iterator[tuple[str, str]]:
    if study.dense.checkpoint is None:
        yield from _rewind_problems(study)
        return
    if study.dense.checkpoint == "timm" and not (study.model.name or "").startswith(names.TIMM_PREFIX):
        yield "dense.checkpoint", '"timm" needs a model named timm:NAME'
    for name, arm in study.arms.items():
        if arm.own_dense:
            yield f"arms.{name}.own_dense", "there is no dense training of its own beside a checkpoint"
        if study.settings(arm).after_prune == "rewind":
            yield (
                f"arms.{name}",
                "cannot rewind: [dense] is a checkpoint, whose training is not part of this study",
            )
