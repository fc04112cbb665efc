"""One cycle under ASHA in a Tuner of your own: `python experiments/examples/asha.py [STUDY.toml] [RUN]`."""

from __future__ import annotations

import sys
import tempfile

from ray import tune
from ray.tune.schedulers import ASHAScheduler

from silo_tune import PruneRetrain, load_study, run_study

SAMPLES = 8


def main(study_file: str = "experiments/digits.toml", out: str = "runs/asha") -> tune.ResultGrid:
    """Returns the trials: rates for the second prune of SILO's chain, the poor ones stopped early."""
    # The run gives the weights to start from; `keep` saves them from being swept when their chain is past them.
    sets = ["cycles=3", 'cluster.keep="all"', "retrain.epochs=4"]
    study = load_study(study_file, sets=sets, smoke=True)
    rows = run_study(study, out, local=True).frame
    silo = rows[(rows.arm == "silo") & (rows.cycle == 1)].iloc[0]

    trainable = PruneRetrain.for_cycle(study, "silo", parent=silo.key, out=out)
    with tempfile.TemporaryDirectory() as scratch:
        tuner = tune.Tuner(
            trainable,
            param_space={"max_lr": tune.loguniform(0.01, 1.0)},
            tune_config=tune.TuneConfig(
                # One step is one epoch, and every epoch reports val_score.
                scheduler=ASHAScheduler(metric="val_score", mode="max", max_t=4, grace_period=1, reduction_factor=2),
                num_samples=SAMPLES,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(storage_path=scratch, name="asha", verbose=0),
        )
        results = tuner.fit()
    for number in range(len(results)):
        report = results[number].metrics
        assert report is not None
        print(f"max_lr {report['max_lr']:.4f}: {report['epoch']} epochs, validation {report['val_score']:.3f}")
    return results


if __name__ == "__main__":
    main(*sys.argv[1:])
