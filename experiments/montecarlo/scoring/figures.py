"""The pictures of `montecarlo`; each function draws one and returns it."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image
from scipy.stats import binomtest

from experiments.arrays import Floats
from experiments.pictures import NEGATIVE, POSITIVE, axes_of

CERTAIN, UNCERTAIN = NEGATIVE, POSITIVE
_COLUMNS = 10  # images in a row of the contact sheet
_DECILES = 10


def scaling(table: pd.DataFrame, usable: Mapping[str, float], failed: Mapping[str, float]) -> Figure:
    """What agrees better with more passes: as seen, as the fewest predict with either tails, and the gate's lines."""
    figure = Figure(figsize=(11, 3.8), layout="constrained")
    for axes, (name, bound) in zip(figure.subplots(1, len(usable)), usable.items(), strict=True):
        axes.plot(table["passes"], table[name], "o-", color=CERTAIN, label="trials")
        axes.plot(table["passes"], table[f"{name}_predicted"], ":", color="grey", label="predicted, normal tails")
        axes.plot(table["passes"], table[f"{name}_heavy"], "-.", color="grey", label="predicted, heavy tails")
        axes.axhline(bound, color="#3a8a4d", linestyle="--", linewidth=1, label=f"usable from {bound:g}")
        if name in failed:
            axes.axhline(
                failed[name], color=UNCERTAIN, linestyle="--", linewidth=1, label=f"failed below {failed[name]:g}"
            )
        axes.set_xscale("log", base=2)
        axes.set_xticks(table["passes"], [str(passes) for passes in table["passes"]])
        axes.set(title={"icc": "ICC", "snr": "SNR", "spearman": "median Spearman"}[name], xlabel="passes T")
        if name == "snr":
            axes.set_yscale("log")
        else:
            axes.set_ylim(min(0.0, float(table[name].min()) if name in table else 0.0), 1.02)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
    return figure


def trials(u: Floats, title: str) -> Figure:
    """Each image's uncertainty in every trial (k, n) against the mean of its other trials."""
    figure, axes = axes_of(f"Do trials agree? {title}", "mean of the other trials", "one trial")
    others = (u.sum(axis=0) - u) / (len(u) - 1)
    axes.scatter(others.ravel(), u.ravel(), s=6, alpha=max(0.05, min(0.5, 2000 / u.size)), color=CERTAIN, linewidths=0)
    ends = [float(u.min()), float(u.max())]
    axes.plot(ends, ends, color="grey", linestyle=":", label="agreement")
    if ends[0] > 0:
        axes.set(xscale="log", yscale="log")
    axes.legend(frameon=False)
    return figure


def contact_sheet(images: pd.DataFrame, title: str) -> Figure:
    """The most and the least certain images, with class predicted and right one where they are known."""
    ranked = images.sort_values("uncertainty", kind="stable")
    count = min(_COLUMNS, len(ranked) // 2 or 1)
    rows = {"most certain": ranked.head(2 * count), "least certain": ranked.iloc[::-1].head(2 * count)}
    figure = Figure(figsize=(1.15 * _COLUMNS, 6.6), layout="constrained")
    figure.suptitle(f"Most and least certain images, {title}")
    for part, (name, chosen) in zip(figure.subfigures(2, 1, squeeze=False)[:, 0], rows.items(), strict=True):
        part.suptitle(name, fontsize=10, color=CERTAIN if name.startswith("most") else UNCERTAIN)
        cells = part.subplots(2, _COLUMNS).ravel()
        for axes in cells:
            axes.axis("off")
        for axes, (_, row) in zip(cells, chosen.iterrows(), strict=False):
            axes.imshow(Image.open(io.BytesIO(row["thumbnail"])), cmap="gray")
            axes.set_title(_caption(row), fontsize=7, color=UNCERTAIN if row.get("wrong") else "black")
    return figure


def _caption(row: pd.Series[Any]) -> str:
    lines = [f"{row['uncertainty']:.2g}"]
    if "predicted_class" in row:
        right = f" not {row['class']}" if row.get("wrong") else ""
        lines.append(f"{row['predicted_class']}{right}")
    return "\n".join(line if len(line) <= 22 else line[:21] + "…" for line in lines)


def error_rate(uncertainty: Floats, wrong: Floats, title: str) -> Figure:
    """Share of wrong zero-shot answers in each tenth of the images, by uncertainty."""
    figure, axes = axes_of(
        f"Does uncertainty predict error? {title}",
        "tenth of the images, least certain last",
        "error rate, 95 % intervals",
    )
    tenths = [part for part in np.array_split(wrong[np.argsort(uncertainty, kind="stable")], _DECILES) if len(part)]
    rates = np.array([part.mean() for part in tenths])
    ends = np.array([binomtest(int(part.sum()), len(part)).proportion_ci() for part in tenths])
    spread = np.abs(ends.T - rates)
    axes.bar(range(1, len(tenths) + 1), rates, yerr=spread, color=UNCERTAIN, ecolor="grey", capsize=2)
    axes.axhline(wrong.mean(), color="grey", linestyle=":", label=f"all images: {wrong.mean():.3f}")
    axes.set_xticks(range(1, len(tenths) + 1))
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    return figure
