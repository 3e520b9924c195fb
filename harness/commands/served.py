"""A detector as the model that MLflow logs: `mlflow models predict` and `serve` load and ask it by this module."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments import STAGES
from harness.commands.apply import planned, scored
from harness.commands.arguments import named
from harness.running import detectors
from harness.stage import BadInput

if TYPE_CHECKING:
    import pandas as pd


class Served:
    """The detector of a run; the model that it reads with is loaded for each request, whose rows are read together."""

    def __init__(self, path: Path) -> None:
        self._detector = detectors.read(path)
        self._stage = named(STAGES, self._detector["stage"])

    def predict(self, data: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Score and call of each row (r, 2); BadInput for a column that is missing and a row that cannot be read."""
        import pandas as pd

        kept = self._stage.detectors
        assert kept is not None
        if missing := [name for name in kept.row if name not in data]:
            raise BadInput(f"there is no column {missing[0]}; needed are {' and '.join(kept.row)}")
        with tempfile.TemporaryDirectory() as scratch:
            file = Path(scratch, "asked.jsonl")
            rows = enumerate(data[list(kept.row)].to_dict("records"))
            file.write_text("".join(json.dumps({"id": str(i), **row}) + "\n" for i, row in rows))
            plan = planned(self._stage, self._detector, {"dataset": str(file), "cache": "off"})
            lines = [*scored(self._stage, plan, self._detector)]
        return pd.DataFrame(lines, index=data.index)[["score", "call"]]


def _load_pyfunc(path: str) -> Served:
    """Load the detector that MLflow has found in a model's folder."""
    return Served(Path(path))
