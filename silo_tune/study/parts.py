"""Sections and references of a study: data, model, training, pruning, replicates, report, cluster."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_serializer,
    model_validator,
)

from silo_tune.errors import FROM_OUTSIDE, BadInput, raised, shown, unknown
from silo_tune.schedules.peaks import AdaptiveSchedule, Schedule, as_number, make_schedule, open_constants
from silo_tune.schedules.shapes import Profile, make_profile, resolve_profile
from silo_tune.study import registry

# A name is part of a file's name, whose length systems limit.
ARM_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,99}")
# More of anything that is counted (epochs, examples of a batch, cores) is a slip of the hand.
MOST = 1_000_000
FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
TORCH_NAME = re.compile(r"[A-Z]\w*")  # of a class of torch.optim
REWIND_POINT = re.compile(r"init|[1-9]\d* (ep|it)")

LISTED = Field(strict=False)


def whole(pattern: re.Pattern[str]) -> dict[str, Any]:
    """JSON schema of a text that matches from end to end."""
    return {"pattern": f"^({pattern.pattern})$"}


Share = Annotated[float, Field(gt=0, lt=1)]


class Frozen(BaseModel):
    """Frozen; an unknown key and a value of another type are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Named(Frozen):
    """A registered name with its arguments, or a user's function.

    Written `"x"`, `{ name = "x", … }` or `{ function = "m:f", version = "1", … }`.
    """

    name: str | None = Field(default=None, description="a registered name")
    function: str | None = Field(
        default=None,
        description='a user\'s function, "package.module:name"; instead of name',
        json_schema_extra=whole(FUNCTION),
    )
    version: str | None = Field(
        default=None, description="version of the function; change it when the function changes its numbers"
    )
    args: dict[str, Any] = Field(
        default_factory=dict, description="its arguments; they may also be written beside the name"
    )

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

    @property
    def title(self) -> str:
        """What a reader is told it is."""
        return self.name or str(self.function)

    @classmethod
    def check_name(cls, name: str, args: Mapping[str, Any]) -> None:
        """Raises ValueError unless the name and arguments are registered."""
        raise NotImplementedError

    @model_serializer
    def _flat(self) -> dict[str, Any]:
        if self.function is not None and {"name", "function", "version", "args"} & set(self.args):
            return {"function": self.function, "version": self.version, "args": self.args}  # flat it reads otherwise
        return Named.resolved(self)  # as it is written, which in a key may be another table

    def resolved(self) -> dict[str, Any]:
        """The flat table; what enters a unit's key."""
        if self.function is not None:
            return {"function": self.function, "version": self.version, **self.args}
        return {"name": self.name, **self.args}


class ModelRef(Named):
    @classmethod
    def check_name(cls, name: str, args: Mapping[str, Any]) -> None:
        own = {key: value for key, value in args.items() if key != "init"}
        if "init" in args and args["init"] not in registry.INITS:
            raise ValueError(unknown("init", str(args["init"]), registry.INITS))
        if name.startswith(registry.HF_PREFIX):
            check_hf(args)
        elif not name.startswith((registry.TIMM_PREFIX, registry.TORCHVISION_PREFIX)):
            if name not in registry.MODELS:
                raise ValueError(unknown("model", name, [*registry.MODELS, *registry.OTHERS]))
            registry.check_name("model", registry.MODELS, name, own)

    @property
    def pretrained(self) -> bool:
        """Are its first weights read, instead of drawn?"""
        return self.name is not None and self.name.startswith(registry.HF_PREFIX) and bool(self.args.get("pretrained"))

    def resolved(self) -> dict[str, Any]:
        table = super().resolved()
        # What a folder holds stands in a key, never where it is.
        return {**table, "name": "hf"} if "content" in table and self.function is None else table


def check_hf(args: Mapping[str, Any]) -> None:
    """Raises ValueError for a head that is none, or for weights that are both read and drawn."""
    head = args.get("head")
    if head not in registry.HEADS:
        raise ValueError(f"an hf: model needs its head: {unknown('head', str(head), registry.HEADS)}")
    if not isinstance(args.get("pretrained", False), bool):
        raise ValueError(f"pretrained is true or false, got {args['pretrained']!r}")
    if args.get("pretrained") and "init" in args:
        raise ValueError("init draws the weights anew, and pretrained reads them: leave one out")


class ProfileRef(Named):
    @classmethod
    def check_name(cls, name: str, args: Mapping[str, Any]) -> None:
        make_profile(name, args)

    def resolved(self) -> dict[str, Any]:
        return super().resolved() if self.name is None else resolve_profile(self.name, self.args)

    @model_serializer
    def _as_written(self) -> dict[str, Any]:
        if self.name is None:
            return {"function": self.function, "version": self.version, "args": self.args}
        return {"name": self.name, **self.args}


