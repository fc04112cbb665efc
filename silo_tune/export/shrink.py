"""From a run to a small network: the masked filters of a committed unit are removed, and the outputs compared."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from silo_tune.data.batches import Feed
from silo_tune.data.load import facts, open_data
from silo_tune.data.sets import split_rows
from silo_tune.errors import BadInput, RunFailed
from silo_tune.export.chosen_unit import network_of, require_chain, require_functions, weights_of
from silo_tune.export.inference import Latency, latency, macs, non_zero, parameters
from silo_tune.export.network_file import About, check_plain, pack_weights, shrunk, write_all
from silo_tune.machine import VERSION
from silo_tune.models.build import build_model
from silo_tune.planner.unit import Unit
from silo_tune.pruning.filters import Filters, removable
from silo_tune.results.doubts import own_study
from silo_tune.seeds import stream
from silo_tune.store.run_folder import Run
from silo_tune.study.model import Study
from silo_tune.tasks.outputs import logits_of

# Removing a filter changes the order of sums, no more: what remains is rounding in single precision. Where all outputs
# are small the limit is that share of the greatest one: against outputs of 1e-5 any network would pass otherwise.
TOLERANCE = 1e-4
# So many validation images are compared at most, evenly from all of them, and so many random ones (ours).
IMAGES, RANDOM_IMAGES = 1000, 64


@dataclass(frozen=True)
class Size:
    """Of one network: its parameters, those that are not zero, multiply-accumulates per image, bytes of its weights."""

    parameters: int
    non_zero: int
    macs: int
    bytes: int


@dataclass(frozen=True)
class Costs:
    """Of the masked and the small network; of the latency the masked one is first."""

    masked: Size
    small: Size
    latency: Latency


@dataclass(frozen=True)
class Compared:
    """Two networks on the same images.

    Attributes:
        difference: greatest absolute difference of an output.
        greatest: greatest absolute output of the masked one.
        images: how many were compared.
        accuracies: of both on these images, masked first; None where they are random numbers.
    """

    difference: float
    greatest: float
    images: int
    accuracies: tuple[float, float] | None

    @property
    def limit(self) -> float:
        """The greatest difference that is rounding."""
        return TOLERANCE * min(1.0, self.greatest)


@dataclass(frozen=True)
class Shrunk:
    """What an export made: of which unit, filters of its pruned layers before and after, and how both networks do."""

    arm: str
    seed: int
    cycle: int
    key: str
    filters: tuple[int, int]
    compared: Compared
    costs: Costs


@dataclass(frozen=True)
class Images:
    """What both networks are shown.

    Attributes:
        batches: gives (images (B, C, H, W), labels (B,) or None).
        shape: (H, W, C) of an image.
        classes: number of them.
        mean, std: as in `About`.
    """

    batches: Callable[[], Iterator[tuple[Tensor, Tensor | None]]]
    shape: tuple[int, int, int]
    classes: int
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


def shrink_unit(
    url: str,
    arm: str,
    seed: int,
    cycle: int | None,
    out: str,
    *,
    batch: int = 1,
    random_images: bool = False,
    functions: bool = False,
    notice: Callable[[str], None] = lambda message: None,
) -> Shrunk:
    """Write the network of a unit, without its masked filters, to a file, and the outcome as JSON beside it.

    Args:
        url: the run.
        arm, seed, cycle: whose network; the last cycle with weights when left out.
        out: FILE.safetensors, which must be new.
        batch: images of a timed pass.
        random_images: where the data is not there, compare on random numbers.
        functions: import the functions that the run's study names, for its network and data.
        notice: told of corrupt files.

    Raises:
        BadInput: there is no such unit, no filter to remove, no data, or the file cannot be written.
        RunFailed: the outputs of both networks differ; nothing is written.
    """
    file = _new_file(out)
    if batch < 1:
        raise BadInput(f"--batch: {batch} is not a number of images")
    run = Run(url, notice)
    study = own_study(run)
    require_chain(run, study, arm, seed)
    if study.prune.granularity != "filter":
        raise BadInput(
            'nothing can be removed: single weights were pruned; prune filters (prune.granularity = "filter")'
        )
    require_functions(study, functions)
    if study.model.function is None:
        check_plain(study.model.resolved())
    if cycle == 0:
        raise BadInput("--cycle: cycle 0 is the dense network, of which nothing was pruned")
    unit, state = weights_of(run, study, arm, seed, cycle, first=1)
    images = images_of(run, study, unit, random_images)
    masked = _masked(unit, state, images)
    found = removable(masked, images.shape)
    about = _about(unit, images, kept_filters(found, state["mask"]))
    small = shrunk(masked, about)
    compared = compare(masked, small, images)
    require_equal(compared, masked, found, about)
    data = pack_weights(small.state_dict(), about)
    costs = costs_of(masked, small, data, images, batch)
    filters = sum(found[name].count for name in about.kept), sum(map(len, about.kept.values()))
    outcome = Shrunk(arm, seed, unit.cycle, unit.key, filters, compared, costs)
    _write(file, data, outcome)
    return outcome


def _new_file(out: str) -> Path:
    file = Path(out)
    if file.suffix != ".safetensors":
        raise BadInput(f"--out: {out!r} does not end in .safetensors")
    for path in (file, file.with_suffix(".json")):
        if path.exists():
            raise BadInput(f"--out: {str(path)!r} exists, and an export never writes over a file; name another")
    if not file.parent.is_dir():
        raise BadInput(f"--out: there is no folder {str(file.parent)!r}")
    return file


# --- the unit ---


def kept_filters(found: Mapping[str, Filters], masks: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """By layer that was pruned, the filters that are not masked whole.

    Raises:
        BadInput: none is.
    """
    living = {name: masks[name].flatten(1).any(1) for name in found if name in masks}
    if all(bool(mask.all()) for mask in living.values()):
        raise BadInput("nothing can be removed: no filter of this cycle's network is masked")
    return {name: tuple(mask.nonzero().flatten().tolist()) for name, mask in living.items()}


def _masked(unit: Unit, state: Mapping[str, Mapping[str, Tensor]], images: Images) -> nn.Module:
    """The network as the run has it, in evaluation mode on the CPU."""
    model = build_model(unit.model, images.shape, images.classes, seed=0)
    return network_of(unit, model, state["weights"])


# --- the images ---


def images_of(run: Run, study: Study, unit: Unit, random_images: bool) -> Images:
    """Validation images of a unit's replicate; random numbers where they are not there and that is allowed.

    Raises:
        BadInput: the data is not there, or not that of the run.
    """
    try:
        dataset = open_data(study.data)
    except BadInput as error:
        if not random_images:
            raise BadInput(f"{error} (--random-images compares on random numbers then)") from error
        return _random_images(run, unit.seed)
    run.check_data(facts(dataset, study.data))
    feed = Feed.make(dataset, split_rows(dataset, study.data, unit.seed), unit.augmentation, torch.device("cpu"))
    count = len(feed.val)
    rows = feed.val.rows[torch.linspace(0, count - 1, min(count, IMAGES)).long()]
    part = replace(feed.val, rows=rows)
    std = (1.0 / feed.scale).tolist()
    return Images(lambda: feed.batches(part), dataset.shape, dataset.classes, tuple(feed.mean.tolist()), tuple(std))


def _random_images(run: Run, seed: int) -> Images:
    known = run.data_facts()
    if known is None:
        raise BadInput(f"{run.url} does not say what shape its images have; --random-images cannot stand in for them")
    height, width, channels = known["shape"]
    images = torch.randn(RANDOM_IMAGES, channels, height, width, generator=stream("random-images", seed))
    return Images(lambda: iter([(images, None)]), (height, width, channels), known["classes"])


# --- the comparison ---


@torch.inference_mode()
def compare(masked: nn.Module, small: nn.Module, images: Images) -> Compared:
    """Outputs and accuracies of two networks in evaluation mode."""
    difference, greatest, count, right = 0.0, 0.0, 0, [0, 0]
    labelled = True
    for batch, labels in images.batches():
        outputs = logits_of(masked(batch)), logits_of(small(batch))
        found = float((outputs[0] - outputs[1]).abs().max())
        difference = found if not found <= difference else difference  # one that is not finite stays
        greatest = max(greatest, float(outputs[0].abs().max()))
        count += len(batch)
        labelled = labels is not None
        if labels is not None:
            right = [before + int((o.argmax(1) == labels).sum()) for before, o in zip(right, outputs, strict=True)]
    return Compared(difference, greatest, count, (right[0] / count, right[1] / count) if labelled else None)


def require_equal(compared: Compared, masked: nn.Module, found: Mapping[str, Filters], about: About) -> None:
    """Raises RunFailed, naming the figure and what is known of the cause, when two networks' outputs differ."""
    if compared.difference <= compared.limit:
        return
    loud = sorted(name for layer, stay in about.kept.items() for name in _not_silent(masked, found[layer], stay))
    cause = f": of masked filters {', '.join(loud)} is not zero" if loud else ""
    raise RunFailed(
        f"trial {about.key[:12]}: the outputs of the masked and the small network differ by {compared.difference:.3g}, "
        f"more than {compared.limit:.3g}{cause}; nothing is written"
    )


