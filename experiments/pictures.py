"""The pictures that stages have in common; each function draws one and returns it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from experiments.arrays import Floats, Ints

NEGATIVE, POSITIVE = "#3b76af", "#c8553d"


def axes_of(title: str, x: str, y: str, size: tuple[float, float] = (6, 4.5)) -> tuple[Figure, Axes]:
    """A plain pair of axes on a figure of its own; pyplot's global state is never touched."""
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def roc(scores: Mapping[str, tuple[Ints, Floats]], cases: str, colours: Mapping[str, str]) -> Figure:
    """ROC curve of each detector, from its labels and scores (n,); the first stands out."""
    most = max(len(labels) for labels, _ in scores.values())
    figure, axes = axes_of(f"ROC, {most} {cases}", "false positive rate", "true positive rate")
    for i, (name, (labels, values)) in enumerate(scores.items()):
        fpr, tpr, _ = roc_curve(labels, values)
        label = f"{name} {roc_auc_score(labels, values):.3f}"
        axes.plot(fpr, tpr, color=colours.get(name, POSITIVE), label=label, linewidth=1.3 if i else 2)
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":", label="chance 0.500")
    axes.legend(frameon=False, title="AUC")
    return figure


def precision_recall(scores: Mapping[str, tuple[Ints, Floats]], cases: str, colours: Mapping[str, str]) -> Figure:
    """Precision-recall curve of each detector, with the first one's prevalence as the line of chance."""
    first, _ = next(iter(scores.values()))
    figure, axes = axes_of(f"Precision and recall, {len(first)} {cases}", "recall", "precision")
    for i, (name, (labels, values)) in enumerate(scores.items()):
        precision, recall, _ = precision_recall_curve(labels, values)
        label = f"{name} {average_precision_score(labels, values):.3f}"
        axes.plot(recall, precision, color=colours.get(name, POSITIVE), label=label, linewidth=1.3 if i else 2)
    axes.axhline(first.mean(), color="grey", linestyle=":", label=f"all called {first.mean():.3f}")
    axes.set_ylim(0, 1.02)
    axes.legend(frameon=False, title="average precision")
    return figure


def confusion(tables: Mapping[str, NDArray[np.int64]], names: tuple[str, str]) -> Figure:
    """The confusion matrix (2, 2) of each detector's calls; `names` are those of labels 0 and 1."""
    columns = min(3, len(tables))
    rows = -(-len(tables) // columns)
    figure = Figure(figsize=(0.6 + 2.5 * columns, 0.4 + 2.3 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes, (name, table) in zip(grid.flat, tables.items(), strict=False):
        axes.imshow(table, cmap="Blues", vmin=0, vmax=max(1, int(table.max())))
        axes.set(title=name, xlabel="called", ylabel="is")
        axes.set_xticks([0, 1], names)
        axes.set_yticks([0, 1], names, rotation=90, va="center")
        for (row, column), value in np.ndenumerate(table):
            colour = "white" if value > 0.6 * table.max() else "black"
            axes.text(column, row, str(value), ha="center", va="center", color=colour)
    for axes in list(grid.flat)[len(tables) :]:
        axes.set_axis_off()
    return figure
