"""Records of `detect` as the responses that are judged."""

from __future__ import annotations

import numpy as np
import pandas as pd

from experiments.columns import Columns
from experiments.redeep.responses import Responses, Whole
from harness.stage import BadInput

_OF_A_SPAN = ("item", "start", "end", "text")


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
