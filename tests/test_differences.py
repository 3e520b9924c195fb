"""Intervals of figures and of their differences, from what each group adds to them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_1samp, ttest_rel

from harness.running.differences import difference, freedom, interval
from harness.stage import Report, Undefined


def mean_of(values: pd.Series[float]) -> Report:
    """A report of one mean, and what each value adds to it."""
    n = len(values)
    return Report({"mean": float(values.mean())}, influence={"mean": (values - values.mean()) / np.sqrt(n * (n - 1))})


@given(seed=st.integers(0, 10**6), n=st.integers(200, 400))
def test_of_a_mean_and_of_a_paired_difference_they_are_those_of_students_t(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    first = pd.Series(rng.normal(size=n), index=[f"g{i}" for i in range(n)])
    second = first + rng.normal(0.1, 0.2, size=n)
    one = mean_of(first)
    expected = ttest_1samp(first, 0).confidence_interval()
    assert interval(one.metrics["mean"], one.influence["mean"]) == pytest.approx(expected, rel=0.02, abs=2e-3)
    value, low, high = difference(mean_of(second), one, "mean")
    assert value == pytest.approx((second - first).mean())
    assert (low, high) == pytest.approx(ttest_rel(second, first).confidence_interval(), abs=2e-3)


def test_groups_are_matched_by_name_and_those_that_only_one_has_count_alone() -> None:
    a, b = pd.Series({"x": 0.3, "y": -0.3}), pd.Series({"y": -0.3, "x": 0.3})
    same = Report({"m": 0.7}, influence={"m": a}), Report({"m": 0.7}, influence={"m": b})
    assert difference(*same, "m") == (0.0, 0.0, 0.0)
    apart = Report({"m": 0.6}, influence={"m": pd.Series({"z": 0.3, "w": -0.3})})
    _, low, high = difference(same[0], apart, "m")
    assert high - low > 2 * 0.6  # the sum of four squares


def test_few_groups_that_make_up_the_spread_leave_few_degrees_of_freedom() -> None:
    rng = np.random.default_rng(0)
    many, few = pd.Series(rng.normal(size=500)), pd.Series(rng.normal(size=500) * 1e-3)
    few[:4] = [1.0, -1.0, 1.0, -1.0]
    assert 300 < freedom(many) < 500
    assert freedom(few) == pytest.approx(12, rel=0.01)


def test_what_is_not_known_of_a_metric_is_said() -> None:
    known = Report({"m": 0.7}, {"k": "there is but one label"}, {"m": pd.Series({"x": 0.1, "y": -0.1})})
    with pytest.raises(Undefined, match="k is undefined: there is but one label"):
        difference(known, known, "k")
    with pytest.raises(Undefined, match="how sure m is cannot be said"):
        difference(known, Report({"m": 0.5}), "m")
    with pytest.raises(Undefined, match="says nothing about how others"):
        interval(0.5, pd.Series({"x": 0.0}))
