"""The pictures of `rag`; each function draws one and returns it."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.pictures import axes_of
from experiments.rag.detectors import FUSED, colours

_VERDICTS = {
    "faithful": "#3b76af",
    "abstained": "#b8b8b8",
    "hallucinated": "#c8553d",
    "cut": "#e3d26f",
    "empty": "#ececec",
    "unlabelled": "#d5cbe2",
}


def by_tier(table: pd.DataFrame, metric: str) -> Figure:
    """A metric of every detector at each tier, best retrieval first; the AUC with its intervals."""
    title = {"auc": "AUC by retrieval quality", "f1": "F1 by retrieval quality"}[metric]
    figure, axes = axes_of(title, "tier", metric.upper())
    tiers = [tier for tier in table["tier"].unique() if tier != "all"] or ["all"]
    names = list(table["detector"].unique())
    for i, name in enumerate(names):
        rows = table[table["detector"] == name].set_index("tier").reindex(tiers)
        x = np.arange(len(tiers)) + 0.06 * (i - (len(names) - 1) / 2)
        style = {"color": colours()[name], "marker": "o", "label": name, "linewidth": 2 if name == FUSED else 1.2}
        if metric == "auc":
            reach = np.abs(rows[["auc_low", "auc_high"]].to_numpy().T - rows["auc"].to_numpy())
            axes.errorbar(x, rows["auc"], yerr=reach, capsize=2, elinewidth=0.8, **style)
        else:
            axes.plot(x, rows[metric], **style)
    if metric == "auc":
        axes.axhline(0.5, color="grey", linestyle=":", label="chance")
    else:
        rate = table[table["detector"] == names[0]].set_index("tier").reindex(tiers)["base_rate"]
        axes.plot(np.arange(len(tiers)), 2 * rate / (1 + rate), color="grey", linestyle=":", label="all called")
    axes.set_xticks(range(len(tiers)), _with_rates(table, tiers))
    axes.legend(frameon=False, fontsize=8, ncols=2)
    return figure


def _with_rates(table: pd.DataFrame, tiers: list[str]) -> list[str]:
    """Each tier with the share of hallucinated answers that it has."""
    rates = table.drop_duplicates("tier").set_index("tier")["base_rate"]
    return [f"{tier}\n{rates[tier]:.0%} hallucinated" for tier in tiers]


def heat_map(table: pd.DataFrame) -> Figure:
    """AUC of every detector at each tier and over all of them."""
    tiers = list(table["tier"].unique())
    grid = table.pivot_table(index="detector", columns="tier", values="auc", dropna=False, sort=False)[tiers]
    figure, axes = axes_of("AUC by detector and tier", "", "", (2.6 + 1.1 * len(tiers), 1.8 + 0.5 * len(grid)))
    _fill(axes, grid, 0, 1, "RdBu")
    axes.set_xticks(range(len(tiers)), _with_rates(table, tiers), fontsize=8)
    return figure


def agreement(table: pd.DataFrame) -> Figure:
    """Cohen's kappa of every two detectors' calls."""
    names = list(dict.fromkeys([*table["first"], *table["second"]]))
    grid = pd.DataFrame(np.eye(len(names)), index=names, columns=names)
    for _, row in table.iterrows():
        grid.loc[row["first"], row["second"]] = grid.loc[row["second"], row["first"]] = row["kappa"]
    size = 2.6 + 0.8 * len(names)
    figure, axes = axes_of("Agreement of calls (Cohen's kappa)", "", "", (size, 0.75 * size))
    _fill(axes, grid, -1, 1, "PuOr")
    axes.set_xticks(range(len(names)), names)
    return figure


def _fill(axes: Axes, grid: pd.DataFrame, low: float, high: float, colours: str) -> None:
    axes.imshow(grid.to_numpy(float), cmap=colours, vmin=low, vmax=high, aspect="auto")
    axes.set_yticks(range(len(grid)), [str(name) for name in grid.index])
    axes.spines[["left", "bottom"]].set_visible(False)
    middle, reach = (low + high) / 2, (high - low) / 2
    for (row, column), value in np.ndenumerate(grid.to_numpy(float)):
        colour = "white" if abs(value - middle) > 0.7 * reach else "black"
        text = "undefined" if np.isnan(value) else f"{value:.2f}"
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=9)


def retrieval_quality(frame: pd.DataFrame) -> Figure:
    """What each tier's contexts are like, and what came of them: relevant share achieved, and verdicts."""
    tiers = list(dict.fromkeys(frame["tier"]))
    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    if "achieved" in frame:
        bins = np.linspace(-0.025, 1.025, 22)
        for tier, colour in zip(tiers, ("#1b4f72", "#5d8aa8", "#a9c4d6", "#d0d0d0"), strict=False):
            values = frame.loc[frame["tier"] == tier, "achieved"]
            left.hist(values, bins.tolist(), alpha=0.8, color=colour, label=f"{tier}: mean {values.mean():.2f}")
        left.set_ylim(0, 1.3 * left.get_ylim()[1])
        left.legend(frameon=False)
    else:
        left.text(0.5, 0.5, "the answers came with the data", ha="center", va="center", transform=left.transAxes)
    left.set(title="Retrieval quality", xlabel="share of relevant passages in a context", ylabel="contexts")
    start = np.zeros(len(tiers))
    there = set(frame["verdict"])
    for verdict, colour in ((name, colour) for name, colour in _VERDICTS.items() if name in there):
        share = np.array([(frame.loc[frame["tier"] == tier, "verdict"] == verdict).mean() for tier in tiers])
        right.bar(tiers, share, bottom=start, color=colour, label=verdict, width=0.6)
        start += share
    right.set(title="What the answers are", ylabel="share of answers", ylim=(0, 1))
    right.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=3)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    return figure
