"""Released ReDeEP chunk-level features, read as the Records that an own model pass would have made."""

from __future__ import annotations

import codecs
import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import pandas as pd
from pydantic import Field, TypeAdapter, ValidationError

from experiments.detect.inference.formats import read_bytes
from experiments.detect.inference.rows import Id, Strict, first_fault
from harness.stage import BadInput, Records


class _Family(NamedTuple):
    key: str
    prefix: str
    pattern: str
    like: str


FAMILIES = (
    _Family("prompt_attention_score", "ecs", r"\((0|[1-9][0-9]*), (0|[1-9][0-9]*)\)", '"(layer, head)"'),
    _Family("parameter_knowledge_scores", "pks", r"layer_(0|[1-9][0-9]*)", '"layer_<number>"'),
)
_Features = Annotated[dict[str, float], Field(min_length=1)]


class _Score(Strict):
    hallucination_label: Literal[0, 1]
    prompt_attention_score: _Features
    parameter_knowledge_scores: _Features


class _Response(Strict):
    id: Id
    source_id: Id
    model: str
    response: str
    response_spans: list[Annotated[list[int], Field(min_length=2, max_length=2)]]
    scores: list[_Score]


def read_released(path: Path) -> Records:
    """Return a row a scored span: group, item, label, length, source, `ecs_<layer>_<head>`…, `pks_<layer>`…"""
    content = read_bytes(path)
    try:
        responses = TypeAdapter(list[_Response]).validate_json(content.removeprefix(codecs.BOM_UTF8))
    except ValidationError as error:
        raise BadInput(f"{path}: {first_fault(error)}; allowed: a list of ReDeEP responses") from error
    scored = [(f"{path}: [{n}] (id {each.id!r})", each) for n, each in enumerate(responses) if each.scores]
    if not scored:
        raise BadInput(f"{path}: none of its {len(responses)} responses has scores; allowed: at least one that has")
    twice = [name for name, times in Counter(each.id for each in responses).items() if times > 1]
    if twice:
        raise BadInput(f"{path}: id {twice[0]!r} stands there more than once; allowed: each id once")
    where, first = scored[0]
    columns = {family.key: _columns(where, first.scores[0], family) for family in FAMILIES}
    frame = pd.DataFrame([row for where, response in scored for row in _rows(where, response, columns)])
    skipped = len(responses) - len(scored)
    origin = {
        "kind": "released ReDeEP features",
        "model": ", ".join(sorted({response.model for _, response in scored})),
        "data": hashlib.sha256(content).hexdigest(),
        "counts": {"responses": len(scored), "responses_without_scores": skipped, "items": len(frame)},
    }
    return Records(frame, None, origin)


def _columns(where: str, score: _Score, family: _Family) -> dict[str, str]:
    """Map the keys of a family to columns, sorted by layer and head."""
    places: dict[tuple[int, ...], str] = {}
    for key in getattr(score, family.key):
        match = re.fullmatch(family.pattern, key)
        if match is None:
            raise BadInput(f"{where} scores[0].{family.key}: unknown key {key!r}; allowed: {family.like}")
        places[tuple(map(int, match.groups()))] = key
    return {key: "_".join((family.prefix, *map(str, place))) for place, key in sorted(places.items())}


def _rows(where: str, response: _Response, columns: dict[str, dict[str, str]]) -> Iterator[dict[str, Any]]:
    scores, spans, size = response.scores, response.response_spans, len(response.response)
    if len(scores) != len(spans):
        raise BadInput(f"{where}: {len(scores)} scores of {len(spans)} response_spans; allowed: one score a span")
    for item, (score, (start, end)) in enumerate(zip(scores, spans, strict=True)):
        if not 0 <= start < end <= size:
            span = f"response_spans[{item}] is [{start}, {end}]"
            raise BadInput(f"{where}: {span}; allowed: 0 <= start < end <= {size}")
        row = {"group": response.id, "item": item, "label": score.hallucination_label, "length": end - start}
        row |= {"source": response.source_id, "start": start, "end": end}
        for family, names in columns.items():
            row |= _named(f"{where} scores[{item}].{family}", getattr(score, family), names)
        yield row


def _named(where: str, features: dict[str, float], names: dict[str, str]) -> dict[str, float]:
    if odd := sorted(features.keys() ^ names.keys()):
        fault = "is missing" if odd[0] in names else "is unknown"
        raise BadInput(f"{where}: key {odd[0]!r} {fault}; allowed: the {len(names)} keys of the first score")
    for key, value in features.items():
        if not math.isfinite(value):
            raise BadInput(f"{where}: {key!r} (column {names[key]}) is {value}; allowed: finite numbers")
    return {name: features[key] for key, name in names.items()}
