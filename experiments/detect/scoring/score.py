"""Records -> Report: choose heads and layers, combine ECS and PKS, judge the detector out of fold."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache, partial

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.feature_selection import mutual_info_classif
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score, precision_score, recall_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from experiments import statistics
from experiments.arrays import Floats, Ints
from experiments.detect.scoring import figures
from experiments.detect.scoring.params import DetectScore
from harness.stage import BadInput, Records, Report, Undefined

_ALPHA_MAX = 10.0
_PAIRS = 1_000_000  # pairs of responses looked at together: bounds memory at 100 MB however many there are
_BINS = 16_381  # of alpha's range; a prime, so that no border is a ratio of small numbers, where many pairs change
_NARROW = 1e-9  # an interval of alpha this narrow is the work of rounding


@dataclass(frozen=True)
class Spans:
    """Records as arrays: n spans (or tokens) of r responses; `response` (n,) numbers the response of each span."""

    ecs: pd.DataFrame
    pks: pd.DataFrame
    label: Ints
    response: Ints
    responses: pd.DataFrame  # r rows: id, label, source, length, task where the data name one

    def take(self, chosen: Ints) -> Spans:
        """The spans of the chosen responses, renumbered in the order given by `self`."""
        keep = np.isin(self.response, chosen)
        _, renumbered = np.unique(self.response[keep], return_inverse=True)
        return Spans(self.ecs[keep], self.pks[keep], self.label[keep], renumbered, self.responses.iloc[np.sort(chosen)])

    def mean(self, values: Floats) -> Floats:
        """Mean of span values (n,) over each response: (r,)."""
        return np.asarray(np.bincount(self.response, values) / np.bincount(self.response), dtype=np.float64)


@dataclass(frozen=True)
class Scores:
    """Higher means more hallucinated: a score for each response (r,), and what else the detector can tell."""

    response: Floats
    parts: dict[str, Floats] = field(default_factory=dict)  # "span" (n,), "ecs" and "pks" alone (r,)
    chosen: tuple[str, ...] = ()  # the columns that were selected


Detector = Callable[[Spans], Scores]
Fit = Callable[[Spans, DetectScore], Detector]


def read_spans(frame: pd.DataFrame) -> Spans:
    """Split records into features, labels and responses; a response is hallucinated when any of its spans is.

    The rows are put in one order first, so that no result depends on the order in which they were made.
    """
    _require_columns(frame)
    frame = frame.sort_values(["group", "item"], kind="stable", ignore_index=True)
    ecs, pks = (frame.filter(regex=f"^{prefix}") for prefix in ("ecs_", "pks_"))
    response, ids = pd.factorize(frame["group"])
    columns = {"label": "max"} | {name: "first" for name in ("source", "task") if name in frame}
    responses = frame.groupby(response).agg(columns).assign(id=ids)
    responses["source"] = responses.get("source", responses["id"])
    lengths = frame["length"] if "length" in frame else pd.Series(1, index=frame.index)
    responses["length"] = lengths.groupby(response).sum()
    return Spans(ecs, pks, frame["label"].to_numpy(np.int64), response.astype(np.int64), responses)


def _require_columns(frame: pd.DataFrame) -> None:
    """Refuse records made elsewhere that lack what a score is made of."""
    needed = "needed are group, item, label (0 or 1) and numbers in ecs_… or pks_…"
    if missing := [name for name in ("group", "item", "label") if name not in frame]:
        raise BadInput(f"the records have no column {missing[0]}; {needed}")
    for name, sound in (("group", frame["group"].notna()), ("label", frame["label"].isin([0, 1]))):
        if not sound.all():
            row = sound.to_numpy().argmin()
            raise BadInput(f"the records hold {name} {frame[name].iloc[row]} in row {row}; {needed}")
    features = frame.filter(regex="^(ecs|pks)_")
    if features.empty or len(features.select_dtypes("number").columns) < len(features.columns):
        raise BadInput(f"the records hold no features, or features that are not numbers; {needed}")


# --- detectors: each learns from training spans and returns a function that scores any spans -------------------


def fit_linear(train: Spans, params: DetectScore) -> Detector:
    """The published combination: m * PKS - alpha * ECS, each a min-max scaled sum of the chosen columns."""
    layers = best_columns(train.pks, train.label, params.top_k, params)
    heads = choose_heads(train, params)
    scale_ecs, scale_pks = min_max(_sum(train.ecs, heads)), min_max(_sum(train.pks, layers))

    def scaled(spans: Spans) -> tuple[Floats, Floats]:
        return scale_ecs(_sum(spans.ecs, heads)), scale_pks(_sum(spans.pks, layers))

    def best() -> float:
        ecs, pks = scaled(train)
        return best_alpha(train.responses["label"].to_numpy(), train.mean(ecs), train.mean(pks), params.m)

    alpha = best() if params.alpha == "best" else params.alpha

    def score(spans: Spans) -> Scores:
        ecs, pks = scaled(spans)
        span = params.m * pks - alpha * ecs
        parts = {"span": span, "ecs": spans.mean(-ecs), "pks": spans.mean(pks)}
        return Scores(spans.mean(span), parts, (*heads, *layers))

    return score


def best_alpha(labels: Ints, ecs: Floats, pks: Floats, m: float) -> float:
    """The alpha in [0, 10] at which m * pks - alpha * ecs, all (r,), has the highest AUROC.

    That AUROC has a step where two responses of different label change places, at m (P_i - P_j) / (E_i - E_j).  Taken
    is the middle of the interval between steps where it is highest, the widest on a tie; 1 if m is 0, when all alphas
    rank alike.  All pairs are gone through twice: first only counted by bins of alpha, then those bins are looked into
    which can hold the highest, so that memory is bounded.
    """
    statistics.require_two_classes(labels)
    if m == 0:
        return 1.0
    (e1, p1), (e0, p0) = ((ecs[labels == label], m * pks[labels == label]) for label in (1, 0))

    def steps() -> Iterator[tuple[Floats, NDArray[np.bool_], Ints]]:
        """Where a pair changes places, whether its hallucinated side then leads, and the bin it lies in."""
        for rows in np.array_split(np.arange(len(e1)), -(-len(e1) * len(e0) // _PAIRS)):
            lead, fall = p1[rows, None] - p0, e1[rows, None] - e0
            at = np.divide(lead, fall, out=np.zeros_like(lead), where=fall != 0)
            inside = (at > 0) & (at < _ALPHA_MAX)
            yield at[inside], fall[inside] < 0, (at[inside] * (_BINS / _ALPHA_MAX)).astype(np.int64)

    gained, lost = np.zeros(_BINS), np.zeros(_BINS)
    for _, gains, bins in steps():
        gained += np.bincount(bins[gains], minlength=_BINS)
        lost += np.bincount(bins[~gains], minlength=_BINS)
    before = np.cumsum(gained - lost) - (gained - lost)  # pairs won since alpha = 0
    close = before + gained >= before.max()
    found = [(at[close[bins]], np.where(gains, 1.0, -1.0)[close[bins]]) for at, gains, bins in steps()]
    at = np.concatenate([np.flatnonzero(~close) * (_ALPHA_MAX / _BINS), *(each for each, _ in found)])
    change = np.concatenate([(gained - lost)[~close], *(each for _, each in found)])
    order = np.argsort(at, kind="stable")
    ends = np.concatenate([[0.0], at[order], [_ALPHA_MAX]])
    won = np.concatenate([[0.0], np.cumsum(change[order])])
    width = np.diff(ends)
    won[width < _NARROW] = -np.inf
    widest = int(np.where(won == won.max(), width, 0).argmax())
    middle = float(ends[widest] + width[widest] / 2)
    # At either end of the range, pairs may be tied that are lost at every other alpha.
    return max((middle, 0.0, _ALPHA_MAX), key=lambda alpha: statistics.auc(labels, m * pks - alpha * ecs))


def fit_logistic(train: Spans, params: DetectScore) -> Detector:
    """Strongly regularised logistic regression on each response's mean, max, min and std of every column.

    PKS enters on a log scale, floored at the smallest positive value seen in training.
    """
    statistics.require_two_classes(train.responses["label"].to_numpy())
    pks = train.pks.to_numpy()
    floor = float(pks[pks > 0].min()) if (pks > 0).any() else 1.0
    heads = _names(train.ecs) if params.heads == "auto" else choose_heads(train, params)

    def features(spans: Spans) -> Floats:
        table = pd.concat([spans.ecs[heads], spans.pks.clip(lower=floor).apply(np.log)], axis=1)
        grouped = table.groupby(spans.response)
        return np.hstack([grouped.mean(), grouped.max(), grouped.min(), grouped.std(ddof=0)])

    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
    model.fit(features(train), train.responses["label"])
    return lambda spans: Scores(model.predict_proba(features(spans))[:, 1])


def fit_ensemble(train: Spans, params: DetectScore) -> Detector:
    """Mean of the linear and the logistic detector, each put on its rank among the training scores."""
    members = [fit(train, params) for fit in (fit_linear, fit_logistic)]
    references = [np.sort(member(train).response) for member in members]

    def score(spans: Spans) -> Scores:
        ranks = [
            np.searchsorted(reference, member(spans).response, side="right") / len(reference)
            for member, reference in zip(members, references, strict=True)
        ]
        return Scores(np.mean(ranks, axis=0))

    return score


def fit_length(train: Spans, params: DetectScore) -> Detector:
    """Trivial baseline: the length of a response, longer or shorter being worse as training says."""
    del params
    lengths = train.responses["length"].to_numpy(np.float64)
    sign = 1.0 if statistics.auc(train.responses["label"].to_numpy(), lengths) >= 0.5 else -1.0
    return lambda spans: Scores(sign * spans.responses["length"].to_numpy(np.float64))


def fit_task(train: Spans, params: DetectScore) -> Detector:
    """Trivial baseline: the share of hallucinated training responses of the same task."""
    del params
    if "task" not in train.responses:
        raise Undefined("the data name no tasks")
    if train.responses["task"].nunique() < 2:
        raise Undefined(f"every response has task {train.responses['task'].iloc[0]}")
    rates = train.responses.groupby("task")["label"].mean()
    prior = train.responses["label"].mean()
    return lambda spans: Scores(spans.responses["task"].map(rates).fillna(prior).to_numpy(np.float64))


_FITS: dict[str, Fit] = {"linear": fit_linear, "logistic": fit_logistic, "ensemble": fit_ensemble}


def choose_heads(train: Spans, params: DetectScore) -> list[str]:
    if params.heads == "auto":
        return best_columns(train.ecs, 1 - train.label, params.top_n, params)
    if params.heads == "all":
        return _names(train.ecs)
    names = list(dict.fromkeys("ecs_" + pair.replace(".", "_") for pair in params.heads.split(",")))
    if missing := [name for name in names if name not in train.ecs]:
        raise BadInput(
            f"heads = {params.heads}: no column {missing[0]} in the records, which hold {len(train.ecs.columns)} heads"
            f" from {train.ecs.columns[0]} to {train.ecs.columns[-1]}"
        )
    return names


def best_columns(columns: pd.DataFrame, label: Ints, count: int, params: DetectScore) -> list[str]:
    """The `count` columns that tell label 1 best on these spans, best first; earlier columns win ties."""
    if params.select == "auc":
        worth = statistics.column_aucs(label, columns.to_numpy())
    else:
        statistics.require_two_classes(label)
        worth = mutual_info_classif(columns.to_numpy(), label, random_state=params.fold_seed)
    return [str(columns.columns[i]) for i in np.argsort(-worth, kind="stable")[:count]]


def _names(columns: pd.DataFrame) -> list[str]:
    return [str(name) for name in columns]


def _sum(columns: pd.DataFrame, names: list[str]) -> Floats:
    return np.asarray(columns[names].to_numpy(np.float64).sum(axis=1), dtype=np.float64)


def min_max(reference: Floats) -> Callable[[Floats], Floats]:
    """Scale so that the reference spans 0 to 1; a constant reference scales to 0, and the audit names it."""
    low, width = reference.min(), np.ptp(reference)
    return lambda values: (values - low) / width if width > 0 else np.zeros_like(values)


# --- protocols: who is scored by a detector that has seen what ---------------------------------------------------


@dataclass(frozen=True)
class Judged:
    """Scores of every response, its call (r,) at the threshold, and in how many of the fits a column was chosen."""

    scores: Scores
    called: Ints
    picks: dict[str, float]


Judge = Callable[[Spans, Fit, DetectScore], Judged]


def in_sample(spans: Spans, fit: Fit, params: DetectScore) -> Judged:
    """Fit, threshold included, and score on the same responses, as published results are."""
    scores = fit(spans, params)(spans)
    called = _call(scores.response, scores.response, spans.responses["label"].to_numpy(), params)
    return Judged(scores, called, dict.fromkeys(scores.chosen, 1.0))


def out_of_fold(spans: Spans, fit: Fit, params: DetectScore) -> Judged:
    """Score every response by a detector fitted, threshold included, on folds that hold neither it nor its prompt."""
    labels = spans.responses["label"].to_numpy()
    response, called = np.empty(len(labels)), np.empty(len(labels), dtype=np.int64)
    parts: dict[str, Floats] = {}
    picks: dict[str, float] = {}
    for train, test in folds(spans, params):
        detect = fit(spans.take(train), params)
        scores = detect(spans.take(test))
        response[test] = scores.response
        called[test] = _call(scores.response, detect(spans.take(train)).response, labels[train], params)
        for name, values in scores.parts.items():
            where = np.isin(spans.response, test) if name == "span" else test
            parts.setdefault(name, np.empty(len(spans.label) if name == "span" else len(labels)))[where] = values
        for name in scores.chosen:
            picks[name] = picks.get(name, 0.0) + 1 / params.folds
    return Judged(Scores(response, parts), called, picks)


_JUDGES: dict[str, Judge] = {"crossfit": out_of_fold, "published": in_sample}


def folds(spans: Spans, params: DetectScore) -> list[tuple[Ints, Ints]]:
    """Training and test responses of each fold; responses to one prompt stay together."""
    labels, sources = spans.responses["label"].to_numpy(), spans.responses["source"].to_numpy()
    return statistics.group_folds(labels, sources, params.folds, params.fold_seed, "prompts")


def _call(scores: Floats, reference: Floats, labels: Ints, params: DetectScore) -> Ints:
    """1 where a score reaches the threshold: the given one, or the F1-best of the reference scores."""
    threshold = params.threshold
    if threshold == "auto":
        threshold = statistics.best_f1_threshold(labels, reference)
    return (scores >= threshold).astype(np.int64)


# --- the report ----------------------------------------------------------------------------------------------------


def score(records: Records, params: DetectScore) -> Report:
    """Judge the detector that `params` describe on `records`, beside what trivial predictors reach."""
    spans = read_spans(records.frame)
    labels = spans.responses["label"].to_numpy()
    by_protocol = {name: cache(partial(each, spans, _FITS[params.scorer], params)) for name, each in _JUDGES.items()}
    # In sample, which flatters them a little: what they learn is one sign, or one rate a task.  Out of fold those rates
    # run against the labels held back, and the baselines would look weaker than they are.
    report = _report(spans, by_protocol[params.protocol], lambda fit: fit(spans, params)(spans), params)
    report.measure("auc_in_sample", lambda: statistics.auc(labels, by_protocol["published"]().scores.response))
    report.measure("auc_out_of_fold", lambda: statistics.auc(labels, by_protocol["crossfit"]().scores.response))
    report.measure("optimism", lambda: _difference(report, "auc_in_sample", "auc_out_of_fold"))
    return report


def held_out(train: Records, test: Records, params: DetectScore) -> Report:
    """Judge on `test` the detector that `params` describe, fitted, threshold included, on `train`."""
    seen, spans = read_spans(train.frame), read_spans(test.frame)

    @cache
    def judged() -> Judged:
        detect = _FITS[params.scorer](seen, params)
        scores = detect(spans)
        called = _call(scores.response, detect(seen).response, seen.responses["label"].to_numpy(), params)
        return Judged(scores, called, dict.fromkeys(scores.chosen, 1.0))

    return _report(spans, judged, lambda fit: fit(seen, params)(spans), params)


def _report(
    spans: Spans, judged: Callable[[], Judged], baseline: Callable[[Fit], Scores], params: DetectScore
) -> Report:
    """What can be said of a judged detector; `baseline` gives the scores that a trivial one has."""
    labels = spans.responses["label"].to_numpy()
    report = Report()
    _measure_ranking(report, spans, judged, params)
    _measure_decisions(report, labels, judged)
    report.measure("auc_length", lambda: statistics.auc(labels, baseline(fit_length).response))
    report.measure("auc_task", lambda: statistics.auc(labels, baseline(fit_task).response))
    if "auc" in report.metrics:
        _measure_tasks(report, spans, judged(), params)
        _tabulate(report, spans, judged())
    return report


def _measure_ranking(report: Report, spans: Spans, judged: Callable[[], Judged], params: DetectScore) -> None:
    labels = spans.responses["label"].to_numpy()

    def part(name: str) -> Floats:
        if name not in (parts := judged().scores.parts):
            raise Undefined(f"scorer={params.scorer} has no {name} score of its own")
        return parts[name]

    _measure_auc(report, "auc", spans.responses, lambda: judged().scores.response, params)
    report.measure("pcc", lambda: statistics.pearson(judged().scores.response, labels.astype(np.float64)))
    report.measure("span_auc", lambda: statistics.auc(spans.label, part("span")))
    report.measure("auc_ecs", lambda: statistics.auc(labels, part("ecs")))
    report.measure("auc_pks", lambda: statistics.auc(labels, part("pks")))


def _measure_auc(
    report: Report, name: str, responses: pd.DataFrame, scores: Callable[[], Floats], params: DetectScore
) -> None:
    """AUROC of the responses' scores, with the ends of its interval."""
    labels, sources = responses["label"].to_numpy(), responses["source"].to_numpy()
    interval = cache(lambda: statistics.auc_interval(labels, scores(), sources, params.fold_seed))
    report.measure(name, lambda: statistics.auc(labels, scores()))
    report.measure(f"{name}_low", lambda: interval()[0])
    report.measure(f"{name}_high", lambda: interval()[1])


