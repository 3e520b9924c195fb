"""The settings that score the records of `rag`."""

from typing import Annotated, Literal

from pydantic import Field

from experiments.rag.detectors import DETECTORS, FUSED
from harness.stage import Decides, OneOf, Params


class RagScore(Params):
    """What turns the detectors' readings into scores, calls and one fused detector, and judges them."""

    detector: Annotated[str, OneOf(FUSED, *(detector.name for detector in DETECTORS))] = Field(
        FUSED, description="detector that the metrics without a name after them are of"
    )
    fusion: Literal["rank", "logistic"] = Field(
        "rank", description="mean of the ranks among training answers, or logistic regression fitted on them"
    )
    fuse: Literal["unlearnt", "all"] = Field(
        "unlearnt", description="detectors that are fused: those that learn nothing of labels, or all that there are"
    )
    aggregation: Literal["min", "mean"] = Field(
        "min", description="sentences of an answer: its least supported one, or their mean"
    )
    overlap: Literal["tokens", "entities", "both"] = Field(
        "both", description="lexical: share of words, of names and numbers, or the mean of the two"
    )
    string_metric: Literal["rouge", "chrf", "levenshtein"] = Field(
        "rouge", description="which of RAGAS' string metrics"
    )
    ragas_metric: Literal["faithfulness", "relevancy", "precision"] = Field(
        "faithfulness", description="which of RAGAS' judged metrics"
    )
    redeep_scorer: Literal["linear", "logistic", "ensemble"] = Field(
        "linear", description="ReDeEP: PKS - alpha*ECS as published, logistic regression on all heads and layers; both"
    )
    redeep_top_n: int = Field(3, ge=1, le=1024, description="heads summed into ECS, the best on training answers")
    redeep_top_k: int = Field(3, ge=1, le=256, description="layers summed into PKS, the best on training answers")
    redeep_alpha: Literal["best"] | Annotated[float, Field(ge=0, le=10)] = Field(
        0.6, description="weight of ECS; best: where the AUC of the training answers is highest"
    )
    threshold: Literal["auto"] | Annotated[float, Field(ge=0, le=1)] = Field(
        "auto",
        description="score of `detector` called hallucinated; auto, and the others': F1-best in training",
    )
    ambiguous: Annotated[Literal["keep", "drop"], Decides("which answers are judged")] = Field(
        "keep",
        description="answers whose label rests on little: yes/no, in the question already, very short; judged or not",
    )
    folds: Annotated[int, Decides("how much is learnt from")] = Field(
        5, ge=2, le=50, description="cross-fitting folds, grouped by question and stratified by label"
    )
    fold_seed: Annotated[int, Decides("which folds are judged")] = Field(
        0, ge=0, lt=2**32, description="seed of folds, and of what is left out or permuted"
    )

    @property
    def judging(self) -> str:
        """The protocol in words."""
        return f"out of fold, {self.folds} folds of seed {self.fold_seed}"
