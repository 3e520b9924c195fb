"""What to try next: Optuna's samplers, seeded trial by trial, and grids and low-discrepancy sequences beside them."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState
from scipy.stats import qmc

from harness.stage import BadInput, one_line
from harness.sweeping.space import Range, Space

if TYPE_CHECKING:
    from harness.sweeping.planning import Sweep

_BLOCK = 50  # trials asked for at once by samplers that do not learn
_LEARNING = {"tpe", "gp", "cmaes", "nsga2"}

optuna.logging.set_verbosity(optuna.logging.WARNING)
quiet = partial(warnings.catch_warnings, action="ignore", category=optuna.exceptions.ExperimentalWarning)


class Nothing(optuna.samplers.RandomSampler):
    """For the stored study, which is never asked."""


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


def at(field: Range | tuple[Any, ...], unit: float) -> Any:
    """The value at a share of a field's way, 0 to 1."""
    points = list(field) if isinstance(field, tuple) else field.points()
    if points is not None:
        return points[min(int(unit * len(points)), len(points) - 1)]
    assert isinstance(field, Range)
    low, high = (np.log(end) if field.log else end for end in (field.low, field.high))
    value = float(np.exp(low + unit * (high - low)) if field.log else low + unit * (high - low))
    return (
        int(np.clip(round(value), field.low, field.high))
        if field.whole
        else float(np.clip(value, field.low, field.high))
    )


def sampler(
    space: Space, distributions: Mapping[str, BaseDistribution], seed: int, number: int
) -> optuna.samplers.BaseSampler:
    """A sampler whose randomness is that of one trial."""
    kinds: dict[str, Any] = {
        "tpe": optuna.samplers.TPESampler,
        "gp": optuna.samplers.GPSampler,
        "cmaes": optuna.samplers.CmaEsSampler,
        "nsga2": optuna.samplers.NSGAIISampler,
        "random": optuna.samplers.RandomSampler,
    }
    own = {"qmc": ["qmc_type"], "grid": []}
    kind = kinds.get(space.sampler)
    ours = {"seed", "group", "constraints_func", "source_trials", "x0"}
    allowed = own[space.sampler] if kind is None else sorted(set(inspect.signature(kind).parameters) - ours)
    if unknown := [name for name in space.options if name not in allowed]:
        raise BadInput(f"space {space.name}: sampler {space.sampler} has no option {unknown[0]}; {', '.join(allowed)}")
    if space.sampler == "cmaes" and len(space.objectives) > 1:
        raise BadInput(
            f"space {space.name}: sampler cmaes has one objective; tpe, gp, nsga2, qmc and random take several"
        )
    if space.options.get("qmc_type", "sobol") not in {"sobol", "halton"}:
        raise BadInput(f"space {space.name}: qmc_type = {space.options['qmc_type']}: must be sobol or halton")
    if kind is None:
        return Nothing()
    own_seed = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
    relative = {name: choice for name, choice in distributions.items() if not choice.single()}
    if space.sampler != "tpe" or len(space.objectives) == 1:  # of several, TPE samples each setting by itself
        # What all trials have in common is known: finding it out anew for every trial would take longer and longer.
        kind = type(kind.__name__, (kind,), {"infer_relative_search_space": lambda *_: dict(relative)})
    try:
        made: optuna.samplers.BaseSampler = kind(seed=own_seed, **space.options)
    except (TypeError, ValueError, ImportError) as error:
        raise BadInput(f"space {space.name}: sampler {space.sampler}: {one_line(error)}") from error
    return made


def distribution(field: Range | tuple[Any, ...]) -> BaseDistribution:
    """A field of a space in Optuna's words."""
    if isinstance(field, tuple):
        return CategoricalDistribution(field)
    if field.whole:
        return IntDistribution(int(field.low), int(field.high), log=field.log, step=int(field.step or 1))
    points = field.points()
    return FloatDistribution(field.low, float(points[-1]) if points else field.high, log=field.log, step=field.step)
