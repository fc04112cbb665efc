"""The folder of an `hf:` model: where it is, and what it holds, which stands in a unit's key. Nothing of it is run."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from silo_tune.errors import BadInput
from silo_tune.study.data import standing
from silo_tune.study.registry import HF_PREFIX

Problem = tuple[str, str]
_ON_THE_HUB = re.compile(r"\w[\w.-]*(/[\w.-]+)?")
WEIGHTS = "*.safetensors"


def place_of(name: str) -> str:
    """What an `hf:` name stands for: an absolute path of a folder, or a name of the Hub as it is."""
    return standing(name.removeprefix(HF_PREFIX), "model.name")


def with_content(table: Mapping[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
    """The table of a study with the content of its model's folder in `model.content`, and what is wrong with that.

    The content is the sha256 of config.json and, of a pretrained model, of its weights; a name of the Hub has none
    unless its weights are read.
    """
    model = table.get("model")
    if not isinstance(model, Mapping) or not str(model.get("name", "")).startswith(HF_PREFIX):
        return dict(table), []
    args = model["args"] if isinstance(model.get("args"), Mapping) else model
    try:
        content = _content(str(model["name"]), args)
    except BadInput as error:
        return dict(table), [("model.name", str(error).removeprefix("model.name: "))]
    if content is None:
        return dict(table), []
    if args.get("content", content) != content:
        return dict(table), [("model.content", "the folder holds something else now; leave content out to take that")]
    filled = {**args, "content": content}
    return {**table, "model": {**model, "args": filled} if "args" in model else filled}, []


def _content(name: str, args: Mapping[str, Any]) -> str | None:
    written, pretrained = place_of(name), bool(args.get("pretrained"))
    if not os.path.isdir(written) and _ON_THE_HUB.fullmatch(written):
        if not pretrained:
            return None
        folder = _fetched(written, args.get("revision"))
    else:
        folder = Path(written)
    if not (folder / "config.json").is_file():
        why = "has no config.json, which save_pretrained of transformers writes" if folder.is_dir() else "is not there"
        raise BadInput(f"the folder {str(folder)!r} {why}")
    weights = sorted(folder.glob(WEIGHTS)) if pretrained else []
    if pretrained and not weights:
        raise BadInput(
            f"the folder {str(folder)!r} has no safetensors weights, the only ones that are read; save_pretrained of "
            f"transformers writes them, or leave pretrained out"
        )
    digest = hashlib.sha256()
    for file in (folder / "config.json", *weights):
        with file.open("rb") as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()


def _fetched(name: str, revision: Any) -> Path:
    """A local copy of what the Hub has: config and safetensors weights. Raises BadInput."""
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise BadInput(MISSING) from None
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=["config.json", "*.safetensors*"]))
    except Exception as error:  # of the network, of the Hub, of the file system
        raise BadInput(f"{name!r} is no folder here, and the Hub does not give it: {error}") from error


MISSING = "models of transformers need the package: pip install 'silo-tune[hf]'"
