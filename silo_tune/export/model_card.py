"""What a reader of the weights must know: a model card in Markdown, with the facts as YAML at its head."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from silo_tune.export.network_file import About
from silo_tune.formats import level_sign, percent_sign, plural, telling
from silo_tune.study.handed import MODEL as HANDED
from silo_tune.study.model import Study
from silo_tune.study.wording import words_of


def card(
    study: Study,
    arm: str,
    result: Mapping[str, Any],
    data: Mapping[str, Any] | None,
    about: About,
    file: str,
    command: Sequence[str],
) -> str:
    """The card of a unit.

    Args:
        study, arm: which chain of the run.
        result: the unit's, as it is committed.
        data: what RUN/data.json says.
        about: as in the file of the network.
        file: its name.
        command: what wrote it.
    """
    unit, task, score = result["unit"], about.task or {}, study.scored
    known = {
        "task": task.get("name"),
        "data": {"name": study.data.name or study.data.function, "content": None if data is None else data["content"]},
        "sparsity": result["sparsity"],
        "score": {
            "name": score.name,
            "unit": "share of 1" if score.share else score.unit or None,
            "validation": result["val_score"],
            "n_validation": result["n_val"],
            "test": result["test_score"],
            "n_test": result["n_test"],
        },
        "study": study.name,
        "arm": arm,
        "seed": unit["seed"],
        "cycle": unit["cycle"],
        "key": result["key"],
        "command": shlex.join(command),
        "versions": dict(about.versions),
    }
    best = (unit.get("evaluation") or {}).get("best_on_test")
    parts = {"val": "validation", "test": "test, the best of all epochs" if best else "test"}
    with telling(words_of(study)) as words:
        scores = [
            (
                f"{words.title}, {title}",
                f"{level_sign(result[f'{part}_score'])} ({plural(result[f'n_{part}'], words.example)})",
            )
            for part, title in parts.items()
        ]
    return "\n".join([*_head(known), *_body(study, known, about, scores, file, command)]) + "\n"


def _head(known: Mapping[str, Any]) -> list[str]:
    """YAML, each value as JSON, which YAML reads."""
    facts = [f"  {name}: {json.dumps(value)}" for name, value in known.items()]
    return ["---", "library_name: silo-tune", 'tags: ["silo-tune", "pruning"]', "silo_tune:", *facts, "---", ""]


def _body(
    study: Study,
    known: Mapping[str, Any],
    about: About,
    scores: Sequence[tuple[str, str]],
    file: str,
    command: Sequence[str],
) -> list[str]:
    name = about.model.get("name") or about.model["function"]
    story = "pruned and retrained by silo-tune; pruned weights are exact zeros" if known["cycle"] else "not pruned"
    rows = [
        ("network", f"`{name}`"),
        ("data", f"`{known['data']['name']}`"),
        ("weights that are zero", f"{percent_sign(known['sparsity'])} of the prunable ones"),
        *scores,
        ("trial", f"`{known['key'][:12]}`: arm `{known['arm']}`, seed {known['seed']}, cycle {known['cycle']}"),
    ]
    return [
        f"# {study.name}: {known['arm']}, seed {known['seed']}, cycle {known['cycle']}",
        "",
        f"A network for {known['task']}, {story}.",
        "",
        "| | |",
        "|---|---|",
        *(f"| {title} | {value} |" for title, value in rows),
        "",
        _use(about, file),
        "",
        _takes(about),
        "",
        "Written by",
        "",
        "```sh",
        shlex.join(command),
        "```",
    ]


def _use(about: About, file: str) -> str:
    if file.endswith(".onnx"):
        return f'`onnxruntime.InferenceSession("{file}")` takes any number of examples, and gives `logits`.'
    if "function" in about.model:
        more = ", model=…" if about.model["function"] == HANDED else ", functions=True"
    else:
        more = ", model=…" if str(about.model["name"]).partition(":")[0] == "hf" else ""
    return f'`silo_tune.load("{file}"{more})` gives the network, in evaluation mode, on the CPU.'


def _takes(about: About) -> str:
    if about.model.get("function") == HANDED:
        return "It takes inputs as they were handed to `silo_tune.prune`."
    if len(about.shape) != 3:
        return "It takes examples as the study's data gives them, encoded by what the training part shows."
    height, width, channels = about.shape
    image = f"It takes images (batch, {channels}, {height}, {width}), single precision"
    if about.mean is None or about.std is None:
        return f"{image}, normalised by mean and standard deviation of the training part, which are not known here."
    mean, std = (", ".join(f"{value:.4g}" for value in values) for values in (about.mean, about.std))
    return f"{image}: (pixel − mean) / std per channel, of pixels from 0 to 255, with mean {mean} and std {std}."
