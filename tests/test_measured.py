"""Intervals hold and claims are true as often as the page on statistics says."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
import pytest
from scipy.stats import binomtest

from docs.generate import MEASURED
from docs.measured import CATCH, COVERAGE, FALSE_ALARM, Row, judging, montecarlo, sweeps

SIMULATIONS = judging.SIMULATIONS | montecarlo.SIMULATIONS | sweeps.SIMULATIONS


def assert_kept(rows: list[Row], sure: float = 0.99) -> None:
    """Coverage in 0.92-0.99 and claims false in 0.05 at most, as far as so many draws can tell."""
    broken = []
    for row in rows:
        if row["kind"] in {COVERAGE, FALSE_ALARM} and row["draws"]:
            ends = binomtest(round(row["rate"] * row["draws"]), row["draws"]).proportion_ci(sure, "wilson")
            kept = ends.low <= 0.99 and ends.high >= 0.92 if row["kind"] == COVERAGE else ends.low <= 0.05
            broken += [] if kept else [row]
    assert not broken


def test_what_is_documented_is_kept() -> None:
    table = pd.read_csv(MEASURED)
    assert_kept(table.to_dict("records"))  # type: ignore[arg-type]
    kinds = table["kind"].value_counts()
    assert min(kinds[COVERAGE], kinds[FALSE_ALARM], kinds[CATCH]) >= 10
    assert (table[table["kind"] == COVERAGE]["draws"] >= 30).all()
    assert set(table["what"]) >= {"interval of `auc`, out of fold", "`polarity_inverted` at level fail"}


@pytest.mark.parametrize("simulation", [judging.fixed_scores, montecarlo.grows_interval, sweeps.sweeps_without_signal])
def test_a_simulation_repeats_itself(simulation: Callable[[int, int], list[Row]]) -> None:
    rows = simulation(2, 0)
    assert rows == simulation(2, 0)
    assert {tuple(row) for row in rows} == {("what", "case", "draws", "rate", "kind")}


@pytest.mark.slow
@pytest.mark.parametrize("simulation", SIMULATIONS, ids=lambda simulation: simulation.__name__)
def test_intervals_hold_and_claims_are_true(simulation: Callable[[int, int], list[Row]]) -> None:
    assert_kept(simulation(50 * SIMULATIONS[simulation], 7), sure=0.999)  # of a hundred rows none by chance