def made_profile(table: Mapping[str, Any], key: str = "retrain.profile") -> Profile:
    """The profile of a resolved table, which stands at a key; a user's function is imported here.

    Raises:
        BadInput: it cannot be imported.
    """
    args = {key: value for key, value in table.items() if key not in ("name", "function", "version")}
    if "function" in table:
        function = registry.resolve(table["function"], f"{key}.function")
        return UserProfile(str(table["function"]), function, args, key)
    return make_profile(table["name"], args)


@dataclass(frozen=True)
class UserProfile:
    """A user's function (step, total, arguments) → share of max_lr, from 0 to 1. Raises BadInput for anything else."""

    name: str
    function: Callable[..., Any]
    args: Mapping[str, Any]
    key: str = "retrain.profile"

    maximum: ClassVar[None] = None  # what it reaches is what it gives

    def __call__(self, step: int, total: int) -> float:
        try:
            given = self.function(step, total, **copy.deepcopy(dict(self.args)))
            share = as_number(given)
        except FROM_OUTSIDE:
            raise
        except BaseException as error:  # a user's function may raise anything
            raise BadInput(f"{self.key}: {self.name} raised {raised(error)} at step {step} of {total}") from error
        if not 0 <= share <= 1:  # NaN is in no range
            raise BadInput(
                f"{self.key}: {self.name} gives {shown(given)} at step {step} of {total}; a profile gives shares of "
                f"max_lr, from 0 to 1"
            )
        return share


class ScheduleRef(Named):
    @classmethod
    def check_name(cls, name: str, args: Mapping[str, Any]) -> None:
        # What the study or its pilot fills in later is stood in for here.
        later = {"train_epochs": 1} if name == "allr" else {}
        make_schedule(name, {**later, **dict.fromkeys(open_constants(name, args), 1.0), **args})

    @property
    def open(self) -> tuple[str, ...]:
        """Constants that are left to a pilot: all that the schedule has, or none."""
        return () if self.name is None else open_constants(self.name, self.args)

    def make(
        self, train_epochs: int | None, found: Mapping[str, Any] | None = None, key: str = ""
    ) -> Schedule | AdaptiveSchedule:
        """The schedule. A user's function is imported here and becomes a fixed schedule.

        Args:
            train_epochs: of the dense training, for a schedule that needs and does not give it.
            found: the constants that a pilot found.
            key: of the study, that the schedule stands at.

        Raises:
            BadInput: the function cannot be imported.
        """
        if self.function is not None:
            return _UserSchedule(registry.resolve(self.function, f"{key}.function"), self.args)
        assert self.name is not None
        args = {**self.args, **(found or {})}
        if self.name == "allr" and "train_epochs" not in args:
            args["train_epochs"] = train_epochs
        return make_schedule(self.name, args)

    @property
    def adaptive(self) -> bool:
        """True when the worker resolves the peak."""
        return self.name == "allr"


class _UserSchedule:
    def __init__(self, function: Any, args: Mapping[str, Any]) -> None:
        self.function, self.args = function, args

    def peak(self, cycle: int, pruned: Sequence[float]) -> float:
        # What it gives is checked where it is asked.
        return self.function(cycle, pruned, **copy.deepcopy(self.args))  # type: ignore[no-any-return]


Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]

# A checkpoint that is no file: weights that the network of [model] brings with it.
BROUGHT = ("timm", "model")


class _OfStudy(Frozen):
    def resolved(self) -> dict[str, Any]:
        """What enters a unit's key."""
        return self.model_dump(mode="json")


class SGD(_OfStudy):
    name: Literal["sgd"] = Field(default="sgd", description="the optimizer")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="share of the last step that is taken again")
    weight_decay: float = Field(default=5e-4, ge=0, description="L2 penalty per step")
    nesterov: bool = Field(default=False, description="look ahead along the momentum")

    @model_validator(mode="after")
    def _check(self) -> SGD:
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs a momentum above 0")
        return self


class AdamW(_OfStudy):
    name: Literal["adamw"] = Field(default="adamw", description="the optimizer")
    betas: Annotated[tuple[float, float], LISTED] = Field(
        default=(0.9, 0.999), description="decay of the mean gradient and of its square"
    )
    eps: float = Field(default=1e-8, gt=0, description="added to the denominator")
    weight_decay: float = Field(
        default=0.01, ge=0, description="decoupled decay per step, as a share of the learning rate"
    )


