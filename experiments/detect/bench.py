"""How fast and how lean the extractor is: beside the baseline, and beside the bare matrix products it cannot avoid."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from experiments.detect import baseline, extract
from experiments.detect.embed import embedder
from experiments.detect.encode import Encoded, Span
from experiments.models.language import LanguageModel
from harness.measure import peak_rss, reset_peak_rss
from harness.stage import Progress

_SPAN = 30  # tokens of one span


@dataclass(frozen=True)
class Case:
    """One row of the benchmark: a Llama of random weights, and responses of `response` tokens to one prompt."""

    prompt: int
    responses: int = 1
    response: int = 150
    level: str = "chunk"
    layers: int = 12
    heads: int = 16
    hidden: int = 768
    ffn: int = 2048
    vocabulary: int = 32_000
    precision: str = "fp32"


def bench(device: str, repeats: int, quick: bool, progress: Progress) -> pd.DataFrame:
    """Run every case, or the first only: one row each.

    Each has a process of its own: memory that an earlier case has freed would hide what a later one needs.
    """
    chosen = list(cases(quick))
    rows = []
    with (
        progress(len(chosen), "bench") as advance,
        ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool,
    ):
        for case in chosen:
            rows.append(pool.submit(run, case, device, repeats).result())
            advance(1)
    return pd.DataFrame(rows)


def run(case: Case, device: str, repeats: int) -> dict[str, Any]:
    """Time both extractors, warm, in turn: median seconds, ratio, peak memory above the model, share of the limit.

    The baseline always runs in fp32 with eager attention; the limit is `products` over the rate of a bare product.
    """
    fast, slow = (_model(case, device, kind) for kind in (extract.ATTENTION, "eager"))
    samples = _samples(case)
    heads = [(layer, head) for layer in range(case.layers) for head in range(case.heads)]

    def ours() -> None:
        extract.extract(fast, samples, heads, case.level, "jsd", embedder("model", fast), batch_tokens=1024)

    def theirs() -> None:
        embed = embedder("model", slow)
        for sample in samples:
            baseline.extract(slow, sample, heads, case.level, "jsd", embed)

    times: dict[str, list[float]] = {"ours": [], "baseline": []}
    peaks = {"ours": _peak(ours), "baseline": _peak(theirs)}  # the warm-up as well
    rates = []
    for _ in range(repeats):
        rates.append(product_rate(case, device))
        for name, work in (("ours", ours), ("baseline", theirs)):
            times[name].append(_seconds(work))
    medians = {name: float(np.median(seconds)) for name, seconds in times.items()}
    ratios = np.asarray(times["baseline"]) / np.asarray(times["ours"])
    return {
        **vars(case),
        "seconds": medians["ours"],
        "baseline_seconds": medians["baseline"],
        "ratio": float(np.median(ratios)),
        "ratio_low": float(ratios.min()),
        "ratio_high": float(ratios.max()),
        "gflop": products(case) / 1e9,
        "gflops_rate": max(rates) / 1e9,
        "share_of_limit": products(case) / max(rates) / medians["ours"],
        "peak_gb": peaks["ours"],
        "baseline_peak_gb": peaks["baseline"],
    }


def products(case: Case) -> float:
    """Floating-point operations of the matrix products that cannot be avoided: two for each multiply-add.

    One forward over the prompt and every response, two lens readings a layer of every response row, attention rows
    of every head, and at chunk level one forward over every span on its own, at token level the chosen states' mean.
    """
    rows, columns = case.responses * case.response, case.prompt + case.response / 2
    linear = float(case.layers * case.hidden * (4 * case.hidden + 3 * case.ffn))
    forward = 2 * linear * (case.prompt + rows)
    attention = 4 * case.layers * case.hidden * (case.prompt**2 / 2 + rows * columns)
    watched = 2 * case.layers * case.hidden * rows * columns
    lens = 2 * 2 * case.layers * case.hidden * case.vocabulary * rows
    if case.level == "chunk":
        ecs = 2 * linear * (case.prompt + rows)
    else:
        ecs = case.layers * case.heads * rows * baseline.TOP_SHARE * case.prompt * case.hidden
    return forward + attention + watched + lens + ecs


def product_rate(case: Case, device: str) -> float:
    """Operations a second of one large matrix product in the case's precision: the best of five."""
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[case.precision]
    a = torch.randn(1024, case.hidden, dtype=dtype, device=device)
    b = torch.randn(case.hidden, 8192, dtype=dtype, device=device)
    return 2 * a.numel() * b.shape[1] / min(_seconds(lambda: a @ b) for _ in range(5))


def cases(quick: bool) -> Iterator[Case]:
    """The cases whose figures the README shows; `quick` is the first of them only."""
    for level in ("chunk", "token"):
        yield Case(750, level=level)
        if quick:
            return
        yield Case(2000, level=level)
        yield Case(4000, level=level)
        yield Case(750, level=level, responses=6)
        yield Case(750, level=level, responses=6, precision="bf16")
    yield Case(750, vocabulary=128_000)


def _model(case: Case, device: str, attention: str) -> LanguageModel:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=case.vocabulary,
        hidden_size=case.hidden,
        intermediate_size=case.ffn,
        num_hidden_layers=case.layers,
        num_attention_heads=case.heads,
        max_position_embeddings=8192,
        attn_implementation=attention,
    )
    network = AutoModelForCausalLM.from_config(config).eval().to(device)
    if case.precision == "bf16" and attention != "eager":
        network.to(torch.bfloat16)
    # Spans of the benchmark are written as token ids, so the tokenizer only has to read numbers.
    return LanguageModel("random", network, lambda text: SimpleNamespace(input_ids=[int(i) for i in text.split()]))


def _samples(case: Case) -> list[Encoded]:
    random = np.random.default_rng(0)
    prompt = random.integers(case.vocabulary, size=case.prompt)
    return [_encoded(prompt, random.integers(case.vocabulary, size=case.response)) for _ in range(case.responses)]


def _encoded(prompt: np.ndarray[Any, Any], response: np.ndarray[Any, Any]) -> Encoded:
    ids = np.concatenate([prompt, response])

    def spans(start: int, end: int, size: int) -> list[Span]:
        edges = [(at, min(at + size, end)) for at in range(start, end, size)]
        return [Span(" ".join(map(str, ids[a:b])), a, b, 0) for a, b in edges]

    middle, end = len(prompt), len(ids)
    return Encoded(ids, middle, spans(0, middle, _SPAN), spans(middle, end, _SPAN), spans(middle, end, 1), False)


def _seconds(work: Callable[[], object]) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _peak(work: Callable[[], object]) -> float:
    """GiB that `work` needs above what is held when it begins: on the GPU where there is one, else resident."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        work()
        return (torch.cuda.max_memory_allocated() - held) / 2**30
    reset_peak_rss()
    held = peak_rss()
    work()
    return (peak_rss() - held) / 2**30
