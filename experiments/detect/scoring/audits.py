"""What only `detect` can doubt about its own result."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from scipy.stats import norm

from experiments import statistics
from harness.stage import Audited, Doubt, check

_NEGLIGIBLE = 0.01  # a shift of ECS, or a share of PKS, that is small beside what tells spans apart
_SAME = 1e-5


@check("the protocol chooses and judges on the same responses", "quote auc_out_of_fold, or run protocol=crossfit")
def in_sample(audited: Audited) -> Iterator[Doubt]:
    if audited.params.protocol == "published":
        yield (
            "warn",
            "protocol=published chooses heads, layers and threshold on the responses it is judged on, as papers did;"
            " quote auc_out_of_fold, or run protocol=crossfit, for what to expect on new data",
        )


def _uninformative(audited: Audited, kind: str, weight: str) -> Iterator[Doubt]:
    """A whole kind of feature in which no column's interval clears 0.5 carries nothing."""
    frame = audited.records.frame
    labels = frame["label"].to_numpy()
    sources = frame.get("source", frame["group"]).to_numpy()
    columns = frame.filter(regex=f"^{kind}_")
    if len(set(labels)) < 2 or len(set(sources)) < 2 or columns.empty:
        return
    target = 1 - labels if kind == "ecs" else labels
    aucs = statistics.column_aucs(target, columns.to_numpy(float))
    best, seed = int(aucs.argmax()), audited.params.fold_seed
    low, high = statistics.auc_interval(target, columns.iloc[:, best].to_numpy(float), sources, seed)
    # The best of many columns clears 0.5 by luck, so the interval is widened to hold for all of them (Bonferroni).
    low = aucs[best] - (high - low) / 2 * norm.isf(0.025 / len(aucs)) / norm.isf(0.025)
    if low <= 0.5:
        yield (
            "warn",
            f"no {kind.upper()} column separates the spans: the best, {columns.columns[best]}, has AUC"
            f" {aucs[best]:.3f} with an interval from {low:.3f} (for the best of {len(aucs)}); set its weight"
            f" ({weight}) to 0 and see whether anything is lost",
        )


@check("ECS or PKS alone is as good as their combination", "use other weights, or that part alone")
def part_beats_whole(audited: Audited) -> Iterator[Doubt]:
    metrics = audited.report.metrics
    if audited.params.alpha == 0 or audited.params.m == 0:
        return
    for part in ("auc_ecs", "auc_pks"):
        if part in metrics and "auc" in metrics and metrics[part] >= metrics["auc"]:
            yield (
                "warn",
                f"{part} {metrics[part]:.3f} alone is as good as the combination's {metrics['auc']:.3f};"
                " the other part adds nothing at these weights",
            )


@check("a precision below fp32 was not compared with fp32", "see what kept it from being compared")
def precision_unchecked(audited: Audited) -> Iterator[Doubt]:
    checked, precision = _checked(audited)
    if "skipped" in checked:
        yield "warn", f"{precision} was not compared with fp32: {checked['skipped']}"


@check("a precision below fp32 moves ECS or PKS", "compare the AUC with that of precision=fp32")
def precision_changes_features(audited: Audited) -> Iterator[Doubt]:
    checked, precision = _checked(audited)
    if (moved := checked.get("fp32")) is not None:
        much = moved["ecs_median"] > _NEGLIGIBLE or moved["pks_median"] > _NEGLIGIBLE
        yield (
            "warn" if much else "info",
            f"against fp32, {precision} moves ECS by {moved['ecs_median']:.2g} (median; at most {moved['ecs_max']:.2g})"
            f" and PKS by {moved['pks_median']:.1%} (at most {moved['pks_max']:.1%}) on {checked.get('responses')}"
            " responses" + ("; compare the AUC with that of precision=fp32" if much else ""),
        )


@check("in a precision below fp32 a response's features depend on its batch", "use precision=fp32 where that matters")
def batch_changes_features(audited: Audited) -> Iterator[Doubt]:
    checked, precision = _checked(audited)
    if (moved := checked.get("batch")) is not None and max(moved["ecs_max"], moved["pks_max"]) > _SAME:
        yield (
            "info",
            f"in {precision} a response's ECS depends by up to {moved['ecs_max']:.2g}, its PKS by up to"
            f" {moved['pks_max']:.1%}, on what shares its batch ({checked.get('responses')} responses looked at); fp32"
            " keeps to 1e-5",
        )


@check("no ECS column separates the spans", "set alpha to 0 and see whether anything is lost")
def ecs_uninformative(audited: Audited) -> Iterator[Doubt]:
    return _uninformative(audited, "ecs", "alpha")


@check("no PKS column separates the spans", "set m to 0 and see whether anything is lost")
def pks_uninformative(audited: Audited) -> Iterator[Doubt]:
    return _uninformative(audited, "pks", "m")


def _checked(audited: Audited) -> tuple[Mapping[str, Any], str | None]:
    """What was computed again on the few responses looked at, and the precision that it is compared with."""
    origin = audited.records.origin
    return origin.get("checked") or {}, origin.get("infer", {}).get("precision")
