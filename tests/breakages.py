"""Deliberate breakages: one changed line for each contract, and the test that must fail with it.

python tests/breakages.py            # tries each in a copy of the project, some minutes; 1 2 3 tries these
python tests/breakages.py --table    # the table of docs/breakages.md
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
PARTS = ("silo_tune", "analysis", "tests", "experiments", "docs", "pyproject.toml", "README.md", "CONTRIBUTING.md")


@dataclass(frozen=True)
class Breakage:
    """One contract, and a change that breaks it.

    Attributes:
        contract: what always holds.
        change: what the breakage does, in words.
        file: below the root.
        old, new: the text that is changed, and what takes its place; `old` occurs once.
        test: the id of a test that fails with it.
    """

    contract: str
    change: str
    file: str
    old: str
    new: str
    test: str


BREAKAGES = (
    Breakage(
        "The best candidate on validation wins",
        "the worst candidate wins",
        "silo_tune/planner/winner.py",
        "best = min(again, key=",
        "best = max(again, key=",
        "tests/test_chains.py::test_the_winner_has_the_best_accuracy_then_loss_then_the_smaller_rate",
    ),
    Breakage(
        "What continues after `retrain_winner` was chosen by no score",
        "the first training that ended well continues",
        "silo_tune/planner/planner.py",
        'key = next((outcome["key"] for outcome in again if',
        'key = next((outcome["key"] for outcome in told if',
        "tests/test_best_of.py::test_the_winners_rate_is_trained_once_more_and_that_training_continues",
    ),
    Breakage(
        "Of trainings of one rate the best on validation continues",
        "the first one does, as among an Oracle's repeats",
        "silo_tune/planner/planner.py",
        "return (winner_of if oracle else best_training)(told), {}",
        "return winner_of(told), {}",
        "tests/test_best_of.py::test_best_of_trains_its_own_rate_so_often_and_the_best_on_validation_continues",
    ),
    Breakage(
        "A key holds every value that can change a unit's numbers",
        "the key forgets the seed",
        "silo_tune/planner/unit.py",
        "if default is MISSING or value != default}",
        'if name != "seed" and (default is MISSING or value != default)}',
        "tests/test_units.py::test_keys_differ_by_seed_repeat_cycle_parent_and_peak",
    ),
    Breakage(
        "Later seeds train what a look leaves to them",
        "they train the rates that it dropped",
        "silo_tune/planner/layout.py",
        'gone = look["dropped"].get(chain.arm, {}).get(str(cycle), ())',
        "gone: tuple[float, ...] = ()",
        "tests/test_until_decided.py::test_later_seeds_neither_train_dropped_rates_nor_search_decided_cycles",
    ),
    Breakage(
        "Looks together are wrong as rarely as one",
        "every look is made at the level of a single one",
        "analysis/silo_analysis/estimates/sequential.py",
        "found.append(float(special.ndtr(-bound / np.sqrt(time))))",
        "found.append(spent)",
        "tests/analysis/test_looks.py::test_brownian_motion_crosses_the_levels_as_often_as_is_spent",
    ),
    Breakage(
        "Masks only shrink",
        "pruned weights are among those that may stay",
        "silo_tune/pruning/masks.py",
        "rest = top(flat_scores, flat_alive & ~flat_guard, kept - int(flat_guard.sum()))",
        "rest = top(flat_scores, ~flat_guard, kept - int(flat_guard.sum()))",
        "tests/test_criteria.py::test_counts_are_exact_masks_only_shrink_and_no_layer_dies",
    ),
    Breakage(
        "A prune keeps the declared number of weights",
        "the number is rounded down",
        "silo_tune/pruning/masks.py",
        "kept = round(total * target)",
        "kept = int(total * target)",
        "tests/test_pruning.py::test_counts_are_exact_and_masks_only_shrink_over_many_cycles",
    ),
    Breakage(
        "Pruned weights are exactly zero after every step",
        "weights that went are not held at zero",
        "silo_tune/training/trainer.py",
        "torch._foreach_mul_(self._masked, self._factors)",
        "torch._foreach_mul_(self._masked, 1)",
        "tests/test_training.py::test_pruned_weights_are_zero_after_every_step",
    ),
    Breakage(
        "A cycle is decided when all of its candidates are told",
        "it is decided before the last one",
        "silo_tune/planner/planner.py",
        "if len(chain.told) < len(chain.candidates):",
        "if len(chain.told) < len(chain.candidates) - 1:",
        "tests/test_chains.py::test_the_decisions_and_the_table_do_not_depend_on_the_order_or_number_of_workers",
    ),
    Breakage(
        "Who ends first changes nothing",
        "a sampler hears outcomes in the order in which they came",
        "silo_tune/planner/chain.py",
        "return [Heard(c.proposal, self.told[c.index]) for c in self.candidates if c.index in self.told]",
        "return [Heard(self.candidates[i].proposal, outcome) for i, outcome in self.told.items()]",
        "tests/test_searches.py::test_the_table_does_not_depend_on_the_order_or_number_of_workers",
    ),
    Breakage(
        "A driver whose run was taken over stops",
        "the lost lease is ignored",
        "silo_tune/store/lease.py",
        "if self.lost.is_set():\n            raise RunFailed",
        "if False:\n            raise RunFailed",
        "tests/test_lease.py::test_a_driver_learns_that_another_took_over",
    ),
    Breakage(
        "Of two writers of one file the first wins",
        "the second one replaces it",
        "silo_tune/store/storage.py",
        "os.link(temporary, path)",
        "os.replace(temporary, path)",
        "tests/test_storage.py::test_a_second_create_is_refused_and_changes_nothing",
    ),
    Breakage(
        "Validation chooses, test never does",
        "what is told as validation accuracy is that on test",
        "silo_tune/training/worker.py",
        '"val_score": scores[0],',
        '"val_score": scores[2],',
        "tests/test_cycle.py::test_accuracies_are_counted_on_the_images_of_their_own_part",
    ),
    Breakage(
        "The realised peak is max_lr exactly",
        "the profile is told a longer budget, and its ramp never ends",
        "silo_tune/training/trainer.py",
        "self.profile(self.step, self.total)",
        "self.profile(self.step, 2 * self.total)",
        "tests/test_training.py::test_the_realised_peak_is_max_lr_exactly",
    ),
    Breakage(
        "A resumed unit ends bit-identical",
        "momentum is left behind",
        "silo_tune/training/trainer.py",
        "self.carry_on(groups)",
        "self.carry_on({})",
        "tests/test_training.py::test_resume_is_bit_identical",
    ),
    Breakage(
        "A mistake of the user ends the run at once",
        "it is tried again, and is a failed unit",
        "silo_tune/training/attempts.py",
        "            except (SiloTuneError, *ENDS):\n",
        "            except ENDS:\n",
        "tests/test_cycle.py::test_what_the_user_must_mend_is_not_tried_again",
    ),
    Breakage(
        "A state that does not match its checksum is not read",
        "the checksum is not looked at",
        "silo_tune/store/unit_store.py",
        'why = wrong(data) if hashlib.sha256(data).hexdigest() == claim["sha256"] else "its checksum does not match"',
        "why = wrong(data)",
        "tests/test_store.py::test_a_state_that_is_not_what_was_committed_is_moved_aside",
    ),
    Breakage(
        "A rate that diverged is a row with a status",
        "it has no row",
        "silo_tune/results/rows.py",
        'for asked in decision["asked"]:\n',
        'for asked in (a for a in decision["asked"] if told[a["candidate"]]["status"] != "diverged"):\n',
        "tests/test_results.py::test_a_diverged_unit_is_a_row_with_its_reason_and_no_accuracy",
    ),
    Breakage(
        "Where few seeds all agree, their p value is that of Student's t",
        "it is that of the normal law, too small for five seeds",
        "analysis/silo_analysis/estimates/typical.py",
        "special.stdtr(len(values) - 1, gap / error)",
        "special.ndtr(gap / error)",
        "tests/analysis/test_typical.py::test_few_seeds_speak_only_where_all_agree_and_the_t_test_does",
    ),
    Breakage(
        "SILO's S begins after its delay",
        "the delay is left out",
        "silo_tune/schedules/peaks.py",
        "gamma = pruned[cycle - self.q] if cycle >= self.q else 0.0",
        "gamma = pruned[cycle]",
        "tests/test_schedules.py::test_a_rising_silo_is_exactly_eps_up_to_cycle_q_and_above_it_later",
    ),
    Breakage(
        "Weights go only when every chain is past them",
        "a cycle's weights go while one may still start from them",
        "silo_tune/planner/retention.py",
        "if cycle < floor:",
        "if cycle <= floor:",
        "tests/test_chains.py::test_at_the_end_only_final_weights_remain",
    ),
    Breakage(
        "Examples are kept in the order of their part",
        "batches are put together from the last one on",
        "silo_tune/tasks/supervised.py",
        "torch.cat(list(kept))",
        "torch.cat(list(kept)[::-1])",
        "tests/test_examples.py::test_a_unit_keeps_which_examples_its_committed_weights_get_right",
    ),
    Breakage(
        "What examples are damaged stops nothing and is told by name",
        "a file that is gone is as good as one that never was",
        "silo_tune/store/unit_store.py",
        'raise Corrupt(f"{self.storage.shown(name)} is missing") from None',
        "return None",
        "tests/test_examples.py::test_damage_is_told_by_name_and_costs_nothing_else",
    ),
    Breakage(
        "The interval over seeds and test images is wide enough for both",
        "the images' part is left out",
        "analysis/silo_analysis/estimates/examples.py",
        "    return max(0.0, found)\n",
        "    return min(0.0, found)\n",
        "tests/analysis/test_two_sources.py::test_intervals_hold_the_difference_over_all_seeds_and_images_in_few_runs",
    ),
    Breakage(
        "In a loop of one's own pruned weights are zero after every step of any optimizer",
        "momentum and weight decay move them",
        "silo_tune/loops/pruner.py",
        "                pruner.apply()",
        "                pass",
        "tests/test_loops.py::test_pruned_weights_are_zero_after_every_step_and_the_others_move",
    ),
    Breakage(
        "What a pruned weight would do counts in no norm",
        "its gradient is clipped with the others",
        "silo_tune/loops/pruner.py",
        "return gradient.masked_fill(self._gone_on(name, gradient.device), 0.0)",
        "return gradient",
        "tests/test_loops.py::test_the_weights_that_stay_train_as_if_the_others_were_not_there",
    ),
    Breakage(
        "A loop of one's own has the peaks of a study",
        "the peak is that of the cycle before",
        "silo_tune/loops/silo_lr.py",
        "self._schedule.peak(self.cycle, self.pruned)",
        "self._schedule.peak(max(0, self.cycle - 1), self.pruned)",
        "tests/test_loops.py::test_peaks_and_rates_are_those_of_a_study",
    ),
)


def caught(breakage: Breakage) -> tuple[bool, str]:
    """(does its test fail with it, what pytest said in the end)."""
    code, said = tried([breakage.test], breakage)
    return code == 1, said


def tried(tests: Sequence[str], breakage: Breakage | None = None) -> tuple[int, str]:
    """Exit status and last words of pytest in a copy of the project, broken if wanted."""
    with tempfile.TemporaryDirectory() as place:
        for part in PARTS:
            source, target = ROOT / part, Path(place) / part
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, target)
        if breakage is not None:
            file = Path(place) / breakage.file
            text = file.read_text(encoding="utf-8")
            assert text.count(breakage.old) == 1, f"{breakage.file}: {breakage.old!r}"
            file.write_text(text.replace(breakage.old, breakage.new), encoding="utf-8")
        paths = os.pathsep.join([place, str(Path(place) / "analysis"), os.environ.get("PYTHONPATH", "")])
        command = [sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", *tests]
        env = {**os.environ, "PYTHONPATH": paths}
        done = subprocess.run(command, cwd=place, env=env, capture_output=True, text=True, check=False)
    return done.returncode, "\n".join(done.stdout.splitlines()[-12:])


def table() -> str:
    """The breakages in Markdown."""
    lines = ["| contract | breakage | in | caught by |", "|---|---|---|---|"]
    for one in BREAKAGES:
        file, _, test = one.test.partition("::")
        name = f"`{test}` in `{file.removeprefix('tests/')}`" if test else f"`{file}`"
        lines.append(f"| {one.contract} | {one.change} | `{one.file}` | {name} |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> int:
    if arguments == ["--table"]:
        print(table(), end="")
        return 0
    wanted = [int(word) - 1 for word in arguments] or range(len(BREAKAGES))
    missed = 0
    for number in wanted:
        one = BREAKAGES[number]
        found, said = caught(one)
        missed += not found
        print(f"{number + 1:2} {'caught' if found else 'MISSED'}: {one.contract} ({one.test})", flush=True)
        if not found:
            print(said, flush=True)
    return min(missed, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
