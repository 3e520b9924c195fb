"""What a sweep says of its winner on the holdout: only what an interval bears out."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from experiments.detect import DETECT
from harness.running.differences import apart
from harness.stage import Report
from harness.sweeping.verdict import Verdict

GROUPS = [f"g{i}" for i in range(50)]
SHARED = np.random.default_rng(0).normal(0, 1, 50)


def report(auc: float, error: float, own: float = 0.0, seed: int = 1, **others: float) -> Report:
    """A holdout's report: AUC with its standard error, all of it moved by the same groups but for the share `own`."""
    noise = (1 - own) * SHARED + own * np.random.default_rng(seed).normal(0, 1, 50)
    moved = pd.Series(noise - noise.mean(), index=GROUPS)
    moved *= error / math.sqrt((moved**2).sum())
    ends = {"auc_low": auc - 2 * error, "auc_high": auc + 2 * error}
    influence = {"auc": moved} | dict.fromkeys(others, 0.1 * moved)
    return Report(metrics={"auc": auc} | ends | others, influence=influence)


def codes(verdict: Verdict, looks: tuple[int, int] = (1, 1)) -> dict[str, str]:
    return {finding.code: finding.message for finding in verdict.findings(looks)}


def verdict(holdout: Report, default: Report, direction: str = "maximize") -> Verdict:
    return Verdict(DETECT, ("auc", direction), holdout, default)


def test_a_gain_is_told_by_what_the_two_do_not_share() -> None:
    """Both move with the same groups, so that their difference is far surer than either: one lies in the other's."""
    told = verdict(report(0.80, 0.05), report(0.77, 0.05, own=0.05))
    metrics = told.metrics(Report())
    assert metrics["gain"] == pytest.approx(0.03)
    assert 0 < metrics["gain_low"] < 0.03 < metrics["gain_high"] < 0.06
    assert "no_gain" not in codes(told)


def test_a_better_value_is_no_gain_where_the_interval_of_the_difference_holds_none() -> None:
    told = verdict(report(0.80, 0.05), report(0.77, 0.05, own=0.9))
    assert told.metrics(Report())["gain_low"] < 0
    assert (
        "no gain can be seen: on the holdout the winner's auc is 0.800, that of the default settings 0.770; the"
        in (codes(told)["no_gain"])
    )


def test_what_is_to_be_minimized_gains_by_being_less() -> None:
    told = verdict(report(0.20, 0.05), report(0.30, 0.05, own=0.05), "minimize")
    metrics = told.metrics(report(0.15, 0.01))
    assert 0 < metrics["gain_low"] < metrics["gain"] == pytest.approx(0.1)
    assert metrics["selection_price"] == pytest.approx(0.05)


def test_a_difference_without_influence_has_a_value_and_no_interval_and_the_finding_says_so() -> None:
    holdout = Report(metrics={"auc": 0.8, "auc_low": 0.7, "auc_high": 0.9, "auc_length": 0.6})
    told = verdict(holdout, Report(metrics={"auc": 0.6}))
    assert told.metrics(Report()).keys() == {"auc_default_holdout", "gain"}
    assert codes(told)["no_gain"].startswith("whether there is a gain cannot be said: on the holdout")
    assert "the difference is +0.200, without an interval: how sure auc is cannot be said" in codes(told)["no_gain"]
    levels = {finding.code: finding.level for finding in told.findings((1, 1))}
    assert (levels["no_gain"], levels["holdout_trivial"]) == ("warn", "info")


def test_a_holdout_whose_interval_holds_chance_shows_nothing() -> None:
    assert "holds chance" in codes(verdict(report(0.55, 0.05), Report()))["holdout_chance"]
    assert "lies below chance" in codes(verdict(report(0.30, 0.05), Report()))["holdout_chance"]
    assert "holdout_chance" not in codes(verdict(report(0.65, 0.05), Report()))


def test_a_trivial_baseline_must_be_beaten_by_more_than_luck() -> None:
    assert "holdout_trivial" not in codes(verdict(report(0.80, 0.05, auc_length=0.6), Report()))
    told = codes(verdict(report(0.80, 0.05, auc_length=0.78), Report()))["holdout_trivial"]
    assert "is not known to beat auc_length, 0.780" in told


def test_looks_at_a_holdout_widen_its_interval_until_all_of_them_hold_at_once() -> None:
    told = verdict(report(0.80, 0.05), Report())
    assert "holdout_seen_again" not in codes(told)
    twice, often = (codes(told, looks)["holdout_seen_again"] for looks in ((2, 1), (20, 3)))
    assert "looked at 2 times, which" in twice
    assert "looked at 20 times by 3 studies, which" in often

    def width(message: str) -> float:
        low, _, high = message.rpartition("auc is ")[2].partition(" to ")
        return float(high) - float(low)

    once = 0.8 + 2 * 0.05 - (0.8 - 2 * 0.05)
    assert once < width(twice) < width(often) < 3 * once


def test_the_price_of_selection_has_the_interval_of_two_independent_figures() -> None:
    value, low, high = apart((0.9, 0.8, 0.95), (0.7, 0.6, 0.75))
    assert value == pytest.approx(0.2)
    assert low == pytest.approx(0.2 - math.hypot(0.1, 0.05))
    assert high == pytest.approx(0.2 + math.hypot(0.05, 0.1))
    metrics = verdict(report(0.7, 0.05), Report()).metrics(report(0.9, 0.05))
    assert metrics["selection_price"] == pytest.approx(0.2)
    assert metrics["selection_price_low"] == pytest.approx(0.2 - math.hypot(0.1, 0.1))
    assert verdict(report(0.7, 0.05), Report()).metrics(Report(metrics={"auc": 0.9})).keys() == {"selection_price"}


def test_a_holdout_that_defines_nothing_says_why() -> None:
    told = codes(verdict(Report(undefined={"auc": "one class only"}), report(0.7, 0.05)), (3, 2))
    assert told == {"holdout_undefined": "auc on the holdout is undefined: one class only"}
    undefined = Report(undefined={"auc": "one class only"})
    assert (
        "the default settings' auc on the holdout is undefined"
        in codes(verdict(report(0.9, 0.05), undefined))["default_failed"]
    )


def test_a_holdout_without_an_interval_shows_nothing_by_itself() -> None:
    few = Report(metrics={"auc": 0.9}, undefined={"auc_low": "too few groups"})
    told = codes(verdict(few, Report()), (2, 1))
    assert told["holdout_interval_missing"].startswith("on the holdout auc, 0.900, has no interval: too few groups")
    assert "it has no interval of auc that could be widened" in told["holdout_seen_again"]
