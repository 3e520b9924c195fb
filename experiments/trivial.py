"""Detectors that anyone could have, which a result has to beat."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from experiments import statistics
from experiments.protocols import Cases, Scorer
from harness.stage import Undefined


def fit_length(train: Cases) -> Scorer[Any]:
    """The length of a case, longer or shorter being worse as training says."""
    known = train.labels >= 0
    sign = 1.0 if statistics.auc(train.labels[known], train.lengths[known]) >= 0.5 else -1.0
    return lambda cases: {"length": sign * cases.lengths}


def fit_stratum(train: Cases) -> Scorer[Any]:
    """The share of positives among training cases of the same stratum; of all, for one never seen."""
    words = train.words
    if train.stratum is None:
        raise Undefined(f"the data name no {words.stratum}s")
    known = train.labels >= 0
    labels = pd.Series(train.labels[known])
    strata = pd.Series(np.asarray(train.stratum)[known], dtype=object)
    rates, prior = labels.groupby(strata.to_numpy()).mean(), labels.mean()
    if labels.empty:
        raise Undefined("there is nothing to score")
    if len(rates) < 2:
        raise Undefined(f"every {words.case} is of {words.stratum} {strata.iloc[0]}")
    return lambda cases: {"stratum": pd.Series(cases.stratum).map(rates).fillna(prior).to_numpy(np.float64)}