def _measure_decisions(report: Report, labels: Ints, judged: Callable[[], Judged]) -> None:
    def precision() -> float:
        if not judged().called.any():
            raise Undefined("no response was called hallucinated")
        return float(precision_score(labels, judged().called))

    prevalence = float(labels.mean())
    report.measure("prevalence", lambda: prevalence)
    report.measure("precision", precision)
    report.measure("recall", lambda: float(recall_score(labels, judged().called)))
    report.measure("f1", lambda: float(f1_score(labels, judged().called)))
    report.measure("accuracy", lambda: float(accuracy_score(labels, judged().called)))
    report.measure("f1_prior", lambda: 2 * prevalence / (1 + prevalence))
    report.measure("accuracy_prior", lambda: max(prevalence, 1 - prevalence))


def _measure_tasks(report: Report, spans: Spans, judged: Judged, params: DetectScore) -> None:
    """AUC within each task, where knowing the task cannot help."""
    if "task" not in spans.responses:
        return
    responses = spans.responses.assign(score=judged.scores.response)
    for task, rows in responses.groupby("task"):
        _measure_auc(report, f"auc_in_task/{task}", rows, rows["score"].to_numpy, params)


def _tabulate(report: Report, spans: Spans, judged: Judged) -> None:
    """The scored responses, every column's own worth over all spans, and the pictures of both."""
    responses = spans.responses.assign(score=judged.scores.response, called=judged.called)
    features = pd.concat([_worth(spans.ecs, 1 - spans.label), _worth(spans.pks, spans.label)])
    features["picked"] = [judged.picks.get(name, 0.0) for name in features.index]
    report.tables["responses"] = responses.reset_index(drop=True)
    report.tables["features"] = features.rename_axis("column").reset_index()
    labels, scores = responses["label"].to_numpy(), responses["score"].to_numpy()
    report.figures["roc"] = partial(figures.roc, labels, scores)
    report.figures["precision_recall"] = partial(figures.precision_recall, labels, scores)
    report.figures["scores"] = partial(figures.distributions, labels, scores)
    report.figures["auc_by_head_and_layer"] = partial(figures.worth, report.tables["features"])


def _worth(columns: pd.DataFrame, label: Ints) -> pd.DataFrame:
    return pd.DataFrame({"auc": statistics.column_aucs(label, columns.to_numpy())}, index=columns.columns)


def _difference(report: Report, first: str, second: str) -> float:
    for name in (first, second):
        if name not in report.metrics:
            raise Undefined(f"{name} is undefined: {report.undefined[name]}")
    return report.metrics[first] - report.metrics[second]
