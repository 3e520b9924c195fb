"""What a run of `detect` has learnt, kept as plain JSON to score responses that it has never seen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, ValidationError

from experiments import protocols
from experiments.detect.inference.params import SAMPLES, DetectInfer
from experiments.detect.inference.rows import first_fault
from experiments.detect.scoring.params import DetectScore
from experiments.detect.scoring.records import read_responses
from experiments.detect.scoring.score import rule
from experiments.redeep.fits import FITS
from experiments.redeep.fitted import SCORE, Fitted
from harness.stage import BadInput, Records

# Settings that say which data are read, what is kept of them, or only how fast: they are not the detector's.
_OTHERS = {
    *(name for name, what in DetectInfer.yardstick().items() if what == SAMPLES.what),
    *("texts", "workers", "device_map", "max_memory_gb", "cleanup_every", "precision_check"),
}


class Learnt(BaseModel):
    """A detector, the score from which it calls a response hallucinated, and what both were learnt from.

    `observed` are the settings of the inference that gave what it reads; None where records were made elsewhere.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    detector: Fitted
    threshold: float
    threshold_is: str
    learnt_from: dict[str, int]
    observed: dict[str, Any] | None


def learn(records: Records, params: DetectScore) -> dict[str, Any]:
    """Learn from all responses that have a label, and return it as plain JSON; Undefined where none can be learnt."""
    cases, calls = read_responses(records.frame), rule(params)
    learnt = protocols.learn(cases, lambda train: FITS[params.scorer](train, params), calls)
    known = cases.labels >= 0
    observed = {name: value for name, value in records.origin.get("infer", {}).items() if name not in _OTHERS}
    if observed and "batch_tokens" in records.origin:
        observed["batch_tokens"] = records.origin["batch_tokens"]  # what `auto` came to, for the same last bit
    given = calls.thresholds[SCORE] is not None
    return Learnt(
        detector=learnt.detector,  # type: ignore[arg-type]  # what FITS gives
        threshold=learnt.thresholds[SCORE],
        threshold_is="given" if given else "F1-best on the responses that it has learnt from",
        learnt_from={
            "responses": int(known.sum()),
            "hallucinated": int((cases.labels == 1).sum()),
            "prompts": len(set(cases.groups[known].tolist())),
        },
        observed=observed or None,
    ).model_dump(mode="json")


def apply(learnt: Mapping[str, Any], records: Records) -> Iterator[dict[str, Any]]:
    """Score responses, labelled or not, in their order: id, score, call, and spans where the detector scores any.

    A span is told by its characters [start, end) in the response, or by its item where records do not tell them.
    """
    try:
        kept = Learnt.model_validate({name: learnt[name] for name in Learnt.model_fields if name in learnt})
    except ValidationError as error:
        raise BadInput(f"the detector: {first_fault(error)}; what a run of detect has logged is needed") from error
    detector, frame = kept.detector, records.frame
    if missing := [name for name in detector.columns if name not in frame]:
        raise BadInput(
            f"the records have no column {missing[0]}, which the detector reads; records of the same model and"
            " extract_heads are needed"
        )
    own = [name for name in frame if name != "label" and not str(name).startswith(("ecs_", "pks_"))]
    cases = read_responses(frame[[*own, *detector.columns]].assign(label=-1))
    scores = detector(cases)
    calls = (scores[SCORE] >= kept.threshold).astype(int).tolist()
    spans, ids = cases.whole.spans, cases.table["id"]
    places = spans[["start", "end"] if {"start", "end"} <= set(spans) else ["item"]].to_dict("records")
    ends = np.cumsum(np.bincount(cases.response)).tolist()
    of_response, names, values = [*pairwise([0, *ends])], ids.tolist(), scores[SCORE].tolist()
    for i in pd.Index(ids).get_indexer(pd.unique(frame["group"])).tolist():
        line = {"id": names[i], "score": values[i], "call": calls[i]}
        if "span" in scores:
            pairs = zip(places[slice(*of_response[i])], scores["span"][i].tolist(), strict=True)
            line["spans"] = [{**place, "score": score} for place, score in pairs]
        yield line
