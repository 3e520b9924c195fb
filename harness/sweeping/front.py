"""What a sweep has found: its winner, the trials that no other beats, and a table of all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.running.dominance import undominated
from harness.sweeping.planning import Sweep
from harness.sweeping.trial import Trial


def winner(trials: Sequence[Trial], sweep: Sweep) -> Trial | None:
    """The best feasible trial, the earliest on a tie; of several objectives, the knee of the front.

    The knee is the member nearest, objectives scaled to 0-1 over the front, to the point best in each.
    """
    front = pareto(trials, sweep)
    if not front:
        return None
    losses = _losses(front, sweep)
    width = np.ptp(losses, axis=0)
    scaled = (losses - losses.min(axis=0)) / np.where(width > 0, width, 1)
    return front[int((scaled**2).sum(axis=1).argmin())]


def pareto(trials: Sequence[Trial], sweep: Sweep) -> list[Trial]:
    """The feasible trials that no other beats in every objective, by number; equals keep the earliest."""
    able = [trial for trial in trials if trial.feasible]
    if not able:
        return []
    kept = undominated(_losses(able, sweep), equals=False)
    return [trial for trial, best in zip(able, kept, strict=True) if best]


def table(trials: Sequence[Trial], sweep: Sweep) -> pd.DataFrame:
    """One row a trial: number, state, parameters, metrics, why it failed."""
    front = {trial.number for trial in pareto(trials, sweep)}
    return pd.DataFrame(
        [
            {
                "trial": trial.number,
                "state": trial.state,
                "pareto": trial.number in front,
                **{name: trial.outcome.metrics.get(name) for name in sweep.space.objectives},
                **{f"params.{name}": value for name, value in trial.params.items()},
                **trial.outcome.metrics,
                "seconds_to_score": trial.outcome.seconds,
                "reason": trial.outcome.reason,
            }
            for trial in trials
        ]
    )


def better(sweep: Sweep, best: Trial | None, trial: Trial) -> Trial | None:
    """The better of two in the first objective."""
    if not trial.feasible or (best is not None and _losses([trial], sweep)[0, 0] >= _losses([best], sweep)[0, 0]):
        return best
    return trial


def _losses(trials: Sequence[Trial], sweep: Sweep) -> NDArray[Any]:
    signs = np.array([-1.0 if direction == "maximize" else 1.0 for direction in sweep.space.objectives.values()])
    return np.asarray(signs * np.array([trial.values for trial in trials]))
