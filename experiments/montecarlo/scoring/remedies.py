"""What to try after a run of `montecarlo`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from harness.stage import Remedy

_LONG = 600  # seconds of inference from which compiling pays


def after(settings: Mapping[str, Any], metrics: Mapping[str, float]) -> Iterator[Remedy]:
    """Smaller batches and numbers; numbers and sites that are faster; more passes, another statistic, other sites."""
    yield from _memory(settings)
    yield from _speed(settings, metrics)
    passes, predicted = settings["passes"], metrics.get("passes_predicted_heavy")
    most = max(int(each) for each in passes.split(","))
    if predicted and predicted > most and metrics.get("gate", 2) < 2:
        why = f"{predicted:.0f} passes are predicted to pass the gate, tails being heavy, and {most} do not"
        yield Remedy("quality", "passes", f"{passes},{predicted:.0f}", why)
    yield Remedy(
        "quality", "statistic", "trace_post", f"the uncertainty is {settings['statistic']}, which lengths move"
    )
    if _reaches_attention(settings):
        yield Remedy("quality", "sites", "all-linear", f"dropout is at {settings['sites']} only")
    yield Remedy("quality", "dropout", min(0.9, 3 * settings["dropout"]), f"dropout is {settings['dropout']:g}")


def _memory(settings: Mapping[str, Any]) -> Iterator[Remedy]:
    batch = settings["batch_images"]
    if batch != "auto":  # which takes what there is
        yield Remedy("memory", "batch_images", max(1, batch // 4), f"it is {batch}: activations shrink with it")
    yield Remedy("memory", "pixels", "mmap", f"it is {settings['pixels']}; pixels then take no memory")
    for lower in ("bf16", "fp16"):
        yield Remedy("memory", "precision", lower, f"weights take half of what {settings['precision']} needs")


def _speed(settings: Mapping[str, Any], metrics: Mapping[str, float]) -> Iterator[Remedy]:
    if settings["precision"] == "fp32":
        for lower in ("bf16", "fp16"):
            yield Remedy("speed", "precision", lower, "fp32 moves twice the bytes; compare the ICC")
    if metrics.get("share_preprocessing", 0.0) > metrics.get("share_model", 1.0):
        yield Remedy("speed", "decoders", 2 * settings["decoders"], "decoding takes longer than the encoder")
    if (seconds := metrics.get("seconds", 0.0)) > _LONG:
        yield Remedy("speed", "compile", True, f"it took {seconds:,.0f} s, so a minute of compiling pays")
    why = (
        f"sites are {settings['sites']}; in late layers alone only these are computed again, which is another estimator"
    )
    late = "last-1" if _reaches_attention(settings) else "projection"
    yield Remedy("speed", "sites", late, f"{why}: see whether it is as valid")


def _reaches_attention(settings: Mapping[str, Any]) -> bool:
    """Whether dropout can be hooked into attention's own layers, which torch's MultiheadAttention never calls."""
    return bool(settings["attention"] == "split" or settings["library"] == "transformers")
