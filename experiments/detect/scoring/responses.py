"""Records of `detect` as the cases that are judged: responses of spans, each with its features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from experiments.arrays import Floats, Ints
from experiments.protocols import Words
from harness.stage import BadInput

_OF_A_SPAN = ("item", "start", "end", "text")
_KEPT = 8  # aggregates of all responses: floors of PKS differ between folds


@dataclass(frozen=True)
class Columns:
    """Features (n, c) by name: what a DataFrame would do, many times sooner for the few rows of a fold."""

    names: tuple[str, ...]
    values: Floats

    @classmethod
    def of(cls, frame: pd.DataFrame) -> Columns:
        """Those of a table of numbers."""
        return cls(tuple(map(str, frame)), frame.to_numpy(np.float64))

    def __getitem__(self, name: str) -> Floats:
        """One column (n,)."""
        return self.values[:, self.names.index(name)]

    def take(self, rows: Ints) -> Columns:
        """Some of the rows."""
        return Columns(self.names, self.values[rows])

    def sum(self, names: Sequence[str]) -> Floats:
        """The sum of some columns (n,), one after the other, so that it is the same to the last bit wherever it is."""
        total = np.zeros(len(self.values))
        for name in names:
            total = total + self[name]
        return total


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


def read_responses(frame: pd.DataFrame) -> Responses:
    """Split records into features, labels and responses; a response is hallucinated when any of its spans is.

    A label of -1 is not known, for a response with all of its spans.  The rows are put in one order first, so that no
    result depends on the order in which they were made.
    """
    _require_columns(frame)
    frame = frame.sort_values(["group", "item"], kind="stable", ignore_index=True)
    ecs, pks = (Columns.of(frame.filter(regex=f"^{prefix}")) for prefix in ("ecs_", "pks_"))
    response, ids = pd.factorize(frame["group"])
    columns = {"label": "max"} | {name: "first" for name in ("source", "task") if name in frame}
    responses = frame.groupby(response).agg(columns).assign(id=ids)
    responses["source"] = responses.get("source", responses["id"])
    lengths = frame["length"] if "length" in frame else pd.Series(1, index=frame.index)
    responses["length"] = lengths.groupby(response).sum()
    response = response.astype(np.int64)
    return Responses(
        ecs,
        pks,
        frame["label"].to_numpy(np.int64),
        response,
        responses["label"].to_numpy(np.int64),
        responses["source"].to_numpy(),
        responses["task"].to_numpy() if "task" in responses else None,
        responses["length"].to_numpy(np.float64),
        Whole(ecs, pks, response, responses, frame[[name for name in _OF_A_SPAN if name in frame]]),
        np.arange(len(responses)),
    )


def _require_columns(frame: pd.DataFrame) -> None:
    """Refuse records made elsewhere that lack what a score is made of."""
    needed = "needed are group, item, label (0 or 1), or -1 where it is not known, and numbers in ecs_… or pks_…"
    if missing := [name for name in ("group", "item", "label") if name not in frame]:
        raise BadInput(f"the records have no column {missing[0]}; {needed}")
    for name, sound in (("group", frame["group"].notna()), ("label", frame["label"].isin([0, 1, -1]))):
        if not sound.all():
            row = sound.to_numpy().argmin()
            raise BadInput(f"the records hold {name} {frame[name].iloc[row]} in row {row}; {needed}")
    sides = (frame["label"] < 0).groupby(frame["group"]).nunique()
    if (sides > 1).any():
        raise BadInput(f"the records hold label -1 for some spans of {sides.idxmax()} only; {needed}")
    features = frame.filter(regex="^(ecs|pks)_")
    if features.empty or len(features.select_dtypes("number").columns) < len(features.columns):
        raise BadInput(f"the records hold no features, or features that are not numbers; {needed}")
