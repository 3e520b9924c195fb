"""What only `rag` can doubt about its own result."""

from __future__ import annotations

from collections.abc import Iterator

from experiments.rag.detectors import DETECTORS
from experiments.rag.scoring.params import RagScore
from harness.stage import Finding, Records, Report

_RARE = 0.1
_CHANCE = 0.5
_SINGLE = tuple(detector.name for detector in DETECTORS)


def builtin_nli(records: Records, report: Report, params: RagScore) -> Iterator[Finding]:
    """The built-in cross-encoder has only ever read the built-in world."""
    used = records.origin.get("infer", {})
    if used.get("nli") == "builtin" and used.get("dataset") not in {None, "builtin"}:
        yield Finding(
            "warn",
            "nli_knows_no_english",
            "nli=builtin was trained on the built-in world and reads no natural language: what it says of these data is"
            " about itself, not about NLI; name a cross-encoder in nli",
        )


def tiers_missed(records: Records, report: Report, params: RagScore) -> Iterator[Finding]:
    """Questions with too few relevant passages for their tier."""
    counts = records.origin.get("counts", {})
    if missed := counts.get("too_few_relevant", 0):
        yield Finding(
            "warn" if missed > _RARE * counts["kept"] else "info",
            "tier_not_achieved",
            f"{missed} of {counts['kept']} contexts have fewer relevant passages than their tier asks for, because the"
            " data have no more: read achieved/…, or lower k",
        )


def tier_explains(records: Records, report: Report, params: RagScore) -> Iterator[Finding]:
    """Over all tiers, a score that only senses the tier looks like a detector."""
    pooled, within, tier = (report.metrics.get(name) for name in ("auc", "auc_in_tier", "auc_tier"))
    if pooled is not None and within is not None and tier is not None and within < pooled - 0.05:
        yield Finding(
            "info",
            "tier_explains",
            f"within tiers the AUC is {within:.3f}, over all of them {pooled:.3f}, part of which is telling good"
            f" retrieval from bad, as the tier alone does with {tier:.3f}; quote auc_in_tier",
        )


def cost_of_kept_replies(records: Records, report: Report, params: RagScore) -> Iterator[Finding]:
    """A reply read from disk takes no time."""
    if kept := records.origin.get("counts", {}).get("replies_kept_before", 0):
        yield Finding(
            "warn",
            "cost_of_kept_replies",
            f"{kept} requests were answered from replies kept earlier, so generation's and judging's speed is not that"
            " of the endpoint; clear the cache folder's replies to measure again",
        )


def abstentions(records: Records, report: Report, params: RagScore) -> Iterator[Finding]:
    """Answers that say nothing are judged by nobody."""
    if share := report.metrics.get("abstained"):
        yield Finding(
            "warn" if share > 0.5 else "info",
            "abstentions",
            f"{share:.1%} of the answers say that they do not know: they are neither faithful nor hallucinated, and no"
            " detector is judged on them; compare detectors at one rate of abstention",
        )


def inverted_detectors(records: Records, report: Report, params: RagScore) -> Iterator[Finding]:
    """A detector whose whole interval lies below chance misleads whatever it is fused with."""
    for name in _SINGLE:
        if (high := report.metrics.get(f"auc/{name}_high")) is not None and high < _CHANCE:
            yield Finding(
                "warn",
                "detector_inverted",
                f"auc/{name} {report.metrics[f'auc/{name}']:.3f} lies below chance with its whole interval (up to"
                f" {high:.3f}): on these data its support goes with hallucination; leave it out, or fusion=logistic",
            )


def fusion_gains_nothing(records: Records, report: Report, params: RagScore) -> Iterator[Finding]:
    """A fusion that one of its members beats alone."""
    fused = report.metrics.get("auc/fused")
    singles = {name: report.metrics[f"auc/{name}"] for name in _SINGLE if f"auc/{name}" in report.metrics}
    best = max(singles, key=lambda name: singles[name], default="")
    if fused is not None and best and singles[best] >= fused:
        yield Finding(
            "warn" if params.detector == "fused" else "info",
            "part_beats_whole",
            f"{best} alone, AUC {singles[best]:.3f}, is as good as the fusion's {fused:.3f}; use detector={best}, or"
            " another fusion",
        )
