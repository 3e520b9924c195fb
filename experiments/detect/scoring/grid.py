"""Thousands of score settings at once: the figures of `score`, from what the settings share."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from operator import attrgetter
from typing import Any, Literal

import numpy as np
import pandas as pd

from experiments import statistics
from experiments.arrays import Bools, Floats, Ints
from experiments.columns import Columns
from experiments.detect.scoring.metrics import LINEAR
from experiments.detect.scoring.params import DetectScore
from experiments.detect.scoring.score import figures_of, judged_by, read_judged, rule
from experiments.protocols import folds
from experiments.redeep.fits import best_alpha, best_columns, choose_heads
from experiments.redeep.fitted import Scale
from experiments.redeep.responses import Responses
from harness.stage import Records, Report, Undefined

# How many heads (0: those that the settings name) and layers are summed, alpha, m.
Point = tuple[int, int, float | Literal["best"], float]


def score_many(records: Records, settings: Sequence[DetectScore], metrics: Collection[str] = LINEAR) -> list[Report]:
    """Return the chosen metrics that `score` reports for each of the settings; see score_table."""
    cases, judged = read_judged(records).known, dict[str, str]()
    reports = []
    for params, row in zip(settings, score_table(cases, settings, metrics).to_dict("records"), strict=True):
        if np.isnan(list(row.values())).any():
            reports.append(figures_of(cases, params, metrics))  # for the reasons
            continue
        if params.judging not in judged:
            judged[params.judging] = judged_by(cases, params.judging)
        reports.append(Report({str(name): value for name, value in row.items()}, judged=judged[params.judging]))
    return reports


def score_table(cases: Responses, settings: Sequence[DetectScore], metrics: Collection[str] = LINEAR) -> pd.DataFrame:
    """The chosen metrics of each of the settings, a row each; NaN means undefined.

    They are the same numbers bit for bit, `pcc` up to its last digits: each response's score comes from the operations
    of `score` in their order, so that ties which rounding makes or breaks are the same too.  Fast is scorer=linear
    where no metric is wanted but those in LINEAR, the others are judged one by one.  Folds are made only if a metric
    or protocol needs them.
    """
    table = pd.DataFrame(np.nan, range(len(settings)), list(metrics))
    fits: dict[Any, list[int]] = defaultdict(list)
    for row, params in enumerate(settings):
        if params.scorer == "linear" and set(metrics) <= set(LINEAR):
            fits[params.select, params.heads, params.folds, params.fold_seed, params.threshold == "auto"].append(row)
        else:
            table.loc[row] = pd.Series(figures_of(cases, params, metrics).metrics, dtype=np.float64)
    for rows in fits.values():
        found = _score_linear(cases, [settings[row] for row in rows], metrics)
        table.loc[rows] = pd.DataFrame(found, rows, list(LINEAR))[list(metrics)]
    return table


def _score_linear(cases: Responses, settings: list[DetectScore], metrics: Collection[str]) -> Floats:
    """LINEAR (s, 5) of settings that differ in nothing but counts, weights and protocol."""
    first, most_layers = settings[0], len(cases.pks.names)
    most_heads = len(cases.ecs.names) if first.heads == "auto" else 0
    points: dict[Point, int] = {}  # many settings may be one point, where columns are few
    which = [
        points.setdefault((min(heads, most_heads), min(layers, most_layers), alpha, m), len(points))
        for heads, layers, alpha, m in map(attrgetter("top_n", "top_k", "alpha", "m"), settings)
    ]
    published = np.array([each.protocol == "published" for each in settings])
    wanted = {"auc_in_sample", "auc_out_of_fold", "optimism"}.intersection(metrics)
    inside = outside = np.full((len(points), 2), np.nan)
    if published.any() or wanted - {"auc_out_of_fold"}:
        inside = _measure(cases, first, list(points), "published")
    if not published.all() or wanted - {"auc_in_sample"}:
        outside = _measure(cases, first, list(points), "crossfit")
    inside, outside = inside[which], outside[which]
    own = np.where(published[:, None], inside, outside)
    return np.column_stack([own, inside[:, 0], outside[:, 0], inside[:, 0] - outside[:, 0]])


def _measure(cases: Responses, params: DetectScore, points: list[Point], protocol: str) -> Floats:
    """AUC and PCC (p, 2) over all responses, each scored by the fit of the fold that holds it out."""
    labels, sizes = cases.labels, np.bincount(cases.response)
    everyone = np.arange(len(labels))
    measured = np.full((len(points), 2), np.nan)
    try:
        split = folds(cases, rule(params)) if protocol == "crossfit" else [(everyone, everyone)]
        span_scores = _fit(cases, split, params, points)
        statistics.require_two_classes(labels)
    except Undefined:
        return measured
    for block in statistics.blocks(len(points), len(labels)):
        scores = np.array([np.bincount(cases.response, span_scores(point)) for point in points[block]]) / sizes
        measured[block] = np.column_stack([statistics.row_aucs(labels, scores), _pearsons(labels, scores)])
    return measured


def _fit(
    cases: Responses, split: list[tuple[Ints, Ints]], params: DetectScore, points: list[Point]
) -> Callable[[Point], Floats]:
    """Fit on every training fold, and return what scores the spans (n,) for a point."""
    labels = cases.labels
    heads, layers = {heads for heads, *_ in points}, {layers for _, layers, *_ in points}
    ecs, pks = ({count: np.empty(len(cases.label)) for count in counts} for counts in (heads, layers))
    alphas: dict[Point, list[float]] = {point: [] for point in points if point[2] == "best"}
    fold_of = np.empty(len(cases.label), dtype=np.int64)
    for fold, (train, test) in enumerate(split):
        fit = cases if len(train) == len(labels) else cases.take(train)
        if params.threshold == "auto":  # which needs both to learn from
            statistics.require_two_classes(labels[train])
        best_layers = best_columns(fit.pks, fit.label, max(layers), params)
        auto = params.heads == "auto"
        best_heads = best_columns(fit.ecs, 1 - fit.label, max(heads), params) if auto else choose_heads(fit, params)
        in_train, in_test = np.isin(cases.response, train), np.isin(cases.response, test)
        own_ecs = _scaled_sums(cases.ecs, best_heads, heads, in_train)
        own_pks = _scaled_sums(cases.pks, best_layers, layers, in_train)
        for pooled, own in ((ecs, own_ecs), (pks, own_pks)):
            for count, values in own.items():
                pooled[count][in_test] = values[in_test]
        fold_of[in_test] = fold
        for point, found in alphas.items():
            means = cases.mean(own_ecs[point[0]])[train], cases.mean(own_pks[point[1]])[train]
            found.append(best_alpha(labels[train], *means, point[3]))

    def score_spans(point: Point) -> Floats:
        heads, layers, alpha, m = point
        weight = np.array(alphas[point])[fold_of] if alpha == "best" else alpha
        return m * pks[layers] - weight * ecs[heads]

    return score_spans


def _scaled_sums(columns: Columns, names: list[str], counts: set[int], reference: Bools) -> dict[int, Floats]:
    """The sum (n,) of the first `count` columns for each of the counts (0: of all), scaled to 0-1 on the reference."""
    total, sums = np.zeros(len(columns.values)), dict[int, Floats]()
    for count, name in enumerate(names, 1):
        total = total + columns[name]
        if count in counts:
            sums[count] = Scale.of(total[reference])(total)
    if 0 in counts:
        sums[0] = Scale.of(total[reference])(total)
    return sums


def _pearsons(labels: Ints, scores: Floats) -> Floats:
    """Pearson correlation of the labels with every row of `scores` (s, n), NaN where a row is constant."""
    centred, targets = scores - scores.mean(axis=1, keepdims=True), labels - labels.mean()
    squares = np.einsum("sn,sn->s", centred, centred) * (targets @ targets)
    with np.errstate(divide="ignore", invalid="ignore"):
        values = np.clip(centred @ targets / np.sqrt(squares), -1, 1)
    values[np.ptp(scores, axis=1) == 0] = np.nan
    for row in np.flatnonzero(np.isnan(scores).any(axis=1)):
        values[row] = statistics.of_known(statistics.pearson, labels.astype(np.float64), scores[row])
    return np.asarray(values, dtype=np.float64)
