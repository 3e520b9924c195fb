"""Records as one parquet file, and what makes them sound."""

from __future__ import annotations

import tempfile
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np
import pandas as pd

from harness.measuring.cost import Cost
from harness.stage import BadInput, Records, one_line


def write_records(records: Records, path: Path) -> None:
    """Write one parquet file that holds the rows, their cost and their origin; all of it or nothing."""
    frame = records.frame.copy(deep=False)
    frame.attrs = {"cost": asdict(records.cost) if records.cost else None, "origin": records.origin}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".writing-") as scratch:
            frame.to_parquet(Path(scratch) / path.name)
            (Path(scratch) / path.name).replace(path)
    except OSError as error:
        raise BadInput(f"records {path}: cannot be written: {error.strerror}") from error


def read_records(path: Path) -> Records:
    """Read what `write_records` wrote; BadInput where it is something else.

    A cost in the figures of another version is left out, so that what was observed can be scored all the same.
    """
    try:
        frame = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise BadInput(f"records {path}: cannot be read as parquet: {one_line(error)[:300]}") from error
    attrs, frame.attrs = frame.attrs, {}
    figures = attrs.get("cost") or {}
    cost = Cost(**figures) if figures.keys() == {each.name for each in fields(Cost)} else None
    return Records(frame, cost, attrs.get("origin", {"counts": {}}))


def require_sound(records: Records) -> None:
    """Refuse empty records, and features that are not finite: no score can be computed from them.

    A feature may be missing (not infinite) in a row whose `error`, or `error_x` for a feature `x_...`, says why, and
    in one whose `evidence` is 0.
    """
    frame = records.frame
    if frame.empty:
        raise BadInput("the records hold no row")
    numbers = frame.select_dtypes("number")
    values = numbers.to_numpy(float)
    bad = ~np.isfinite(values)
    if "evidence" in frame:
        bad &= ~(np.isnan(values) & (frame["evidence"] == 0).to_numpy()[:, None])
    for error in frame.filter(regex="^error(_|$)"):
        excused = (frame[error].fillna("") != "").to_numpy()
        mine = numbers.columns.str.startswith(str(error).removeprefix("error").lstrip("_"))
        bad &= ~(np.isnan(values) & np.outer(excused, mine))
    if bad.any():
        row, column = (int(place[0]) for place in np.nonzero(bad))
        raise BadInput(
            f"the records hold {bad.sum()} values that are not finite, the first in row {row}, column"
            f" {numbers.columns[column]}; features must be finite (a lower precision may have overflowed)"
        )
