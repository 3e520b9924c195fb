"""The settings that score the records of `detect`."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from experiments.detect.inference.params import HEADS
from harness.stage import IN_SAMPLE, Decides, Params


class DetectScore(Params):
    """What turns records into a detector and judges it."""

    protocol: Annotated[Literal["crossfit", "published"], Decides("by whom responses are judged")] = Field(
        "crossfit", description="choose on training folds and judge out of fold, or fit and judge on all (published)"
    )
    scorer: Literal["linear", "logistic", "ensemble"] = Field(
        "linear", description="m*PKS - alpha*ECS as published; logistic regression on response aggregates; both"
    )
    heads: Annotated[str, StringConstraints(pattern=rf"^(auto|all|{HEADS})$")] = Field(
        "auto", description="copying heads: the `top_n` best on training folds, `all`, or layer.head pairs"
    )
    select: Literal["auc", "mutual_info"] = Field("auc", description="what ranks heads and layers")
    top_n: int = Field(3, ge=1, le=1024, description="heads summed into ECS when heads=auto")
    top_k: int = Field(3, ge=1, le=256, description="layers summed into PKS")
    alpha: Literal["best"] | Annotated[float, Field(ge=0, le=10)] = Field(
        0.6, description="weight of ECS; best: where the AUC of the training responses is highest"
    )
    m: float = Field(1.0, ge=0, le=10, description="weight of PKS")
    threshold: Literal["auto"] | Annotated[float, Field(ge=-20, le=20)] = Field(
        "auto", description="score called hallucinated; auto: F1-best in training"
    )
    folds: Annotated[int, Decides("how much is learnt from")] = Field(
        5, ge=2, le=50, description="cross-fitting folds, grouped by prompt and stratified by label"
    )
    fold_seed: Annotated[int, Decides("which folds are judged")] = Field(
        0, ge=0, lt=2**32, description="seed of folds, and of what is left out or permuted"
    )

    @property
    def judging(self) -> str:
        """The protocol in words."""
        return (
            IN_SAMPLE if self.protocol == "published" else f"out of fold, {self.folds} folds of seed {self.fold_seed}"
        )
