"""`rag`: which hallucination detector still works when retrieval gets worse."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from experiments.rag.detectors import DETECTORS
from experiments.rag.inference.params import RagInfer
from experiments.rag.scoring import remedies
from experiments.rag.scoring.metrics import METRICS, QUICK
from experiments.rag.scoring.params import RagScore
from harness.stage import Late, Records, Stage, checks_in

if TYPE_CHECKING:
    import pandas as pd


def _strata(frame: pd.DataFrame) -> tuple[pd.Series[Any], pd.Series[int]]:
    """Answers to one question stay together; a question counts as hallucinated when any answer to it is."""
    return frame["group"], frame["label"]


def _feature_ranges(records: Records) -> dict[str, tuple[float, float]]:
    """What every detector says of its own columns."""
    return {column: ends for detector in DETECTORS for column, ends in detector.ranges.items()}


RAG = Stage(
    name="rag",
    summary="hallucination detectors side by side, under retrieval of high, medium and low quality",
    package=__name__,
    packages=(
        "accelerate", "bitsandbytes", "bm25s", "gguf", "httpx2", "huggingface-hub", "instructor", "jinja2",
        "langchain-community", "nltk", "numpy", "openai", "pandas", "psutil", "pydantic", "ragas", "rapidfuzz",
        "regex", "rouge-score", "sacrebleu", "safetensors", "scikit-learn", "sentence-transformers", "sentencex",
        "tokenizers", "torch", "torchvision", "tqdm", "transformers",
    ),
    infer_params=RagInfer,
    score_params=RagScore,
    inputs=Late("experiments.rag.inference.inputs", "inputs"),
    infer=partial(
        Late("experiments.rag.inference.infer", "infer"),
        readers={detector.name: detector.reads for detector in DETECTORS},
    ),
    score=Late("experiments.rag.scoring.score", "score"),
    metrics=METRICS,
    feature_ranges=_feature_ranges,
    checks=partial(checks_in, "experiments.rag.scoring.audits"),
    benches={
        "inference": Late("experiments.rag.bench.batching", "bench"),
        "retrieval": Late("experiments.rag.bench.retrieval", "bench"),
    },
    strata=_strata,
    held_out=Late("experiments.rag.scoring.score", "held_out"),
    score_many=Late("experiments.rag.scoring.score", "score_many"),
    quick=QUICK,
    remedies=remedies.after,
)  # fmt: skip
