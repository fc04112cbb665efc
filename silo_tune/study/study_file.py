"""Reading a study file: TOML in, `Study` out, with every mistake of the file reported at once."""

from __future__ import annotations

import contextlib
import os
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from silo_tune.errors import BadInput, Problems, StudyError, choose, unknown
from silo_tune.formats import parse_json
from silo_tune.study import registry
from silo_tune.study.arms import Grid, Guided, OracleArm, Pilot, ScheduleArm, TuneArm
from silo_tune.study.authors import fill_preset
from silo_tune.study.data import OLDER, TOKENIZERS, Data, is_there, renamed, standing
from silo_tune.study.hf_folder import with_content
from silo_tune.study.hidden_mistakes import Problem, all_problems
from silo_tune.study.key_lines import key_lines, line_of
from silo_tune.study.model import Study
from silo_tune.study.parts import (
    BROUGHT,
    FUNCTION,
    SGD,
    AdamW,
    Cluster,
    Dense,
    Evaluate,
    Frozen,
    OptimizerRef,
    Replicates,
    Report,
    Retrain,
    StudyPreset,
)
from silo_tune.study.places import absolute, expand
from silo_tune.study.preset_filling import expand_presets
from silo_tune.study.prune import Prune
from silo_tune.study.task import TaskSpec
from silo_tune.study.toml_text import Mistake, without_mistakes

Look = Callable[[Study], Iterable[Problem]]


def load_study(
    path: str | os.PathLike[str], sets: Sequence[str] = (), smoke: bool = False, look: Look | None = None
) -> Study:
    """Read and check one study file; also RUN/study.toml, which a run wrote: the same study, written out.

    Args:
        path: the TOML file.
        sets: "key.path=value" changes, the value written as in TOML (a bare word is a string).
        smoke: shrink the study to seconds first (see `smoke_table`).
        look: of a study that is refused, tell of all else that is wrong too: of what it names and is not there
            (functions, which are imported for it, a data folder, a checkpoint), and of what this finds in the study
            without its mistakes.

    Raises:
        BadInput: no such file, or not TOML.
        StudyError: everything that is wrong with its content, at once.
    """
    _, mistakes = _text(path)
    if mistakes:
        told = [f"{path}:{mistake.line}: {mistake.message}" for mistake in mistakes]
        raise BadInput("\n".join([*told, *_beside(path, mistakes, sets, smoke, look)]))
    try:
        table, recorded = _read(path, sets, smoke)
        return parse_study(table, str(path), recorded)
    except StudyError as error:
        raise refused(path, error.problems, sets, smoke, look) from None


def _beside(
    path: str | os.PathLike[str], mistakes: Sequence[Mistake], sets: Sequence[str], smoke: bool, look: Look | None
) -> list[str]:
    """What else is wrong with a study, some statements of which are no TOML."""
    keys = [mistake.key for mistake in mistakes if mistake.key is not None]
    if len(keys) < len(mistakes):
        return ["what else is in the file was not looked at: without these lines it is another study"]
    try:
        table, recorded = _read(path, sets, smoke)
        problems = [] if look is None else list(look(parse_study(table, str(path), recorded)))
    except StudyError as error:
        problems = error.problems
    arms = [key.split(".")[1] for key in keys if key.startswith("arms.")]
    left = [
        (key, message)
        for key, message in refused(path, problems, sets, smoke, look).problems
        if key
        and not any(f"{broken}.".startswith(f"{key}.") for broken in keys)
        and not any(f"unknown schedule arm '{arm}'" in message for arm in arms)
    ]
    return [str(located(path, left, sets))] if left else []


def refused(
    path: str | os.PathLike[str],
    problems: Sequence[Problem],
    sets: Sequence[str] = (),
    smoke: bool = False,
    look: Look | None = None,
) -> StudyError:
    """Problems of a study that was read from a file, each with its line, and those that they hid.

    Args:
        path, sets, smoke, look: as of `load_study`.
        problems: found so far.
    """
    if look is not None:
        with contextlib.suppress(StudyError):  # an unknown preset: nothing else is known of the study
            table, recorded = _read(path, sets, smoke)
            known = " ".join(message for _, message in problems)
            told = [*problems, *(problem for problem in _missing_outside(table) if problem[1] not in known)]
            problems = all_problems(table, told, lambda left: parse_study(left, "", recorded), look)
    return located(path, list(dict.fromkeys(problems)), sets)


