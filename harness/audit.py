"""Findings common to every stage: may this result be believed, and if not, what to do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.stage import Finding, Level, Params, Records, Report, Stage

SEVERITY = {"fail": 0, "warn": 1, "info": 2}
WIDE = 0.2  # an interval of the headline metric wider than this tells few configurations apart
_MANY_ERRORS = 0.1


def audit(stage: Stage[Any, Any], records: Records, report: Report, score: Params, replayed: bool) -> list[Finding]:
    """All findings, worst first."""
    findings = [
        *undefined_metrics(stage, report),
        *bad_features(stage, records),
        *inverted_polarity(stage, report),
        *trivial_baselines(stage, report),
        *wide_interval(stage, report),
        *lost_inputs(records),
        *unmeasured_cost(records, replayed),
        *(finding for rule in stage.audits for finding in rule(records, report, score)),
    ]
    return sorted(findings, key=lambda finding: SEVERITY[finding.level])


def verdict(findings: list[Finding]) -> str:
    """The worst level found, or `ok`."""
    return min((finding.level for finding in findings), key=lambda level: SEVERITY[level], default="ok")


def undefined_metrics(stage: Stage[Any, Any], report: Report) -> Iterator[Finding]:
    """What could not be computed is named, never replaced."""
    headline = stage.metrics[0].name
    if reason := report.undefined.get(headline):
        yield Finding("fail", "headline_undefined", f"{headline} is undefined: {reason}")
    if others := [f"{name} ({reason})" for name, reason in report.undefined.items() if name != headline]:
        yield Finding("info", "undefined", f"not computed: {'; '.join(others)}")


def bad_features(stage: Stage[Any, Any], records: Records) -> Iterator[Finding]:
    """Constant feature columns, and values that their definition rules out."""
    for prefix, (low, high) in stage.feature_ranges(records).items():
        columns = records.frame.filter(regex=f"^{prefix}")
        if columns.empty:
            continue
        values = columns.to_numpy(float)
        tolerance = 1e-6 * max(1.0, abs(low))
        outside: NDArray[np.bool_] = (values < low - tolerance) | (values > high + tolerance)
        if outside.any():
            names = [str(name) for name, any_outside in zip(columns, outside.max(axis=0), strict=True) if any_outside]
            yield Finding(
                "fail",
                "feature_out_of_range",
                f"{_some(names)}: {outside.sum()} of {values.size} values outside {low:g} to {high:g}, from"
                f" {values.min():.3g} to {values.max():.3g}; such a value cannot be what its name says: look at how"
                " it was computed and in which precision",
            )
        constant = [str(name) for name in columns.columns[np.ptp(values, axis=0) == 0]] if len(values) > 1 else []
        if constant:
            yield Finding("warn", "feature_constant", f"{_some(constant)}: the same value in every row, so no use")


def inverted_polarity(stage: Stage[Any, Any], report: Report) -> Iterator[Finding]:
    """A score whose whole interval lies on the wrong side of chance points the wrong way."""
    headline = stage.metrics[0]
    high = report.metrics.get(f"{headline.name}_high")
    if headline.chance is not None and high is not None and high < headline.chance:
        yield Finding(
            "fail",
            "polarity_inverted",
            f"{headline.name} {report.metrics[headline.name]:.3f} lies below chance with its whole interval (up to"
            f" {high:.3f}): the score is the wrong way round, or labels are swapped",
        )


def trivial_baselines(stage: Stage[Any, Any], report: Report) -> Iterator[Finding]:
    """A result that a trivial predictor reaches is no result."""
    for baseline in (metric for metric in stage.metrics if metric.baseline_of):
        name = str(baseline.baseline_of)
        value, trivial = report.metrics.get(name), report.metrics.get(baseline.name)
        if value is None or trivial is None:
            continue
        if trivial >= value:
            yield Finding(
                "warn",
                "trivial_baseline",
                f"{name} {value:.3f} does not beat {baseline.name} {trivial:.3f} ({baseline.summary})",
            )
        elif (low := report.metrics.get(f"{name}_low")) is not None and trivial >= low:
            yield Finding(
                "info",
                "baseline_in_interval",
                f"{baseline.name} {trivial:.3f} lies inside the interval of {name} (from {low:.3f}): more data are"
                " needed to tell them apart",
            )


def wide_interval(stage: Stage[Any, Any], report: Report) -> Iterator[Finding]:
    """Says when the headline's interval holds chance, or is too wide to compare configurations by."""
    headline = stage.metrics[0]
    low, high = (report.metrics.get(f"{headline.name}_{end}") for end in ("low", "high"))
    if low is None or high is None:
        return
    if headline.chance is not None and low <= headline.chance <= high:
        yield Finding(
            "warn", "chance_in_interval", f"the interval of {headline.name}, {low:.3f} to {high:.3f}, holds chance"
        )
    if high - low > WIDE:
        yield Finding(
            "warn",
            "interval_wide",
            f"the interval of {headline.name} is {high - low:.2f} wide ({low:.3f} to {high:.3f}): differences smaller"
            " than that between configurations mean nothing; score more data",
        )


def lost_inputs(records: Records) -> Iterator[Finding]:
    """Inputs that failed, were skipped or were cut."""
    counts = records.origin.get("counts", {})
    total = max(1, counts.get("kept", len(records.frame)))
    for name in ("errors", "skipped"):
        if lost := counts.get(name, 0):
            level: Level = "fail" if lost / total > _MANY_ERRORS else "warn"
            yield Finding(level, f"inputs_{name}", f"{lost} inputs beside {total} scored: {name}; they count nowhere")
    for name in ("prompts_cut", "cut_to_window"):
        if cut := counts.get(name, 0):
            yield Finding("warn", "inputs_truncated", f"{cut} of {total} inputs were cut ({name}): what was cut off"
                          " could not be attended to; compare with a longer limit")  # fmt: skip


def unmeasured_cost(records: Records, replayed: bool) -> Iterator[Finding]:
    """A replay measures nothing: its speed and memory are those of the run that made the records."""
    if records.cost is None:
        yield Finding("info", "cost_unknown", "the records came without a cost, so none is reported")
    elif replayed:
        yield Finding(
            "info",
            "cost_replayed",
            f"speed and memory were measured when the records were made, on {records.cost.hardware}"
            f" ({records.cost.device}); cache=refresh measures again",
        )


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more columns" if len(names) > 3 else "")
