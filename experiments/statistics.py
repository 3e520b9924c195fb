"""Statistics that several stages score with; every function raises Undefined rather than return a substitute."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata
from sklearn.model_selection import StratifiedGroupKFold

from experiments.arrays import Floats, Ints
from harness.stage import Undefined

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
    _, cluster = np.unique(clusters, return_inverse=True)
    return _interval(_resampled_aucs([(labels, scores, cluster)], seed, resamples)[0])


def auc_difference_interval(
    first: tuple[Ints, Floats, NDArray[Any]],
    second: tuple[Ints, Floats, NDArray[Any]],
    seed: int,
    resamples: int = 2000,
) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the AUROC of `first` less that of `second`: labels, scores, clusters (n,).

    Clusters that both have are resampled in both alike, so that what they share cancels.
    """
    for labels, _, _ in (first, second):
        require_two_classes(labels)
    names = np.unique(np.concatenate([first[2], second[2]]))
    parts = [(labels, scores, np.searchsorted(names, clusters)) for labels, scores, clusters in (first, second)]
    aucs = _resampled_aucs(parts, seed, resamples)
    return _interval(aucs[0] - aucs[1])


def _interval(values: Floats) -> tuple[float, float]:
    low, high = np.percentile(values[np.isfinite(values)], [2.5, 97.5])
    return float(low), float(high)


def _resampled_aucs(parts: list[tuple[Ints, Floats, Ints]], seed: int, resamples: int) -> Floats:
    """AUROC of each part (labels, scores, numbers of clusters) on the same resamples: (parts, resamples).

    NaN where a resample holds one class only.
    """
    rng = np.random.default_rng(seed)
    n_clusters = 1 + max(int(cluster.max()) for _, _, cluster in parts)
    if n_clusters < 2:
        raise Undefined("everything comes from one source, which says nothing about how others would differ")
    largest = max(len(labels) for labels, _, _ in parts)
    chunks = []
    for size in _chunks(resamples, max(1, _BOOTSTRAP_CELLS // largest)):
        drawn = rng.multinomial(n_clusters, np.full(n_clusters, 1 / n_clusters), size=size)
        chunks.append(np.array([_weighted_aucs(*part, drawn) for part in parts]))
    return np.concatenate(chunks, axis=1)


def _weighted_aucs(labels: Ints, scores: Floats, cluster: Ints, drawn: Ints) -> Floats:
    """AUROC where cluster j counts `drawn` (resamples, clusters) times."""
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=-np.inf))  # one bin for each distinct score
    positives = labels[order] == 1
    weights = drawn[:, cluster[order]].astype(np.float64)
    up = np.add.reduceat(weights * positives, starts, axis=1)
    down = np.add.reduceat(weights * ~positives, starts, axis=1)
    below = np.cumsum(down, axis=1) - down / 2
    pairs = up.sum(axis=1) * down.sum(axis=1)
    undefined = np.full(len(drawn), np.nan)
    return np.asarray(np.divide((up * below).sum(axis=1), pairs, out=undefined, where=pairs > 0), dtype=np.float64)


def best_f1_threshold(labels: Ints, scores: Floats) -> float:
    """The score (n,) at and above which calling 1 gives the highest F1; the lowest such score on a tie."""
    require_two_classes(labels)
    order = np.argsort(-scores)
    thresholds = scores[order]
    called = np.flatnonzero(np.diff(thresholds, append=-np.inf)) + 1  # how many reach each distinct score
    hits = np.cumsum(labels[order])[called - 1]
    f1 = 2 * hits / (called + labels.sum())  # a quotient of counts, so that ties are exact
    return float(thresholds[called[f1 == f1.max()][-1] - 1])


def calibration_error(labels: Ints, probabilities: Floats, bins: int = 10) -> float:
    """Expected calibration error of probabilities (n,) of label 1: the mean gap to the share of ones, over equal bins.

    Guo, Pleiss, Sun and Weinberger (2017), for two classes: sum over bins of n_b / n * |mean label - mean probability|.
    """
    if len(labels) == 0:
        raise Undefined("there is nothing to score")
    if probabilities.min() < 0 or probabilities.max() > 1:
        raise Undefined("the scores are no probabilities: some lie outside 0 to 1")
    place = np.minimum((probabilities * bins).astype(np.int64), bins - 1)
    gaps = np.bincount(place, labels, bins) - np.bincount(place, probabilities, bins)
    return float(np.abs(gaps).sum() / len(labels))


def group_folds(labels: Ints, groups: NDArray[Any], count: int, seed: int, of: str) -> list[tuple[Ints, Ints]]:
    """Training and test rows of each fold, stratified by label; the rows of a group, one `of` what, stay together."""
    require_two_classes(labels)
    fewest = min(len(np.unique(groups[labels == value])) for value in (0, 1))
    if fewest < count:
        raise Undefined(f"{count} folds need {count} {of} of each label, and one label has {fewest}")
    numbers = np.unique(groups, return_inverse=True)[1]
    return _split(labels.astype(np.int64).tobytes(), numbers.astype(np.int64).tobytes(), count, seed)


@lru_cache(maxsize=4)
def _split(labels: bytes, groups: bytes, count: int, seed: int) -> list[tuple[Ints, Ints]]:
    """Kept, because thousands of settings are judged on the same folds, and making them takes longer than the rest."""
    y, numbers = (np.frombuffer(each, dtype=np.int64) for each in (labels, groups))
    splitter = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    return [(np.sort(train), np.sort(test)) for train, test in splitter.split(y, y, numbers)]


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
