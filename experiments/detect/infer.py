"""One forward pass over prompt and response -> Records: ECS of every copying head, PKS of every layer."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.detect import baseline, data, extract
from experiments.detect.embed import Embed, embedder
from experiments.detect.encode import Encoded, encode
from experiments.detect.params import DetectInfer
from experiments.models import language
from experiments.statistics import Floats
from harness.stage import BadInput, Context, Records

BUILTIN = Path(__file__).with_name("builtin.jsonl")


def inputs(params: DetectInfer) -> dict[str, str]:
    """Content digests of model and data set."""
    digests = {"model": language.digest(params.model), "data": _data_digest(_dataset(params))}
    if params.embedder != "model" and Path(params.embedder).is_dir():
        digests["embedder"] = language.digest(params.embedder)
    return digests


def infer(params: DetectInfer, context: Context) -> Records:
    """Extract the features of every sample; responses to one prompt are computed together."""
    samples, counts = data.read(
        _dataset(params),
        generator=params.generator,
        split=params.split,
        task=params.task,
        prompt_chars=params.prompt_chars,
        limit=params.limit,
    )
    with context.clock.warmup():
        model = language.load(params.model, params.precision, context.device, attention=extract.ATTENTION)
        heads = _heads(params, model)
        encoded = [
            encode(
                sample,
                model,
                chat_template=params.chat_template,
                max_length=params.max_sequence_length,
                span_chars=params.span_chars,
            )
            for sample in samples
        ]

        def compute(group: list[Encoded], embed: Embed) -> list[extract.Features]:
            return extract.extract(model, group, heads, params.level, params.pks, embed, params.batch_tokens)

        compute(encoded[:1], embedder(params.embedder, model))
    embed = embedder(params.embedder, model)
    rows: dict[int, list[dict[str, Any]]] = {}
    with context.progress(len(samples), "detect") as advance:
        for group in _by_prompt(encoded):
            with context.clock.batch(samples=len(group), tokens=sum(len(encoded[i].ids) for i in group)):
                features = compute([encoded[i] for i in group], embed)
            rows |= {
                i: _rows(samples[i], encoded[i], params.level, heads, *found)
                for i, found in zip(group, features, strict=True)
            }
            counts["prompt_tokens_shared"] = counts.get("prompt_tokens_shared", 0) + _shared(encoded, group)
            advance(len(group))
    counts["cut_to_window"] = sum(tokens.cut for tokens in encoded)
    frame = pd.DataFrame([row for i in range(len(samples)) for row in rows[i]])
    return Records(frame, context.clock.cost(), {"counts": counts, "pks": params.pks})


def _by_prompt(encoded: list[Encoded]) -> list[list[int]]:
    """Indices of the samples, those with the same prompt tokens together, in order of first appearance."""
    groups: dict[bytes, list[int]] = {}
    for i, sample in enumerate(encoded):
        groups.setdefault(sample.ids[: sample.prompt_tokens].tobytes(), []).append(i)
    return list(groups.values())


def _shared(encoded: list[Encoded], group: list[int]) -> int:
    """Prompt tokens that a group did not have to compute again."""
    return (len(group) - 1) * (encoded[group[0]].prompt_tokens - 1)


def _rows(
    sample: data.Sample, encoded: Encoded, level: str, heads: list[baseline.Head], ecs: Floats, pks: Floats
) -> list[dict[str, Any]]:
    items = encoded.response if level == "chunk" else encoded.tokens
    return [
        {"group": sample.id, "item": i, "label": item.label, "length": len(item.text), "source": sample.group}
        | ({"task": sample.task} if sample.task is not None else {})
        | {f"ecs_{layer}_{head}": value for (layer, head), value in zip(heads, ecs[i], strict=True)}
        | {f"pks_{layer}": value for layer, value in enumerate(pks[i])}
        for i, item in enumerate(items)
    ]


def _heads(params: DetectInfer, model: language.LanguageModel) -> list[baseline.Head]:
    config = model.network.config.get_text_config()
    shape = (len(model.layers), int(config.num_attention_heads))
    every = [(layer, head) for layer in range(shape[0]) for head in range(shape[1])]
    if params.extract_heads == "all":
        return every
    chosen = [(int(layer), int(head)) for layer, head in (p.split(".") for p in params.extract_heads.split(","))]
    if missing := [pair for pair in chosen if pair not in every]:
        raise BadInput(
            f"extract_heads = {params.extract_heads}: {missing[0][0]}.{missing[0][1]} does not exist in a model of"
            f" {shape[0]} layers x {shape[1]} heads (counted from 0)"
        )
    return sorted(set(chosen))


def _dataset(params: DetectInfer) -> Path:
    return BUILTIN if params.dataset == "builtin" else Path(params.dataset).expanduser()


def _data_digest(path: Path) -> str:
    if not path.exists():
        raise BadInput(f"dataset {path}: no such file or folder; a RAGTruth folder, a JSONL file or `builtin`")
    total = hashlib.sha256()
    for file in [path] if path.is_file() else sorted(path.glob("*.jsonl")):
        with file.open("rb") as stream:
            total.update(file.name.encode() + hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()
