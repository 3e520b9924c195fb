"""The pictures of `detect`; each function draws one and returns it."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from experiments.arrays import Floats, Ints

FAITHFUL, HALLUCINATED = "#3b76af", "#c8553d"


def _axes(title: str, x: str, y: str) -> tuple[Figure, Axes]:
    """A plain pair of axes on a figure of its own; pyplot's global state is never touched."""
    figure = Figure(figsize=(6, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def roc(labels: Ints, scores: Floats) -> Figure:
    """ROC curve of response scores (r,)."""
    title = f"ROC: AUC {roc_auc_score(labels, scores):.3f}, {len(labels)} responses"
    figure, axes = _axes(title, "false positive rate", "true positive rate")
    fpr, tpr, _ = roc_curve(labels, scores)
    axes.plot(fpr, tpr, color=HALLUCINATED)
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":", label="chance")
    axes.legend(frameon=False)
    return figure


def precision_recall(labels: Ints, scores: Floats) -> Figure:
    """Precision-recall curve of response scores (r,), with the prevalence as the line of chance."""
    title = f"Precision-recall: average precision {average_precision_score(labels, scores):.3f}"
    figure, axes = _axes(title, "recall", "precision")
    precision, recall, _ = precision_recall_curve(labels, scores)
    axes.plot(recall, precision, color=HALLUCINATED)
    axes.axhline(labels.mean(), color="grey", linestyle=":", label=f"all called: {labels.mean():.2f}")
    axes.set_ylim(0, 1.02)
    axes.legend(frameon=False)
    return figure


def distributions(labels: Ints, scores: Floats) -> Figure:
    """Histograms of response scores (r,), one a label."""
    figure, axes = _axes("Response scores", "score (higher: more hallucinated)", "responses")
    bins = np.linspace(scores.min(), max(scores.max(), scores.min() + 1e-9), 31).tolist()
    for value, name, colour in ((0, "faithful", FAITHFUL), (1, "hallucinated", HALLUCINATED)):
        chosen = scores[labels == value]
        axes.hist(chosen, bins, alpha=0.6, color=colour, label=f"{name} ({len(chosen)})")
    axes.legend(frameon=False)
    return figure


def worth(features: pd.DataFrame) -> Figure:
    """Heat map of each column's own span AUC: heads across, layers down, PKS in the last column."""
    ecs = features[features["column"].str.startswith("ecs_")]
    pks = features[features["column"].str.startswith("pks_")]
    place = ecs["column"].str.extract(r"ecs_(\d+)_(\d+)").astype(int)
    grid = pd.DataFrame({"layer": place[0], "head": place[1], "auc": ecs["auc"]})
    table = grid.pivot_table(index="layer", columns="head", values="auc")
    layers = pks["column"].str.extract(r"pks_(\d+)")[0].astype(int)
    table = table.reindex(sorted({*table.index, *layers}))
    table["PKS"] = pd.Series(pks["auc"].to_numpy(), index=layers.to_numpy())
    figure, axes = _axes("Span AUC by head (ECS) and layer (PKS)", "head", "layer")
    figure.set_size_inches(min(14, 4 + 0.4 * table.shape[1]), min(12, 2 + 0.35 * table.shape[0]))
    image = axes.imshow(table.to_numpy(float), cmap="RdBu", vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(table.shape[1]), [str(name) for name in table.columns], fontsize=7)
    axes.set_yticks(range(table.shape[0]), [str(name) for name in table.index], fontsize=7)
    if table.size <= 200:  # small enough to be read
        for (row, column), value in np.ndenumerate(table.to_numpy(float)):
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=8)
    figure.colorbar(image, label="AUC (0.5: no information)")
    return figure
