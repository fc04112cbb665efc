"""What half of the filters cost, and what zeros are worth that are only masked.

    python experiments/benchmarks/smaller_networks.py [--batch N …] [--models NAME …]

Of every layer whose filters can be removed alone, the half with the smaller L1 norms is masked, and then removed. The
weights are random: parameters, multiply-accumulates and time do not depend on them, nothing is said about accuracy.
Normalisations have the statistics of random images and random shifts: as they are made, VGG-19's outputs are 1e-5, and
any two networks would agree to 1e-4.
The second table is of zeros: four forms of each network, as files (weights alone, safetensors, and the same bytes with
zlib at its usual level) and as passes of dense kernels. A form is timed in turns with the dense network.

Passes of both networks take turns on one thread; a ratio is taken inside a pair, and the table shows its median with
the quartiles, so that a machine that is busy for a while slows both.
"""

from __future__ import annotations

import argparse
import copy
import zlib
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn

from silo_tune.export.inference import latency, macs, parameters
from silo_tune.export.network_file import pack_weights
from silo_tune.export.shrink import Images, compare
from silo_tune.machine import environment
from silo_tune.models.build import build_model, laid_out
from silo_tune.pruning.filters import removable, without_filters
from silo_tune.pruning.masks import PrunableElements, apply_masks, full_masks, shrink, top

SHAPE, CLASSES, SHARE = (32, 32, 3), 10, 0.5
SINGLE = 0.9  # of single weights so many go
HEAD = (
    "model, batch",
    "filters",
    "parameters",
    "MACs",
    "ms",
    "times as fast",
    "greatest difference (of outputs up to)",
)
ZEROS_HEAD = ("model, batch", "form", "file, MB", "zipped, MB", "ms", "times as fast as dense")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--models", nargs="+", default=["resnet56", "vgg19"])
    given = parser.parse_args()
    print("| " + " | ".join(HEAD) + " |\n|" + "---|" * len(HEAD))
    for name in given.models:
        for row in rows(name, given.batch):
            print(f"| {' | '.join(row)} |", flush=True)
    print("\n| " + " | ".join(ZEROS_HEAD) + " |\n|" + "---|" * len(ZEROS_HEAD))
    for name in given.models:
        for row in zeros(name, given.batch[0]):
            print(f"| {' | '.join(row)} |", flush=True)
    found = environment()
    print(f"\n{found['machine']}; torch {found['torch']}; one thread; random weights; 32×32 images")


def noise(count: int) -> Tensor:
    """So many images of random numbers, laid out as a feed's are."""
    images = torch.randn(count, SHAPE[2], *SHAPE[:2], generator=torch.Generator().manual_seed(count))
    return images.to(memory_format=torch.channels_last)


def once(images: Tensor) -> Iterator[tuple[Tensor, Tensor | None]]:
    """One batch without labels."""
    yield images, None


def used(name: str) -> nn.Module:
    """A network of random weights whose outputs are of the size of a trained one's."""
    model = build_model({"name": name}, SHAPE, CLASSES, seed=0)
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
            nn.init.normal_(module.bias, std=0.1, generator=generator)
    with torch.no_grad():
        model.train()(noise(256))
    return model.eval()


def halved(dense: nn.Module) -> tuple[nn.Module, nn.Module, tuple[int, int]]:
    """A network with half of its filters masked, the same without them, and the filters of both."""
    model = copy.deepcopy(dense)
    elements = PrunableElements.of(model, removable=removable(model, SHAPE))
    alive = elements.alive(full_masks(elements.weights))
    for layer, weight in elements.weights.items():
        count = round(SHARE * len(weight))
        alive[layer] = top(weight.detach().flatten(1).abs().sum(1), alive[layer], count)
    apply_masks(elements.parameters, elements.masks(alive))
    kept = {layer: mask.nonzero().flatten().tolist() for layer, mask in alive.items()}
    small = laid_out(without_filters(model, kept, SHAPE))
    return model, small, (sum(map(len, alive.values())), sum(map(len, kept.values())))


def thinned(dense: nn.Module) -> nn.Module:
    """A network whose smallest single weights are zero."""
    model = copy.deepcopy(dense)
    elements = PrunableElements.of(model)
    scores = {name: weight.detach().abs() for name, weight in elements.weights.items()}
    apply_masks(elements.parameters, shrink(scores, full_masks(elements.weights), 1 - SINGLE, "global"))
    return model


def zeros(name: str, batch: int) -> Iterator[tuple[str, ...]]:
    """A line of the second table for each form of a network."""
    dense = used(name)
    masked, small, _ = halved(dense)
    forms = {
        "dense": dense,
        f"{SINGLE:.0%} of single weights zero": thinned(dense),
        "half of the filters masked": masked,
        "half of the filters removed": small,
    }
    for form, network in forms.items():
        data = pack_weights(network.state_dict())
        time = latency(dense, network, noise(batch))
        ratio = "" if network is dense else f"{time.ratio:.2f} ({time.low:.2f}–{time.high:.2f})"
        sizes = (f"{count / 1e6:.2f}" for count in (len(data), len(zlib.compress(data))))
        yield f"{name}, {batch}", form, *sizes, f"{time.second_ms:.2f}", ratio


def rows(name: str, batches: list[int]) -> list[tuple[str, ...]]:
    """A line of the table for each size of a batch."""
    model, small, filters = halved(used(name))
    image = noise(1)
    counted = (filters, (parameters(model), parameters(small)), (macs(model, image), macs(small, image)))
    made = []
    for batch in batches:
        shown = Images(partial(once, noise(batch)), SHAPE, CLASSES)
        compared = compare(model, small, shown)
        time = latency(model, small, noise(batch))
        made.append(
            (
                f"{name}, {batch}",
                *(f"{before:,} → {after:,}" for before, after in counted),
                f"{time.first_ms:.2f} → {time.second_ms:.2f}",
                f"{time.ratio:.2f} ({time.low:.2f}–{time.high:.2f})",
                f"{compared.difference:.1e} ({compared.greatest:.2f})",
            )
        )
    return made


if __name__ == "__main__":
    main()
