"""Optuna's pictures of a study."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial

from harness.sweeping.study import Study

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def figures(study: Study) -> dict[str, Callable[[], Figure]]:
    """Optuna's pictures of a study, as far as it has trials enough for them."""
    return {name: partial(_drawn, plot) for name, plot in _plots(study, "optuna.visualization.matplotlib").items()}


def interactive(study: Study) -> str:
    """The same pictures as one HTML page that needs no network."""
    with warnings.catch_warnings(action="ignore"):
        plots = [plot() for plot in _plots(study, "optuna.visualization").values()]
    parts = [plot.to_html(full_html=False, include_plotlyjs=i == 0) for i, plot in enumerate(plots)]
    return f"<!doctype html><meta charset=utf-8><title>{study.sweep.name}</title>" + "".join(parts)


def _plots(study: Study, module: str) -> dict[str, Callable[[], Any]]:
    drawing = importlib.import_module(module)
    sweep, complete = study.sweep, [trial for trial in study.trials() if trial.values is not None]
    if len(complete) < 2:
        return {}
    varied = [name for name in sweep.distributions if len({str(trial.params[name]) for trial in complete}) > 1]
    objectives = list(sweep.space.objectives)
    plots: dict[str, Callable[[], Any]] = {}
    for i, name in enumerate(objectives):
        aim: dict[str, Any] = {"target_name": name}
        if len(objectives) > 1:
            aim["target"] = partial(_value, i)
        plots[f"history_{name}"] = partial(drawing.plot_optimization_history, study.stored, **aim)
        if varied:
            plots[f"slices_{name}"] = partial(drawing.plot_slice, study.stored, params=varied, **aim)
        if len(varied) > 1:
            plots[f"parallel_{name}"] = partial(drawing.plot_parallel_coordinate, study.stored, params=varied, **aim)
            evaluator = optuna.importance.PedAnovaImportanceEvaluator()  # the one whose cost is linear in the trials
            plots[f"importance_{name}"] = partial(
                drawing.plot_param_importances, study.stored, evaluator=evaluator, params=varied, **aim
            )
    if len(objectives) in {2, 3}:
        plots["pareto_front"] = partial(drawing.plot_pareto_front, study.stored, target_names=objectives)
    return plots


def _value(i: int, trial: FrozenTrial) -> float:
    return float(trial.values[i])


def _drawn(plot: Callable[[], Any]) -> Figure:
    with warnings.catch_warnings(action="ignore"):  # of pictures that a few trials cannot fill
        axes = np.ravel(np.asarray(plot(), dtype=object))[0]
    figure: Figure = axes.figure
    figure.set_size_inches(11, 6)
    return figure
