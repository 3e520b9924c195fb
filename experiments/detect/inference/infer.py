"""One forward pass over prompt and response -> Records: ECS of every copying head, PKS of every layer."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

from experiments.detect.inference import data, inputs
from experiments.detect.inference.check import check
from experiments.detect.inference.compute import Extract, Extraction, attending, find_batch_tokens, load, tidy_up
from experiments.detect.inference.params import DetectInfer
from experiments.detect.inference.reads import reads
from experiments.models import chat, files, language
from experiments.models.proof import Proof
from experiments.redeep import extract
from experiments.redeep.encode import Encoded, encode
from experiments.redeep.extract import Head
from experiments.redeep.sample import Sample
from harness.measuring.clock import Clock
from harness.progress import working
from harness.running import cache
from harness.running.work import here, in_workers, records, work
from harness.stage import BadInput, Context, Records

_LOOKED_AT = 32  # samples, from all over the data, whose prompts show whether the model can read


def infer(params: DetectInfer, context: Context) -> Records:
    """Extract the features of every sample; responses to one prompt are computed together."""
    clock = context.clock
    with clock.spending("io"), working("read the data"):
        given = data.read(
            inputs.dataset(params),
            generator=params.generator,
            split=params.split,
            task=params.task,
            prompt_chars=params.prompt_chars,
            limit=params.limit,
            skip_bad=params.skip_bad,
        )
    samples = given.samples
    with clock.spending("setup"):
        described = language.describe(params.model)
    heads = _heads(params, described.config)
    with clock.warmup():
        model, extract_batch = load(params, context.device, heads)
        job = Extraction(params, tuple(attending(params, model, heads)), model.proof.road == "packed")
        road = _road(described.config, model.proof)
        batch_tokens = _batch_tokens(params, described, extract_batch, samples, context)
        checked = _check(params, described, model, extract_batch, heads, samples, context)
        read = reads(model, list(_encoded(params, described, samples[:: -(-len(samples) // _LOOKED_AT)])))
        del model
    if params.workers == 1:
        runner = here(job.computing(extract_batch))
    else:
        runner = in_workers(job, params.workers)
        del extract_batch  # so that workers need not share their memory with it
        tidy_up()
    clock.forget_peak()
    encoded = _timed(clock, _encoded(params, described, _prompts_together(samples)))
    batches = extract.batches(encoded, batch_tokens)
    order = [sample.id for sample in samples]
    frame, _ = work(context, runner, batches, lambda unit: unit.sample.id, order, "detect")
    return records(
        context,
        frame,
        given.counts,
        pks=params.pks,
        batch_tokens=batch_tokens,
        checked=checked,
        reads=read,
        road=road,
        unknown_columns=given.unknown_columns,
        faults=given.faults,
    )


def _road(config: Any, proof: Proof) -> dict[str, Any]:
    """Whether texts shared a row and if not why, and how many of the layers attend: what the proof at load found."""
    layers = int(config.get_text_config().num_hidden_layers)
    return {"taken": proof.road, "why": proof.why_alone, "attend": len(proof.heads), "layers": layers}


def _prompts_together(samples: list[Sample]) -> Iterator[Sample]:
    """The samples, those with the same prompt (and response) after each other, in order of first appearance."""
    by_prompt: dict[str, dict[str, list[Sample]]] = {}
    for sample in samples:
        by_prompt.setdefault(sample.prompt, {}).setdefault(sample.response, []).append(sample)
    return (sample for group in by_prompt.values() for same in group.values() for sample in same)


def _encoded(params: DetectInfer, model: language.Reader, samples: Iterable[Sample]) -> Iterator[Encoded]:
    """Tokenise only when a batch is put together, so that memory does not grow with the data."""
    told = chat.Told(params.template_date, params.system_prompt, params.template_options)
    for sample in samples:
        yield encode(
            sample,
            model,
            chat_template=params.chat_template,
            max_length=params.max_sequence_length,
            span_chars=params.span_chars,
            told=told,
        )


def _timed(clock: Clock, encoded: Iterator[Encoded]) -> Iterator[Encoded]:
    """The same, with the time that tokenising takes."""
    while True:
        with clock.spending("tokenising"):
            each = next(encoded, None)
        if each is None:
            return
        yield each


def _batch_tokens(
    params: DetectInfer, model: language.Reader, extract_batch: Extract, samples: list[Sample], context: Context
) -> int:
    """The batch size given, or found for this model on this hardware; the longest sample warms up either way."""
    (longest,) = _encoded(params, model, [max(samples, key=lambda sample: len(sample.prompt) + len(sample.response))])
    with working("compute the longest response"):
        extract_batch([longest])
    if params.batch_tokens != "auto":
        return params.batch_tokens

    @working("find the batch size")
    def find() -> int:
        return find_batch_tokens(extract_batch, longest, context.device, params.max_memory_gb)

    made_of = f"{files.digest_model(params.model)} {params.precision} {params.level} {params.max_memory_gb}"
    return cache.remember(f"batch_tokens-{context.hardware}-{hashlib.sha256(made_of.encode()).hexdigest()}", find)


def _check(
    params: DetectInfer,
    described: language.Reader,
    model: language.LanguageModel,
    extract_batch: Extract,
    heads: list[Head],
    samples: list[Sample],
    context: Context,
) -> dict[str, Any]:
    """Compare a few samples from all over the data with fp32, when anything less precise is used."""
    if params.precision == "fp32" or not params.precision_check:
        return {}
    some = samples[:: -(-len(samples) // params.precision_check)]
    return check(params, model, extract_batch, context.device, heads, list(_encoded(params, described, some)))


def _heads(params: DetectInfer, config: Any) -> list[Head]:
    """The heads asked for, of all that the configuration tells of; which of them exist is known once it is loaded."""
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
