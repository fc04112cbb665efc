"""What one training of a unit gave: what a decision keeps of it, its digest, and how earlier versions wrote it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from silo_tune.planner.unit import canonical_json

# Version of a result. The first, which judged by accuracy alone, had other names.
FORMAT = 2
EARLIER = {"val_accuracy": "val_score", "test_accuracy": "test_score", "best_val_accuracy": "best_val_score"}
# What results of the first version do not have.
LATER = ("test_loss", "score", "sign", "guess_score", "guess_loss")
# What a decision keeps of a unit's outcome.
TOLD = ("status", "max_lr", "val_score", "val_loss", "error", "classes", "sign", "guess_score", "measured")
# Of a result: what differs from one training of a unit to the next, and what it is of.
PASSING = (
    "attempt", "state", "examples", "train_seconds", "wall_seconds", "device", "threads", "version", "format", "unit",
    "key",
)  # fmt: skip


def renamed(body: Mapping[str, Any]) -> dict[str, Any]:
    """The table of a run's file by today's names: a result, a decision with what it was told, or a snapshot."""
    found = {EARLIER.get(name, name): value for name, value in body.items()}
    for name in ("told", "chains"):
        if isinstance(parts := found.get(name), list):
            found[name] = [renamed(part) if isinstance(part, dict) else part for part in parts]
    return found


def measured(result: Mapping[str, Any]) -> str:
    """Digest of what the training of a unit gave. A decision keeps it: a result that is changed later then shows."""
    return _digest(result) if result.get("format", FORMAT) >= FORMAT else _first_digest(result)


def is_measured(result: Mapping[str, Any], digest: str) -> bool:
    """Is it the digest of this result, as this version or the first one wrote it?"""
    return digest in (measured(result), _first_digest(result))


def _first_digest(result: Mapping[str, Any]) -> str:
    """The digest by which decisions of the first version know a training, of whichever version its result is now."""
    before = {now: name for name, now in EARLIER.items()}
    return _digest({before.get(name, name): value for name, value in result.items() if name not in LATER})


def _digest(result: Mapping[str, Any]) -> str:
    lasting = {name: value for name, value in result.items() if name not in PASSING}
    return hashlib.sha256(canonical_json(lasting).encode(errors="surrogatepass")).hexdigest()[:16]
