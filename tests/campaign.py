"""Attacks on runs: nothing may ever be wrong in silence.

python tests/campaign.py --mutations 1000 --kills 300 --signals 60 --seed 1

Kills drivers at random moments, damages every kind of file of a run, and sends signals at every phase; then the same
command runs again, until it ends. One line per attack goes to --log, a table of verdicts comes at the end, and the exit
code is 1 if an attack failed. A log that is there already is continued: its attacks are not made again. A seed decides
everything but how fast the machine is.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

# The processes of drivers import this file when it is a command: what is heavy waits inside its functions.
if TYPE_CHECKING:
    from tests.attacks import Attack


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutations", type=int, default=0, help="files damaged")
    parser.add_argument("--kills", type=int, default=0, help="runs whose driver is killed, one to three times each")
    parser.add_argument("--signals", type=int, default=0, help="runs that get a signal at a random event")
    parser.add_argument("--processes", type=int, default=0, help="whole processes that get a signal at a random moment")
    parser.add_argument("--ray", type=int, default=0, help="the same on Ray, and kills of its workers")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no attack after so long")
    parser.add_argument("--log", type=Path, default=Path("campaign.jsonl"))
    parser.add_argument("--only", type=int, nargs="*", help="numbers of the attacks to make (again)")
    asked = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="campaign-", ignore_cleanup_errors=True) as place:
        os.environ["SILO_TUNE_CACHE"] = f"{place}/cache"
        attacks = campaign(Path(place), asked)
    for line in summary(attacks):
        print(line)
    return 0 if all(attack.good for attack in attacks) else 1


def campaign(place: Path, asked: argparse.Namespace) -> list[Attack]:
    """Make the attacks that are asked for and not yet in the log; returns all that are asked for and made."""
    known = {(a.attack, a.seed, a.number): a for a in logged(asked.log)}
    until = time.monotonic() + asked.seconds
    attacks: list[Attack] = []
    for attack, count, make in kinds(place, asked):
        for number in range(count) if asked.only is None else [n for n in asked.only if n < count]:
            done = known.get((attack, asked.seed, number)) if asked.only is None else None
            if done is None and time.monotonic() > until:
                break
            attacks.append(done or _made(make, number, asked))
    return attacks


Make = Callable[[int], "Attack"]


def kinds(place: Path, asked: argparse.Namespace) -> Iterator[tuple[str, int, Make]]:
    """Name, number and maker of every kind of attack that is asked for."""
    from tests.attacks import Site, interrupt, kill, mutate, process, quick, start

    with quick():
        site, seed = Site(place), asked.seed
        bases = {name: site.base(name) for name in ("finished", "half")}
        yield "mutation", asked.mutations, lambda number: mutate(site, bases, number, seed)
        yield "kill", asked.kills, lambda number: kill(site, number, seed)
        yield "signal", asked.signals, lambda number: interrupt(site, number, seed)
        for name, count, ray in (("process", asked.processes, False), ("ray", asked.ray, True)):
            if count:
                began = time.monotonic()
                start(site, site.folder / f"whole-{name}", ray).communicate()
                whole = time.monotonic() - began
                yield name, count, partial(process, site, seed=seed, ray=ray, whole=whole)


def _made(make: Make, number: int, asked: argparse.Namespace) -> Attack:
    began = time.monotonic()
    attack = make(number)
    attack.seconds = round(time.monotonic() - began, 2)
    with open(asked.log, "a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(attack)) + "\n")
    if not attack.good:
        print(f"{attack.verdict} {attack.attack} {number}: {attack.base} {attack.file} {attack.how} {attack.what} "
              f"{attack.by} {attack.said!r}".encode(errors="backslashreplace").decode(), flush=True)  # fmt: skip
    return attack


def logged(file: Path) -> list[Attack]:
    from tests.attacks import Attack

    if not file.exists():
        return []
    return [Attack(**json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines()]


def summary(attacks: list[Attack]) -> list[str]:
    """A table of verdicts by kind, and why what was harmless is."""
    from tests.attacks import WORST

    lines: list[str] = []
    for title, name in (("kind of file", "kind"), ("change", "how")):
        counts = Counter((getattr(attack, name) or attack.attack, attack.verdict) for attack in attacks)
        names = sorted({name for name, _ in counts})
        columns = [verdict for verdict in WORST if any(counts[name, verdict] for name in names)]
        width = max(map(len, [title, *names]))
        lines += ["", " ".join([f"{title:<{width}}", *(f"{column:>9}" for column in columns)])]
        lines += [" ".join([f"{n:<{width}}", *(f"{counts[n, c] or '':>9}" for c in columns)]) for n in names]
    rules = Counter(attack.rule for attack in attacks if attack.rule)
    lines += ["", "harmless, because", *(f"{count:>5}  {rule}" for rule, count in rules.most_common())]
    bad = sum(not attack.good for attack in attacks)
    return [*lines, "", f"{len(attacks)} attacks, {bad} failed"]


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parent.parent)  # what `python -m pytest` finds by itself
    sys.exit(main())
