"""Every detector of `rag`, declared here and nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.stage import Late

if TYPE_CHECKING:
    import pandas as pd


FUSED = "fused"  # the name of what is made of all of them
_READERS = "experiments.rag.inference"


@dataclass(frozen=True)
class Detector:
    """One way to tell hallucinated answers: what it reads, what that may be, and how it becomes a score.

    `reads` loads, from what there is to read with (a Setup), what reads answers, or None; it must lie in `inference`,
    whose code is in the cache key.  All columns that it gives begin with the detector's name; `columns` are its
    features, which lie from `low` to `high`.  `scores` makes of them a number from 0 to 1 an answer, higher for more
    hallucinated, or None where records hold none of them, given the settings of scoring.  `faster` is the setting whose
    rise speeds up reading.
    """

    name: str
    columns: tuple[str, ...]
    low: float
    high: float
    colour: str
    reads: Late
    scores: Callable[[pd.DataFrame, Any], pd.Series[float] | None]
    faster: str | None = None


def _unsupported(frame: pd.DataFrame, *columns: str) -> pd.Series[float] | None:
    """1 less the mean of these columns' support, each cut to 0 to 1; of those that there are."""
    found = [(1 - frame[column]).clip(0, 1) for column in columns if column in frame]
    return sum(found[1:], found[0]) / len(found) if found else None


def _lexical(frame: pd.DataFrame, params: Any) -> pd.Series[float] | None:
    kinds = ("tokens", "entities") if params.overlap == "both" else (params.overlap,)
    return _unsupported(frame, *(f"lexical_{kind}_{params.aggregation}" for kind in kinds))


DETECTORS = (
    Detector(
        "lexical",
        ("lexical_tokens_min", "lexical_tokens_mean", "lexical_entities_min", "lexical_entities_mean"),
        low=0.0,
        high=1.0,
        colour="#3b76af",
        reads=Late(f"{_READERS}.lexical", "load"),
        scores=_lexical,
    ),
    Detector(
        "nli",
        ("nli_min", "nli_mean"),
        low=0.0,
        high=1.0,
        colour="#c8553d",
        reads=Late(f"{_READERS}.nli", "load"),
        scores=lambda frame, params: _unsupported(frame, f"nli_{params.aggregation}"),
        faster="nli_batch",
    ),
    Detector(
        "similarity",
        ("similarity_min", "similarity_mean"),
        low=-1.0,  # a cosine
        high=1.0,
        colour="#6a9a58",
        reads=Late(f"{_READERS}.similarity", "load"),
        scores=lambda frame, params: _unsupported(frame, f"similarity_{params.aggregation}"),
    ),
    Detector(
        "string",
        ("string_rouge", "string_chrf", "string_levenshtein"),
        low=0.0,
        high=1.0,
        colour="#8a6bb0",
        reads=Late(f"{_READERS}.judge", "load_strings"),
        scores=lambda frame, params: _unsupported(frame, f"string_{params.string_metric}"),
    ),
    Detector(
        "ragas",
        ("ragas_faithfulness", "ragas_relevancy", "ragas_precision"),
        low=-1.0,  # relevancy is a cosine
        high=1.0,
        colour="#d49a3a",
        reads=Late(f"{_READERS}.judge", "load_judged"),
        scores=lambda frame, params: _unsupported(frame, f"ragas_{params.ragas_metric}"),
        faster="in_flight",
    ),
)


def colours() -> dict[str, str]:
    """Each detector's in every picture."""
    return {FUSED: "#222222"} | {detector.name: detector.colour for detector in DETECTORS}
