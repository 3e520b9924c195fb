"""What only `detect` can doubt about its own result."""

from __future__ import annotations

from collections.abc import Iterator

from scipy.stats import norm

from experiments import statistics
from experiments.detect.scoring.params import DetectScore
from harness.stage import Finding, Level, Records, Report

_SMALL = 0.01  # a shift of ECS, or a share of PKS, that is small beside what tells spans apart
_SAME = 1e-5


def in_sample(records: Records, report: Report, params: DetectScore) -> Iterator[Finding]:
    """The published protocol chooses and judges on the same responses."""
    if params.protocol == "published":
        yield Finding(
            "warn",
            "in_sample",
            "protocol=published chooses heads, layers and threshold on the responses it is judged on, as papers did;"
            " quote auc_out_of_fold, or run protocol=crossfit, for what to expect on new data",
        )


def uninformative_features(records: Records, report: Report, params: DetectScore) -> Iterator[Finding]:
    """A whole kind of feature in which no column's interval clears 0.5 carries nothing."""
    frame = records.frame
    labels = frame["label"].to_numpy()
    sources = frame.get("source", frame["group"]).to_numpy()
    if len(set(labels)) < 2 or len(set(sources)) < 2:
        return
    for kind, target in (("ecs", 1 - labels), ("pks", labels)):
        columns = frame.filter(regex=f"^{kind}_")
        if columns.empty:
            continue
        aucs = statistics.column_aucs(target, columns.to_numpy(float))
        best = int(aucs.argmax())
        low, high = statistics.auc_interval(target, columns.iloc[:, best].to_numpy(float), sources, params.fold_seed)
        # The best of many columns clears 0.5 by luck, so the interval is widened to hold for all of them (Bonferroni).
        low = aucs[best] - (high - low) / 2 * norm.isf(0.025 / len(aucs)) / norm.isf(0.025)
        if low <= 0.5:
            yield Finding(
                "warn",
                f"{kind}_uninformative",
                f"no {kind.upper()} column separates the spans: the best, {columns.columns[best]}, has AUC"
                f" {aucs[best]:.3f} with an interval from {low:.3f} (for the best of {len(aucs)}); set its weight"
                f" ({'alpha' if kind == 'ecs' else 'm'}) to 0 and see whether anything is lost",
            )


def lower_precision(records: Records, report: Report, params: DetectScore) -> Iterator[Finding]:
    """What a precision below fp32, and the batch that a response shares, did to the few responses looked at."""
    checked = records.origin.get("checked") or {}
    precision, count = records.origin.get("infer", {}).get("precision"), checked.get("responses")
    if "skipped" in checked:
        yield Finding("warn", "precision_unchecked", f"{precision} was not compared with fp32: {checked['skipped']}")
    if (found := checked.get("fp32")) is not None:
        level: Level = "warn" if found["ecs_median"] > _SMALL or found["pks_median"] > _SMALL else "info"
        yield Finding(
            level,
            "precision_changes_features",
            f"against fp32, {precision} moves ECS by {found['ecs_median']:.2g} (median; at most {found['ecs_max']:.2g})"
            f" and PKS by {found['pks_median']:.1%} (at most {found['pks_max']:.1%}) on {count} responses"
            + ("; compare the AUC with that of precision=fp32" if level == "warn" else ""),
        )
    if (found := checked.get("batch")) is not None and max(found["ecs_max"], found["pks_max"]) > _SAME:
        yield Finding(
            "info",
            "batch_changes_features",
            f"in {precision} a response's ECS depends by up to {found['ecs_max']:.2g}, its PKS by up to"
            f" {found['pks_max']:.1%}, on what shares its batch ({count} responses looked at); fp32 keeps to 1e-5",
        )


def single_part(records: Records, report: Report, params: DetectScore) -> Iterator[Finding]:
    """A combination that one of its two parts beats alone has gained nothing."""
    if params.alpha == 0 or params.m == 0:
        return
    for part in ("auc_ecs", "auc_pks"):
        if part in report.metrics and "auc" in report.metrics and report.metrics[part] >= report.metrics["auc"]:
            yield Finding(
                "warn",
                "part_beats_whole",
                f"{part} {report.metrics[part]:.3f} alone is as good as the combination's {report.metrics['auc']:.3f};"
                " the other part adds nothing at these weights",
            )
