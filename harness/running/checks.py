"""The checks that every result is put to, whatever its stage."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

from harness.running.differences import CLEAR, difference
from harness.stage import Audited, Doubt, Undefined, check, checks_in, some

if TYPE_CHECKING:
    import pandas as pd

WIDE = 0.2  # an interval of the headline metric wider than this tells few configurations apart
_MANY_ERRORS = 0.1


# --- metrics ---------------------------------------------------------------------------------------------------------


@check("the headline metric could not be computed", "give it other data, or more of them")
def headline_undefined(audited: Audited) -> Iterator[Doubt]:
    headline = audited.stage.metrics[0].name
    if reason := audited.report.undefined.get(headline):
        yield "fail", f"{headline} is undefined: {reason}; it takes other data, or more of them"


@check("other metrics could not be computed", "leave them out of any table: undefined is not 0")
def undefined(audited: Audited) -> Iterator[Doubt]:
    names_by_reason: dict[str, list[str]] = {}
    headline = audited.stage.metrics[0].name
    for name, reason in audited.report.undefined.items():
        if name not in {headline, f"{headline}_low", f"{headline}_high"}:  # which are told by themselves
            names_by_reason.setdefault(reason, []).append(name)
    if names_by_reason:
        told = ", ".join(f"{some(names)} ({reason})" for reason, names in names_by_reason.items())
        yield "info", f"not computed: {told}; leave them out of any table, they are not 0"


@check("the headline has no interval", "give it more data of the rarer label, or a protocol that has one")
def interval_missing(audited: Audited) -> Iterator[Doubt]:
    name, report = audited.stage.metrics[0].name, audited.report
    if name in report.metrics and (reason := report.undefined.get(f"{name}_low")):
        yield (
            "warn",
            f"{name} {report.metrics[name]:.3f} has no interval: {reason}; give it more data, or a protocol that has"
            " one",
        )


@check("the headline lies below chance, and not by chance", "turn the score or the labels round, after a look")
def polarity_inverted(audited: Audited) -> Iterator[Doubt]:
    headline, metrics = audited.stage.metrics[0], audited.report.metrics
    value, high, p = (metrics.get(f"{headline.name}{end}") for end in ("", "_high", "_p"))
    if value is None or headline.chance is None or value >= headline.chance:
        return
    below = high is not None and high < headline.chance
    if (p is None and below) or (p is not None and p <= CLEAR):
        told = f"p {p:.2g}" if p is not None else f"its whole interval, up to {high:.3f}"
        yield (
            "fail",
            f"{headline.name} {value:.3f} lies below chance ({told}): the score is the wrong way round, or labels are"
            " swapped; look at a few rows by hand",
        )
    elif below:
        yield (
            "warn",
            f"{headline.name} {value:.3f} lies below chance with its interval (up to {high:.3f}), but so it does for"
            f" labels that mean nothing (p {p:.2g}); look at a few rows by hand, or score more data",
        )


@check("a metric is below what makes a result of any use", "average over more repetitions, or use other data")
def gate_failed(audited: Audited) -> Iterator[Doubt]:
    return (("fail", message) for failed, message in _below_gate(audited) if failed)


@check("a metric is below what makes a result usable", "average over more repetitions, or use other data")
def gate_marginal(audited: Audited) -> Iterator[Doubt]:
    return (("warn", message) for failed, message in _below_gate(audited) if not failed)


def _below_gate(audited: Audited) -> Iterator[tuple[bool, str]]:
    """Results below what makes them usable: whether they have failed, and the sentence."""
    for metric in audited.stage.metrics:
        value = audited.report.metrics.get(metric.name)
        if value is None or metric.usable is None or value >= metric.usable:
            continue
        failed = metric.failed is not None and value < metric.failed
        yield (
            failed,
            f"{metric.name} {value:.3f} is below {metric.failed if failed else metric.usable:g}, so the result is"
            f" {'of no use' if failed else 'only of marginal use'} ({metric.summary}); average over more repetitions,"
            " or use other data",
        )


@check("the result vanishes inside groups in which a confounder is constant", "quote the figure inside the groups")
def confounded(audited: Audited) -> Iterator[Doubt]:
    metrics = audited.report.metrics
    for metric in (metric for metric in audited.stage.metrics if metric.within_of):
        whole = str(metric.within_of)
        low, chance = metrics.get(f"{whole}_low"), metric.chance
        parts = {  # those with an interval, and where it begins
            name: metrics[f"{name}_low"]
            for name in metrics
            if name.startswith(f"{metric.name}/") and f"{name}_low" in metrics
        }
        if low is None or chance is None or not parts or low <= chance:
            continue
        mean = sum(metrics[part] for part in parts) / len(parts)
        # Small groups have wide intervals, so that half of the result must be gone as well.
        if max(parts.values()) <= chance and mean - chance < (metrics[whole] - chance) / 2:
            yield (
                "warn",
                f"{whole} {metrics[whole]:.3f} comes from telling groups apart: inside them it is {mean:.3f} on"
                f" average, and no interval clears chance ({metric.summary}); quote {metric.name}",
            )


@check("a trivial predictor is as good as the result", "quote both, and claim no more than that")
def trivial_baseline(audited: Audited) -> Iterator[Doubt]:
    for name, value, baseline, trivial, summary in _baselines(audited):
        if trivial >= value:
            yield (
                "warn",
                f"{name} {value:.3f} does not beat {baseline} {trivial:.3f} ({summary});"
                " quote both, and claim no more than that",
            )


@check("that the result beats a trivial predictor is not shown", "score more data")
def baseline_not_beaten(audited: Audited) -> Iterator[Doubt]:
    for name, value, baseline, trivial, _ in _baselines(audited):
        with suppress(Undefined):
            gain, low, high = difference(audited.report, audited.report, name, baseline)
            if low <= 0 < gain:
                yield (
                    "info",
                    f"{name} {value:.3f} exceeds {baseline} {trivial:.3f} by {gain:.3f} ({low:.3f} to {high:.3f} on the"
                    " same data), which may be chance: more data are needed to tell them apart",
                )


def _baselines(audited: Audited) -> Iterator[tuple[str, float, str, float, str]]:
    """A metric, its value, a trivial predictor of it, what that one reaches, and what it is."""
    for baseline in audited.stage.metrics:
        name = baseline.baseline_of or ""
        value, trivial = audited.report.metrics.get(name), audited.report.metrics.get(baseline.name)
        if value is not None and trivial is not None:
            yield name, value, baseline.name, trivial, baseline.summary


@check("the headline cannot be told from chance", "score more data")
def chance_in_interval(audited: Audited) -> Iterator[Doubt]:
    headline, metrics = audited.stage.metrics[0], audited.report.metrics
    p, chance = metrics.get(f"{headline.name}_p"), headline.chance
    told = [f"its interval, {low:.3f} to {high:.3f}, holds chance"
            for low, high in _headline_interval(audited) if chance is not None and low <= chance <= high]  # fmt: skip
    told += [f"labels that mean nothing give as much (p {p:.2g})"] if p is not None and p > CLEAR else []
    if told:
        yield (
            "warn",
            f"{headline.name} {metrics[headline.name]:.3f}: {' and '.join(told)}; nothing has been shown yet, score"
            " more data",
        )


@check(f"the interval of the headline is wider than {WIDE}", "score more data before configurations are compared")
def interval_wide(audited: Audited) -> Iterator[Doubt]:
    for low, high in _headline_interval(audited):
        if high - low > WIDE:
            yield (
                "warn",
                f"the interval of {audited.stage.metrics[0].name} is {high - low:.2f} wide ({low:.3f} to {high:.3f});"
                " differences smaller than that between configurations mean nothing: score more data",
            )


def _headline_interval(audited: Audited) -> Iterator[tuple[float, float]]:
    """The interval of the headline metric, where it has one."""
    name, metrics = audited.stage.metrics[0].name, audited.report.metrics
    if f"{name}_low" in metrics and f"{name}_high" in metrics:
        yield metrics[f"{name}_low"], metrics[f"{name}_high"]


# --- features and rows -----------------------------------------------------------------------------------------------


@check("features have values that their definition rules out", "look at how they were computed, and in which precision")
def feature_out_of_range(audited: Audited) -> Iterator[Doubt]:
    for columns, low, high in _features(audited):
        tolerance = 1e-6 * max(1.0, abs(low))
        outside = (columns < low - tolerance) | (columns > high + tolerance)
        if outside.any(axis=None):
            yield (
                "fail",
                f"{some(columns.columns[outside.any()])}: {outside.sum().sum()} of {columns.size} values outside"
                f" {low:g} to {high:g}, from {columns.min().min():.3g} to {columns.max().max():.3g}; such a value"
                " cannot be what its name says: look at how it was computed and in which precision",
            )


@check("a feature has the same value in every row", "look at how it was computed")
def feature_constant(audited: Audited) -> Iterator[Doubt]:
    constant: dict[str, None] = {}
    for columns, _, _ in _features(audited):
        if len(columns) > 1:
            same = columns.min() == columns.max()  # neither where a column has no value at all
            constant |= dict.fromkeys(str(name) for name in same.index[same])
    if constant:
        yield "warn", f"{some(constant)}: the same value in every row, so no use; look at how it was computed"


def _features(audited: Audited) -> Iterator[tuple[pd.DataFrame, float, float]]:
    """The columns of each kind of feature that there is, and the range that its definition allows."""
    for prefix, (low, high) in audited.stage.feature_ranges(audited.records).items():
        columns = audited.records.frame.filter(regex=f"^{prefix}").astype(float)
        if not columns.empty:
            yield columns, low, high


@check("rows that failed have scores nevertheless", "leave them missing, with the reason in `error`")
def failures_scored(audited: Audited) -> Iterator[Doubt]:
    return _scored(audited, "that failed", lambda failed: failed)


@check("rows with nothing to judge by have scores nevertheless", "leave them missing, with the reason in `error`")
def empty_scored(audited: Audited) -> Iterator[Doubt]:
    frame = audited.records.frame
    if "evidence" in frame:
        empty = frame["evidence"] == 0
        yield from _scored(audited, "with nothing to judge by", lambda failed: empty & ~failed)


def _scored(audited: Audited, which: str, rows: Callable[[pd.Series[bool]], pd.Series[bool]]) -> Iterator[Doubt]:
    """Features that have values in some of the rows in which they were not observed, chosen by which failed."""
    frame, failed, values = audited.records.frame, _failed(audited), {}
    prefixes = tuple(audited.stage.feature_ranges(audited.records))
    for name in (name for name in map(str, frame) if name.startswith(prefixes)):
        mine = [
            error
            for error in map(str, failed)
            if error == "error" or name.startswith(f"{error.removeprefix('error_')}_")
        ]
        values[name] = frame[name][rows(failed[mine].any(axis=1))].dropna()
    if scored := {name: column for name, column in values.items() if len(column)}:
        yield (
            "fail",
            f"{max(map(len, scored.values()))} rows {which} have values in {some(scored)}"
            f" ({float(next(iter(scored.values())).mean()):g} on average in the first): what was not observed is no"
            " score; leave it missing, with the reason in `error`",
        )


@check("rows could not be observed, in all or by one kind of feature", "mend the cause and run again")
def failures(audited: Audited) -> Iterator[Doubt]:
    for name, failed in _failed(audited).items():
        if count := int(failed.sum()):
            share, reasons = count / len(failed), audited.records.frame[name][failed].value_counts()
            yield (
                "fail" if share > _MANY_ERRORS and name == "error" else "warn",  # else the row has other features
                f"{count} of {len(failed)} rows ({share:.0%}) failed ({name}), the most by: {reasons.index[0]};"
                " scores are of the others only: mend the cause and run again",
            )


def _failed(audited: Audited) -> pd.DataFrame:
    """Which rows failed, in all (`error`) or by one kind of feature (`error_x`)."""
    errors = audited.records.frame.filter(regex="^error(_|$)")
    return errors.notna() & (errors != "")


# --- inputs and cost -------------------------------------------------------------------------------------------------


@check("inputs could not be read or worked on", "mend them, if they are many")
def inputs_errors(audited: Audited) -> Iterator[Doubt]:
    return _inputs_lost(audited, "errors")


@check("inputs were skipped", "mend them, if they are many")
def inputs_skipped(audited: Audited) -> Iterator[Doubt]:
    return _inputs_lost(audited, "skipped")


def _inputs_lost(audited: Audited, name: str) -> Iterator[Doubt]:
    counts, total = _inputs(audited)
    if lost := counts.get(name, 0):
        yield (
            "fail" if lost / total > _MANY_ERRORS else "warn",
            f"{lost} inputs beside {total} scored: {name}; they count nowhere, so mend them if they are many",
        )


@check("inputs or answers were cut", "compare with a longer limit")
def inputs_truncated(audited: Audited) -> Iterator[Doubt]:
    counts, total = _inputs(audited)
    for name, cut in counts.items():
        if cut and (name.endswith("_cut") or name.startswith("cut_")):
            what = "what was not said could not be judged" if "answer" in name else "what was cut off could not be seen"
            yield "warn", f"{cut} of {total} inputs were cut ({name}): {what}; compare with a longer limit"


def _inputs(audited: Audited) -> tuple[dict[str, int], int]:
    """What was counted of the inputs, and how many were scored."""
    counts = audited.records.origin.get("counts", {})
    return counts, max(1, counts.get("kept", len(audited.records.frame)))


@check("the records came without a cost", "infer them to have one")
def cost_unknown(audited: Audited) -> Iterator[Doubt]:
    if audited.records.cost is None:
        yield "info", "the records came without a cost, so none is reported; infer them to have one"


@check("speed and memory are those of an earlier run", "measure again with cache=refresh")
def cost_replayed(audited: Audited) -> Iterator[Doubt]:
    if audited.replayed and (cost := audited.records.cost):
        yield (
            "info",
            f"speed and memory were measured when the records were made, on {cost.hardware} ({cost.device});"
            " cache=refresh measures again",
        )


CHECKS = checks_in(__name__)

# Codes of what is said of a result by other means: a profile that left no trace, and what a sweep concludes.
BESIDE_CHECKS = (
    "no_trace",
    "no_winner",
    "no_holdout",
    "holdout_seen_again",
    "holdout_undefined",
    "holdout_interval_wide",
    "holdout_interval_missing",
    "holdout_chance",
    "holdout_trivial",
    "default_failed",
    "default_elsewhere",
    "no_gain",
)
