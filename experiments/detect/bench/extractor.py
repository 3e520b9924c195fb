"""How fast and how lean the extractor is: beside the baseline, and beside the bare matrix products it cannot avoid."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from experiments.detect.bench import baseline
from experiments.models import packed
from experiments.models.language import LanguageModel
from experiments.redeep import extract
from experiments.redeep.embed import embedder
from experiments.redeep.encode import Encoded, Span
from experiments.redeep.sample import Sample
from harness.measuring.memory import peak_rss, reset_peak_rss
from harness.progress import working

BATCH_TOKENS = {"cpu": 1024, "cuda": 16_384}
EMBEDDED = 4096
_SPAN = 30  # tokens of one span


@dataclass(frozen=True)
class Case:
    """One row of the benchmark: a Llama of random weights, and `responses` to each of `prompts`.

    Lengths are tokens; with `spread` those of prompts and responses are drawn from half to one and a half times that.
    """

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
    baseline_precision: str = "fp32"
    prompts: int = 1
    baseline_prompts: int = 1
    spread: bool = False


def bench(device: str, repeats: int, quick: bool) -> pd.DataFrame:
    """Run every case, or the first only: one row each.

    Each has a process of its own: memory that an earlier case has freed would hide what a later one needs.
    """
    chosen = list(cases(device))[: 1 if quick else None]
    rows = []
    with (
        working("bench", len(chosen), "cases") as advance,
        ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool,
    ):
        for case in chosen:
            rows.append(row := pool.submit(run, case, device, repeats).result())
            advance(1, f"{case.level} {case.prompt} x {case.responses} {case.precision}: {row['ratio']:.1f}")
    return pd.DataFrame(rows)


def run(case: Case, device: str, repeats: int) -> dict[str, Any]:
    """Time both extractors, warm, in turn: median seconds, ratio, peak memory above the model, share of the limit.

    The ratio is that of responses a minute; the limit is `products` over the rate of a bare matrix product.
    """
    samples = _samples(case)
    few = samples[: case.baseline_prompts * case.responses]
    model = _model(case, device, case.precision)
    same = case.precision == case.baseline_precision
    slow = model if same else _model(case, device, case.baseline_precision)
    heads = [(layer, head) for layer in range(case.layers) for head in range(case.heads)]
    compute = extract.extractor(model, heads, case.level, "jsd", embedder("model", model, EMBEDDED))

    def ours() -> None:
        for batch in extract.batches(samples, BATCH_TOKENS[device]):
            compute(batch)

    def theirs() -> None:
        embed = baseline.embedder(slow)
        for sample in few:
            baseline.extract(slow, sample, heads, case.level, "jsd", embed)

    sides = {"ours": (ours, model, packed.PACKED), "baseline": (theirs, slow, "eager")}
    peaks: dict[str, float] = {}
    times: dict[str, list[float]] = {name: [] for name in sides}
    rates = []
    for repeat in range(repeats + 1):
        rates.append(product_rate(case, device))
        for name, (extract_all, network, attention) in sides.items():
            network.network.set_attn_implementation(attention)
            if repeat == 0:  # the warm-up
                peaks[name] = _peak(extract_all)
            else:
                times[name].append(_seconds(extract_all))
    spent = {
        "ours": np.asarray(times["ours"]) / len(samples),
        "baseline": np.asarray(times["baseline"]) / len(few),
    }
    ratios = spent["baseline"] / spent["ours"]
    seconds, work = float(np.median(times["ours"])), products(case, samples)
    return {
        **vars(case),
        "seconds": seconds,
        "baseline_seconds": float(np.median(times["baseline"])),
        "samples_per_min": 60 / float(np.median(spent["ours"])),
        "baseline_samples_per_min": 60 / float(np.median(spent["baseline"])),
        "ratio": float(np.median(ratios)),
        "ratio_low": float(ratios.min()),
        "ratio_high": float(ratios.max()),
        "gflop": work / 1e9,
        "gflops_rate": max(rates) / 1e9,
        "share_of_limit": work / max(rates) / seconds,
        "peak_gb": peaks["ours"],
        "baseline_peak_gb": peaks["baseline"],
    }


LLAMA_7B = Case(1000, layers=32, heads=32, hidden=4096, ffn=11_008)


def products(case: Case, samples: list[Encoded]) -> float:
    """Floating-point operations of the matrix products that cannot be avoided: two for each multiply-add.

    One forward over each prompt and every response, two lens readings a layer of every response row, attention rows
    of every head, and at chunk level one forward over every span on its own, at token level the chosen states' mean.
    """
    linear = 2.0 * case.layers * case.hidden * (4 * case.hidden + 3 * case.ffn)  # of one token
    wide = 2.0 * case.layers * case.hidden  # of one attended pair, in queries with keys or in weights with values
    prompts = {sample.prompt_key: sample.prompt_tokens for sample in samples}.values()
    total = sum(linear * prompt + 2 * wide * prompt**2 / 2 for prompt in prompts)
    if case.level == "chunk":
        total += sum(linear * prompt for prompt in prompts)
    for sample in samples:
        rows = len(sample.tokens)
        columns = sample.prompt_tokens + rows / 2
        lens = 2 * 2.0 * case.layers * case.hidden * case.vocabulary
        total += rows * (linear + 3 * wide * columns + lens)  # scores are needed again for ECS
        if case.level == "chunk":
            total += rows * linear
        else:
            total += rows * case.layers * case.heads * extract.TOP_SHARE * sample.prompt_tokens * case.hidden
    return total


def product_rate(case: Case, device: str) -> float:
    """Operations a second of one large matrix product in the case's precision: the best of five."""
    dtype = torch.float32 if case.precision == "fp32" else torch.bfloat16
    a = torch.randn(1024, case.hidden, dtype=dtype, device=device)
    b = torch.randn(case.hidden, 8192, dtype=dtype, device=device)
    return 2 * a.numel() * b.shape[1] / min(_seconds(lambda: a @ b) for _ in range(5))


