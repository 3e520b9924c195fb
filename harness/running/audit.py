"""Findings common to every stage: may this result be believed, and if not, what to do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pandas as pd

from harness.stage import Finding, Level, Params, Records, Report, Stage

SEVERITY = {"fail": 0, "warn": 1, "info": 2}
WIDE = 0.2  # an interval of the headline metric wider than this tells few configurations apart
_MANY_ERRORS = 0.1


def audit(stage: Stage[Any, Any], records: Records, report: Report, score: Params, replayed: bool) -> list[Finding]:
    """All findings, worst first."""
    findings = [
        *undefined_metrics(stage, report),
        *bad_features(stage, records),
        *failures_scored(stage, records),
        *inverted_polarity(stage, report),
        *gates_not_met(stage, report),
        *confounded(stage, report),
        *trivial_baselines(stage, report),
        *wide_interval(stage, report),
        *failures(records),
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
        yield Finding(
            "fail", "headline_undefined", f"{headline} is undefined: {reason}; it takes other data, or more of them"
        )
    others: dict[str, list[str]] = {}
    for name, reason in report.undefined.items():
        if name != headline:
            others.setdefault(reason, []).append(name)
    if others:
        told = ", ".join(f"{_some(names)} ({reason})" for reason, names in others.items())
        yield Finding("info", "undefined", f"not computed: {told}; leave them out of any table, they are not 0")


def bad_features(stage: Stage[Any, Any], records: Records) -> Iterator[Finding]:
    """Constant feature columns, and values that their definition rules out."""
    constant: dict[str, None] = {}
    for prefix, (low, high) in stage.feature_ranges(records).items():
        columns = records.frame.filter(regex=f"^{prefix}").astype(float)
        if columns.empty:
            continue
        tolerance = 1e-6 * max(1.0, abs(low))
        outside = (columns < low - tolerance) | (columns > high + tolerance)
        if outside.any(axis=None):
            yield Finding(
                "fail",
                "feature_out_of_range",
                f"{_some(columns.columns[outside.any()])}: {outside.sum().sum()} of {columns.size} values outside"
                f" {low:g} to {high:g}, from {columns.min().min():.3g} to {columns.max().max():.3g}; such a value"
                " cannot be what its name says: look at how it was computed and in which precision",
            )
        if len(columns) > 1:
            same = columns.min() == columns.max()  # neither where a column has no value at all
            constant |= dict.fromkeys(str(name) for name in same.index[same])
    if constant:
        yield Finding(
            "warn",
            "feature_constant",
            f"{_some(constant)}: the same value in every row, so no use; look at how it was computed",
        )


def failures_scored(stage: Stage[Any, Any], records: Records) -> Iterator[Finding]:
    """Values where nothing was observed, because the row failed or had nothing to be judged by."""
    frame = records.frame
    empty = frame["evidence"] == 0 if "evidence" in frame else pd.Series(False, frame.index)
    kinds = {"failures_scored": "that failed", "empty_scored": "with nothing to judge by"}
    found: dict[str, list[tuple[str, int, float]]] = {code: [] for code in kinds}  # columns, how many, their mean
    prefixes = tuple(stage.feature_ranges(records))
    for name, column in frame.items():
        if not str(name).startswith(prefixes):
            continue
        failed = _failed(frame, "error")
        for error in frame.filter(regex="^error_"):
            if str(name).startswith(f"{str(error).removeprefix('error_')}_"):
                failed |= _failed(frame, str(error))
        for code, rows in (("failures_scored", failed), ("empty_scored", empty & ~failed)):
            if count := int(column[rows].notna().sum()):
                found[code].append((str(name), count, float(column[rows].mean())))
    for code, columns in found.items():
        if columns:
            yield Finding(
                "fail",
                code,
                f"{max(count for _, count, _ in columns)} rows {kinds[code]} have values in"
                f" {_some(name for name, _, _ in columns)} ({columns[0][2]:g} on average in the first): what was not"
                " observed is no score; leave it missing, with the reason in `error`",
            )


def failures(records: Records) -> Iterator[Finding]:
    """Rows that could not be observed, in all or by one kind of feature."""
    for column in records.frame.filter(regex="^error(_|$)"):
        failed = _failed(records.frame, str(column))
        if count := int(failed.sum()):
            share, reasons = count / len(failed), records.frame[column][failed].value_counts()
            level: Level = "fail" if share > _MANY_ERRORS and column == "error" else "warn"  # else the row has others
            yield Finding(
                level,
                "failures",
                f"{count} of {len(failed)} rows ({share:.0%}) failed ({column}), the most by: {reasons.index[0]};"
                " scores are of the others only: mend the cause and run again",
            )


def inverted_polarity(stage: Stage[Any, Any], report: Report) -> Iterator[Finding]:
    """A score whose whole interval lies on the wrong side of chance points the wrong way."""
    headline = stage.metrics[0]
    high = report.metrics.get(f"{headline.name}_high")
    if headline.chance is not None and high is not None and high < headline.chance:
        yield Finding(
            "fail",
            "polarity_inverted",
            f"{headline.name} {report.metrics[headline.name]:.3f} lies below chance with its whole interval (up to"
            f" {high:.3f}): the score is the wrong way round, or labels are swapped; look at a few rows by hand",
        )


def gates_not_met(stage: Stage[Any, Any], report: Report) -> Iterator[Finding]:
    """Results below what makes them usable."""
    for metric in stage.metrics:
        value = report.metrics.get(metric.name)
        if value is None or metric.usable is None or value >= metric.usable:
            continue
        failed = metric.failed is not None and value < metric.failed
        yield Finding(
            "fail" if failed else "warn",
            "gate_failed" if failed else "gate_marginal",
            f"{metric.name} {value:.3f} is below {metric.failed if failed else metric.usable:g}, so the result is"
            f" {'of no use' if failed else 'only of marginal use'} ({metric.summary}); average over more repetitions,"
            " or use other data",
        )


def confounded(stage: Stage[Any, Any], report: Report) -> Iterator[Finding]:
    """A result that vanishes where a confounder is constant is the confounder's."""
    for metric in (metric for metric in stage.metrics if metric.within_of):
        whole = str(metric.within_of)
        low, chance = report.metrics.get(f"{whole}_low"), metric.chance
        parts = {  # those with an interval, and where it begins
            name: report.metrics[f"{name}_low"]
            for name in report.metrics
            if name.startswith(f"{metric.name}/") and f"{name}_low" in report.metrics
        }
        if low is None or chance is None or not parts or low <= chance:
            continue
        mean = sum(report.metrics[part] for part in parts) / len(parts)
        # Small groups have wide intervals, so that half of the result must be gone as well.
        if max(parts.values()) <= chance and mean - chance < (report.metrics[whole] - chance) / 2:
            yield Finding(
                "warn",
                "confounded",
                f"{whole} {report.metrics[whole]:.3f} comes from telling groups apart: inside them it is {mean:.3f} on"
                f" average, and no interval clears chance ({metric.summary}); quote {metric.name}",
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
                f"{name} {value:.3f} does not beat {baseline.name} {trivial:.3f} ({baseline.summary});"
                " quote both, and claim no more than that",
            )
        elif (low := report.metrics.get(f"{name}_low")) is not None and trivial >= low:
            yield Finding(
                "info",
                "baseline_in_interval",
                f"{baseline.name} {trivial:.3f} lies inside the interval of {name} (from {low:.3f}); more data are"
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
            "warn",
            "chance_in_interval",
            f"the interval of {headline.name}, {low:.3f} to {high:.3f}, holds chance; nothing has been shown yet, score"
            " more data",
        )
    if high - low > WIDE:
        yield Finding(
            "warn",
            "interval_wide",
            f"the interval of {headline.name} is {high - low:.2f} wide ({low:.3f} to {high:.3f}); differences smaller"
            " than that between configurations mean nothing: score more data",
        )


