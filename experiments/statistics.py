"""Statistics that several stages score with; every function raises Undefined rather than return a substitute."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from harness.stage import Undefined

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_BOOTSTRAP_CELLS = 4_000_000  # weights held at once: bounds memory at 160 MB however many rows there are


def require_two_classes(labels: Ints) -> None:
    """Raise Undefined unless both 0 and 1 occur in `labels` (n,)."""
    if len(labels) == 0:
        raise Undefined("there is nothing to score")
    if labels.min() == labels.max():
        raise Undefined(f"all {len(labels)} labels are {labels[0]}, and both 0 and 1 are needed")


def column_aucs(labels: Ints, columns: Floats) -> Floats:
    """AUROC of every column of `columns` (n, c) as a score for label 1: (c,); ties count half.

    Mann-Whitney: (sum of the positives' ranks - n1 (n1 + 1) / 2) / (n1 n0).
    """
    require_two_classes(labels)
    positives = labels == 1
    n1, n0 = int(positives.sum()), int((~positives).sum())
    rank_sums = rankdata(columns, axis=0)[positives].sum(axis=0)
    return np.asarray((rank_sums - n1 * (n1 + 1) / 2) / (n1 * n0), dtype=np.float64)


def auc(labels: Ints, scores: Floats) -> float:
    """AUROC of `scores` (n,) for label 1."""
    return float(column_aucs(labels, scores[:, None])[0])


def auc_interval(
    labels: Ints, scores: Floats, clusters: NDArray[Any], seed: int, resamples: int = 2000
) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the AUROC; whole clusters, named by `clusters` (n,), are resampled.

    Resamples that hold one class only are left out.
    """
    require_two_classes(labels)
    rng = np.random.default_rng(seed)
    _, cluster = np.unique(clusters, return_inverse=True)
    n_clusters = int(cluster.max()) + 1
    if n_clusters < 2:
        raise Undefined("everything comes from one source, which says nothing about how others would differ")
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=-np.inf))  # one bin for each distinct score
    positives = labels[order] == 1
    values = []
    for size in _chunks(resamples, max(1, _BOOTSTRAP_CELLS // len(labels))):
        drawn = rng.multinomial(n_clusters, np.full(n_clusters, 1 / n_clusters), size=size)
        weights = drawn[:, cluster[order]].astype(np.float64)
        up = np.add.reduceat(weights * positives, starts, axis=1)
        down = np.add.reduceat(weights * ~positives, starts, axis=1)
        below = np.cumsum(down, axis=1) - down / 2
        pairs = up.sum(axis=1) * down.sum(axis=1)
        values.append(((up * below).sum(axis=1)[pairs > 0]) / pairs[pairs > 0])
    low, high = np.percentile(np.concatenate(values), [2.5, 97.5])
    return float(low), float(high)


def best_f1_threshold(labels: Ints, scores: Floats) -> float:
    """The score (n,) at and above which calling 1 gives the highest F1; the lowest such score on a tie."""
    require_two_classes(labels)
    order = np.argsort(-scores)
    thresholds = scores[order]
    called = np.flatnonzero(np.diff(thresholds, append=-np.inf)) + 1  # how many reach each distinct score
    hits = np.cumsum(labels[order])[called - 1]
    f1 = 2 * hits / (called + labels.sum())  # a quotient of counts, so that ties are exact
    return float(thresholds[called[f1 == f1.max()][-1] - 1])


def pearson(x: Floats, y: Floats) -> float:
    """Pearson correlation of two (n,) arrays."""
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        raise Undefined("one side is constant")
    return float(np.corrcoef(x, y)[0, 1])


def spearman(x: Floats, y: Floats) -> float:
    """Spearman correlation of two (n,) arrays; ties share their mean rank."""
    return pearson(rankdata(x), rankdata(y))


def _chunks(total: int, size: int) -> list[int]:
    return [min(size, total - start) for start in range(0, total, size)]
