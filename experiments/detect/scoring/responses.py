"""Records of `detect` as the cases that are judged: responses of spans, each with its features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from experiments.arrays import Bools, Floats, Ints
from experiments.protocols import Words
from harness.stage import BadInput

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

    def take(self, rows: Bools) -> Columns:
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
    """The features of all responses that there are, aggregated once, however many folds and labels they are in."""

    ecs: Columns
    pks: Columns
    response: Ints
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
    label: Ints  # of each span
    response: Ints
    table: pd.DataFrame  # r rows: id, label, source, length, task where the data name one
    whole: Whole
    rows: Ints  # of each response in the whole (r,)
    words = Words("response", "prompt", "task", "hallucinated")

    @property
    def labels(self) -> Ints:
        """1: some span is hallucinated (r,)."""
        return self.table["label"].to_numpy(np.int64)

    @property
    def groups(self) -> NDArray[Any]:
        """The prompt of each (r,)."""
        return self.table["source"].to_numpy()

    @property
    def stratum(self) -> NDArray[Any] | None:
        """The task of each (r,)."""
        return self.table["task"].to_numpy() if "task" in self.table else None

    @property
    def lengths(self) -> Floats:
        """Characters of each (r,)."""
        return self.table["length"].to_numpy(np.float64)

    def take(self, rows: Ints) -> Responses:
        """The spans of the chosen responses, renumbered in the order given by `self`."""
        rows = np.sort(rows)
        keep = np.isin(self.response, rows)
        _, renumbered = np.unique(self.response[keep], return_inverse=True)
        some = self.ecs.take(keep), self.pks.take(keep), self.label[keep], renumbered, self.table.iloc[rows]
        return Responses(*some, self.whole, self.rows[rows])

    def relabelled(self, source: Ints) -> Responses:
        """Each response labelled as another is, its spans in the pattern of that one's, stretched to their number."""
        sizes = np.bincount(self.response)
        starts = np.cumsum(sizes) - sizes
        place = np.arange(len(self.label)) - starts[self.response]  # of each span in its response
        other = source[self.response]
        label = self.label[starts[other] + place * sizes[other] // sizes[self.response]]
        # Where fewer spans take the pattern of more, none of those hallucinated may be taken.
        lost = (self.labels[source] == 1) & (np.bincount(self.response, label) == 0)
        label[starts[lost]] = 1
        table = self.table.assign(label=self.labels[source])
        return replace(self, label=label, table=table)

    def aggregates(self, heads: list[str], floor: float) -> Floats:
        """Mean, max, min and std over each response's spans of ECS, and of the log of PKS, at least `floor`: (r, c)."""
        return self.whole.aggregates(heads, floor)[self.rows]

    def mean(self, values: Floats) -> Floats:
        """Mean of span values (n,) over each response: (r,)."""
        return np.asarray(np.bincount(self.response, values) / np.bincount(self.response), dtype=np.float64)

    def parted(self, values: Floats) -> NDArray[Any]:
        """Span values (n,) as one array a response: (r,) of objects."""
        pieces = np.split(values, np.flatnonzero(np.diff(self.response)) + 1)
        parted = np.empty(len(pieces), dtype=object)
        for i, piece in enumerate(pieces):
            parted[i] = piece
        return parted


def read_responses(frame: pd.DataFrame) -> Responses:
    """Split records into features, labels and responses; a response is hallucinated when any of its spans is.

    The rows are put in one order first, so that no result depends on the order in which they were made.
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
    whole, rows = Whole(ecs, pks, response), np.arange(len(responses))
    return Responses(ecs, pks, frame["label"].to_numpy(np.int64), response, responses, whole, rows)


def _require_columns(frame: pd.DataFrame) -> None:
    """Refuse records made elsewhere that lack what a score is made of."""
    needed = "needed are group, item, label (0 or 1) and numbers in ecs_… or pks_…"
    if missing := [name for name in ("group", "item", "label") if name not in frame]:
        raise BadInput(f"the records have no column {missing[0]}; {needed}")
    for name, sound in (("group", frame["group"].notna()), ("label", frame["label"].isin([0, 1]))):
        if not sound.all():
            row = sound.to_numpy().argmin()
            raise BadInput(f"the records hold {name} {frame[name].iloc[row]} in row {row}; {needed}")
    features = frame.filter(regex="^(ecs|pks)_")
    if features.empty or len(features.select_dtypes("number").columns) < len(features.columns):
        raise BadInput(f"the records hold no features, or features that are not numbers; {needed}")
