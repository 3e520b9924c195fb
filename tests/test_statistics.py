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


def obuchowski(labels: Any, scores: Any, clusters: Any) -> float:
    """Variance of a clustered AUROC, pair by pair, in the words of Obuchowski (1997)."""
    pairs = {(i, j): float(scores[i] > scores[j]) + (scores[i] == scores[j]) / 2
             for i in np.flatnonzero(labels == 1) for j in np.flatnonzero(labels == 0)}  # fmt: skip
    ones, zeros = (np.flatnonzero(labels == label) for label in (1, 0))
    area, total = np.mean(list(pairs.values())), 0.0
    own = {i: np.mean([pairs[i, j] for j in zeros]) for i in ones}
    other = {j: np.mean([pairs[i, j] for i in ones]) for j in zeros}
    names = np.unique(clusters)
    sums = {name: [sum(part[i] - area for i in part if clusters[i] == name) for part in (own, other)] for name in names}
    for side, rows in ((0, ones), (1, zeros)):
        count = len(np.unique(clusters[rows]))
        total += count / (count - 1) * sum(sums[name][side] ** 2 for name in names) / len(rows) ** 2
    both = [len(np.unique(clusters[rows])) for rows in (ones, zeros)]
    cross = np.sqrt(both[0] / (both[0] - 1) * both[1] / (both[1] - 1))  # Obuchowski: I / (I - 1), all but the same
    return float(total + 2 * cross * sum(a * b for a, b in sums.values()) / len(ones) / len(zeros))


@given(seed=st.integers(0, 10**6), size=st.sampled_from([1, 3]))
def test_the_variance_is_that_of_delong_and_in_clusters_that_of_obuchowski(seed: int, size: int) -> None:
    labels, scores, _ = scored(45 * size, 1, seed)
    clusters = np.arange(45 * size) // size
    influence = statistics.auc_influence(labels, scores, clusters)
    assert (influence**2).sum() == pytest.approx(obuchowski(labels, scores, clusters), rel=1e-9)
    assert list(influence.index) == list(range(45))


def interval_of(labels: Any, scores: Any, clusters: Any) -> tuple[float, float]:
    influence = statistics.auc_influence(labels, scores, clusters)
    rests_on = statistics.sizes(labels, scores, clusters)
    return statistics.auc_interval(statistics.auc(labels, scores), influence, rests_on)


