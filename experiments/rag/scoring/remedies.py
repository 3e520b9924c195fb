"""What to try after a run of `rag`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from experiments.models import remedies
from experiments.rag.detectors import DETECTORS, FUSED
from harness.stage import Remedy


def after(settings: Mapping[str, Any], metrics: Mapping[str, float]) -> Iterator[Remedy]:
    """A lighter model, larger batches, requests beside each other; then a better detector, fusion, more questions."""
    yield from remedies.lighter(settings)
    if settings["batch_size"] > 1:
        yield Remedy("memory", "batch_size", settings["batch_size"] // 2, f"it is {settings['batch_size']}")
    if not metrics and (settings.get("endpoint") or settings.get("judge_endpoint")):  # it failed: see how it would not
        seconds, at_once = settings["request_timeout"], settings["in_flight"]
        slow = f"it is {seconds:g} s, waited for {settings['retries'] + 1} times"
        yield Remedy("speed", "request_timeout", min(4 * seconds, 3600.0), f"{slow}: a slow endpoint needs longer")
        yield Remedy("speed", "in_flight", max(1, at_once // 4), f"it is {at_once}: one answers while others wait")
    faster = {"generation": "in_flight" if settings.get("endpoint") else "batch_size"} | {
        detector.name: detector.faster for detector in DETECTORS if detector.faster
    }
    seconds = {name: metrics.get(f"seconds_per_1000/{name}", 0.0) for name in faster}
    slowest = max(seconds, key=lambda name: seconds[name])
    setting = faster[slowest]
    took = f", and {slowest} took {seconds[slowest]:.1f} s for 1,000 answers" if seconds[slowest] else ""
    yield Remedy("speed", setting, 2 * settings[setting], f"it is {settings[setting]}{took}")
    if "auc" not in metrics:
        return
    auc = f"auc is {metrics['auc']:.3f} with detector={settings['detector']}"
    if cut := metrics.get("answers_cut", 0.0):
        longer = min(4 * settings["max_new_tokens"], 4096)
        why = f"{cut:.1%} of the answers were cut at {settings['max_new_tokens']} tokens and have no label"
        yield Remedy("quality", "max_new_tokens", longer, why)
    singles = {detector.name: metrics.get(f"auc/{detector.name}", 0.0) for detector in DETECTORS}
    best = max(singles, key=lambda name: singles[name])
    if singles[best] > metrics["auc"]:
        yield Remedy("quality", "detector", best, f"{auc}, and {singles[best]:.3f} with {best} alone")
    if settings["detector"] == FUSED:
        other = "logistic" if settings["fusion"] == "rank" else "rank"
        yield Remedy("quality", "fusion", other, f"{auc} and fusion={settings['fusion']}")
    other = "mean" if settings["aggregation"] == "min" else "min"
    yield Remedy("quality", "aggregation", other, f"{auc} and sentences taken by their {settings['aggregation']}")
    yield from remedies.more(settings, metrics, "auc")
