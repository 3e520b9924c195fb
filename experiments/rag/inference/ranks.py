"""The order of all passages for one question, asked for where it matters only: no sorting, no list of names."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from experiments.arrays import Floats, Ints

_RRF = 60  # Cormack, Clarke and Buettcher (2009): reciprocal rank fusion sums 1 / (60 + rank)
_INDEX = np.uint64(32)  # bits that hold a passage's place in the corpus
Keys = NDArray[np.uint64]


def keys(scores: NDArray[np.float32]) -> Keys:
    """Numbers (n,), all different, that rise from the best passage to the worst; on a tie from the earlier one.

    The upper half of each is the score, its bits turned so that they sort as unsigned integers do; the lower half is
    the passage's place in the corpus, which settles ties without a stable sort.
    """
    bits = (np.asarray(scores, dtype=np.float32) + np.float32(0)).view(np.uint32)  # of the two zeros one
    falling = np.where(bits >> np.uint32(31), bits, ~bits & np.uint32(2**31 - 1))
    return _joined(falling)


def _joined(falling: NDArray[np.uint32] | Ints) -> Keys:
    return (falling.astype(np.uint64) << _INDEX) | np.arange(len(falling), dtype=np.uint64)


def at(keyed: Keys, places: Ints) -> Ints:
    """The passages (m,) at some places of the order, counted from 0."""
    found = np.partition(keyed, np.unique(places))[places] if len(places) else keyed[:0]
    return (found & np.uint64(2**32 - 1)).astype(np.int64)


def places(keyed: Keys, passages: Ints) -> Ints:
    """Where some passages (m,) stand in the order, counted from 0."""
    return np.array([np.count_nonzero(keyed < keyed[i]) for i in passages], dtype=np.int64)


def fused(orders: Sequence[Keys]) -> Keys:
    """The order by the sum over several orders of 1 / (60 + rank), ties by the corpus."""
    total = reciprocal_ranks(orders)
    _, falling = np.unique(-total, return_inverse=True)
    return _joined(falling)


def reciprocal_ranks(orders: Sequence[Keys]) -> Floats:
    """Sum over orders of 1 / (60 + rank) (n,), ranks counted from 1."""
    total, ranks = np.zeros(len(orders[0])), np.empty(len(orders[0]))
    for keyed in orders:
        ranks[np.argsort(keyed)] = np.arange(1.0, len(keyed) + 1)
        total += 1 / (_RRF + ranks)
    return total
