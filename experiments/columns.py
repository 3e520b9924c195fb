"""Tables of numbers for the inner loops of scoring."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from experiments.arrays import Floats, Ints


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

    def beginning(self, prefix: str, less: str = "") -> Columns:
        """Those whose name begins so, `less` its beginning."""
        chosen = [i for i, name in enumerate(self.names) if name.startswith(prefix)]
        return Columns(tuple(self.names[i].removeprefix(less) for i in chosen), self.values[:, chosen])

    def take(self, rows: Ints) -> Columns:
        """Some of the rows."""
        return Columns(self.names, self.values[rows])

    def sum(self, names: Sequence[str]) -> Floats:
        """The sum of some columns (n,), one after the other, so that it is the same to the last bit wherever it is."""
        total = np.zeros(len(self.values))
        for name in names:
            total = total + self[name]
        return total
