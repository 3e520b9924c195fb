"""AUROC, its interval, the F1 threshold and correlation agree with slow and obvious ways to compute them."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from experiments import statistics
from harness.stage import Undefined

ROWS = st.lists(st.tuples(st.integers(0, 1), st.integers(-4, 4), st.integers(-4, 4)), min_size=2, max_size=40)
two_classes = given(ROWS.map(np.array).filter(lambda rows: len(set(rows[:, 0])) == 2))


def scored(n: int, clusters: int, seed: int = 0) -> tuple[Any, Any, Any]:
    """Labels, scores that tell them apart a little and have ties, and the cluster of each row."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n)
    return labels, np.round(labels + rng.normal(size=n) * 1.5, 1), rng.integers(0, clusters, n)


@two_classes
def test_auc_of_each_column_is_that_of_scikit_learn_with_ties(rows: Any) -> None:
    labels, columns = rows[:, 0], rows[:, 1:].astype(float)
    expected = [roc_auc_score(labels, column) for column in columns.T]
    assert statistics.column_aucs(labels, columns) == pytest.approx(expected, abs=1e-12)
    assert statistics.auc(labels, columns[:, 0]) == pytest.approx(expected[0], abs=1e-12)


@two_classes
def test_auc_depends_on_order_alone_and_swapping_labels_mirrors_it(rows: Any) -> None:
    labels, scores = rows[:, 0], rows[:, 1].astype(float)
    assert statistics.auc(labels, np.exp(scores) - 7) == statistics.auc(labels, scores)
    assert statistics.auc(1 - labels, scores) == pytest.approx(1 - statistics.auc(labels, scores), abs=1e-12)


@two_classes
def test_the_threshold_is_the_lowest_score_with_the_best_f1(rows: Any) -> None:
    labels, scores = rows[:, 0], rows[:, 1].astype(float)

    def f1(threshold: float) -> Fraction:
        called = scores >= threshold
        return Fraction(int(2 * labels[called].sum()), int(called.sum() + labels.sum()))

    best = max(map(f1, scores))
    assert statistics.best_f1_threshold(labels, scores) == min(score for score in scores if f1(score) == best)


@pytest.mark.parametrize("clusters", [2, 5, 40])
def test_the_interval_is_that_of_drawing_whole_clusters_row_by_row(clusters: int) -> None:
    labels, scores, names = scored(60, clusters)
    present = np.unique(names)
    drawn = np.random.default_rng(3).multinomial(len(present), np.full(len(present), 1 / len(present)), size=150)
    aucs = []
    for counts in drawn:
        rows = [row for name, count in zip(present, counts, strict=True) for row in np.flatnonzero(names == name)
                for _ in range(count)]  # fmt: skip
        if len(set(labels[rows])) == 2:
            aucs.append(roc_auc_score(labels[rows], scores[rows]))
    low, high = statistics.auc_interval(labels, scores, names, seed=3, resamples=150)
    assert (low, high) == pytest.approx(np.percentile(aucs, [2.5, 97.5]), abs=1e-12)


def test_the_interval_holds_the_estimate_and_narrows_with_more_clusters() -> None:
    widths = []
    for n in (40, 160, 640):
        labels, scores, _ = scored(n, 1)
        low, high = statistics.auc_interval(labels, scores, np.arange(n), seed=0)
        assert low < statistics.auc(labels, scores) < high
        widths.append(high - low)
    assert widths[0] > widths[1] > widths[2]
    assert widths[0] > 2 * widths[2]


def test_copies_of_rows_within_their_cluster_do_not_narrow_the_interval() -> None:
    labels, scores, names = scored(80, 80)
    copied = statistics.auc_interval(*(np.repeat(each, 9) for each in (labels, scores, names)), seed=1)
    assert copied == pytest.approx(statistics.auc_interval(labels, scores, names, seed=1), abs=1e-12)


def test_the_interval_depends_on_the_seed_but_not_on_cluster_names_row_order_or_chunks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    labels, scores, names = scored(60, 20)
    interval = statistics.auc_interval(labels, scores, names, seed=5)
    assert statistics.auc_interval(labels, scores, names, seed=6) != interval
    assert statistics.auc_interval(labels, scores, np.array([f"prompt {name:03}" for name in names]), 5) == interval
    mixed = np.random.default_rng(0).permutation(60)
    assert statistics.auc_interval(labels[mixed], scores[mixed], names[mixed], seed=5) == interval
    monkeypatch.setattr(statistics, "_BOOTSTRAP_CELLS", 60 * 7)
    assert statistics.auc_interval(labels, scores, names, seed=5) == interval


def test_pearson_is_that_of_numpy() -> None:
    labels, scores, _ = scored(50, 1)
    assert statistics.pearson(scores, labels) == pytest.approx(np.corrcoef(scores, labels)[0, 1])


ONES, RISING = np.ones(4, dtype=int), np.arange(4.0)


@pytest.mark.parametrize(
    ("compute", "reason"),
    [
        (lambda: statistics.auc(ONES, RISING), "all 4 labels are 1"),
        (lambda: statistics.auc(ONES[:0], RISING[:0]), "nothing to score"),
        (lambda: statistics.column_aucs(0 * ONES, RISING[:, None]), "all 4 labels are 0"),
        (lambda: statistics.auc_interval(ONES, RISING, ONES, seed=0), "all 4 labels are 1"),
        (lambda: statistics.auc_interval(np.array([0, 1, 0, 1]), RISING, ONES, seed=0), "one source"),
        (lambda: statistics.best_f1_threshold(0 * ONES, RISING), "all 4 labels are 0"),
        (lambda: statistics.pearson(RISING, np.full(4, 0.1)), "constant"),
        (lambda: statistics.pearson(RISING[:1], RISING[:1]), "constant"),
    ],
)
def test_what_the_data_do_not_define_is_undefined_with_its_reason(compute: Callable[[], Any], reason: str) -> None:
    with pytest.raises(Undefined, match=reason):
        compute()
