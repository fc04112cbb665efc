"""The parts of the site that come from the code: study keys, commands, columns, names, public functions, floors.

MkDocs calls `on_page_markdown` for every page (`hooks` in mkdocs.yml): a line `<!-- generate: NAME -->` becomes what
NAME gives. A name that nobody gives fails the build. Nothing that is made here is kept in the repository.
"""

from __future__ import annotations

import inspect
import re
import runpy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING
from functools import cache
from pathlib import Path
from typing import Any

import torch
import typer
from typer.core import TyperGroup

import silo_analysis
import silo_tune
from silo_tune.cli import app
from silo_tune.cli.catalogue import deviations as listed_deviations
from silo_tune.cli.catalogue import shown, with_default, with_defaults
from silo_tune.results.columns import COLUMNS
from silo_tune.schedules.peaks import SCHEDULES
from silo_tune.schedules.shapes import PROFILES
from silo_tune.study import registry
from silo_tune.study.pipelines import PIPELINES
from silo_tune.study.presets import PRESETS
from silo_tune.study.prune import DEFAULT_LAYERS, LAYERS
from silo_tune.study.recipes import RECIPES
from silo_tune.study.schema import PRESET_GIVES, study_schema
from silo_tune.study.scores import SCORES, Score
from silo_tune.study.task import DEFAULT_SCORE, LOSSES

ROOT = Path(__file__).parent.parent
MARK = re.compile(r"^<!-- generate: ([\w-]+) -->$", re.MULTILINE)
# What parameters are counted on: ten classes of small colour images.
IMAGE, COUNTED_CLASSES = (32, 32, 3), 10


def on_page_markdown(markdown: str, **_: Any) -> str:
    """The page with every mark replaced. Raises KeyError for a name that nobody gives."""
    return MARK.sub(lambda found: PARTS[found[1]](), markdown)


