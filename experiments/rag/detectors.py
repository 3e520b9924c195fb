"""Every detector of `rag`, declared here and nowhere else."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.stage import Late

if TYPE_CHECKING:
    import pandas as pd


FUSED = "fused"  # the name of what is made of all of them
_READERS = "experiments.rag.inference"
_SHARE, _COSINE = (0.0, 1.0), (-1.0, 1.0)


@dataclass(frozen=True)
class Detector:
    """One way to tell hallucinated answers: what it reads, what that may be, and how it becomes a score.

    `reads` loads, from what there is to read with (a Setup), what reads answers, or None; it must lie in `inference`,
    whose code is in the cache key.  All columns that it gives begin with the detector's name; `ranges` says in which
    closed range its features lie, by what their names begin with.  `scores` makes of them a number from 0 to 1 an
    answer, higher for more hallucinated, or None where records hold none of them, given the settings of scoring; one
    that has to learn `learns` it from answers and their labels instead.  `no_probability` says why a score is none, if
    it is not meant to be.  `faster` is the setting whose rise speeds up reading.
    """

    name: str
    ranges: Mapping[str, tuple[float, float]]
    colour: str
    reads: Late
    scores: Callable[[pd.DataFrame, Any], pd.Series[float] | None] = lambda frame, params: None
    learns: Late | None = None
    no_probability: Callable[[Any], str] = lambda params: ""
    faster: str | None = None

    def features(self, frame: pd.DataFrame) -> list[str]:
        """The columns of records that are its features."""
        return [str(name) for name in frame if str(name).startswith(tuple(self.ranges))]


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
        {"lexical_tokens_": _SHARE, "lexical_entities_": _SHARE},
        colour="#3b76af",
        reads=Late(f"{_READERS}.lexical", "load"),
        scores=_lexical,
    ),
    Detector(
        "nli",
        {"nli_min": _SHARE, "nli_mean": _SHARE},
        colour="#c8553d",
        reads=Late(f"{_READERS}.nli", "load"),
        scores=lambda frame, params: _unsupported(frame, f"nli_{params.aggregation}"),
        faster="nli_batch",
    ),
    Detector(
        "similarity",
        {"similarity_": _COSINE},
        colour="#6a9a58",
        reads=Late(f"{_READERS}.similarity", "load"),
        scores=lambda frame, params: _unsupported(frame, f"similarity_{params.aggregation}"),
    ),
    Detector(
        "string",
        {"string_rouge": _SHARE, "string_chrf": _SHARE, "string_levenshtein": _SHARE},
        colour="#8a6bb0",
        reads=Late(f"{_READERS}.judge", "load_strings"),
        scores=lambda frame, params: _unsupported(frame, f"string_{params.string_metric}"),
    ),
    Detector(
        "ragas",
        {"ragas_faithfulness": _SHARE, "ragas_relevancy": _COSINE, "ragas_precision": _SHARE},
        colour="#d49a3a",
        reads=Late(f"{_READERS}.judge", "load_judged"),
        scores=lambda frame, params: _unsupported(frame, f"ragas_{params.ragas_metric}"),
        faster="in_flight",
    ),
    Detector(
        "redeep",
        {"redeep_ecs_": _COSINE, "redeep_pks_": (0.0, math.log(2))},
        colour="#4aa3a3",
        reads=Late(f"{_READERS}.redeep", "load"),
        learns=Late("experiments.rag.scoring.redeep", "learn"),
        no_probability=lambda params: (
            "a weighted sum is no probability; redeep_scorer=logistic gives one"
            if params.redeep_scorer != "logistic"
            else ""
        ),
        faster="redeep_tokens",
    ),
)


def colours() -> dict[str, str]:
    """Each detector's in every picture."""
    return {FUSED: "#222222"} | {detector.name: detector.colour for detector in DETECTORS}