def _read(path: str | os.PathLike[str], sets: Sequence[str], smoke: bool) -> tuple[dict[str, Any], bool]:
    """The table of a study file, and whether a run wrote it."""
    file, (text, _) = Path(path), _text(path)
    table = tomllib.loads(text)
    recorded = is_record(table)
    if recorded:
        table = table["study"]
        _refuse_labels(sets)
    if isinstance(table.get("data"), dict):
        table["data"] = renamed(table["data"])
    for change in sets:
        if change.startswith(("preset", "model")):  # before what it fills in, or this network, can be shrunk
            _apply_set(table, change)
    if not recorded:
        table = _whole(table, str(file))
    if smoke:
        table = smoke_table(table, file.parent)
    for change in sets:  # last: what is asked for by name wins over --smoke
        _apply_set(table, change)
    # The paths of a record are as the run reached them.
    return (table if recorded else _from_folder(table, file.parent)), recorded


def _text(path: str | os.PathLike[str]) -> tuple[str, list[Mistake]]:
    """The text of a study file without the statements that are no TOML, and those."""
    file = Path(path)
    try:
        data = Path(absolute(str(path))).read_bytes()
    except FileNotFoundError:
        raise BadInput(
            f"no study file {str(file)!r}; `ls experiments/*.toml` shows those that come with the project"
        ) from None
    except IsADirectoryError:
        raise BadInput(f"{str(file)!r} is a folder; the study of a run is its {file / 'study.toml'}") from None
    except OSError as error:
        raise BadInput(f"cannot read the study {str(file)!r}: {error}") from None
    try:
        return without_mistakes(data.decode("utf-8-sig"))  # an editor's mark at its start is no mistake
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise BadInput(f"{file}:{line}: {error.reason} for UTF-8, which TOML is written in: save it as UTF-8") from None


def is_record(table: Mapping[str, Any]) -> bool:
    """Is it the study of a run, as the run wrote it, and not one that a person writes?"""
    return all(isinstance(table.get(part), Mapping) for part in ("study", "run"))


def run_of(path: str | os.PathLike[str]) -> str | None:
    """The run folder that a study file is the record of: RUN of RUN/study.toml. None for every other file."""
    file = Path(path)
    if file.name != "study.toml" or not any((file.parent / name).exists() for name in ("chains", "table.parquet")):
        return None
    try:
        return str(file.parent) if is_record(tomllib.loads(file.read_text(encoding="utf-8"))) else None
    except (OSError, ValueError):
        return None  # `load_study` says what is wrong


def _refuse_labels(sets: Sequence[str]) -> None:
    for change in sets:
        if "preset" in change.partition("=")[0].strip().split("."):
            raise BadInput(
                f"--set {change}: in the study of a run a preset is only a name for what is written out beside it; set "
                f"those keys, or change the study file that the run was made from"
            )


