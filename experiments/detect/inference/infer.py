"""One forward pass over prompt and response -> Records: ECS of every copying head, PKS of every layer."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

import pandas as pd

from experiments.detect.inference import data, extract, inputs
from experiments.detect.inference.check import check
from experiments.detect.inference.compute import Compute, find_batch_tokens, here, in_workers, load, tidy_up
from experiments.detect.inference.encode import Encoded, encode
from experiments.detect.inference.extract import Features, Head
from experiments.detect.inference.params import DetectInfer
from experiments.models import files, language
from harness.measuring.measure import Clock
from harness.running import cache
from harness.running.work import records
from harness.stage import BadInput, Context, Records


def infer(params: DetectInfer, context: Context) -> Records:
    """Extract the features of every sample; responses to one prompt are computed together."""
    clock = context.clock
    with clock.spending("io"):
        samples, counts = data.read(
            inputs.dataset(params),
            generator=params.generator,
            split=params.split,
            task=params.task,
            prompt_chars=params.prompt_chars,
            limit=params.limit,
        )
    described = language.describe(params.model)
    heads = _heads(params, described.config)
    with clock.warmup():
        model, compute = load(params, context.device, heads)
        batch_tokens = _batch_tokens(params, described, compute, samples, context)
        checked = _check(params, described, model, compute, heads, samples, context)
        del model
    journal = context.journal
    encoded = _timed(clock, _encoded(params, described, _prompts_together(samples)))
    batches = _left(extract.batches(encoded, batch_tokens), journal.done)
    if params.workers == 1:
        clock.forget_peak()
        computed = here(compute, batches, clock)
    else:
        del compute
        tidy_up()
        clock.forget_peak()
        computed = in_workers(params, context.device, heads, batches, clock)
    with context.progress(len(samples), "detect") as advance:
        advance(len(journal.done))
        for batch, features, reading in computed:
            with clock.spending("io"):
                frame = pd.DataFrame(
                    [row for each in zip(batch, features, strict=True) for row in _rows(params, heads, *each)]
                )
                journal.keep(frame, [each.sample.id for each in batch], _counted(batch, features), reading)
            advance(len(batch))
    place = {sample.id: i for i, sample in enumerate(samples)}
    frame = journal.frame()
    frame = frame.iloc[frame["group"].map(place).argsort(kind="stable")].reset_index(drop=True)
    return records(context, frame, counts, pks=params.pks, batch_tokens=batch_tokens, checked=checked)


def _prompts_together(samples: list[data.Sample]) -> Iterator[data.Sample]:
    """The samples, those with the same prompt after each other, in order of first appearance."""
    by_prompt: dict[str, list[data.Sample]] = {}
    for sample in samples:
        by_prompt.setdefault(sample.prompt, []).append(sample)
    return (sample for group in by_prompt.values() for sample in group)


def _encoded(params: DetectInfer, model: language.Reader, samples: Iterable[data.Sample]) -> Iterator[Encoded]:
    """Tokenise only when a batch is put together, so that memory does not grow with the data."""
    for sample in samples:
        yield encode(
            sample,
            model,
            chat_template=params.chat_template,
            max_length=params.max_sequence_length,
            span_chars=params.span_chars,
        )


def _timed(clock: Clock, encoded: Iterator[Encoded]) -> Iterator[Encoded]:
    """The same, with the time that tokenising takes."""
    while True:
        with clock.spending("tokenising"):
            each = next(encoded, None)
        if each is None:
            return
        yield each


def _left(batches: Iterable[list[Encoded]], done: set[str]) -> Iterator[list[Encoded]]:
    """What an interrupted run has not done yet."""
    for batch in batches:
        if left := [each for each in batch if each.sample.id not in done]:
            yield left


def _batch_tokens(
    params: DetectInfer, model: language.Reader, compute: Compute, samples: list[data.Sample], context: Context
) -> int:
    """The batch size given, or found for this model on this hardware; the longest sample warms up either way."""
    (longest,) = _encoded(params, model, [max(samples, key=lambda sample: len(sample.prompt) + len(sample.response))])
    compute([longest])
    if params.batch_tokens != "auto":
        return params.batch_tokens

    def find() -> int:
        return find_batch_tokens(compute, longest, context.device, params.max_memory_gb)

    made_of = f"{files.digest_model(params.model)} {params.precision} {params.level} {params.max_memory_gb}"
    return cache.remember(f"batch_tokens-{context.hardware}-{hashlib.sha256(made_of.encode()).hexdigest()}", find)


def _check(
    params: DetectInfer,
    described: language.Reader,
    model: language.LanguageModel,
    compute: Compute,
    heads: list[Head],
    samples: list[data.Sample],
    context: Context,
) -> dict[str, Any]:
    """Compare a few samples from all over the data with fp32, when anything less precise is used."""
    if params.precision == "fp32" or not params.precision_check:
        return {}
    some = samples[:: -(-len(samples) // params.precision_check)]
    return check(params, model, compute, context.device, heads, list(_encoded(params, described, some)))


def _counted(batch: list[Encoded], features: list[Features]) -> dict[str, int]:
    read = sum(each.prompt_tokens - 1 + len(each.tokens) for each in batch)
    return {
        "cut_to_window": sum(each.cut for each in batch),
        "prompt_tokens_shared": read - extract.computed_tokens(batch),
        "near_ties": sum(found.ties for found in features),
    }


def _rows(params: DetectInfer, heads: list[Head], encoded: Encoded, found: Features) -> list[dict[str, Any]]:
    sample = encoded.sample
    items = encoded.response if params.level == "chunk" else encoded.tokens
    return [
        {"group": sample.id, "item": i, "label": item.label, "length": len(item.text), "source": sample.group}
        | ({"task": sample.task} if sample.task is not None else {})
        | {f"ecs_{layer}_{head}": value for (layer, head), value in zip(heads, found.ecs[i], strict=True)}
        | {f"pks_{layer}": value for layer, value in enumerate(found.pks[i])}
        for i, item in enumerate(items)
    ]


def _heads(params: DetectInfer, config: Any) -> list[Head]:
    text = config.get_text_config()
    shape = (int(text.num_hidden_layers), int(text.num_attention_heads))
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