class OptimizerRef(Named):
    """Any class of torch.optim by its name there, with its own defaults, or a user's function.

    The function takes the parameters (or groups of them), `lr` and its arguments, and gives a torch.optim.Optimizer.
    """

    @classmethod
    def check_name(cls, name: str, args: Mapping[str, Any]) -> None:
        if not TORCH_NAME.fullmatch(name):
            alike = [known for known in registry.COMMON_OPTIMIZERS if known.lower() == name.lower()]
            raise ValueError(unknown("optimizer", name, alike or registry.COMMON_OPTIMIZERS))

    @model_validator(mode="after")
    def _without_rate(self) -> OptimizerRef:
        if "lr" in self.args:
            raise ValueError("leave lr out: arms and [dense] say the rate")
        return self


def _kind_of_optimizer(value: Any) -> str:
    name = value.get("name") if isinstance(value, Mapping) else getattr(value, "name", None)
    return name if name in ("sgd", "adamw") else "other"


Optimizer = Annotated[
    Annotated[SGD, Tag("sgd")] | Annotated[AdamW, Tag("adamw")] | Annotated[OptimizerRef, Tag("other")],
    Discriminator(_kind_of_optimizer),
    BeforeValidator(lambda value: {"name": value} if isinstance(value, str) else value),
]


class Dense(Frozen):
    """[dense]: cycle 0, trained once per seed and shared by all arms; or a pretrained network.

    `checkpoint` is a safetensors file or a state dict of torch.save, "timm" for those of a `timm:` model, or "model"
    where a user's function gives a network that is trained.
    """

    epochs: int | None = Field(default=None, ge=1, le=MOST, description="epochs of the dense training")
    max_lr: Rate | None = Field(default=None, description="peak learning rate of the dense training")
    profile: ProfileRef = Field(
        default=ProfileRef(name="warmup-drop"), description="learning rate inside the dense training"
    )
    checkpoint: str | None = Field(
        default=None,
        description='pretrained weights: a safetensors or .pt file, "timm", or "model" where the function of [model] '
        "gives a network with its weights; then nothing is trained",
    )

    @model_validator(mode="after")
    def _check(self) -> Dense:
        if self.checkpoint is None and (self.epochs is None or self.max_lr is None):
            raise ValueError("give epochs and max_lr, or a checkpoint")
        if self.checkpoint is not None and (self.epochs is not None or self.max_lr is not None):
            raise ValueError("a checkpoint is not trained again: leave epochs and max_lr out")
        return self


class Retrain(Frozen):
    """[retrain]: the training of one cycle; all but epochs and profile also hold for the dense cycle."""

    epochs: int = Field(ge=1, le=MOST, description="epochs of a cycle")
    batch: int = Field(default=64, ge=1, le=MOST, description="examples per step, in the dense cycle too")
    profile: ProfileRef = Field(
        default=ProfileRef(name="warmup-drop"), description="learning rate inside a cycle, as a share of max_lr"
    )
    optimizer: Optimizer = Field(
        default=SGD(),
        description='"sgd", "adamw", a class of torch.optim by its name there, or a user\'s function; of the dense '
        "cycle too, and a new one in every cycle",
    )
    accumulate: int = Field(
        default=1,
        ge=1,
        le=MOST,
        description="batches whose gradients are added up to one step of the optimizer, in the dense cycle too",
    )
    decay: Literal["all", "weights"] = Field(
        default="all",
        description='what weight decay shrinks: "all" parameters, or "weights" alone, no biases and nothing of '
        "normalisation layers",
    )
    clip: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="greatest norm of the gradient of a step; no limit when left out",
    )
    precision: Literal["fp32", "tf32", "bf16", "fp16"] = Field(
        default="fp32",
        description="number format of the forward and backward pass, in the dense cycle too; tf32 and fp16 need a GPU",
    )
    compile: bool = Field(
        default=False, description="is the network trained as torch.compile makes it, in the dense cycle too?"
    )


class Evaluate(Frozen):
    """[evaluate]: other ways to measure than every image once, as it is, at the end; only to compare with others."""

    augment: bool = Field(
        default=False, description="is the augmentation of data.augment for validation and test images, too?"
    )
    drop_last: bool = Field(
        default=False,
        description="the last incomplete batch of the test part is left out, and its examples count as wrong",
    )
    best_on_test: bool = Field(
        default=False, description="test accuracy is the greatest of those measured before each epoch"
    )

    def resolved(self) -> dict[str, bool] | None:
        """What enters a unit's key: nothing where everything is measured as usual."""
        return self.model_dump() if self != Evaluate() else None