def _from_folder(table: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The table with its paths as they are reached from here: they are meant from the study's folder first."""
    found = dict(table)
    for section, key in (("data", "path"), ("data", "tokenizer"), ("dense", "checkpoint"), ("report", "published")):
        part = table.get(section)
        if not isinstance(part, Mapping) or not isinstance(path := part.get(key), str):
            continue
        if path in NO_PATHS:
            continue
        with contextlib.suppress(BadInput):  # a variable that is not set: whoever opens the path says so
            filled = expand(path, f"{section}.{key}")
            if not os.path.isabs(filled) and is_there(str(folder / filled)):
                found[section] = {**found[section], key: str(folder / filled)}
    return found | _model_from_folder(table.get("model"), folder)


def _model_from_folder(model: Any, folder: Path) -> dict[str, Any]:
    name = model.get("name") if isinstance(model, Mapping) else None
    if not isinstance(name, str) or not name.startswith(registry.HF_PREFIX):
        return {}
    path = name.removeprefix(registry.HF_PREFIX)
    there = not path.startswith(("~", "$")) and Path(absolute(str(folder / path))).is_dir()
    return {"model": {**model, "name": f"{registry.HF_PREFIX}{folder / path}"}} if there else {}


def located(file: str | os.PathLike[str], problems: Sequence[tuple[str, str]], sets: Sequence[str] = ()) -> StudyError:
    """Problems of a study that was read from a file, each with its line; a key that --set wrote has none."""
    text, _ = _text(file)
    lines, above = key_lines(text), "study." if is_record(tomllib.loads(text)) else ""
    lines |= {f"{above}data.{new}": lines[key] for old, new in OLDER.items() if (key := f"{above}data.{old}") in lines}
    written = {change.partition("=")[0].strip() for change in sets}

    def line(key: str) -> int | None:
        return None if any(f"{key}.".startswith(f"{name}.") for name in written) else line_of(lines, above + key)

    return StudyError(str(file), sorted(problems, key=lambda problem: line(problem[0]) or len(lines)), line)


def _missing_outside(table: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What a study that is wrong elsewhere names and is not there."""
    for key, function in _functions(table, ""):
        if isinstance(function, str) and FUNCTION.fullmatch(function):
            try:
                registry.resolve(function)
            except BadInput as error:
                yield key, str(error)
    for key, there, what in (
        ("data.path", is_there, "no data directory"), ("dense.checkpoint", os.path.isfile, "no file"),
        ("data.tokenizer", os.path.isfile, "no file"), ("report.published", os.path.isfile, "no file"),
    ):  # fmt: skip
        section, name = key.split(".")
        part = table.get(section)
        path = part.get(name) if isinstance(part, Mapping) else None
        # The name of a set of the Hub is no path.
        if (
            not isinstance(path, str)
            or path in NO_PATHS
            or (name == "path" and not path.startswith((".", "/", "~", "$")))
        ):
            continue
        try:
            if not there(standing(path, key)):
                yield key, f"{what} {path!r}"
        except BadInput as error:
            yield key, str(error).removeprefix(f"{key}: ")


def _functions(table: Mapping[str, Any], above: str) -> Iterator[tuple[str, Any]]:
    """Every key named `function`, and what it says."""
    for key, value in table.items():
        if key == "function":
            yield f"{above}{key}", value
        elif isinstance(value, Mapping):
            yield from _functions(value, f"{above}{key}.")


def parse_study(table: Mapping[str, Any], source: str = "study", recorded: bool = False) -> Study:
    """The Study of a table; of one that a run recorded, presets are labels of what is written out beside them.

    Raises:
        StudyError: with every problem found.
    """
    if not recorded:
        table = _whole(table, source)
    filled, problems = (dict(table), []) if recorded else expand_presets(table)
    if not recorded:
        filled, wrong = with_content(filled)
        problems += wrong
    try:
        study = Study.model_validate(filled, context={"recorded": recorded})
    except ValidationError as error:
        problems += _readable(error, filled)
        # Checks between sections need a whole study; those of names that arms give each other do not.
        told = {path for path, _ in problems}
        problems += [(path, message) for path, message in _reference_problems(table) if path not in told]
        raise StudyError(source, problems) from None
    if problems:
        raise StudyError(source, problems)
    return study


class _PruneAlone(Frozen):
    prune: Prune


def parse_prune(table: Mapping[str, Any]) -> Prune:
    """A [prune] section without a study. Raises StudyError with every problem found."""
    whole = {"prune": dict(table)}
    try:
        return _PruneAlone.model_validate(whole).prune
    except ValidationError as error:
        raise StudyError("", list(_readable(error, whole))) from None


def _whole(table: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The table with its [preset] filled in. Raises StudyError for one that is unknown."""
    try:
        return fill_preset(table)
    except ValueError as error:
        raise StudyError(source, [("preset", str(error))]) from None


def _reference_problems(table: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    arms, report = table.get("arms"), table.get("report")
    if not isinstance(arms, Mapping):
        return
    schedules = [
        name
        for name, arm in arms.items()
        if isinstance(arm, Mapping) and (arm.get("mode") == "schedule" or "preset" in arm)
    ]
    for name, arm in arms.items():
        if not isinstance(arm, Mapping):
            continue
        prefix, tests = arm.get("prefix"), arm.get("tests")
        leader = prefix.removeprefix("arm:") if isinstance(prefix, str) and prefix.startswith("arm:") else None
        if leader is not None and leader not in schedules:
            yield f"arms.{name}.prefix", unknown("schedule arm", leader, schedules)
        for test in tests if isinstance(tests, list) else []:
            if test not in schedules:
                yield f"arms.{name}.tests", unknown("schedule arm", str(test), schedules)
    judged = report.get("schedule") if isinstance(report, Mapping) else None
    if isinstance(judged, str) and judged not in arms:
        yield "report.schedule", unknown("arm", judged, arms)


def _apply_set(table: dict[str, Any], change: str) -> None:
    put(table, *change_of(change))


def change_of(change: str) -> tuple[str, Any]:
    """Key and value of a KEY.PATH=VALUE. Raises BadInput when it is none."""
    key, equals, text = change.partition("=")
    section, _, name = key.strip().rpartition(".")
    key = f"data.{OLDER[name]}" if section == "data" and name in OLDER else key
    if not equals or not key.strip():
        raise BadInput(f"--set takes key.path=value, got {change!r}")
    try:
        return key.strip(), tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return key.strip(), text


def put(table: dict[str, Any], key: str, value: Any) -> None:
    """Set a key of a study's table, "retrain.epochs". Raises BadInput where a table above it is none."""
    *parents, last = key.split(".")
    for parent in parents:
        table = table.setdefault(parent, {})
        if not isinstance(table, dict):
            raise BadInput(f"--set {key}: {parent!r} is not a table of the study")
    table[last] = value


NO_PATHS = (*BROUGHT, *TOKENIZERS)  # what may stand where a path may
# 0.05, the tolerance, is above 2 of 64.
SMOKE_EXAMPLES = {"train_examples": 32, "val_examples": 64, "test_examples": 32}
SMOKE_SEQUENCES = {"text": "length", "tokens": "block"}  # of which data, the key of how long an example is
SMOKE_TOKENS = 32
SMOKE_LAYERS = 2  # of a network of transformers; what its config calls them:
LAYER_KEYS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers")
SMOKE_BATCH = 16  # two steps an epoch: one for a ramp, one for what follows it
SMOKE_SIDE = 32  # pixels; the least that every registered network takes


def smoke_table(table: Mapping[str, Any], folder: Path = Path()) -> dict[str, Any]:
    """The same study shrunk to seconds.

    3 cycles, 2 seeds, 1 epoch, 3 grid points, few small examples (short texts), a small form of the network (of one of
    transformers, whose folder is here, few layers), a coarse tolerance.
    Pretrained weights keep their network and its image size, since they fit no other.
    What is wrong in the study stays wrong in the small one, for its check to tell.

    Args:
        table: the study.
        folder: that it stands in.
    """
    small = dict(table)
    if isinstance(small.get("name"), str):
        small["name"] += "-smoke"
    small["cycles"] = _at_most(3, small.get("cycles"))
    small |= _shrunk(table, "data", _few_examples)
    if not _pretrained(table):
        small |= _smoke_network(table.get("model"), small.get("data")) or _fewer_layers(table.get("model"), folder)
    small |= _shrunk(table, "dense", lambda dense: _one_epoch(dense) if "checkpoint" not in dense else dense)
    small |= _shrunk(table, "prune", _early_rewind)
    small |= _shrunk(table, "retrain", lambda part: _small_batch(_one_epoch(part)))
    small |= _shrunk(table, "replicates", _two_seeds)
    small |= _shrunk(table, "pilot", _smoke_pilot)
    small |= _shrunk(table, "arms", lambda arms: {name: _smoke_arm(arm) for name, arm in arms.items()})
    tolerance = table.get("report", {}).get("tolerance", 0.0) if isinstance(table.get("report", {}), Mapping) else 0.0
    if isinstance(tolerance, (int, float)):
        small |= _shrunk({"report": {}, **table}, "report", lambda part: {**part, "tolerance": max(0.05, tolerance)})
    return small


Table = dict[str, Any]


def _shrunk(table: Mapping[str, Any], key: str, change: Callable[[Table], Table]) -> Table:
    part = table.get(key)
    return {key: change(dict(part))} if isinstance(part, Mapping) else {}


def _at_most(most: int, value: Any) -> Any:
    return min(most, value) if isinstance(value, int) else value


def _one_epoch(part: Table) -> Table:
    return {**part, "epochs": _at_most(1, part["epochs"])} if "epochs" in part else part


def _few_examples(part: Table) -> Table:
    part = renamed(part)
    for name, key in SMOKE_SEQUENCES.items():
        if part.get("name") == name:
            part[key] = _at_most(SMOKE_TOKENS, part.get(key, SMOKE_TOKENS))
    return {**part, **{key: _at_most(count, part.get(key, count)) for key, count in SMOKE_EXAMPLES.items()}}


def _small_batch(part: Table) -> Table:
    return {**part, "batch": _at_most(SMOKE_BATCH, part.get("batch", SMOKE_BATCH))}


def _pretrained(table: Mapping[str, Any]) -> bool:
    dense = table.get("dense")
    return isinstance(dense, Mapping) and "checkpoint" in dense


def _smoke_network(model: Any, data: Any) -> Table:
    """The small form of a registered network, and smaller images where the set takes a size."""
    written: Table = {"name": model} if isinstance(model, str) else dict(model) if isinstance(model, Mapping) else {}
    name, args = written.get("name"), written.get("args", written)
    entry = registry.MODELS.get(name) if isinstance(name, str) else None
    if entry is None or not isinstance(args, Mapping):
        return {}  # timm's and a user's may be made for one size of image
    smaller = {**args, **{key: _smaller(entry, key, args.get(key)) for key in entry.smoke}}
    small: Table = {"model": {**written, "args": smaller} if "args" in written else smaller}
    size = _size(data)
    if size is not None:
        small["data"] = {**data, "size": _at_most(_side(args.get("patch")), size)}
    return small


def _fewer_layers(model: Any, folder: Path) -> Table:
    """A network of transformers with few layers, where its config is here and says how many it has."""
    name = model.get("name") if isinstance(model, Mapping) else None
    if not isinstance(name, str) or not name.startswith(registry.HF_PREFIX) or model.get("pretrained"):
        return {}
    try:
        place = (
            Path(absolute(str(folder / expand(name.removeprefix(registry.HF_PREFIX), "model.name")))) / "config.json"
        )
        config = parse_json(place.read_text(encoding="utf-8"))
    except (BadInput, OSError, ValueError):
        return {}
    if not isinstance(config, Mapping) or "layer_types" in config:  # a list with an entry for each
        return {}
    own = {key: model.get(key, config[key]) for key in LAYER_KEYS if key in config}
    return {"model": {**model, **{key: _at_most(SMOKE_LAYERS, value) for key, value in own.items()}}} if own else {}


def _size(data: Any) -> Any:
    """The side that images are resized to: as written, or the set's own."""
    if not isinstance(data, Mapping):
        return None
    name = data.get("name")
    entry = registry.DATA.get(name) if isinstance(name, str) else None
    return data.get("size", None if entry is None else entry.size)


def _smaller(entry: registry.Entry, key: str, written: Any) -> Any:
    """The argument of the small form; never above what is written, and a mistake stays one."""
    small = entry.smoke[key]
    if written is None or written in entry.choices.get(key, ()):
        return small
    numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in (small, written))
    return min(small, written) if numbers else written


def _side(patch: Any) -> int:
    """The least side of an image, from SMOKE_SIDE on, that a patch divides."""
    whole = isinstance(patch, int) and patch > 0
    return -(-SMOKE_SIDE // patch) * patch if whole else SMOKE_SIDE


def _early_rewind(part: Table) -> Table:
    point = part.get("rewind_to")
    if isinstance(point, str) and point.endswith((" ep", " it")):
        return {**part, "rewind_to": f"1 {point[-2:]}"}
    return part


def _two_seeds(part: Table) -> Table:
    seeds = part.get("seeds")
    fixed = {key: value for key, value in part.items() if key not in ("until", "looks")}
    return {**fixed, "seeds": seeds[:2]} if isinstance(seeds, list) else fixed


def _smoke_arm(arm: Any) -> Any:
    if not isinstance(arm, Mapping):
        return arm
    small = _early_rewind(_one_epoch(dict(arm)))
    if str(arm.get("to", "init")) != "init":  # of the one epoch that the dense training has left
        small["to"] = "1 it"
    grid = arm.get("grid")
    rates = grid.get("rates") if isinstance(grid, Mapping) else None
    if isinstance(rates, list) and len(rates) > 3:
        small["grid"] = {"rates": [rates[0], rates[len(rates) // 2], rates[-1]]}
    elif isinstance(grid, Mapping) and rates is None and "points" in grid:
        small["grid"] = {**grid, "points": _at_most(3, grid["points"])}
    if "best_of" in arm:
        small["best_of"] = _at_most(3, arm["best_of"])
    guided = arm.get("guided")
    if isinstance(guided, Mapping) and "trials" in guided:
        small["guided"] = {**guided, "trials": _at_most(4, guided["trials"])}
    return _smoke_tune(small) if arm.get("mode") == "tune" else small


def _smoke_tune(arm: Table) -> Table:
    small = {**_two_seeds(arm), "batch": 2}
    small.pop("over", None)
    if "trials" in arm:
        small["trials"] = _at_most(4, arm["trials"])
    if isinstance(arm.get("rungs"), list) and arm["rungs"]:
        small["rungs"] = [1]
    return small


def _smoke_pilot(part: Table) -> Table:
    small = {**part, "chains": 3}
    if isinstance(part.get("seeds"), list):
        small["seeds"] = part["seeds"][:1]
    return small


# --- readable errors ---

_SECTIONS: dict[str, type[BaseModel]] = {
    "data": Data, "dense": Dense, "prune": Prune, "retrain": Retrain, "replicates": Replicates, "report": Report,
    "cluster": Cluster, "pilot": Pilot, "evaluate": Evaluate, "preset": StudyPreset, "task": TaskSpec,
}  # fmt: skip
_TAGGED: dict[str, type[BaseModel]] = {
    "schedule": ScheduleArm,
    "oracle": OracleArm,
    "tune": TuneArm,
    "sgd": SGD,
    "adamw": AdamW,
    "other": OptimizerRef,
}
_INNER: dict[str, type[BaseModel]] = {"grid": Grid, "guided": Guided}


def _readable(error: ValidationError, table: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for item in error.errors():
        cause = item.get("ctx", {}).get("error")
        if isinstance(cause, Problems):
            yield from cause.problems
            continue
        location = list(item["loc"])
        model: type[BaseModel] | None = _SECTIONS.get(str(location[0]), Study) if len(location) > 1 else Study
        # A tagged union puts its tag into the location; users do not write it.
        if len(location) > 2 and (location[0] == "arms" or location[:2] == ["retrain", "optimizer"]):
            model = _TAGGED.get(str(location.pop(2)))
        if location[:1] == ["arms"] and len(location) > 3 and location[2] in _INNER:
            model = _INNER[str(location[2])]
        if location[:2] == ["task", "score"]:  # a name or a table: the kind is no key
            del location[2:3]
        yield ".".join(map(str, location)), _sentence(item, cause, model)


def _sentence(item: Any, cause: Exception | None, model: type[BaseModel] | None) -> str:
    kind, value = item["type"], item.get("input")
    if cause is not None:
        return str(cause)
    if kind == "extra_forbidden":
        fields = sorted(model.model_fields) if model else []
        return f"unknown key; {choose(str(item['loc'][-1]), fields)}" if fields else "unknown key"
    if kind == "missing":
        return "missing; the study must give it"
    if kind == "union_tag_invalid":
        context = item["ctx"]
        return unknown(context["discriminator"].strip("'"), context["tag"], _words(context["expected_tags"]))
    if kind == "union_tag_not_found":
        return f"missing {item['ctx']['discriminator']}; every such table names it"
    if kind == "literal_error":
        return f"unknown value {_cut(repr(value))}; {choose(str(value), _words(item['ctx']['expected']))}"
    said = re.sub(r"valid (tuple|list)", "list", f"{item['msg'][0].lower()}{item['msg'][1:]}")
    said = re.sub(r"valid dictionary( or (instance of \w+|object to extract fields from))?", "table", said)
    return f"{said}, got {_cut(repr(value))}"


def _cut(text: str) -> str:
    return text if len(text) <= 100 else f"{text[:99]}…"


def _words(expected: str) -> list[str]:
    return re.findall(r"'([^']*)'", expected)
