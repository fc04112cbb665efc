"""Trials that other runs have committed, taken into a run and not trained there. Nothing is written to those runs."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from silo_tune.errors import BadInput
from silo_tune.planner.unit import RECIPE
from silo_tune.store.run_folder import Run, changed_functions, same_data
from silo_tune.store.storage import Corrupt, unseal
from silo_tune.store.unit_store import REWIND, require_unit, restate_number
from silo_tune.study.model import Study
from silo_tune.study.places import absolute


class Reuse:
    """Other runs, and the run that takes their trials.

    Args:
        run: the run that takes.
        urls: run folders or URLs that were asked for; those that the run took from before are known to it.
        study: of the run that takes.

    Attributes:
        urls: of all that it takes from.
        taken: URL → number of trials that were taken from there in this session.

    Raises:
        BadInput: there is no run at one of these places, or its numbers are not those that this study would train.
    """

    def __init__(self, run: Run, urls: Sequence[str], study: Study) -> None:
        self.run = run
        recorded = run.recorded()
        before = [] if recorded is None else recorded[1].get("reuse", [])
        asked = [_placed(url) for url in urls]
        self._runs = [_fitting(Run(url), run, study) for url in dict.fromkeys(asked)]
        for url in dict.fromkeys(before):
            if url not in asked:
                try:
                    self._runs.append(_fitting(Run(url), run, study))
                except BadInput as error:  # what was taken is here; a run of the past may go
                    run.notice(f"nothing more is reused: {error}")
        self.urls = list(dict.fromkeys([*before, *asked]))
        self.taken: Counter[str] = Counter()

    def __bool__(self) -> bool:
        return bool(self._runs)

    def check_data(self, facts: Mapping[str, Any], sources: Mapping[str, str]) -> None:
        """Hold the other runs to the data of this one, and tell of functions that changed since.

        Args:
            facts: as of `Run.check_data`.
            sources: as of `Run.check_functions`.

        Raises:
            BadInput: another run was trained on other data.
        """
        for other in self._runs:
            known = _read(other, "data.json")
            if known is None or not same_data(known, facts):
                raise BadInput(
                    f"--reuse {other.url}: it was trained on other data (content "
                    f"{'not known' if known is None else known['content'][:12] + '…'}, here "
                    f"{facts['content'][:12]}…); leave it out"
                )
            for key in changed_functions(_read(other, "functions.json") or {}, sources):
                self.run.notice(
                    f"{key}: the file of this function is not the one that {other.url} was trained with, and its "
                    f"version is; where it gives other numbers now, raise its version"
                )

    def find(self, key: str) -> tuple[Run, dict[str, Any]] | None:
        """A run that has committed this trial, and its result there. Copies nothing."""
        name = f"{self.run.units.folder(key)}/result.json"
        for other in self._runs:
            result = _read(other, name)
            if result is not None:
                try:
                    require_unit(result, key)
                except Corrupt:
                    continue
                return other, result
        return None

    def take(self, key: str) -> dict[str, Any] | None:
        """Take a trial with its files, as far as they are there; its result, or None where no run has it.

        Weights that are gone are trained again where they are needed, as in every run.
        """
        found = self.find(key)
        if found is None:
            return None
        other, result = found
        self._take_files(other, result)
        self.taken[other.url] += 1
        return self.run.units.commit(result)

    def _take_files(self, other: Run, result: Mapping[str, Any]) -> None:
        folder = self.run.units.folder(result["key"])
        names = other.storage.names(folder)
        for name in names:
            rewind = REWIND.fullmatch(name)
            if rewind is not None:
                self._copy(other, f"{folder}/{name}", rewind[1])
        if (examples := result.get("examples")) is not None:
            self._copy(other, f"{folder}/{examples['file']}", examples["sha256"])
        restated = [
            _read(other, f"{folder}/{name}") for name in sorted(filter(restate_number, names), key=restate_number)
        ]
        for claim in (result, *filter(None, restated)):
            try:
                require_unit(claim, result["key"])
            except Corrupt:
                continue
            state = claim["state"]
            if state is not None and self._copy(other, f"{folder}/{state['file']}", state["sha256"]):
                if claim is not result:
                    self.run.units.restate(claim)
                return

    def _copy(self, other: Run, name: str, digest: str) -> bool:
        """Take a file whose content begins with this checksum; False where it is gone or damaged."""
        try:
            data = other.storage.read(name)
        except FileNotFoundError:
            return False
        if not hashlib.sha256(data).hexdigest().startswith(digest):
            return False
        self.run.storage.adopt(name, other.storage, data)
        return True


class Foreseen:
    """A journal that goes as far as a run gets by what others have trained. It copies and writes nothing.

    Attributes:
        run, reuse: the run, and the others.
        found: URL → keys that are there and not in the run.
    """

    def __init__(self, run: Run, reuse: Reuse) -> None:
        self.run, self.reuse = run, reuse
        self._decided: dict[tuple[Any, ...], str] = {}
        self.found: dict[str, set[str]] = {}

    def decision(self, arm: str, seed: int, cycle: int, number: int, trial: int | None = None) -> dict[str, Any] | None:
        text = self._decided.get((arm, seed, cycle, number, trial))
        return self.run.decision(arm, seed, cycle, number, trial) if text is None else json.loads(text)

    def decide(self, body: Mapping[str, Any]) -> dict[str, Any]:
        where = (body["arm"], body["seed"], body["cycle"], body["round"], body.get("trial"))
        return self.decision(*where) or self._keep(where, body)

    def search_round(self, arm: str, number: int) -> dict[str, Any] | None:
        text = self._decided.get((arm, number))
        return self.run.search_round(arm, number) if text is None else json.loads(text)

    def decide_search(self, body: Mapping[str, Any]) -> dict[str, Any]:
        where = (body["arm"], body["round"])
        return self.search_round(*where) or self._keep(where, body)

    def look(self, number: int) -> dict[str, Any] | None:
        return self.run.look(number)

    def _keep(self, where: tuple[Any, ...], body: Mapping[str, Any]) -> dict[str, Any]:
        self._decided[where] = json.dumps(body)
        return dict(body)

    def result(self, key: str) -> dict[str, Any] | None:
        own = self.run.result(key)
        found = self.reuse.find(key) if own is None else None
        if found is None:
            return own
        self.found.setdefault(found[0].url, set()).add(key)
        return found[1]

    def sweep(self, key: str) -> None:
        """Nothing goes."""


def _placed(url: str) -> str:
    """The place by a name that holds wherever the run is resumed."""
    return absolute(url).rstrip("/")


def _fitting(other: Run, run: Run, study: Study) -> Run:
    """The other run, where what it trained is what this study would train. Raises BadInput."""
    if other.url == _placed(run.url):
        raise BadInput(f"--reuse {other.url}: it is the run itself, which resumes by itself; leave --reuse out")
    recorded = other.recorded()
    if recorded is None:
        raise BadInput(f"--reuse {other.url}: no run is there (it has no study.toml)")
    theirs, ledger = recorded
    if other.is_record(theirs):
        raise BadInput(f"--reuse {other.url}: it is a record, which has rows and no trials; name the run itself")
    if ledger["recipe"] != RECIPE:
        raise BadInput(
            f"--reuse {other.url}: it was made with recipe {ledger['recipe']}, this version has {RECIPE}: their "
            f"numbers do not mix; leave it out"
        )
    threads = (theirs.cluster.cpus_per_unit, study.cluster.cpus_per_unit)
    if threads[0] != threads[1]:
        raise BadInput(
            f"--reuse {other.url}: cluster.cpus_per_unit is {threads[0]} there and {threads[1]} here, which changes "
            f"numbers; set it to {threads[0]}, or leave --reuse out"
        )
    return other


def _read(other: Run, name: str) -> dict[str, Any] | None:
    """A sealed file of another run; None where it is not there or damaged: it stays as it is."""
    try:
        return unseal(other.storage.read(name))
    except (FileNotFoundError, Corrupt):
        return None