def lost_inputs(records: Records) -> Iterator[Finding]:
    """Inputs that failed, were skipped or were cut, by what was counted (`*_cut`, `cut_*`)."""
    counts = records.origin.get("counts", {})
    total = max(1, counts.get("kept", len(records.frame)))
    for name in ("errors", "skipped"):
        if lost := counts.get(name, 0):
            level: Level = "fail" if lost / total > _MANY_ERRORS else "warn"
            yield Finding(
                level,
                f"inputs_{name}",
                f"{lost} inputs beside {total} scored: {name}; they count nowhere, so mend them if they are many",
            )
    for name, cut in counts.items():
        if cut and (name.endswith("_cut") or name.startswith("cut_")):
            what = "what was not said could not be judged" if "answer" in name else "what was cut off could not be seen"
            yield Finding(
                "warn", "inputs_truncated", f"{cut} of {total} inputs were cut ({name}): {what}; compare with a longer"
                " limit"
            )  # fmt: skip


def unmeasured_cost(records: Records, replayed: bool) -> Iterator[Finding]:
    """A replay measures nothing: its speed and memory are those of the run that made the records."""
    if records.cost is None:
        yield Finding(
            "info", "cost_unknown", "the records came without a cost, so none is reported; infer them to have one"
        )
    elif replayed:
        yield Finding(
            "info",
            "cost_replayed",
            f"speed and memory were measured when the records were made, on {records.cost.hardware}"
            f" ({records.cost.device}); cache=refresh measures again",
        )


def _failed(frame: pd.DataFrame, column: str) -> pd.Series[bool]:
    return frame[column].notna() & (frame[column] != "") if column in frame else pd.Series(False, frame.index)


def _some(names: Iterable[Any]) -> str:
    shown = list(map(str, names))
    return ", ".join(shown[:3]) + (f" and {len(shown) - 3} more" if len(shown) > 3 else "")
