"""The pictures of `detect`; each function draws one and returns it."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments.arrays import Floats, Ints
from experiments.pictures import NEGATIVE, POSITIVE, axes_of


def distributions(labels: Ints, scores: Floats) -> Figure:
    """Histograms of response scores (r,), one a label."""
    figure, axes = axes_of("Response scores", "score (higher: more hallucinated)", "responses")
    bins = np.linspace(scores.min(), max(scores.max(), scores.min() + 1e-9), 31).tolist()
    for value, name, colour in ((0, "faithful", NEGATIVE), (1, "hallucinated", POSITIVE)):
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
    figure, axes = axes_of("Span AUC by head (ECS) and layer (PKS)", "head", "layer")
    figure.set_size_inches(min(14, 4 + 0.4 * table.shape[1]), min(12, 2 + 0.35 * table.shape[0]))
    image = axes.imshow(table.to_numpy(float), cmap="RdBu", vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(table.shape[1]), [str(name) for name in table.columns], fontsize=7)
    axes.set_yticks(range(table.shape[0]), [str(name) for name in table.index], fontsize=7)
    if table.size <= 200:  # small enough to be read
        for (row, column), value in np.ndenumerate(table.to_numpy(float)):
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=8)
    figure.colorbar(image, label="AUC (0.5: no information)")
    return figure
