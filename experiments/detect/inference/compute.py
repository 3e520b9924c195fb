"""Batches -> rows: the model, how much of it fits into memory, and what a batch comes to."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import psutil
import torch

from experiments.detect.inference.params import DetectInfer
from experiments.models import language
from experiments.redeep import extract
from experiments.redeep.embed import embedder
from experiments.redeep.encode import Encoded
from experiments.redeep.extract import Features, Head
from harness.measuring.clock import Clock
from harness.measuring.memory import peak_rss, reset_peak_rss
from harness.running.work import Compute, Part
from harness.stage import BadInput

Extract = Callable[[list[Encoded]], list[Features]]

_EMBEDDED = 4096  # tokens of spans that are embedded at once
_CEILING = {"cpu": 1024}  # tokens beyond which a larger batch gains nothing
_ACCELERATED = 16_384
_SHARE = 0.8  # of the free memory, what a batch may take


def load(params: DetectInfer, device: str, heads: list[Head]) -> tuple[language.LanguageModel, Extract]:
    """Load the model; the function returned extracts the features of a batch, and tidies up as often as asked.

    Heads are those of `heads` that the model has, which is proven here to give the numbers that it is read for.
    """
    model = language.load(
        params.model,
        params.precision,
        device,
        attention=params.attention,
        device_map=params.device_map,
        max_memory_gb=params.max_memory_gb,
        compiled=params.compile,
    )
    embed = embedder(params.embedder, model, _EMBEDDED) if params.embedder != "states" else None
    heads = attending(params, model, heads)
    extract_batch = extract.extractor(model, heads, params.level, params.pks, embed)
    done = 0

    def tidying(batch: list[Encoded]) -> list[Features]:
        nonlocal done
        features = extract_batch(batch)
        done += 1
        if params.cleanup_every and done % params.cleanup_every == 0:
            tidy_up()
        return features

    return model, tidying


def attending(params: DetectInfer, model: language.LanguageModel, heads: Sequence[Head]) -> list[Head]:
    """Those of `heads` in layers that attend; BadInput where another one was asked for by name."""
    found = [(layer, head) for layer, head in heads if head < model.proof.heads.get(layer, 0)]
    if params.extract_heads != "all" and (missing := sorted(set(heads) - set(found))):
        raise BadInput(
            f"extract_heads = {params.extract_heads}: {missing[0][0]}.{missing[0][1]} does not exist in {params.model};"
            f" the layers that attend are {', '.join(map(str, sorted(model.proof.heads)))}"
        )
    return found


def tidy_up() -> None:
    """Give back memory that nothing uses any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@dataclass(frozen=True)
class Extraction:
    """What all batches of a run have in common, for a process that is to load the model itself."""

    params: DetectInfer
    heads: tuple[Head, ...]
    together: bool  # whether a prompt is computed once for all of its responses

    def load(self, device: str) -> Compute[Encoded]:
        """Load the model, and return what turns a batch into rows."""
        _, extract_batch = load(self.params, device, list(self.heads))
        return self.computing(extract_batch)

    def computing(self, extract_batch: Extract) -> Compute[Encoded]:
        """What turns a batch into rows by a model that is loaded already."""

        def compute(batch: Sequence[Encoded], clock: Clock) -> Iterator[Part]:
            samples = list(batch)
            with clock.batch(samples=len(samples), tokens=sum(len(sample.ids) for sample in samples)):
                distinct = {sample.key: sample for sample in samples}
                found = dict(zip(distinct, extract_batch(list(distinct.values())), strict=True))
            features = [found[sample.key] for sample in samples]
            rows = [self._rows(*pair) for pair in zip(samples, features, strict=True)]
            units = [row["group"] for some in rows for row in some]
            frame = pd.DataFrame([row for some in rows for row in some], index=units)
            yield Part([sample.sample.id for sample in samples], frame, self._counted(samples, features))

        return compute

    def _rows(self, encoded: Encoded, features: Features) -> list[dict[str, Any]]:
        """One row an item: a span of the response, or a token."""
        sample = encoded.sample
        items = encoded.response if self.params.level == "chunk" else encoded.tokens
        return [
            {"group": sample.id, "item": i, "label": item.label, "length": len(item.text), "source": sample.group}
            | dict(zip(("start", "end"), item.characters, strict=True))
            | ({"task": sample.task} if sample.task is not None else {})
            | ({"text": item.text} if self.params.texts else {})
            | {f"ecs_{layer}_{head}": value for (layer, head), value in zip(self.heads, features.ecs[i], strict=True)}
            | {f"pks_{layer}": value for layer, value in enumerate(features.pks[i])}
            for i, item in enumerate(items)
        ]

    def _counted(self, batch: list[Encoded], features: list[Features]) -> dict[str, int]:
        distinct = {sample.key: sample.prompt_tokens - 1 + len(sample.tokens) for sample in batch}
        return {
            "cut_to_window": sum(sample.cut for sample in batch),
            "duplicates_shared": len(batch) - len(distinct),
            "prompt_tokens_shared": sum(distinct.values()) - extract.computed_tokens(batch) if self.together else 0,
            "prompts_of_one_span": sum(len(sample.prompt) == 1 for sample in batch),
            "template_dates": sum(sample.dated for sample in batch),
            "answers_inside_thinking": sum(sample.thinking for sample in batch),
            "near_ties": sum(of_response.ties for of_response in features),
        }


def find_batch_tokens(extract_batch: Extract, sample: Encoded, device: str, max_memory_gb: float | None) -> int:
    """The tokens that a batch may have: a power of two that fits into free memory, and no more than gains speed.

    Measured on the sample given, which should be a long one: what one response needs, and what each more adds.
    """
    several = [sample] * (1 + -(-512 // len(sample.tokens)))
    free = free_bytes(device, max_memory_gb)
    least, more = (_peak_bytes(extract_batch, batch, device) for batch in ([sample], several))
    tokens = [sample.prompt_tokens - 1 + len(batch) * len(sample.tokens) for batch in ([sample], several)]
    each = max(1.0, (more - least) / (tokens[1] - tokens[0]))
    fitting = tokens[0] + (_SHARE * free - least) / each
    ceiling = _CEILING.get(device, _ACCELERATED)
    return min(ceiling, 1 << int(max(1.0, fitting)).bit_length() - 1)


def free_bytes(device: str, max_memory_gb: float | None) -> float:
    """Memory that is free on a device, in bytes, but no more than is allowed of it."""
    free = torch.cuda.mem_get_info()[0] if device == "cuda" else psutil.virtual_memory().available
    return min(float(free), max_memory_gb * 2**30 if max_memory_gb else float("inf"))


def _peak_bytes(extract_batch: Extract, batch: list[Encoded], device: str) -> float:
    """What a batch needs above what is held when it begins."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        extract_batch(batch)
        return float(torch.cuda.max_memory_allocated() - held)
    reset_peak_rss()
    held = peak_rss()
    extract_batch(batch)
    return float(peak_rss() - held)
