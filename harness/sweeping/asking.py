"""What to try next: a trial's own sampler, or a point of a grid or of a low-discrepancy sequence."""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import optuna
from optuna.trial import TrialState
from scipy.stats import qmc

from harness.sweeping.planning import Sweep
from harness.sweeping.samplers import at, sampler

_BLOCK = 50  # trials asked for at once by samplers that do not learn
_LEARNING = {"tpe", "gp", "cmaes", "nsga2"}

quiet = partial(warnings.catch_warnings, action="ignore", category=optuna.exceptions.ExperimentalWarning)


def block_size(sweep: Sweep) -> int:
    """Part of a study's identity, through its space: what learns is asked one by one."""
    return 1 if sweep.space.sampler in _LEARNING else _BLOCK


def ask(sweep: Sweep, mirror: optuna.Study, number: int) -> optuna.Trial:
    """Trial `number`, decided by the study's seed, that number and the trials that the mirror has been told."""
    if sweep.is_grid:
        mirror.enqueue_trial(sweep.grid[number])
        return mirror.ask(sweep.distributions)
    fixed = _kept(sweep, mirror, number)
    if sweep.space.sampler == "qmc":
        mirror.enqueue_trial(_quasi_random(sweep, number) | fixed)
        return mirror.ask(sweep.distributions)
    chosen = sampler(sweep.space, sweep.distributions, sweep.plan.options.seed, number)
    if fixed:
        with quiet():
            chosen = optuna.samplers.PartialFixedSampler(fixed, chosen)
    mirror.sampler = chosen
    return mirror.ask(sweep.distributions)


def _kept(sweep: Sweep, mirror: optuna.Study, number: int) -> dict[str, Any]:
    """Settings of inference that stay for a while, as the others cost nothing to try; not if they have failed."""
    leader = number - number % sweep.space.inner
    if not sweep.slow or sweep.slow == set(sweep.distributions) or leader == number:
        return {}
    before = mirror.get_trials(deepcopy=False)[leader]
    return {} if before.state == TrialState.FAIL else {name: before.params[name] for name in sweep.slow}


def _quasi_random(sweep: Sweep, number: int) -> dict[str, Any]:
    """The point of a low-discrepancy sequence, which depends on the trial's number alone."""
    kinds = {"sobol": qmc.Sobol, "halton": qmc.Halton}
    kind = kinds[str(sweep.space.options.get("qmc_type", "sobol"))]
    sequence = kind(len(sweep.distributions), scramble=True, rng=sweep.plan.options.seed)
    with warnings.catch_warnings(action="ignore"):
        unit = (sequence.fast_forward(number) if number else sequence).random(1)[0]
    return {name: at(field, float(u)) for (name, field), u in zip(sweep.space.searched.items(), unit, strict=True)}
