"""What ReDeEP learns of answers: which heads and layers tell, weighed as published or by a regression."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from experiments.arrays import Floats, Ints
from experiments.columns import Columns
from experiments.rag.scoring.params import RagScore
from experiments.redeep.fits import FITS
from experiments.redeep.fitted import SCORE, Linear
from experiments.redeep.responses import Responses, Whole

_NO_TABLE = pd.DataFrame()


@dataclass(frozen=True)
class _Settings:
    """What is settled, beside what `params` say."""

    params: RagScore
    heads: str = "auto"
    select: str = "auc"
    m: float = 1.0

    @property
    def top_n(self) -> int:
        return self.params.redeep_top_n

    @property
    def top_k(self) -> int:
        return self.params.redeep_top_k

    @property
    def alpha(self) -> float | Literal["best"]:
        return self.params.redeep_alpha

    @property
    def fold_seed(self) -> int:
        return self.params.fold_seed


def learn(features: Columns, labels: Ints, params: RagScore) -> Callable[[Columns], Floats]:
    """Learn from answers' features (n, c) and labels (n,); the function returned scores any (m, c) that are whole.

    Training answers lie between 0 and 1; Undefined where they are of one label.
    """
    fitted = FITS[params.redeep_scorer](_responses(features, labels), _Settings(params))
    least = fitted.alpha if isinstance(fitted, Linear) else 0.0  # of PKS - alpha * ECS, each from 0 to 1

    def score(others: Columns) -> Floats:
        found = fitted(_responses(others, np.full(len(others.values), -1)))[SCORE]
        return np.asarray((found + least) / (1 + least), dtype=np.float64)

    return score


def _responses(features: Columns, labels: Ints) -> Responses:
    """Answers as responses of one span each, whose features are means over sentences."""
    ecs, pks = (features.beginning(f"redeep_{kind}_", less="redeep_") for kind in ("ecs", "pks"))
    rows, ones = np.arange(len(labels)), np.ones(len(labels))
    return Responses(
        ecs, pks, labels, rows, labels, rows, None, ones, Whole(ecs, pks, rows, _NO_TABLE, _NO_TABLE), rows
    )
