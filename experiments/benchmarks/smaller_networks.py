"""What half of the filters cost: networks before and after their masked filters are removed.

    python experiments/benchmarks/small.py [--batch N …] [--models NAME …]

Of every layer whose filters can be removed alone, the half with the smaller L1 norms is masked, and then removed. The
weights are random: parameters, multiply-accumulates and time do not depend on them, nothing is said about accuracy.
Normalisations have the statistics of random images and random shifts: as they are made, VGG-19's outputs are 1e-5, and
any two networks would agree to 1e-4.
Passes of both networks take turns on one thread; a ratio is taken inside a pair, and the table shows its median with
the quartiles, so that a machine that is busy for a while slows both.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn

from silo_tune.export.inference import latency, macs, parameters
from silo_tune.export.shrink import Images, compare
from silo_tune.machine import environment
from silo_tune.models.build import build_model, laid_out
from silo_tune.pruning.filters import removable, without_filters
from silo_tune.pruning.masks import PrunableElements, apply_masks, full_masks, top

SHAPE, CLASSES, SHARE = (32, 32, 3), 10, 0.5
HEAD = (
    "model, batch",
    "filters",
    "parameters",
    "MACs",
    "ms",
    "times as fast",
    "greatest difference (of outputs up to)",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--models", nargs="+", default=["resnet56", "vgg19"])
    given = parser.parse_args()
    print("| " + " | ".join(HEAD) + " |\n|" + "---|" * len(HEAD))
    for name in given.models:
        for row in rows(name, given.batch):
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


def rows(name: str, batches: list[int]) -> list[tuple[str, ...]]:
    """A line of the table for each size of a batch."""
    model = used(name)
    elements = PrunableElements.of(model, removable=removable(model, SHAPE))
    alive = elements.alive(full_masks(elements.weights))
    for layer, weight in elements.weights.items():
        count = round(SHARE * len(weight))
        alive[layer] = top(weight.detach().flatten(1).abs().sum(1), alive[layer], count)
    apply_masks(elements.parameters, elements.masks(alive))
    kept = {layer: mask.nonzero().flatten().tolist() for layer, mask in alive.items()}
    small = laid_out(without_filters(model, kept, SHAPE))
    image = noise(1)
    counted = (
        (sum(map(len, alive.values())), sum(map(len, kept.values()))),
        (parameters(model), parameters(small)),
        (macs(model, image), macs(small, image)),
    )
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
