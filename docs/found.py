"""The table "What was found": one row for each record with a report, from the answers of that report.

python docs/found.py        # prints it as README.md has it; a test holds README.md to it
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from silo_tune import load_study
from silo_tune.formats import DASH, MINUS, difference, points, telling
from silo_tune.study.model import Study
from silo_tune.study.wording import words_of

ROOT = Path(__file__).parent.parent
RECORDS = ROOT / "experiments" / "records"
HEAD = (
    "record", "network, data", "after a prune", "prunes, seeds", "inside the Oracle's interval?", "chain gap",
    "of it rates", "SILO minus …", "does the S matter?",
)  # fmt: skip
AFTER = {"keep": "weights kept", "rewind": "weights rewound", "reinit": "weights drawn anew"}


def table(base: str = "experiments/records") -> str:
    """The table as Markdown, each row linking to its record under `base`; without links where that is empty."""
    rows = [HEAD, ["---"] * len(HEAD), *(row(file.parent.parent, base) for file in answered())]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in rows)


def answered() -> list[Path]:
    """answers.json of every record whose study has an Oracle and a report, oldest record first."""
    files = sorted(RECORDS.glob("*/report/answers.json"))
    studies = {file: load_study(file.parent.parent / "study.toml") for file in files}
    return [file for file, study in studies.items() if any(arm.mode == "oracle" for arm in study.arms.values())]


def row(record: Path, base: str = "") -> tuple[str, ...]:
    """The cells of one record."""
    study = load_study(record / "study.toml")
    told = json.loads((record / "report" / "answers.json").read_text(encoding="utf-8"))["answers"]
    answers = {answer["id"]: answer for answer in told["answers"]}
    with telling(words_of(study)):
        return (
            f"[{record.name}]({base}/{record.name}/README.md)" if base else f"`{record.name}`",
            f"{study.model.title}, {_data(study)}",
            AFTER[after_prune(study)],
            f"{study.cycles - 1}, {len(told['seeds'])}",
            answers["inside"]["verdict"] or DASH,
            _named(answers["loses-and-saves"], "Chain gap (primary endpoint)"),
            _named(answers["loses-and-saves"], "Chain gap without luck"),
            "; ".join(_controls(answers["baselines"], told["schedule"])) or DASH,
            answers["shape"]["verdict"] or DASH,
        )


def _data(study: Study) -> str:
    """A data set by its name; the one that a path names where no variable says otherwise; the stem of a file's name."""
    path = study.data.path or ""
    given = re.fullmatch(r"\$\{\w+:-(.+)\}", path)
    if study.data.name in ("table", "text"):
        return Path(path).name.partition(".")[0]
    return given[1] if study.data.name == "huggingface" and given else study.data.name or study.data.title


def after_prune(study: Study) -> str:
    arm = study.arms.get(study.report.schedule)
    return study.prune.after_prune if arm is None else study.settings(arm).after_prune


def _named(answer: dict[str, Any], name: str) -> str:
    return next((_with_ends(number) for number in answer["numbers"] if number["name"].startswith(name)), DASH)


def _controls(answer: dict[str, Any], schedule: str) -> Iterator[str]:
    for number in answer["numbers"]:
        arm = number["name"].removeprefix(f"{schedule} {MINUS} ").removesuffix(" (p after Holm)")
        yield f"{arm} {_with_ends(number)}"


def _with_ends(number: dict[str, Any]) -> str:
    return f"{difference(number['value'])} ({points(number['low'])} to {points(number['high'])})"


if __name__ == "__main__":
    print(table())
