"""Which of several results no other beats: the Pareto front, for sweeps and leaderboards, which cannot share a room."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def undominated(losses: NDArray[Any], *, equals: bool) -> NDArray[np.bool_]:
    """Whether no other row is at most as large in every column and smaller in one (rows x columns -> rows).

    Of rows that are equal all are kept with `equals`, else the first.
    """
    kept = np.ones(len(losses), dtype=bool)
    for i, own in enumerate(losses):
        no_worse = (losses <= own).all(axis=1)
        better = no_worse & (losses < own).any(axis=1)
        kept[i] = not better.any() and (equals or not no_worse[:i].any())
    return kept
