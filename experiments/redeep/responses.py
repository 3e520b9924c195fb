"""What is learnt from, and judged: responses of spans (or tokens), each with its features."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from experiments.arrays import Floats, Ints
from experiments.columns import Columns
from experiments.protocols import Words

_KEPT = 8  # aggregates of all responses: floors of PKS differ between folds


@dataclass(frozen=True)
class Whole:
    """All responses that there are, whose features are aggregated once, however many folds and labels they are in."""

    ecs: Columns
    pks: Columns
    response: Ints
    table: pd.DataFrame  # a row a response: label, source, task where the data name one, id, length
    spans: pd.DataFrame  # a row a span: item, and start, end, text where the records tell them
    _kept: dict[Any, Floats] = field(default_factory=dict)

    def aggregates(self, heads: list[str], floor: float) -> Floats:
        """Mean, max, min and std of every response; see Responses."""
        key = tuple(heads), floor
        if key not in self._kept:
            while len(self._kept) >= _KEPT:
                del self._kept[next(iter(self._kept))]
            chosen = [self.ecs[name] for name in heads]
            table = np.column_stack([*chosen, np.log(np.maximum(self.pks.values, floor))])
            grouped = pd.DataFrame(table).groupby(self.response)
            self._kept[key] = np.hstack([grouped.mean(), grouped.max(), grouped.min(), grouped.std(ddof=0)])
        return self._kept[key]


@dataclass(frozen=True)
class Responses:
    """Records as arrays: r responses of n spans (or tokens); `response` (n,) numbers the response of each span."""

    ecs: Columns
    pks: Columns
    label: Ints  # of each span; -1: not known
    response: Ints
    labels: Ints  # 1: some span is hallucinated; -1: not known (r,)
    groups: NDArray[Any]  # the prompt of each (r,)
    stratum: NDArray[Any] | None  # the task of each (r,)
    lengths: Floats  # characters of each (r,)
    whole: Whole
    rows: Ints  # of each response in the whole (r,)
    words = Words("response", "prompt", "task", "hallucinated")

    @property
    def table(self) -> pd.DataFrame:
        """The row of each in the table of the whole (r,), with the labels that the data give."""
        return self.whole.table.iloc[self.rows]

    def take(self, rows: Ints) -> Responses:
        """The spans of the chosen responses, renumbered in the order given by `self`."""
        chosen = np.zeros(len(self.labels), dtype=bool)
        chosen[rows] = True
        spans, number = np.flatnonzero(chosen[self.response]), np.cumsum(chosen) - 1
        return Responses(
            self.ecs.take(spans),
            self.pks.take(spans),
            self.label[spans],
            number[self.response[spans]],
            self.labels[chosen],
            self.groups[chosen],
            None if self.stratum is None else self.stratum[chosen],
            self.lengths[chosen],
            self.whole,
            self.rows[chosen],
        )

    @property
    def known(self) -> Responses:
        """Those whose label is known."""
        known = np.flatnonzero(self.labels >= 0)
        return self if len(known) == len(self.labels) else self.take(known)

    def relabelled(self, source: Ints) -> Responses:
        """Each response labelled as another is, its spans in the pattern of that one's, stretched to their number."""
        sizes = np.bincount(self.response)
        starts = np.cumsum(sizes) - sizes
        place = np.arange(len(self.label)) - starts[self.response]  # of each span in its response
        other = source[self.response]
        label = self.label[starts[other] + place * sizes[other] // sizes[self.response]]
        # Where fewer spans take the pattern of more, none of those hallucinated may be taken.
        labels = self.labels[source]
        lost = (labels == 1) & (np.bincount(self.response, label) == 0)
        label[starts[lost]] = 1
        return replace(self, label=label, labels=labels)

    def aggregates(self, heads: list[str], floor: float) -> Floats:
        """Mean, max, min and std over each response's spans of ECS, and of the log of PKS, at least `floor`: (r, c)."""
        return self.whole.aggregates(heads, floor)[self.rows]

    def mean(self, values: Floats) -> Floats:
        """Mean of span values (n,) over each response: (r,)."""
        return np.asarray(np.bincount(self.response, values) / np.bincount(self.response), dtype=np.float64)

    def parted(self, values: Floats) -> NDArray[Any]:
        """Span values (n,) as one array a response: (r,) of objects."""
        parted = np.empty(len(self.labels), dtype=object)
        ends = np.cumsum(np.bincount(self.response)).tolist()
        for i, (start, end) in enumerate(pairwise([0, *ends])):
            parted[i] = values[start:end]
        return parted