def cases(device: str) -> Iterator[Case]:
    """The cases whose figures the documentation shows."""
    if device == "cuda":  # RAGTruth's lengths and its six responses a prompt, a Llama-2-7B's shape
        for precision in ("bf16", "nf4"):
            yield replace(
                LLAMA_7B, responses=6, precision=precision, baseline_precision=precision,
                prompts=450, baseline_prompts=10, spread=True,
            )  # fmt: skip
        return
    for level in ("chunk", "token"):
        for prompt in (750, 1500, 2000, 3000, 4000) if level == "token" else (750, 2000, 4000):
            yield Case(prompt, level=level)
        yield Case(750, level=level, responses=6)
        yield Case(750, level=level, responses=6, precision="bf16")
    yield Case(750, vocabulary=128_000)
    four = replace(LLAMA_7B, prompt=750, layers=4)  # four of its layers: all of them need more memory than many have
    yield four
    yield replace(four, responses=6, precision="bf16")


def _model(case: Case, device: str, precision: str) -> LanguageModel:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=case.vocabulary,
        hidden_size=case.hidden,
        intermediate_size=case.ffn,
        num_hidden_layers=case.layers,
        num_attention_heads=case.heads,
        max_position_embeddings=8192,
    )
    with torch.device(device):
        dtype = torch.float32 if precision == "fp32" else torch.bfloat16
        network = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    if precision == "nf4":
        for layer in network.model.layers:
            _quantise(layer, device)
    # Spans of the benchmark are written as token ids, so the tokenizer only has to read numbers.
    return LanguageModel("random", network, lambda text: SimpleNamespace(input_ids=[int(i) for i in text.split()]))


def _quantise(module: torch.nn.Module, device: str) -> None:
    """Put 4-bit layers in the place of linear ones, as loading a check point in nf4 does."""
    from bitsandbytes.nn import Linear4bit, Params4bit

    for name, child in module.named_children():
        if isinstance(child, torch.nn.Linear):
            small = Linear4bit(
                child.in_features, child.out_features, bias=False, compute_dtype=torch.bfloat16, quant_type="nf4"
            )
            small.weight = Params4bit(child.weight.data.cpu(), requires_grad=False, quant_type="nf4")
            setattr(module, name, small.to(device))
        else:
            _quantise(child, device)


def _samples(case: Case) -> list[Encoded]:
    random = np.random.default_rng(0)

    def ids(tokens: int) -> np.ndarray[Any, Any]:
        length = random.integers(tokens // 2, 3 * tokens // 2) if case.spread else tokens
        return random.integers(case.vocabulary, size=length)

    prompts = [ids(case.prompt) for _ in range(case.prompts)]
    return [_encoded(prompt, ids(case.response)) for prompt in prompts for _ in range(case.responses)]


def _encoded(prompt: np.ndarray[Any, Any], response: np.ndarray[Any, Any]) -> Encoded:
    ids = np.concatenate([prompt, response])

    def spans(start: int, end: int, size: int) -> list[Span]:
        edges = [(at, min(at + size, end)) for at in range(start, end, size)]
        return [Span(" ".join(map(str, ids[a:b])), a, b, 0, (0, 0)) for a, b in edges]

    middle, end = len(prompt), len(ids)
    prompt_spans, response_spans, tokens = spans(0, middle, _SPAN), spans(middle, end, _SPAN), spans(middle, end, 1)
    return Encoded(Sample("", "", "", (), ""), ids, middle, prompt_spans, response_spans, tokens, cut=False)


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
