"""What to try after a run of `detect`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from experiments.models import remedies
from harness.stage import Remedy


def after(settings: Mapping[str, Any], metrics: Mapping[str, float]) -> Iterator[Remedy]:
    """Memory and speed of the language model; then other heads, another detector, more data, the threshold."""
    yield from remedies.memory(settings, metrics, "batch_tokens")
    yield from remedies.speed(settings, metrics, "batch_tokens")
    if "auc" not in metrics:
        return
    auc = f"auc is {metrics['auc']:.3f}"
    yield Remedy("quality", "select", "mutual_info", f"{auc} with heads ranked by {settings['select']}")
    yield Remedy("quality", "scorer", "ensemble", f"{auc} with scorer={settings['scorer']} alone")
    for part, weight in (("ecs", "m"), ("pks", "alpha")):  # the other part's
        if metrics.get(f"auc_{part}", 0.0) >= metrics["auc"]:
            alone = f"auc_{part} alone is {metrics[f'auc_{part}']:.3f}"
            yield Remedy("quality", weight, 0, f"{alone}, no worse than the combination's {metrics['auc']:.3f}")
    if settings["protocol"] == "published":
        yield Remedy("quality", "protocol", "crossfit", f"{auc} where it was fitted, of which no interval holds")
    else:
        yield from remedies.more(settings, metrics, "auc")
    if metrics.get("f1", 1.0) <= metrics.get("f1_prior", 0.0):
        why = f"f1 {metrics['f1']:.3f} is no better than calling everything hallucinated ({metrics['f1_prior']:.3f})"
        yield Remedy("quality", "threshold", "auto", why)
