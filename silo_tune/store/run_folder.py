"""A run on disk: its study, its lease, the decisions of its chains, and its units.

Correctness rests on exclusive files: a unit's result and a chain's decision are each created once, whole, and the first
writer wins. The lease only saves the work that two drivers of one run would do twice.
"""

from __future__ import annotations

import hashlib
import json
import time
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

import tomli_w

from silo_tune.errors import BadInput, StudyError
from silo_tune.machine import VERSION
from silo_tune.planner.unit import RECIPE
from silo_tune.store.bodies import (
    Decision,
    Facts,
    Importance,
    LookFile,
    Round,
    complete,
    of_kind,
    of_place,
    settled,
    shaped,
    texts,
    won,
)
from silo_tune.store.lease import Lease
from silo_tune.store.storage import Corrupt, Storage, seal
from silo_tune.store.unit_store import Notice, UnitStore, silent
from silo_tune.study.arms import OracleArm, TuneArm
from silo_tune.study.data import Data
from silo_tune.study.model import Study
from silo_tune.study.places import expand
from silo_tune.study.study_file import parse_study

# Version 2 has the names of `planner.outcome`; runs of the first are read, and written on by these.
FORMAT = 2

TABLE = "table.parquet"
# What RUN/data.json counts in data whose content it names.
COUNTED = ("classes", "shape", "n_train", "n_val", "n_test")
# What the looks of a study of seeds until decided rest on.
_LOOKED_AT = (("replicates", "until"), ("replicates", "looks"), ("report", "tolerance"), ("report", "schedule"))


