"""`rag`: which hallucination detector still works when retrieval gets worse."""

from __future__ import annotations

from typing import Any

import pandas as pd

from experiments.rag.inference.params import RagInfer
from experiments.rag.scoring import audits, remedies
from experiments.rag.scoring.params import RagScore
from experiments.rag.scoring.score import QUICK, held_out, score, score_many
from harness.stage import Context, Metric, Progress, Records, Stage


# The models' libraries are imported only when a model is needed: scoring and help do without them.
def _inputs(params: RagInfer) -> dict[str, str]:
    from experiments.rag.inference.infer import inputs

    return inputs(params)


def _infer(params: RagInfer, context: Context) -> Records:
    from experiments.rag.inference.infer import infer

    return infer(params, context)


def _bench(device: str, repeats: int, quick: bool, progress: Progress) -> pd.DataFrame:
    from experiments.rag.bench.batching import bench

    return bench(device, repeats, quick, progress)


def _strata(frame: pd.DataFrame) -> tuple[pd.Series[Any], pd.Series[int]]:
    """Answers to one question stay together; a question counts as hallucinated when any answer to it is."""
    return frame["group"], frame["label"]


def _feature_ranges(records: Records) -> dict[str, tuple[float, float]]:
    """Shares and probabilities; a cosine for the sentence encoder and for RAGAS' relevancy."""
    return {
        "lexical_": (0.0, 1.0),
        "nli_m": (0.0, 1.0),
        "similarity_": (-1.0, 1.0),
        "string_": (0.0, 1.0),
        "ragas_": (-1.0, 1.0),
    }


METRICS = (
    Metric("auc", "", "maximize", "AUROC of the chosen detector for hallucination, over all tiers", chance=0.5),
    Metric(
        "auc_in_tier",
        "",
        "maximize",
        "mean over tiers of the AUROC within one, where sensing the tier cannot help",
        chance=0.5,
        within_of="auc",
    ),
    Metric("f1", "", "maximize", "F1 of the hallucinated class at the threshold"),
    Metric("precision", "", "maximize", "share of hallucinated among the answers called so"),
    Metric("recall", "", "maximize", "share of hallucinated answers called so"),
    Metric("ece", "", "minimize", "expected calibration error of the score read as a probability, 10 bins"),
    Metric("degradation", "", "minimize", "AUROC at the high tier less that at the low one"),
    Metric("agreement", "", "none", "mean of Cohen's kappa over every two detectors' calls"),
    Metric("missing", "answers", "minimize", "answers that a detector has no score of"),
    Metric("prevalence", "", "none", "share of hallucinated among the answers that say something"),
    Metric("abstained", "", "none", "share of answers that say that they do not know"),
    Metric("achieved", "", "none", "share of relevant passages in the contexts of a tier"),
    Metric("recall_at_k", "", "maximize", "share of a question's relevant passages among the first k retrieved"),
    Metric("mrr", "", "maximize", "mean reciprocal rank of the first relevant passage retrieved"),
    Metric("auc_length", "", "none", "trivial baseline: answer length alone", baseline_of="auc"),
    Metric("auc_tier", "", "none", "trivial baseline: knowing only the tier", baseline_of="auc"),
    Metric("f1_prior", "", "none", "trivial baseline: calling every answer hallucinated", baseline_of="f1"),
)

RAG = Stage(
    name="rag",
    summary="hallucination detectors side by side, under retrieval of high, medium and low quality",
    infer_params=RagInfer,
    score_params=RagScore,
    inputs=_inputs,
    infer=_infer,
    score=score,
    metrics=METRICS,
    feature_ranges=_feature_ranges,
    audits=(
        audits.builtin_nli,
        audits.tiers_missed,
        audits.tier_explains,
        audits.cost_of_kept_replies,
        audits.abstentions,
        audits.inverted_detectors,
        audits.fusion_gains_nothing,
    ),
    bench=_bench,
    strata=_strata,
    held_out=held_out,
    score_many=score_many,
    quick=QUICK,
    remedies=remedies.after,
)
