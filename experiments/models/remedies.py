"""What to try when a language model needs too much memory or time, or was seen too little of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from harness.stage import Remedy

_LIGHTER = {  # precisions that need less memory, the least loss first, and what they take of the weights' memory now
    "fp32": (("bf16", "half"), ("fp16", "half"), ("int8", "a quarter"), ("nf4", "an eighth")),
    "bf16": (("int8", "half"), ("nf4", "a quarter")),
    "fp16": (("int8", "half"), ("nf4", "a quarter")),
    "int8": (("nf4", "half"),),
}
_SHORT, _MEDIUM = 2000, 6000  # tokens: below the first a batch helps most, up to the second the attention kernel
_WIDE = 0.1  # an interval wider than this does not tell detectors apart
_COMPILED = 600  # seconds of inference from which compiling pays


def memory(settings: Mapping[str, Any], metrics: Mapping[str, float], batch: str) -> Iterator[Remedy]:
    """Quantise, then shorten, then compute less at once, then offload; `batch` is the setting of the batch size."""
    yield from lighter(settings)
    limit, tokens = settings["max_sequence_length"], _tokens(metrics)
    if limit or tokens is None or tokens > _SHORT:
        shorter = limit // 2 if limit else _MEDIUM if tokens is None else round(tokens, -2)
        now = (
            f"it is {limit}"
            if limit
            else f"samples have {tokens:,.0f} tokens"
            if tokens
            else "it is the model's window"
        )
        yield Remedy("memory", "max_sequence_length", int(shorter), f"{now}; activations shrink with the longest input")
    yield Remedy("memory", batch, 1, f"it is {settings[batch]}; one sample at a time needs the least")
    yield Remedy("memory", "cleanup_every", 1, f"it is {settings['cleanup_every']}; unused memory is freed every time")
    where = "what does not fit goes to other devices, the processor and the disk"
    yield Remedy("memory", "device_map", "auto", f"it is {settings['device_map']}; {where}")


def lighter(settings: Mapping[str, Any]) -> Iterator[Remedy]:
    """Precisions whose weights take less memory, the one that loses least first."""
    for precision, part in _LIGHTER.get(settings["precision"], ()):
        yield Remedy("memory", "precision", precision, f"weights take {part} of what {settings['precision']} needs")


def speed(settings: Mapping[str, Any], metrics: Mapping[str, float], batch: str) -> Iterator[Remedy]:
    """Larger batches of short inputs, a better kernel for longer ones, a limit on the longest."""
    tokens = _tokens(metrics)
    if tokens is None:
        return
    size = f"a sample has {tokens:,.0f} tokens"
    if (fill := metrics.get("batch_fill", 1.0)) < 0.8:
        yield Remedy("speed", batch, "auto", f"batch_fill is {fill:.2f}: the rest of what is computed is padding")
    if tokens < _SHORT:
        yield Remedy("speed", batch, "auto", f"{size}: many fit into one batch")
    elif tokens < _MEDIUM:
        for kernel in ("flash", "sdpa"):
            yield Remedy("speed", "attention", kernel, f"{size}: attention is much of the work")
    else:
        yield Remedy("speed", "max_sequence_length", _MEDIUM, f"{size}: attention grows with their square")
    if (seconds := metrics.get("seconds", 0.0)) > _COMPILED:
        yield Remedy("speed", "compile", True, f"it took {seconds:,.0f} s, so a minute of compiling pays")
    for lighter in ("bf16", "fp16"):
        if settings["precision"] == "fp32":
            yield Remedy(
                "speed", "precision", lighter, "fp32 moves twice the bytes; see what the audit says it changes"
            )
    busy = metrics.get("share_model")
    waiting = sum(metrics.get(f"share_{kind}", 0.0) for kind in ("tokenising", "io", "preprocessing"))
    if busy is not None and waiting > busy:
        yield Remedy(
            "speed", "workers", 2, f"the model works {busy:.0%} of the time, {waiting:.0%} goes into feeding it"
        )


def _tokens(metrics: Mapping[str, float]) -> float | None:
    return metrics["tokens"] / metrics["samples"] if metrics.get("samples") and "tokens" in metrics else None


def more(settings: Mapping[str, Any], metrics: Mapping[str, float], name: str) -> Iterator[Remedy]:
    """More data, where there are any, for a figure whose interval is wide or that has none."""
    low, high = (metrics.get(f"{name}_{end}") for end in ("low", "high"))
    told = (
        f"{name} has no interval" if low is None or high is None else f"the interval of {name} is {high - low:.2f} wide"
    )
    if settings.get("limit") and (low is None or high is None or high - low > _WIDE):
        yield Remedy("quality", "limit", 10 * settings["limit"], f"{told}: more data")