class Run:
    """One run folder.

    Args:
        url: local path or fsspec URL.
        notice: told of corrupt files and accepted changes.
    """

    def __init__(self, url: str, notice: Notice = silent) -> None:
        self.url = expand(url, "run")
        self.storage = Storage(self.url)
        self.notice = notice
        self.units = UnitStore(self.storage, notice)

    # --- decisions ---

    @staticmethod
    def chain_folder(arm: str, seed: int, trial: int | None = None) -> str:
        """Name of the folder of one chain's decisions."""
        return f"chains/{arm}/seed-{seed}" + ("" if trial is None else f"/trial-{trial}")

    @staticmethod
    def decision_name(arm: str, seed: int, cycle: int, number: int, trial: int | None = None) -> str:
        """Name of the file of one closed round."""
        return f"{Run.chain_folder(arm, seed, trial)}/cycle-{cycle:03d}-round-{number}.json"

    def decision(self, arm: str, seed: int, cycle: int, number: int, trial: int | None = None) -> dict[str, Any] | None:
        """The decision of a round, or None while it is open. A corrupt one is moved aside and derived again."""
        name = self.decision_name(arm, seed, cycle, number, trial)
        place = {"arm": arm, "seed": seed, "cycle": cycle, "round": number, "trial": trial}

        def check(body: Mapping[str, Any]) -> None:
            of_place(place, body)
            shaped(Decision, body)
            complete(body)
            earlier = [self.decision(arm, seed, cycle, before, trial) for before in range(1, number)]
            won([*(found for found in earlier if found is not None), body], whole=None not in earlier)

        return self.units._sealed(name, "the decision is derived again from its trials", check)

    def decide(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Write a round's decision once; returns the one that stands."""
        where = (body["arm"], body["seed"], body["cycle"], body["round"], body.get("trial"))
        shaped(Decision, body)  # else it would be derived again at every start
        complete(body)
        try:
            self.storage.create(self.decision_name(*where), seal(body))
        except FileExistsError:
            return self.decision(*where) or self.decide(body)
        return dict(body)

    @staticmethod
    def search_name(arm: str, number: int) -> str:
        """Name of the file of one closed round of a search over whole chains."""
        return f"chains/{arm}/search/round-{number:03d}.json"

    def search_round(self, arm: str, number: int) -> dict[str, Any] | None:
        """A closed round of a search, or None while it is open."""

        def check(body: Mapping[str, Any]) -> None:
            of_place({"arm": arm, "round": number}, body)
            shaped(Round, body)
            settled(body, number)
            for point in body["points"]:
                begun = self.decision(arm, body["seeds"][0], 0, 1, point["trial"])
                if begun is not None and begun.get("params") != point["params"]:
                    raise Corrupt(f"point {point['trial']} has other params than its chain")

        return self.units._sealed(self.search_name(arm, number), "the round is derived again from its chains", check)

    def decide_search(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Write a search's round once; returns the one that stands."""
        where = (body["arm"], body["round"])
        shaped(Round, body)
        try:
            self.storage.create(self.search_name(*where), seal(body))
        except FileExistsError:
            return self.search_round(*where) or self.decide_search(body)
        return dict(body)

    def write_importance(self, arm: str, points: int, shares: Mapping[str, float]) -> None:
        """Keep what each parameter of a search is worth over its points so far, for the report."""
        self.storage.replace(f"chains/{arm}/search/importance.json", seal({"points": points, "shares": shares}))

    def importance(self, arm: str, points: int) -> dict[str, float] | None:
        """What `write_importance` kept for that many points, or None."""
        kept = self.units._sealed(
            f"chains/{arm}/search/importance.json", "it is made again at the next start", of_kind(Importance)
        )
        return None if kept is None or kept["points"] != points else dict(kept["shares"])

    # --- looks ---

    @staticmethod
    def look_name(number: int) -> str:
        """Name of the file of one look."""
        return f"looks/look-{number}.json"

    def look(self, number: int) -> dict[str, Any] | None:
        """What a look decided, or None before it was made. A corrupt one is moved aside and derived again."""

        def check(body: Mapping[str, Any]) -> None:
            shaped(LookFile, body)
            of_place({"look": number}, body)

        return self.units._sealed(self.look_name(number), "the look is derived again from its rows", check)

    def decide_look(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Write a look once; returns the one that stands."""
        try:
            self.storage.create(self.look_name(body["look"]), seal(body))
        except FileExistsError:
            return self.look(body["look"]) or self.decide_look(body)
        return dict(body)

    @property
    def looked(self) -> bool:
        """Was a look made? Then what it rests on is decided."""
        return self.storage.exists(self.look_name(1))

    # --- units ---

    def result(self, key: str) -> dict[str, Any] | None:
        """See `UnitStore.result`."""
        return self.units.result(key)

    def sweep(self, key: str) -> None:
        """See `UnitStore.sweep`."""
        self.units.sweep(key)

    # --- the study ---

    def recorded(self) -> tuple[Study, dict[str, Any]] | None:
        """The study of RUN/study.toml and its ledger (recipe, created, environment, changes); None for a new run.

        Raises:
            BadInput: the file is not as this project writes it.
        """
        try:
            table = tomllib.loads(self.storage.read("study.toml").decode())
            if not table:
                raise ValueError("it is empty")
            if not {"study", "run"} & set(table):
                raise BadInput(
                    f"{self.storage.shown('study.toml')} is a study and not the record of a run; name a run folder, as "
                    f"runs/NAME"
                )
            ledger = table["run"]
            if isinstance(ledger.get("format"), int) and ledger["format"] > FORMAT:  # nothing else of it is known here
                raise BadInput(
                    f"{self.url} was written by a newer silo-tune ({_writer(ledger)}, format {ledger['format']}; this "
                    f"one reads {FORMAT}); update"
                )
            claimed = ledger.pop("sha256", None)  # runs of earlier versions have none
            if claimed not in (None, _digest(table)):
                raise ValueError("its checksum does not match its content")
            study = _known(table["study"], ledger, self.storage.shown("study.toml"), sealed=claimed is not None)
            if not {"format", "recipe", "created", "environment"} <= set(ledger):
                raise ValueError("its [run] table is not whole")
            if not isinstance(ledger["format"], int) or not isinstance(ledger["environment"], dict):
                raise ValueError("its [run] table has a format that is no number, or an environment that is no table")
            return study, ledger
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, StudyError) as error:
            raise BadInput(
                f"{self.storage.shown('study.toml')} is damaged ({error}); put back a copy. Of a run that has its "
                f"trials, you may also move it away and run the same study again: they are found by their keys"
            ) from None

    def study(self) -> Study:
        """The recorded study. Raises BadInput when there is none."""
        recorded = self.recorded()
        if recorded is None:
            raise BadInput(f"no run at {self.url!r} (it has no study.toml); `silo-tune run STUDY.toml` makes one")
        return recorded[0]

    def tests_from(self, study: Study) -> dict[str, dict[str, int]]:
        """For each Oracle, the first cycle at which an arm that was added later is among its tests.

        An arm counts from the first cycle that no seed of that Oracle has closed.
        """
        recorded = self.recorded()
        if recorded is None or not self.started(recorded[0]):
            return {}
        before, ledger = recorded
        since = {oracle: dict(tests) for oracle, tests in ledger.get("tests_from", {}).items()}
        oracles = (n for n, arm in before.arms.items() if isinstance(arm, OracleArm))
        for oracle in (n for n in oracles if isinstance(study.arms.get(n), OracleArm)):
            for test in set(study.tests_of(oracle)) - set(before.tests_of(oracle)):
                since.setdefault(oracle, {})[test] = self.closed_cycles(oracle, before)
        return since

    def resumed(self, study: Study) -> Study:
        """The study as this run resumes it: with the arms and seeds that it has begun and this study leaves out.

        An arm or a seed that has closed no cycle may be left out; what has begun stays, and is trained to its end.

        Raises:
            BadInput: as `check`.
        """
        recorded = self.recorded()
        if recorded is None or not self.started(recorded[0]):
            self.check(study)
            return study
        before = recorded[0]
        arms = [name for name in before.arms if name not in study.arms and self._begun_arm(name, before)]
        asked = study.replicates.seeds
        seeds = [seed for seed in before.replicates.seeds if seed not in asked and self._begun_seed(seed, before)]
        if not arms and not seeds:
            self.check(study)
            return study
        whole = _with_begun(study, before, arms, seeds)
        self.check(whole)
        parts = [("arm", arms), ("seed", [str(seed) for seed in seeds])]
        also = " and ".join(f"{kind}{'s' * (len(names) > 1)} {', '.join(names)}" for kind, names in parts if names)
        self.notice(
            f"{self.url} has {also}, which this study leaves out: what a run has begun stays and is trained to its "
            f"end; to leave it out, choose another --out"
        )
        return parse_study(whole.model_dump(mode="json", exclude_none=True), recorded=True)

    def _begun_arm(self, name: str, study: Study) -> bool:
        return self.searched(name, study) or self.closed_cycles(name, study) > 0

    def _begun_seed(self, seed: int, study: Study) -> bool:
        return any(self._begun_chain(arm, seed) for arm in study.arms)

    def check(self, study: Study) -> list[str]:
        """Keys that differ from the recorded study, all of them additive.

        Raises:
            BadInput: the run was made with another recipe, a change is not additive (the keys are named), or a record
                is there.
        """
        recorded = self.recorded()
        if recorded is not None and self.is_record(recorded[0]):
            raise BadInput(
                f"{self.url} is a record: it has rows and no trials to resume from; choose another --out (or remove "
                f"{self.storage.shown(TABLE)}, to begin anew there)"
            )
        if recorded is None or not self.started(recorded[0]):
            return []
        before, ledger = recorded
        if ledger["recipe"] != RECIPE:
            raise BadInput(
                f"{self.url} was made with recipe {ledger['recipe']}, this version has {RECIPE}: their numbers do not "
                f"mix; choose another --out, or resume with the version that made it "
                f"({ledger['environment'].get('silo-tune')})"
            )
        return self._additive_changes(before, study)

    def accept(
        self,
        study: Study,
        environment: Mapping[str, str],
        reuse: Sequence[str] = (),
        published: Sequence[Mapping[str, Any]] = (),
    ) -> dict[str, dict[str, int]]:
        """Record the study of a new run, or accept additive changes to an existing one; returns `tests_from`.

        Args:
            study: as the run trains it from now on.
            environment: versions and machine of a new run.
            reuse: URLs of the runs whose trials it takes, those of earlier sessions included; a resumed run finds them.
            published: numbers that its report shows beside its own (`silo_tune.study.published`).

        Raises:
            BadInput: the run was made with another recipe, or the change is not additive; the keys are named.
        """
        recorded = self.recorded()
        now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        if recorded is None or not self.started(recorded[0]):
            self.check(study)  # a record is never written over
            others: dict[str, Any] = {"reuse": list(reuse)} if reuse else {}
            others |= {"published": list(published)} if published else {}
            self.write_study(
                study, {"format": FORMAT, "recipe": RECIPE, "created": now, "environment": environment, **others}
            )
            return {}
        ledger = recorded[1]
        changed, since = self.check(study), self.tests_from(study)
        kept = {"reuse": list(reuse) or ledger.get("reuse", []), "published": list(published), "format": FORMAT}
        if any(ledger.get(name, []) != found for name, found in kept.items()):
            ledger |= kept
            if not changed:
                self.write_study(recorded[0], ledger)
        if changed:
            self.notice(f"accepted changes to {self.url}: {', '.join(changed)}")
            ledger["changes"] = [*ledger.get("changes", []), {"at": now, "keys": changed}]
            ledger["tests_from"] = since
            self.write_study(study, ledger)
        return since

    def started(self, study: Study) -> bool:
        """Has any chain closed a cycle? Until then nothing is decided, and any change is welcome."""
        seeds = study.replicates.seeds
        closed = any(self._begun_chain(arm, seed) for arm in study.arms for seed in seeds)
        return closed or any(self.searched(arm, study) for arm in study.arms)

    def is_record(self, study: Study) -> bool:
        """Are there rows, and neither decisions nor trials that they could be derived from?"""
        return self.storage.exists(TABLE) and not self.started(study) and not self.storage.names("units")

    def searched(self, arm: str, study: Study) -> bool:
        """Has any trial of this arm's search closed a cycle?"""
        return any(self._begun_chain(arm, seed, 0) for seed in study.search_seeds(arm))

    def _begun_chain(self, arm: str, seed: int, trial: int | None = None) -> bool:
        """Has a chain closed a cycle? Any decision tells: the first may be lost."""
        names = self.storage.names(self.chain_folder(arm, seed, trial))
        return any(name.startswith("cycle-") and name.endswith(".json") for name in names)

    def closed_cycles(self, arm: str, study: Study) -> int:
        """Number of cycles that at least one seed of this arm has closed."""
        closed = 0
        for seed in study.replicates.seeds:
            while self.storage.exists(self.decision_name(arm, seed, closed, 1)):
                closed += 1
        return closed

    def _additive_changes(self, before: Study, after: Study) -> list[str]:
        old, new = (_flat(study.model_dump(mode="json", exclude_none=True)) for study in (before, after))
        changed = sorted(path for path in {*old, *new} if old.get(path) != new.get(path))
        refused = [path for path in changed if not self._is_additive(path, before, after)]
        if refused:
            one = len(refused) == 1
            lines = [
                f"{'.'.join(path)}: was {old.get(path, 'not set')!r}, now {new.get(path, 'not set')!r}"
                for path in refused
            ]
            raise BadInput(
                "\n".join(lines) + f"\n{self.url} was decided with the earlier value{'' if one else 's'}; put "
                f"{'it' if one else 'them'} back, or choose another --out (there --reuse {self.url} takes its trials)"
            )
        return [".".join(path) for path in changed]

    def _is_additive(self, path: tuple[str, ...], before: Study, after: Study) -> bool:
        if path[0] == "cluster":
            return path[1] != "cpus_per_unit"
        if (path in _LOOKED_AT or path == ("cycles",)) and self.looked:
            return False
        if path in _LOOKED_AT:
            return True
        if path == ("model", "name") and before.model.resolved() == after.model.resolved():
            return True  # the same folder elsewhere
        if path[0] == "report" or (path[0] == "data" and path[1] in Data.PLACE):
            return True
        if path == ("prune", "targets"):
            old, new = before.prune.targets, after.prune.targets
            used = before.cycles - 1
            return old is not None and new is not None and old[:used] == new[:used]
        if path[0] == "pilot":
            return not any(self.searched(arm, before) for arm in before.arms if before.pilots(arm))
        if path == ("cycles",):
            if any(self.searched(arm, before) for arm in before.arms):
                return False  # the search was over these very cycles
            return after.cycles >= max(self.closed_cycles(arm, before) for arm in before.arms)
        if path == ("replicates", "seeds"):
            searched = [arm for arm in before.arms if arm in after.arms and self.searched(arm, before)]
            if any(before.search_seeds(arm) != after.search_seeds(arm) for arm in searched):
                return False  # a tune arm without seeds of its own has begun with these
            if self.looked:  # the order decided which of them were looked at
                return after.replicates.seeds[: len(before.replicates.seeds)] == before.replicates.seeds
            gone = set(before.replicates.seeds) - set(after.replicates.seeds)
            return not any(self._begun_seed(seed, before) for seed in gone)
        return path[0] == "arms" and self._is_additive_arm(path[1], path[2:], before, after)

    def _is_additive_arm(self, name: str, field: tuple[str, ...], before: Study, after: Study) -> bool:
        if name not in before.arms:
            return True
        if field == ("preset",):  # a label
            return True
        if self.searched(name, before):
            return self._is_additive_search(name, field, before, after)
        if self.closed_cycles(name, before) == 0:
            return True
        old, new = before.arms[name], after.arms.get(name)
        if not (isinstance(old, OracleArm) and isinstance(new, OracleArm)):
            return False
        if field == ("tests",):
            return set(before.tests_of(name)) <= set(after.tests_of(name))
        # Cycle 0 is the shared dense one unless the arm has its own.
        return field[0] in ("grid", "guided", "retrain_winner") and self.closed_cycles(name, before) <= (
            0 if old.own_dense else 1
        )

    def _is_additive_search(self, name: str, field: tuple[str, ...], before: Study, after: Study) -> bool:
        old, new = before.arms[name], after.arms.get(name)
        if not (isinstance(old, TuneArm) and isinstance(new, TuneArm)):
            return False
        if field == ("seeds",):  # they may be written down, or left out again
            return before.search_seeds(name) == after.search_seeds(name)
        return field == ("trials",) and new.trials >= old.trials  # later rounds follow the closed ones

    def write_study(self, study: Study, ledger: Mapping[str, Any]) -> None:
        """Write RUN/study.toml as it is, without asking what was decided."""
        table = {"study": study.model_dump(mode="json", exclude_none=True), "run": ledger}
        sealed = {**table, "run": {"sha256": _digest(table), **ledger}}
        self.storage.replace("study.toml", tomli_w.dumps(sealed).encode())

    # --- the data ---

    def check_data(self, facts: Mapping[str, Any]) -> None:
        """Write the data's content hash at first use, and hold later starts to it.

        Args:
            facts: {"content": sha256, "streamed": …, "listing": …, "classes": …, "n_train": …, …} of the data.

        Raises:
            BadInput: the data is not what the run began with.
        """
        known = self.units._sealed("data.json", "it is written anew", of_kind(Facts))
        recorded = self.recorded()
        if known is None or recorded is None or not self.started(recorded[0]):
            self.storage.replace("data.json", seal(facts))
        elif not same_data(known, facts):
            raise BadInput(
                f"the data changed under {self.url}: it began with {_named(known)}…, now it is "
                f"{_named(facts)}…; put the data back, or choose another --out (a damaged decoded copy counts "
                f"as a change too: remove the folder that SILO_TUNE_CACHE names, ~/.cache/silo-tune if it names none)"
            )
        elif wrong := [name for name in COUNTED if name in known and known[name] != facts.get(name)]:
            self.notice(f"{self.storage.shown('data.json')} was wrong about {', '.join(wrong)}; it is written anew")
            self.storage.replace("data.json", seal(facts))

    def _known_functions(self) -> dict[str, str]:
        return self.units._sealed("functions.json", "it is written anew", texts) or {}

    def check_functions(self, sources: Mapping[str, str]) -> None:
        """Tell of a user's function whose file changed while its version did not. Writes nothing.

        Args:
            sources: key of the study → sha256 of the file; see `registry.sources`.
        """
        for key in changed_functions(self._known_functions(), sources):
            self.notice(
                f"{key}: the file of this function changed since the run began, and its version did not; trials "
                f"that are done stay as they are: where it gives other numbers now, raise its version in a new run"
            )

    def record_functions(self, sources: Mapping[str, str]) -> None:
        """Keep the files of the user's functions, as `check_functions` compares them."""
        known = self._known_functions()
        if known != sources and sources:
            self.storage.replace("functions.json", seal({**known, **sources}))

    def data_facts(self) -> dict[str, Any] | None:
        """What is recorded of the data, or None before its first use."""
        return self.units._sealed("data.json", "a run that trains writes it anew", of_kind(Facts))

    def lease(self) -> Lease:
        """Hold the run for this driver; a context manager.

        Raises:
            RunFailed: another driver holds it.
            BadInput: the folder cannot be written.
        """
        return Lease(self.storage)


def _with_begun(study: Study, before: Study, arms: Sequence[str], seeds: Sequence[int]) -> Study:
    """A study with arms and seeds of an earlier one, in whose order all stay; not checked as a whole."""
    kept = {name: study.arms.get(name, arm) for name, arm in before.arms.items() if name in study.arms or name in arms}
    asked = study.replicates.seeds
    ordered = [seed for seed in before.replicates.seeds if seed in asked or seed in seeds]
    return study.model_copy(
        update={
            "arms": {**kept, **study.arms},
            "replicates": study.replicates.model_copy(update={"seeds": tuple(dict.fromkeys([*ordered, *asked]))}),
            "pilot": before.pilot if any(before.pilots(name) for name in arms) and study.pilot is None else study.pilot,
        }
    )


def changed_functions(known: Mapping[str, str], sources: Mapping[str, str]) -> list[str]:
    """Keys of the functions whose files are not those that were recorded."""
    return [key for key, source in sources.items() if known.get(key, source) != source]


def _named(facts: Mapping[str, Any]) -> str:
    sample = facts.get("sample")
    return f"content {facts['content'][:12]}" + (f", items {sample[:12]}" if sample else "")


def same_data(known: Mapping[str, Any], facts: Mapping[str, Any]) -> bool:
    """Is it the data that was recorded? Read in another way than then, its files speak for its pixels."""
    if known.get("streamed", False) == facts.get("streamed", False):
        # Runs of before it was looked at have no sample.
        return bool(known["content"] == facts["content"] and known.get("sample", s := facts.get("sample")) == s)
    return known.get("listing") is not None and known["listing"] == facts["listing"]


def _digest(table: Mapping[str, Any]) -> str:
    """sha256 of what a TOML table says, however it is written."""
    return hashlib.sha256(json.dumps(tomllib.loads(tomli_w.dumps(table)), sort_keys=True).encode()).hexdigest()


def _writer(ledger: Mapping[str, Any]) -> str:
    """The version that began a run, as it tells itself."""
    environment = ledger.get("environment")
    return str(environment.get("silo-tune", "?")) if isinstance(environment, Mapping) else "?"


def _known(table: Mapping[str, Any], ledger: Mapping[str, Any], file: str, sealed: bool) -> Study:
    """The study that a run recorded.

    Raises:
        BadInput: another version wrote what this one does not know, as its checksum shows.
        StudyError: it is wrong otherwise.
    """
    try:
        return parse_study(table, recorded=True)
    except StudyError as error:
        if sealed and _writer(ledger) not in ("?", VERSION):
            raise BadInput(
                f"{file} was written by silo-tune {_writer(ledger)}, and this is {VERSION}, which does "
                f"not know all of it ({error}); resume with the version that wrote it"
            ) from None
        raise


def _flat(value: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Leaves of nested tables by their paths; an arm's name may hold a dot, so paths stay tuples."""
    if isinstance(value, dict) and value:
        return {leaf: item for name, part in value.items() for leaf, item in _flat(part, (*path, name)).items()}
    return {path: value}