def _not_silent(masked: nn.Module, filters: Filters, stay: tuple[int, ...]) -> list[str]:
    own = dict(masked.named_parameters())
    gone = torch.ones(filters.count, dtype=torch.bool)
    gone[list(stay)] = False
    return [name for name, where in filters.coupled.items() if bool(own[name][where[gone].flatten()].any())]


# --- what is written ---


def _about(unit: Unit, images: Images, kept: Mapping[str, tuple[int, ...]]) -> About:
    versions = {"silo-tune": VERSION, "torch": str(torch.__version__)}
    return About(unit.model, images.shape, images.classes, kept, images.mean, images.std, unit.key, versions)


def costs_of(masked: nn.Module, small: nn.Module, data: bytes, images: Images, batch: int) -> Costs:
    """What both networks cost; `data` is the small one's file, `batch` the number of images in a timed pass."""
    first, _ = next(images.batches())
    timed = first[torch.arange(batch) % len(first)]
    before, after = _size(masked, first[:1], pack_weights(masked.state_dict())), _size(small, first[:1], data)
    return Costs(before, after, latency(masked, small, timed))


def _size(network: nn.Module, image: Tensor, data: bytes) -> Size:
    return Size(parameters(network), non_zero(network), macs(network, image), len(data))


def _write(file: Path, data: bytes, outcome: Shrunk) -> None:
    write_all({file.with_suffix(".json"): json.dumps(asdict(outcome), indent=2).encode(), file: data})
