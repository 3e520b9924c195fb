"""Batches -> features: in this process, or in several that hold a model each."""

from __future__ import annotations

import gc
import multiprocessing
import re
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache

import psutil
import torch
from joblib import Parallel, delayed

from experiments.detect.inference import extract
from experiments.detect.inference.embed import embedder
from experiments.detect.inference.encode import Encoded
from experiments.detect.inference.extract import Features, Head
from experiments.detect.inference.params import DetectInfer
from experiments.models import language
from harness.measuring.clock import Clock
from harness.measuring.cost import Reading
from harness.measuring.memory import peak_rss, reset_peak_rss
from harness.running.work import die_with_parent

Compute = Callable[[list[Encoded]], list[Features]]
Computed = tuple[list[Encoded], list[Features], Reading]

_EMBEDDED = 4096  # tokens of spans that are embedded at once
_CEILING = {"cpu": 1024}  # tokens beyond which a larger batch gains nothing
_ACCELERATED = 16_384
_SHARE = 0.8  # of the free memory, what a batch may take


def load(params: DetectInfer, device: str, heads: list[Head]) -> tuple[language.LanguageModel, Compute]:
    """Load the model; the function returned computes the features of a batch, and tidies up as often as asked."""
    model = language.load(
        params.model,
        params.precision,
        device,
        attention=params.attention,
        device_map=params.device_map,
        max_memory_gb=params.max_memory_gb,
        compiled=params.compile,
    )
    embed = embedder(params.embedder, model, _EMBEDDED)
    extract_batch = extract.extractor(model, heads, params.level, params.pks, embed)
    done = 0

    def compute(batch: list[Encoded]) -> list[Features]:
        nonlocal done
        features = extract_batch(batch)
        done += 1
        if params.cleanup_every and done % params.cleanup_every == 0:
            tidy_up()
        return features

    return model, compute


def tidy_up() -> None:
    """Give back memory that nothing uses any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def here(compute: Compute, batches: Iterable[list[Encoded]], clock: Clock) -> Iterator[Computed]:
    """Compute in this process, one batch after the other."""
    for batch in batches:
        with clock.batch(samples=len(batch), tokens=sum(len(each.ids) for each in batch)):
            features = compute(batch)
        yield batch, features, clock.lap()


def in_workers(
    params: DetectInfer, device: str, heads: list[Head], batches: Iterable[list[Encoded]], clock: Clock
) -> Iterator[Computed]:
    """Compute in `params.workers` processes, each with a model and where there are several GPUs one of its own."""
    job = (params, device, heads)
    with clock.warmup():  # until every worker has its model; they are kept for the calls that follow
        Parallel(n_jobs=params.workers)(delayed(_worker)(*job) for _ in range(params.workers))
    parallel = Parallel(n_jobs=params.workers, return_as="generator_unordered")
    for batch, features, reading in parallel(delayed(_in_worker)(*job, batch) for batch in batches):
        clock.join(reading)
        yield batch, features, clock.lap()


def _in_worker(params: DetectInfer, device: str, heads: list[Head], batch: list[Encoded]) -> Computed:
    compute, clock = _models(params, device, tuple(heads))
    return next(here(compute, [batch], clock))


def _worker(params: DetectInfer, device: str, heads: list[Head]) -> None:
    _models(params, device, tuple(heads))


@lru_cache(maxsize=1)
def _models(params: DetectInfer, device: str, heads: tuple[Head, ...]) -> tuple[Compute, Clock]:
    """This worker's model, loaded at its first task."""
    die_with_parent()
    if device == "cuda":
        number = re.search(r"\d+$", multiprocessing.current_process().name)
        device = f"cuda:{(int(number[0]) - 1 if number else 0) % torch.cuda.device_count()}"
        torch.cuda.set_device(device)
    return load(params, device, list(heads))[1], Clock()


def find_batch_tokens(compute: Compute, sample: Encoded, device: str, max_memory_gb: float | None) -> int:
    """The tokens that a batch may have: a power of two that fits into free memory, and no more than gains speed.

    Measured on the sample given, which should be a long one: what one response needs, and what each more adds.
    """
    several = [sample] * (1 + -(-512 // len(sample.tokens)))
    free = free_bytes(device, max_memory_gb)
    least, more = (_peak_bytes(compute, batch, device) for batch in ([sample], several))
    tokens = [extract.computed_tokens(batch) for batch in ([sample], several)]
    each = max(1.0, (more - least) / (tokens[1] - tokens[0]))
    fitting = tokens[0] + (_SHARE * free - least) / each
    ceiling = _CEILING.get(device, _ACCELERATED)
    return min(ceiling, 1 << int(max(1.0, fitting)).bit_length() - 1)


def free_bytes(device: str, max_memory_gb: float | None) -> float:
    free = torch.cuda.mem_get_info()[0] if device == "cuda" else psutil.virtual_memory().available
    return min(float(free), max_memory_gb * 2**30 if max_memory_gb else float("inf"))


def _peak_bytes(compute: Compute, batch: list[Encoded], device: str) -> float:
    """What a batch needs above what is held when it begins."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        compute(batch)
        return float(torch.cuda.max_memory_allocated() - held)
    reset_peak_rss()
    held = peak_rss()
    compute(batch)
    return float(peak_rss() - held)
