"""A space in Optuna's words: distributions, samplers, and values at a share of a field's way."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from harness.stage import BadInput, one_line
from harness.sweeping.space import Range, Space

optuna.logging.set_verbosity(optuna.logging.WARNING)


class Nothing(optuna.samplers.RandomSampler):
    """For the stored study, which is never asked."""


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