class StudyPreset(Frozen):
    """[preset]: what filled this study in; see `silo_tune.study.authors`."""

    name: Literal["authors-2023"] = Field(description="the preset")
    network: Literal["resnet20", "vgg19"] = Field(default="resnet20", description="which of the authors' scripts")
    run: int = Field(default=0, ge=0, le=9, description="number of the script's run, from 0")
    without: Annotated[tuple[str, ...], LISTED] = Field(
        default=(), description="deviations of the scripts that are switched off"
    )


Seeds = Annotated[
    tuple[Annotated[int, Field(ge=0, lt=2**53)], ...],
    Field(strict=False, json_schema_extra={"minItems": 1, "uniqueItems": True}),
]


def distinct(value: tuple[int, ...]) -> tuple[int, ...]:
    """The seeds, at least one and each once; else ValueError."""
    if not value or len(set(value)) != len(value):
        raise ValueError(f"give at least one seed, each once, got {list(value)}")
    return value


class Replicates(Frozen):
    """[replicates]: the seeds; with `until` and `looks` only as many as its verdicts need, in this order."""

    seeds: Seeds = Field(description="one repetition of the whole study per seed")
    until: Literal["decided"] | None = Field(
        default=None, description='"decided": seeds are trained look by look, until every verdict is decided'
    )
    looks: Annotated[tuple[int, ...], LISTED] | None = Field(
        default=None, description="with until: numbers of seeds after which verdicts are looked at, rising, each ≥ 5"
    )

    _distinct = field_validator("seeds")(distinct)


class Report(Frozen):
    """[report]: which schedule is judged, against which tolerance."""

    tolerance: float = Field(
        default=0.005,
        gt=0,
        allow_inf_nan=False,
        description="difference of scores that counts as none, in their unit: of accuracies 0.005 is half a point",
    )
    schedule: str = Field(default="silo", description="the schedule arm that is judged")
    title: str | None = Field(default=None, description="title of the report; the study's name when left out")
    published: str | None = Field(
        default=None,
        description="CSV file of published numbers, drawn beside the run's own and part of no test: columns arm, "
        "weights_remaining, score (both shares of 1), source",
    )
    pilot_trials: int | None = Field(
        default=None,
        ge=0,
        le=MOST,
        description="trials outside this study by which the constants of the judged schedule were found: they count in "
        "its cost",
    )


class Cluster(Frozen):
    """[cluster]: resources. Only `cpus_per_unit` (the thread count) can change numbers, so only it is decided."""

    cpus_per_unit: int = Field(
        default=1,
        ge=1,
        le=MOST,
        description="CPU cores and torch threads of a trial; the only key here that can change numbers",
    )
    gpus_per_unit: float = Field(default=0.0, ge=0, description="GPUs of a trial; a share lets trials divide one")
    memory_per_unit_gb: float | None = Field(default=None, gt=0, description="memory that a trial reserves, in GB")
    workers_per_unit: int = Field(
        default=1,
        ge=1,
        le=MOST,
        description="processes of one machine that train a trial together, each on its share of every batch "
        "(DistributedDataParallel) and with the CPUs, GPUs and memory of `…_per_unit`",
    )
    max_concurrent: int | None = Field(
        default=None, ge=1, description="at most so many trials at once; as many as fit when left out"
    )
    max_failures: int = Field(default=2, ge=0, description="how often a trial that raises is tried again")
    unit_timeout: float | None = Field(
        default=None,
        gt=0,
        le=MOST,
        description="most seconds of one attempt at a trial, by the wall clock; a longer one is ended and has failed",
    )
    device: str = Field(default="auto", description='"auto", "cpu", "cuda" or "cuda:N"')
    partial_seconds: float = Field(
        default=5.0, ge=0, description="least seconds between two partial states; 0 writes one after every epoch"
    )
    keep: Literal["needed", "chains", "all"] = Field(
        default="needed",
        description='weights that stay on disk: those still "needed", of all "chains" but a pilot\'s, or "all"',
    )

    @model_validator(mode="after")
    def _check(self) -> Cluster:
        if self.workers_per_unit > 1 and self.gpus_per_unit not in (0, 1):
            raise ValueError("gpus_per_unit is 0 or 1 with workers_per_unit: each worker has a GPU of its own")
        if self.workers_per_unit > 1 and ":" in self.device:
            raise ValueError(f"device {self.device!r} is one GPU, and each of workers_per_unit has its own: say cuda")
        return self

    @property
    def reserved(self) -> dict[str, float]:
        """What a trial reserves: cores, GPUs and bytes of memory of all its workers, on one machine."""
        each = {"CPU": float(self.cpus_per_unit), "GPU": self.gpus_per_unit}
        if self.memory_per_unit_gb is not None:
            each["memory"] = self.memory_per_unit_gb * 2**30
        return {name: amount * self.workers_per_unit for name, amount in each.items()}
