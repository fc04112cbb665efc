"""SILO and its Oracle inside a Tuner of your own: `python experiments/examples/own_tuner.py [STUDY.toml] [RUN]`."""

from __future__ import annotations

import sys
import tempfile
from contextlib import closing

from ray import tune

from silo_tune import ChainSearch, Silo, load_study


def main(study_file: str = "experiments/digits.toml", out: str = "runs/own-tuner") -> int:
    """Returns the number of units in the run's files."""
    schedule = Silo(eps=0.03, delta=0.04)
    remaining = [0.8**cycle for cycle in range(9)]
    peaks = [schedule.peak(cycle, [1 - share for share in remaining]) for cycle in range(9)]
    print("SILO's max_lr by cycle:", ", ".join(f"{peak:.4f}" for peak in peaks))

    study = load_study(study_file, smoke=True)
    # The search owns the run until it is closed: the same files, the same rules, whatever the Tuner around it.
    with closing(ChainSearch(study, out)) as search, tempfile.TemporaryDirectory() as scratch:
        tuner = tune.Tuner(
            search.trainable(),  # PruneRetrain, with the study's resources and data
            tune_config=search.tune_config(),
            run_config=search.run_config(scratch),
        )
        results = tuner.fit()
    best = results.get_best_result(metric="val_score", mode="max")
    assert best.metrics is not None
    print(f"{len(results)} trials; best validation accuracy {best.metrics['val_score']:.3f}; see {out}")
    return len(results)


if __name__ == "__main__":
    main(*sys.argv[1:])
