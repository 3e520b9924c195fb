"""Statistics that several stages score with; every function raises Undefined rather than return a substitute."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import expit, logit, ndtri, stdtr
from scipy.stats import rankdata
from sklearn.model_selection import StratifiedGroupKFold

from experiments.arrays import Floats, Ints
from harness.running.differences import freedom, quantile, spread
from harness.stage import Undefined

_LARGE = 2.0**64  # scores beyond it leave no bit for the label
_CELLS = 1 << 15  # numbers worked on at once: 256 KB
_FEW = 30  # groups of either label below which the spread that is seen may be too small by chance
FEWEST = 10  # groups of either label below which no interval of an AUROC was found to hold


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


def row_aucs(labels: Ints, scores: Floats) -> Floats:
    """AUROC of every row of `scores` (s, n), bit for bit as column_aucs has it, many times sooner: (s,).

    One sort orders the scores with the labels in their last place: scores are brought below 1 by a power of two, which
    frees a bit of the exponent.  Among tied scores label 1 then comes last and wins, which the same sort with the
    labels turned round corrects.  Scores that are no numbers are left out; NaN where what is left is of one label.
    """
    require_two_classes(labels)
    if not max(scores.max(initial=0), -scores.min(initial=0)) < _LARGE:  # too large, infinite or not a number
        return np.array([of_known(auc, labels, row) for row in scores])
    bits = (scores * (1 / _LARGE) + 0.0).view(np.int64)  # + 0.0 makes -0.0 the same as 0.0
    keys = ((bits ^ ((bits >> 63) & np.int64(2**63 - 1))) << 1) | labels
    keys.sort(axis=1)
    positives = int(labels.sum())
    ranks = np.arange(1.0, len(labels) + 1)
    rank_sums = (keys & 1) @ ranks
    tied = ((keys[:, 1:] ^ keys[:, :-1]) == 1).any(axis=1)
    if tied.any():
        turned = np.sort(keys[tied] ^ 1, axis=1)
        rank_sums[tied] = (rank_sums[tied] + (1 - (turned & 1)) @ ranks) / 2
    pairs = positives * (len(labels) - positives)
    return np.asarray((rank_sums - positives * (positives + 1) / 2) / pairs, dtype=np.float64)


def of_known(figure: Callable[[Any, Any], float], labels: NDArray[Any], scores: Floats) -> float:
    """A figure of the scores (n,) that are numbers, NaN where it is undefined."""
    known = ~np.isnan(scores)
    try:
        return figure(labels[known], scores[known])
    except Undefined:
        return np.nan


def blocks(rows: int, width: int) -> list[slice]:
    """All rows, in slices of so few that they stay in a core's cache."""
    step = max(1, _CELLS // max(1, width))
    return [slice(start, start + step) for start in range(0, rows, step)]


def auc(labels: Ints, scores: Floats) -> float:
    """AUROC of `scores` (n,) for label 1."""
    return float(column_aucs(labels, scores[:, None])[0])


def auc_influence(labels: Ints, scores: Floats, clusters: NDArray[Any]) -> pd.Series[float]:
    """How much each cluster, named by `clusters` (n,), moves the AUROC of `scores` (n,).

    Obuchowski (1997): structural components (DeLong et al. 1988) summed by cluster, those of positives and of negatives
    each made larger for the number of clusters that have any; without clusters it is DeLong's variance.  Undefined
    below ten clusters of either label: no interval is known to hold there.
    """
    require_two_classes(labels)
    names, cluster = np.unique(clusters, return_inverse=True)
    if len(names) < 2:
        raise Undefined("everything comes from one source, which says nothing about how others would differ")
    positive = labels == 1
    area, moved = auc(labels, scores), np.zeros(len(names))
    for own, other, sign in ((positive, ~positive, 1.0), (~positive, positive, -1.0)):
        count = len(np.unique(cluster[own]))
        if count < FEWEST:
            raise Undefined(f"its interval needs {FEWEST} groups of each label, and one label has {count}")
        rivals = np.sort(scores[other])
        sides = np.searchsorted(rivals, scores[own], "left") + np.searchsorted(rivals, scores[own], "right")
        won = sides / (2 * len(rivals)) if sign > 0 else 1 - sides / (2 * len(rivals))
        share = np.bincount(cluster[own], won - area, len(names)) / own.sum()
        moved += share * np.sqrt(count / (count - 1))
    return pd.Series(moved, index=names)


class Sizes(NamedTuple):
    """How many independent positives and negatives an AUROC rests on, and how few groups one of the labels is in."""

    positives: float
    negatives: float
    groups: int


def sizes(labels: Ints, scores: Floats, clusters: NDArray[Any]) -> Sizes:
    """Rows of each label over the design effect, by which clusters make the variance larger than that of as many rows.

    Clusters alike throughout are one row each; where nothing varies they are taken to be so.
    """
    ones, zeros = (len(np.unique(clusters[labels == label])) for label in (1, 0))
    together = (auc_influence(labels, scores, clusters) ** 2).sum()
    apart = (auc_influence(labels, scores, np.arange(len(labels))) ** 2).sum()
    effect = max(1.0, together / apart) if apart else np.inf
    rows = int((labels == 1).sum()), int((labels == 0).sum())
    return Sizes(max(ones, rows[0] / effect), max(zeros, rows[1] / effect), min(ones, zeros))


def auc_interval(area: float, influence: pd.Series[float], rests_on: Sizes) -> tuple[float, float]:
    """95 % interval of an AUROC from its influence, by Student's t on the logit scale, on which it is less skewed.

    Of few groups the spread that is seen may be too small, and is none where every pair is in order: then Newcombe's
    interval (2006, method 5) is included.
    """
    by_model = _newcombe(area, rests_on.positives, rests_on.negatives)
    if area in (0.0, 1.0) or not influence.any():
        return by_model
    reach = quantile(influence, 0.95) * spread(influence) / (area * (1 - area))
    low, high = float(expit(logit(area) - reach)), float(expit(logit(area) + reach))
    return (low, high) if rests_on.groups >= _FEW else (min(low, by_model[0]), max(high, by_model[1]))


def auc_p(area: float, influence: pd.Series[float]) -> float:
    """Two-sided p of an AUROC against a half, by Student's t on the logit scale, as its interval has it."""
    if area in (0.0, 1.0) or not influence.any():
        raise Undefined("nothing varies")
    statistic = abs(logit(area)) * area * (1 - area) / spread(influence)
    return float(2 * stdtr(freedom(influence), -statistic))


def _newcombe(area: float, positives: float, negatives: float) -> tuple[float, float]:
    """The AUROCs from which this one is within 1.96 of their own standard errors: Newcombe 2006, method 5."""

    def excess(true: float) -> float:
        more = ((1 - true) / (2 - true) + true / (1 + true)) * ((positives + negatives) / 2 - 1)
        return (area - true) ** 2 - float(ndtri(0.975)) ** 2 * true * (1 - true) * (1 + more) / (positives * negatives)

    inside = min(max(area, 1e-9), 1 - 1e-9)  # at 0 and 1 themselves there is no standard error
    low = brentq(excess, 0.0, inside) if area > 0 else 0.0
    high = brentq(excess, inside, 1.0) if area < 1 else 1.0
    return float(low), float(high)


def permuted(groups: NDArray[Any], within: Ints, rng: np.random.Generator) -> Ints:
    """Whose label each row gets (n,): whole groups of one size change places, and rows inside them.

    Only groups with the same number in `within` (n,) change places.  So what a group's labels have in common stays with
    them (Winkler et al. 2015, exchangeability blocks).
    """
    order = np.lexsort((groups, within))
    starts = np.flatnonzero(np.r_[True, (groups[order][1:] != groups[order][:-1]) | (np.diff(within[order]) != 0)])
    sizes = np.diff(starts, append=len(order))
    alike: dict[tuple[int, int], list[int]] = {}
    for start, size, part in zip(starts.tolist(), sizes.tolist(), within[order[starts]].tolist(), strict=True):
        alike.setdefault((size, part), []).append(start)
    source = np.empty(len(groups), dtype=np.int64)
    for (size, _), firsts in alike.items():
        same = order[np.add.outer(firsts, np.arange(size))]  # a row a group
        source[same] = rng.permuted(same[rng.permutation(len(same))], axis=1)
    return source


def ranks_within(scores: Floats, parts: Ints) -> Floats:
    """Each score's rank among those of its part (n,), from 0 to 1; NaN where the score is."""
    table = pd.Series(scores).groupby(parts)
    return ((table.rank() - 0.5) / table.transform("count")).to_numpy(np.float64)


def best_f1_threshold(labels: Ints, scores: Floats) -> float:
    """The score (n,) at and above which calling 1 gives the highest F1; the lowest such score on a tie."""
    require_two_classes(labels)
    order = np.argsort(-scores)
    thresholds = scores[order]
    called = np.flatnonzero(np.diff(thresholds, append=-np.inf)) + 1  # how many reach each distinct score
    hits = np.cumsum(labels[order])[called - 1]
    f1 = 2 * hits / (called + labels.sum())  # a quotient of counts, so that ties are exact
    return float(thresholds[called[f1 == f1.max()][-1] - 1])


def calibration_error(labels: NDArray[Any], probabilities: Floats, bins: int = 10) -> float:
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


def calibration_by_chance(
    labels: Ints, probabilities: Floats, seed: int, bins: int = 10, draws: int = 1000
) -> tuple[float, float]:
    """The calibration error that right probabilities (n,) have by chance alone, on average, and the p of being right.

    Consistency resampling: labels are drawn by the probabilities themselves (Broecker and Smith 2007; Vaicenavicius et
    al. 2019), each on its own, so that where labels of a group agree the p is too small.
    """
    observed, rng = calibration_error(labels, probabilities, bins), np.random.default_rng(seed)
    drawn = np.array(
        [calibration_error(rng.random(len(labels)) < probabilities, probabilities, bins) for _ in range(draws)]
    )
    return float(drawn.mean()), float((1 + (drawn >= observed).sum()) / (1 + draws))


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