def rows(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def code(words: Iterable[str]) -> str:
    return ", ".join(f"`{word}`" for word in words) or "–"


# --- one function per table ---


def found() -> str:
    return str(runpy.run_path(str(ROOT / "docs" / "found.py"))["table"](""))


def presets() -> str:
    body = ([f"`{name}`", one.line, one.source, code(one.takes)] for name, one in PRESETS.items())
    return rows(["preset", "what it stands for", "source", "arguments"], body)


def schedules() -> str:
    body = ([f"`{name}`", code(with_defaults(one, {})), one.line] for name, one in SCHEDULES.items())
    return rows(["name", "arguments (defaults)", "max_lr"], body)


def profiles() -> str:
    body = ([f"`{name}`", code(with_defaults(one.factory, one.preset)), one.line] for name, one in PROFILES.items())
    return rows(["name", "arguments (defaults)", "shape"], body)


def criteria() -> str:
    body = ([f"`{name}`", one.granularity, one.line, code(one.args)] for name, one in registry.CRITERIA.items())
    return rows(["name", "scores", "what goes first", "arguments"], body)


def models() -> str:
    body = ([f"`{name}`", _signature(one), f"{parameters(one):,}", one.line] for name, one in registry.MODELS.items())
    return rows(["name", "arguments (defaults)", "parameters", "what it is"], body)


def layers() -> str:
    body = ([f"`{kind}`", line, "yes" if kind in DEFAULT_LAYERS else "no"] for kind, line in LAYERS.items())
    return rows(["kind", "weights", "by default"], body)


def optimizers() -> str:
    return rows(["name", "what it is"], ([f"`{name}`", line] for name, line in registry.COMMON_OPTIMIZERS.items()))


def recipes() -> str:
    return rows(["network", "what it is trained with (source)"], ([f"`{n}`", one.line] for n, one in RECIPES.items()))


def data() -> str:
    body = ([f"`{name}`", one.line, code(one.args), _reading(one)] for name, one in registry.DATA.items())
    return rows(["name", "images", "arguments", "read"], body)


def tasks() -> str:
    body = ([f"`{name}`", f"`{DEFAULT_SCORE[name]}`", _losses(losses)] for name, losses in LOSSES.items())
    return rows(["task", "score when left out", "losses (arguments); the first when left out"], body)


def _losses(losses: Mapping[str, Sequence[str]]) -> str:
    return ", ".join(f"`{name}`" + (f" ({code(args)})" if args else "") for name, args in losses.items())


def scores() -> str:
    def line(score: Score) -> list[str]:
        better = "more" if score.higher_is_better else "less"
        return [f"`{score.name}`", score.title, better, "yes" if score.mean_over_examples else "no", code(score.tasks)]

    return rows(["score", "written", "better", "mean over examples", "tasks"], map(line, SCORES.values()))


def pipelines() -> str:
    body = ([f"`{name}`", one.line, _options(one)] for name, one in PIPELINES.items())
    return rows(["name", "what it does", "options (defaults)"], body)


def deviations() -> str:
    return _deviations("authors-2023", "what the scripts do")


def ice_deviations() -> str:
    return _deviations("ice-pruning", "what is done there, and here, and why")


def boosting_choices() -> str:
    return _deviations("boosting", "what is chosen here, and why")


def _deviations(of: str, head: str) -> str:
    found = next(lines for heading, lines in listed_deviations().items() if heading.startswith(of))
    return rows(["name", head], ([f"`{name}`", line] for name, line in found.items()))


# --- study keys ---

# "section.key" → a line, for keys that no study of experiments/ writes on a line of their own.
EXAMPLES = {
    "data.config": 'config = "full"',
    "data.duplicates": 'duplicates = "allow"',
    ".model": 'model = { name = "resnet20", width = 32 }',
    "preset.name": 'name = "authors-2023"',
    "retrain.clip": "clip = 1.0",
    "retrain.accumulate": "accumulate = 4",
    "retrain.decay": 'decay = "weights"',
    ".task": 'task = "regression"',
    "task.function": 'function = "mine:Detection"',
    "task.version": 'version = "1"',
    "task.args": "args = { aux = 0.3 }",
    "task.score": 'score = "auroc"',
    "task.classes": "classes = 10",
    "task.also": 'also = ["log-loss", "accuracy"]',
    "task.teacher": 'teacher = "dense"',
    "task.loss": 'loss = { name = "huber", delta = 0.5 }',
    "data.function": 'function = "mine:images"',
    "data.version": 'version = "1"',
    "data.workers": "workers = 2",
    "data.stream": "stream = true",
    "data.image_key": 'image_key = "img"',
    "data.label_key": 'label_key = "label"',
    "data.target": 'target = "income"',
    "data.numeric": 'numeric = ["age"]',
    "data.categorical": 'categorical = ["zip"]',
    "data.ignore": 'ignore = ["id"]',
    "data.group": 'group = "patient"',
    "data.time": 'time = "date"',
    "data.encode": 'encode = "codes"',
    "data.scale": 'scale = "quantile"',
    "data.block": "block = 64",
    "data.text": 'text = "review"',
    "data.tokenizer": 'tokenizer = "words"',
    "data.vocabulary": "vocabulary = 5000",
    "data.length": "length = 128",
    "data.missing": 'missing = "drop"',
    "data.args": "args = { count = 900 }",
    "data.test_examples": "test_examples = 1000",
    "data.mean": "mean = [0.49, 0.48, 0.45]",
    "data.std": "std = [0.25, 0.24, 0.26]",
    "dense.checkpoint": 'checkpoint = "dense.safetensors"',
    "replicates.until": 'until = "decided"',
    "replicates.looks": "looks = [5, 10, 15, 20]",
    "prune.layers": 'layers = ["linear", "lstm"]',
    "prune.targets": "targets = [0.5, 0.25, 0.1]",
    "cluster.memory_per_unit_gb": "memory_per_unit_gb = 2.0",
    "cluster.workers_per_unit": "workers_per_unit = 4",
    "cluster.max_concurrent": "max_concurrent = 8",
    "cluster.unit_timeout": "unit_timeout = 3600",
    "arms.profile": 'profile = "cosine"',
    "arms.epochs": "epochs = 4",
    "arms.rewind_to": 'rewind_to = "2 ep"',
    "arms.ends": 'ends = { arm = "silo", end = "low" }',
    "arms.pipeline": 'pipeline = "ice"',
    "arms.best_of": "best_of = 10",
    "arms.retrain_winner": "retrain_winner = true",
    "arms.guided": "guided = { low = 0.01, high = 1.0, trials = 5 }",
    "arms.threshold": "threshold = [0.0, 0.1]",
    "arms.freeze": "freeze = [0.0, 0.5]",
    "arms.over": "over = [0.1, 0.5]",
    "grid.low": "low = 0.01",
    "grid.high": "high = 1.0",
    "grid.points": "points = 9",
    "grid.rates": "rates = [0.01, 0.03, 0.1]",
    "guided.low": "low = 0.01",
    "guided.high": "high = 1.0",
    "guided.trials": "trials = 5",
    "guided.stop_below": "stop_below = 0.001",
    "pilot.proposals": 'proposals = "guided"',
    "report.published": 'published = "published.csv"',
    "report.pilot_trials": "pilot_trials = 500",
    "ends.arm": 'arm = "silo"',
    "ice.name": 'name = "ice"',
    "ice.version": "version = 2",
    "ice.ratio": "ratio = 0.2",
    "while.name": 'name = "while-training"',
    "while.over": "over = 9",
    "boosting.name": 'name = "boosting"',
    "boosting.stages": "stages = 3",
    "boosting.folds": "folds = 2",
}


Table = tuple[str, str, Mapping[str, Any], Sequence[str]]


def study_sections() -> list[Table]:
    """Title, section, keys and required keys of every table of a study file, from the schema that the models give."""
    schema = study_schema()
    parts: dict[str, Any] = schema["$defs"]
    named = {name: _part(one, parts) for name, one in schema["properties"].items()}
    top = {name: one for name, one in schema["properties"].items() if named[name] is None and name != "arms"}
    found: list[Table] = [("Top level", "", top, schema["else"]["required"])]
    for name, part in named.items():
        if part is not None:
            also = PRESET_GIVES.get(name.capitalize(), [])
            found.append((f"`[{name}]`", name, part["properties"], [*part.get("required", []), *also]))
    for name, (title, section) in TABLES_OF_STUDIES.items():
        found.append((title, section, parts[name]["properties"], parts[name].get("required", [])))
    return found


def study_keys() -> str:
    """Every key of a study file: type or choices, default, meaning, an example."""
    return "\n\n".join(
        f"## {title} {{#keys-{_slug(title)}}}\n\n{_keys(section, keys, required)}"
        for title, section, keys, required in study_sections()
    )


TABLES_OF_STUDIES = {
    "ScheduleArm": ('`[arms.NAME]` with `mode = "schedule"`', "arms"),
    "OracleArm": ('`[arms.NAME]` with `mode = "oracle"`', "arms"),
    "TuneArm": ('`[arms.NAME]` with `mode = "tune"`', "arms"),
    "Grid": ("`grid` of an Oracle", "grid"),
    "Guided": ("`guided` of an Oracle", "guided"),
    "Ends": ("`ends` of a schedule arm", "ends"),
    "SGD": ('`optimizer` with `name = "sgd"`', "sgd"),
    "AdamW": ('`optimizer` with `name = "adamw"`', "adamw"),
    "IceTable": ('`pipeline` with `name = "ice"`', "ice"),
    "WhileTraining": ('`pipeline` with `name = "while-training"`', "while"),
    "Boosting": ('`pipeline` with `name = "boosting"`', "boosting"),
}


def _slug(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def _part(one: Mapping[str, Any], parts: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The section that a key of the top level stands for."""
    for found in (one, *one.get("allOf", ()), *one.get("anyOf", ())):
        if "$ref" in found:
            part: Mapping[str, Any] = parts[found["$ref"].rpartition("/")[2]]
            return part if part.get("properties") else None
    return None


def _keys(section: str, keys: Mapping[str, Any], required: Sequence[str]) -> str:
    body = [
        [
            f"`{name}`",
            _type(one),
            "required" if name in required else _default(one),
            one.get("description", "–"),
            f"`{example(section, name, one)}`",
        ]
        for name, one in keys.items()
    ]
    return rows(["key", "type", "default", "meaning", "example"], body)


def _type(one: Mapping[str, Any]) -> str:
    """The type in words, or the choices."""
    if "enum" in one:
        return code(map(shown, one["enum"]))
    if "const" in one:
        return code([shown(one["const"])])
    if "$ref" in one:
        return "name or table"
    for several in ("anyOf", "allOf", "oneOf"):
        if several in one:
            return " or ".join(dict.fromkeys(_type(each) for each in one[several]))
    kind = one.get("type", "any")
    if kind == "array":
        return f"list of {_type(one.get('items', {}))}"
    bounds = [f"{sign} {one[key]}" for key, sign in BOUNDS.items() if key in one]
    return " or ".join([kind] if isinstance(kind, str) else kind) + (f", {', '.join(bounds)}" if bounds else "")


BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}


def _default(one: Mapping[str, Any]) -> str:
    return "none" if one.get("default") is None else code([shown(one["default"])])


@cache
def examples() -> dict[tuple[str, str], str]:
    """(Section, key) → a line that sets it, as a study of experiments/ writes it."""
    found: dict[tuple[str, str], str] = {}
    for file in sorted((ROOT / "experiments").glob("**/*.toml")):
        section = ""
        for line in file.read_text(encoding="utf-8").splitlines():
            if header := re.match(r"\[(\w+)", line):
                section = header[1]
            match = re.match(r"([a-z_]+) = (.+?)(?:\s+#.*)?$", line)
            if match and len(match[0]) < 60:
                found.setdefault((section, match[1]), f"{match[1]} = {match[2]}")
    return found


def example(section: str, name: str, one: Mapping[str, Any]) -> str | None:
    """A line that sets a key; None where nobody knows one, which a test refuses."""
    written = EXAMPLES.get(f"{section}.{name}") or examples().get((section, name))
    if written is None and one.get("default") is not None:
        return f"{name} = {_toml(one['default'])}"
    if written is None and "enum" in one:
        return f"{name} = {shown(one['enum'][0])}"
    return written


def _toml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else shown(value)


# --- commands, columns, public names, floors ---


def commands() -> str:
    """Every command with its arguments and options, from typer."""
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    return "\n\n".join(_command(name, command) for name, command in group.commands.items())


def _command(name: str, command: Any) -> str:
    words = [one.metavar or one.name.upper() for one in command.params if one.param_type_name == "argument"]
    body = [[_called(one), _help(one)] for one in command.params]
    return f"### {name}\n\n{command.help}\n\n`silo-tune {' '.join([name, *words])} [options]`\n\n" + rows(
        ["argument or option", "meaning"], body
    )


def _called(one: Any) -> str:
    if one.param_type_name == "argument":
        return f"`{one.metavar or one.name.upper()}`"
    return f"`{' / '.join(one.opts)}{f' {one.metavar}' if one.metavar else ''}`"


def _help(option: Any) -> str:
    return (getattr(option, "help", None) or "–").replace("\n", " ")


def columns() -> str:
    """Every column of the table, from `results.columns`."""
    return rows(["column", "type", "meaning"], ([f"`{name}`", kind, line] for name, (kind, line) in COLUMNS.items()))


def python() -> str:
    """Public names of both packages, for mkdocstrings."""
    parts = []
    for package in (silo_tune, silo_analysis):
        parts.append(f"## {package.__name__}")
        for name in package.__all__:
            found = getattr(package, name)
            if isinstance(found, type) or callable(found):
                parts.append(f"::: {found.__module__}.{found.__qualname__}\n    options:\n      heading_level: 3")
    return "\n\n".join(parts)


FLOOR = re.compile(r"^    \((.+?),?\),  # (.+)$", re.MULTILINE)


def floors() -> str:
    """The order of imports, drawn from the table that the import test holds; the ground is below."""
    source = (ROOT / "tests" / "test_architecture.py").read_text(encoding="utf-8")
    table = FLOOR.findall(source[source.index("FLOORS = (") : source.index("LAZY = ")])
    lines = [
        f'<div class="floor"><b>{number}</b><span>{_rooms(names)}</span><small>{what}</small></div>'
        for number, (names, what) in reversed(list(enumerate(table, start=1)))
    ]
    return '<div class="house">\n' + "\n".join(lines) + "\n</div>"


def _rooms(names: str) -> str:
    return " ".join(f"<code>{name}</code>" for name in re.findall(r'"(\w+)"', names))


PARTS: dict[str, Callable[[], str]] = {
    "found": found,
    "study-keys": study_keys,
    "commands": commands,
    "columns": columns,
    "python": python,
    "floors": floors,
    "presets": presets,
    "schedules": schedules,
    "profiles": profiles,
    "criteria": criteria,
    "layers": layers,
    "models": models,
    "optimizers": optimizers,
    "recipes": recipes,
    "data": data,
    "pipelines": pipelines,
    "tasks": tasks,
    "scores": scores,
    "deviations": deviations,
    "ice_deviations": ice_deviations,
    "boosting_choices": boosting_choices,
}

# --- cells ---


def _signature(entry: registry.Entry) -> str:
    known = inspect.signature(registry.resolve(entry.target)).parameters
    return code(with_default(name, known[name].default) for name in entry.args)


def _options(pipeline: Any) -> str:
    found = {name: field for name, field in pipeline.model_fields.items() if name != "name"}
    return code(with_default(name, MISSING if f.is_required() else f.default) for name, f in found.items())


def _reading(entry: registry.DataEntry) -> str:
    return "streamed" if entry.stream else "in memory, or streamed" if entry.streams else "in memory"


def parameters(entry: registry.Entry) -> int:
    """Number of parameters of a registered network on ten classes of 32×32 colour images, or of its own examples."""
    with torch.device("meta"):
        built = registry.resolve(entry.target)(shape=entry.shape or IMAGE, classes=COUNTED_CLASSES, **entry.further)
    return sum(parameter.numel() for parameter in built.parameters())