def test_rows_of_a_group_count_for_less_the_more_they_agree() -> None:
    labels, scores, _ = scored(80, 80)
    names = np.arange(80)
    ones, zeros = int(labels.sum()), int((1 - labels).sum())
    assert statistics.sizes(labels, scores, names) == pytest.approx((ones, zeros, min(ones, zeros)))
    copied = statistics.sizes(*(np.repeat(each, 9) for each in (labels, scores, names)))
    assert copied == pytest.approx((ones, zeros, min(ones, zeros)), rel=0.02)
    unrelated = statistics.sizes(labels, scores, np.random.default_rng(1).permutation(names) // 2)
    assert unrelated.positives > 0.6 * ones


def test_the_interval_holds_the_estimate_and_narrows_with_more_clusters() -> None:
    widths = []
    for n in (40, 160, 640):
        labels, scores, _ = scored(n, 1)
        low, high = interval_of(labels, scores, np.arange(n))
        assert low < statistics.auc(labels, scores) < high
        widths.append(high - low)
    assert widths[0] > widths[1] > widths[2]
    assert widths[0] > 2 * widths[2]


def test_copies_of_rows_within_their_cluster_do_not_narrow_the_interval() -> None:
    labels, scores, names = scored(80, 80)
    copied = interval_of(*(np.repeat(each, 9) for each in (labels, scores, names)))
    assert copied == pytest.approx(interval_of(labels, scores, names), abs=1e-9)


def test_the_interval_depends_neither_on_cluster_names_nor_on_row_order() -> None:
    labels, scores, names = scored(60, 20)
    interval = interval_of(labels, scores, names)
    assert interval_of(labels, scores, np.array([f"prompt {name:03}" for name in names])) == pytest.approx(interval)
    mixed = np.random.default_rng(0).permutation(60)
    assert interval_of(labels[mixed], scores[mixed], names[mixed]) == pytest.approx(interval)


@pytest.mark.parametrize(("good", "bad"), [(10, 10), (12, 400), (300, 300)])
def test_the_interval_of_a_perfect_order_does_not_collapse_and_is_mirrored(good: int, bad: int) -> None:
    labels = np.repeat([0, 1], [bad, good])
    low, high = interval_of(labels, labels.astype(float), np.arange(len(labels)))
    assert 0.7 < low < 0.997
    assert high == 1.0
    assert interval_of(labels, -labels.astype(float), np.arange(len(labels))) == pytest.approx((0.0, 1 - low))


@given(area=st.floats(0, 1), ones=st.integers(2, 500), zeros=st.integers(2, 500))
def test_newcombes_ends_are_1_96_of_their_own_standard_errors_away(area: float, ones: int, zeros: int) -> None:
    for end in statistics._newcombe(area, ones, zeros):
        if 0 < end < 1:
            middle = (ones + zeros) / 2 - 1
            tail = ((1 - end) / (2 - end) + end / (1 + end)) * middle
            error = np.sqrt(end * (1 - end) * (1 + tail) / (ones * zeros))
            assert abs(area - end) == pytest.approx(1.959964 * error, abs=1e-6)


def test_there_is_no_interval_where_few_groups_have_a_label_however_many_rows() -> None:
    labels, scores, names = scored(400, 40)
    labels[names >= 9] = 0
    with pytest.raises(Undefined, match="needs 10 groups of each label, and one label has 9"):
        statistics.auc_influence(labels, scores, names)


def test_p_is_at_5_percent_where_the_interval_ends_at_a_half() -> None:
    labels, scores, _ = scored(300, 1)
    names = np.arange(300)
    influence = statistics.auc_influence(labels, scores, names)
    low, _ = interval_of(labels, scores, names)
    assert (statistics.auc_p(statistics.auc(labels, scores), influence) < 0.05) == (low > 0.5)
    noise = [statistics.auc_p(statistics.auc(*each[:2]), statistics.auc_influence(*each))
             for each in ((np.random.default_rng(i).integers(0, 2, 100), np.random.default_rng(i + 500).random(100),
                           np.arange(100)) for i in range(200))]  # fmt: skip
    assert 0.01 < np.mean(np.array(noise) <= 0.05) < 0.09


@given(seed=st.integers(0, 10**6))
def test_permuted_labels_stay_in_groups_of_one_size_and_part(seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(30), rng.integers(1, 4, 30))
    part = (np.arange(30) % 3)[groups]
    mixed = rng.permutation(len(groups))
    groups, part = groups[mixed], part[mixed]
    source = statistics.permuted(groups, part, rng)
    assert sorted(source) == list(range(len(groups)))
    for group in range(30):
        whose = source[groups == group]
        assert len(set(groups[whose])) == 1
        assert (groups == groups[whose[0]]).sum() == len(whose)
        assert set(part[whose]) == set(part[groups == group])


def test_ranks_are_those_within_a_part_and_of_what_is_there() -> None:
    ranks = statistics.ranks_within(np.array([5.0, np.nan, 1.0, 1.0, -3.0]), np.array([0, 0, 0, 1, 1]))
    np.testing.assert_array_equal(ranks, [0.75, np.nan, 0.25, 0.75, 0.25])


@pytest.mark.parametrize("n", [30, 300])
def test_right_probabilities_have_the_calibration_error_that_chance_gives_and_wrong_ones_have_more(n: int) -> None:
    rng, gaps, small = np.random.default_rng(0), [], []
    for seed in range(40):
        probabilities = rng.random(n)
        labels = (rng.random(n) < probabilities).astype(int)
        by_chance, p = statistics.calibration_by_chance(labels, probabilities, seed, draws=100)
        gaps.append(statistics.calibration_error(labels, probabilities) - by_chance)
        small.append(p <= 0.05)
    assert abs(np.mean(gaps)) < 0.01  # where the error itself is 0.18 on average at 30
    assert np.mean(small) < 0.15
    wrong = statistics.calibration_by_chance(np.ones(n, dtype=int), np.full(n, 0.5), 0, draws=100)
    assert wrong[1] < 0.05


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
        (lambda: statistics.auc_influence(ONES, RISING, ONES), "all 4 labels are 1"),
        (lambda: statistics.auc_influence(np.array([0, 1, 0, 1]), RISING, ONES), "one source"),
        (lambda: statistics.best_f1_threshold(0 * ONES, RISING), "all 4 labels are 0"),
        (lambda: statistics.pearson(RISING, np.full(4, 0.1)), "constant"),
        (lambda: statistics.pearson(RISING[:1], RISING[:1]), "constant"),
    ],
)
def test_what_the_data_do_not_define_is_undefined_with_its_reason(compute: Callable[[], Any], reason: str) -> None:
    with pytest.raises(Undefined, match=reason):
        compute()
