"""One picture of what was measured: how often intervals hold, and how often claims are false."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from docs.measured import COVERAGE, FALSE_ALARM

_KEPT, _BROKEN = "#3b76af", "#c8553d"


def draw(table: pd.DataFrame, path: Path) -> None:
    """A dot a case, a row each interval or claim; what is meant is shaded, two standard errors are drawn."""
    groups = [table[table["kind"] == kind] for kind in (COVERAGE, FALSE_ALARM)]
    heights = [rows["what"].nunique() for rows in groups]
    figure = Figure(figsize=(10, 1.6 + 0.3 * sum(heights)), layout="constrained")
    panels = figure.subplots(2, 1, height_ratios=heights)
    for axes, rows, (low, high), title in zip(
        panels,
        groups,
        ((0.92, 0.99), (0.0, 0.05)),
        ("Intervals of 95 %: how often they hold the truth, by case", "Claims that are false: how often they are made"),
        strict=True,
    ):
        names = list(dict.fromkeys(rows["what"]))
        for place, name in enumerate(names):
            rates, draws = (rows[rows["what"] == name][column].to_numpy(float) for column in ("rate", "draws"))
            at = place + np.linspace(-0.25, 0.25, len(rates)) if len(rates) > 1 else np.array([place])
            reach = 2 * np.sqrt(np.clip(rates * (1 - rates), 0.002, None) / draws)
            outside = (rates + reach < low) | (rates - reach > high)
            for x, y, r, bad in zip(rates, at, reach, outside, strict=True):
                axes.errorbar(x, y, xerr=r, fmt="o", ms=3, lw=0.7, color=_BROKEN if bad else _KEPT)
        axes.axvspan(low, high, color="#3a8a4d", alpha=0.12, lw=0)
        axes.set_yticks(range(len(names)), [name.replace("`", "") for name in names], fontsize=8)
        axes.invert_yaxis()
        axes.set_title(title, fontsize=10, loc="left")
        axes.set_xlim(*((0.8, 1.0) if high > 0.5 else (0.0, 0.2)))
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=90)
