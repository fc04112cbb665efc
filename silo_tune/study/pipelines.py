"""Pipelines: what a cycle does instead of one prune and one retraining."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, model_validator

from silo_tune.study.parts import Frozen, Share

# What a cycle of ICE-Pruning does. Raise it when its numbers change: units of another version then keep other keys.
ICE_VERSION: Final = 2


class Ice(Frozen):
    """ICE-Pruning: block by block, with fine-tuning where it is needed and layers frozen that change little."""

    line: ClassVar[str] = "ICE-Pruning: block by block, fine-tuned where needed at the S of the weights left just then"

    name: Literal["ice"] = Field(description="the pipeline")
    version: Literal[1, 2] = Field(
        default=ICE_VERSION,
        description="2 follows the public code point by point; runs of version 1 can be read, and are trained no more",
    )
    ratio: Share | None = Field(
        default=None,
        description="share of a block's filters that a cycle removes, rounded up; that of [prune] when left out",
    )
    threshold: float = Field(
        default=0.01,
        ge=0,
        lt=1,
        description="loss of validation accuracy against the dense network that calls for fine-tuning "
        "(0.01 is ours; 0.005 and 0.015 are tried in the public code)",
    )
    freeze: float = Field(
        default=0.3,
        ge=0,
        lt=1,
        description="share of the blocks' layers that fine-tuning leaves alone, rounded up: those that a probe changed "
        "least (0.3 and 0.9 are tried in the public code)",
    )

    @model_validator(mode="before")
    @classmethod
    def _of_version(cls, value: Any, info: ValidationInfo) -> Any:
        """A run recorded before there were versions is of version 1; a new one never is."""
        if not isinstance(value, Mapping):
            return value
        if (info.context or {}).get("recorded"):
            return {"version": 1, **value}
        if value.get("version") == 1:
            raise ValueError(
                "version 1 is trained no more, for it was not the published pipeline; leave version out, and choose "
                "another --out than a run of version 1"
            )
        return value

    @property
    def follows_weights(self) -> bool:
        """Is the rate that of the weights left when a fine-tune begins, and not one that is planned for the cycle?"""
        return self.version >= 2


class WhileTraining(Frozen):
    """Filters pruned while training: the cycles are parts of one training, without a retraining of their own."""

    line: ClassVar[str] = "filters pruned while training: the cycles are parts of one training (Roy et al. 2020)"

    name: Literal["while-training"] = Field(description="the pipeline")
    over: int = Field(
        ge=2, description="parts of the training, cycle 0 included; each is as long as a cycle of this arm"
    )


class Boosting(Frozen):
    """Iterative boosting: predictions of a stage become inputs of the next, in every cycle."""

    line: ClassVar[str] = "iterative boosting: a stage's predictions are inputs of the next (Livne et al. 2020)"

    name: Literal["boosting"] = Field(description="the pipeline")
    stages: int = Field(
        default=3, ge=2, le=10, description="trainings in sequence; the last one's network is the cycle's"
    )
    folds: int = Field(
        default=2,
        ge=2,
        le=20,
        description="parts of the training part, each predicted by a network that did not train on it (ours)",
    )


def _by_name(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


AnyPipeline = Ice | WhileTraining | Boosting
PIPELINES: dict[str, type[AnyPipeline]] = {"ice": Ice, "while-training": WhileTraining, "boosting": Boosting}
Pipeline = Annotated[Annotated[AnyPipeline, Field(discriminator="name")], BeforeValidator(_by_name)]


def resolved(pipeline: AnyPipeline, share: float) -> Mapping[str, Any]:
    """What enters the key of a unit whose cycle removes such a share of the remaining filters.

    The parts of a training differ by their profile, so their number is not told again. Version 1 of ICE-Pruning is told
    by its absence, as in the keys of its time.
    """
    if isinstance(pipeline, Ice):
        table = {**pipeline.model_dump(), "ratio": pipeline.ratio or share}
        return table if pipeline.version > 1 else {key: table[key] for key in table if key != "version"}
    return pipeline.model_dump() if isinstance(pipeline, Boosting) else {"name": pipeline.name}


# What the public code of ICE-Pruning (github.com/gicLAB/ICE-Pruning) does otherwise, and why. Followed are its scripts
# for ResNet-152 on CIFAR-10; no code of it is here.
ICE_DEVIATIONS: dict[str, str] = {
    "many-walks": "there one walk removes 60 to 80 % of each block's filters; here every cycle probes and walks, and "
    "removes its ratio: arms are compared cycle by cycle",
    "judged-on-validation": "there test images say when to fine-tune and which options win; here validation images "
    "do: what is chosen on test images flatters itself",
    "one-setting": "there threshold (0.5 or 1.5 points), frozen share (0.3 or 0.9) and S are searched for every "
    "network and ratio; here a preset has one of each (1 point, 0.3, the S of a comment there): a search is an arm "
    "of its own, of mode tune",
    "searched-on-accuracy": "there a search tries 6 points of a grid on 2 % of the images, and the least sum of time "
    "and lost accuracy wins; here on all images, and accuracy alone: seconds differ between machines",
    "own-optimizer": "there SGD with momentum 0.9, weight decay 1e-4 and batches of 128; here the study's [retrain], "
    "new at each fine-tune as there: all arms of a study share it",
    "probe-rate": "there the probe is trained at 0.001 (DenseNet: 0.01) whatever the S; here at the top of the arm's "
    "S, which is 0.001 as published: a rate suits its network",
    "whole-counts": "there 0.28 of 25 filters are 8, as binary numbers round; here 7, and a block keeps one filter "
    "at least: a count does not hang on the last bit",
    "block-by-layer": "there a bottleneck of ResNet loses filters of two convolutions before accuracy is looked at; "
    "here it is looked at after each: layers are found in any network, not by the names of one",
    "norm-behind": "there a frozen convolution of DenseNet freezes the batch norm in front of it; here only one that "
    "is given its output as it is, as there in ResNet: it is found in any network, not by its name",
    "one-code": "there DenseNet and ImageNet have no distillation, and DenseNet's later blocks two fine-tunes and "
    "its end 4 epochs more; here all networks are treated as ResNet-152: arms differ in one thing at a time",
}  # fmt: skip

# Of iterative boosting only the abstract of XDBoost (Livne et al. 2020, arXiv 2007.13087) is known here: three stages
# of a neural network in sequence, whose predictions are not summed but become new features. All else is ours.
BOOSTING_CHOICES: dict[str, str] = {
    "one-design": "every stage trains the study's network from the same weights, for the whole budget and at the same "
    "max_lr: the published layers are not known",
    "out-of-fold": "a training row is predicted by a network of its stage that trained on the other folds alone, "
    "validation and test by the stage's own, which trained on all: a network knows the answers that it has seen",
    "logits": "what becomes a feature is what the network gives, before a sigmoid or softmax, with mean 0 and "
    "deviation 1 over the training part",
    "all-before": "a stage sees the predictions of all stages before it; those that are still to come are 0",
    "in-every-cycle": "the stages are run anew after every prune, and all of their networks have the cycle's mask, "
    "which the criterion finds in the last stage's network: pruning is no part of the published method",
    "no-kept-weights": "weights are drawn anew or rewound to the initial ones: kept ones have seen every training row, "
    "and folds would hide nothing from them. The mask has seen every row all the same",
}
