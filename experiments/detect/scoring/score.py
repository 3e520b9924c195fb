"""Records -> Report: judge the detector that the settings describe, beside what trivial ones reach."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from functools import partial

import numpy as np
import pandas as pd

from experiments import protocols, statistics, trivial
from experiments.arrays import Floats, Ints
from experiments.columns import Columns
from experiments.detect.scoring.params import DetectScore
from experiments.detect.scoring.records import read_responses
from experiments.judging import Judge
from experiments.protocols import Rule, Way
from experiments.redeep.fits import FITS
from experiments.redeep.fitted import SCORE
from experiments.redeep.responses import Responses
from harness.stage import HELD_OUT, BadInput, Late, Records, Report, Undefined, judged_on

_FIGURES = "experiments.detect.scoring.figures"


def score(records: Records, params: DetectScore) -> Report:
    """Judge the detector on `records`, by the protocol chosen, and say how much the published one flatters."""
    judges = _judges(read_judged(records), params)
    report = _report(judges[params.protocol], params.judging)
    report.measure("auc_in_sample", lambda: judges["published"].auc(SCORE))
    report.measure("auc_out_of_fold", lambda: judges["crossfit"].auc(SCORE))
    report.measure("optimism", lambda: _difference(report, "auc_in_sample", "auc_out_of_fold"))
    return report


def read_judged(records: Records) -> Responses:
    """The responses that records hold; BadInput where none has a label."""
    cases = read_responses(records.frame)
    if not (cases.labels >= 0).any():
        raise BadInput(
            f"none of the {len(cases.labels)} responses has a label, so that nothing can be learnt or judged; `apply`"
            " scores them by a detector that another run has learnt"
        )
    return cases


def held_out(train: Records, test: Records, params: DetectScore) -> Report:
    """Judge on `test` the detector fitted, threshold included, on `train`."""
    seen, cases = read_responses(train.frame), read_responses(test.frame)
    return _report(_judge(cases, partial(protocols.held_out, seen, cases), params), HELD_OUT)


def figures_of(cases: Responses, params: DetectScore, names: Collection[str]) -> Report:
    """What `score` reports under these names of QUICK, without what takes longer: intervals, p, tables."""
    judges, report = _judges(cases, params), Report(judged=judged_by(cases, params.judging))
    for name in names:
        if name in _IN_ALL:
            report.measure(name, partial(_IN_ALL[name], judges[params.protocol]))
    for name, protocol in (("auc_in_sample", "published"), ("auc_out_of_fold", "crossfit")):
        if {name, "optimism"}.intersection(names):
            report.measure(name, partial(judges[protocol].auc, SCORE))
    if "optimism" in names:
        report.measure("optimism", lambda: _difference(report, "auc_in_sample", "auc_out_of_fold"))
    for told in (report.metrics, report.undefined):
        for name in told.keys() - set(names):
            del told[name]
    return report


def rule(params: DetectScore) -> Rule:
    """How the settings have responses called, and parted into folds."""
    threshold = None if params.threshold == "auto" else float(params.threshold)
    return Rule({SCORE: threshold}, params.folds, params.fold_seed)


def judged_by(cases: Responses, protocol: str) -> str:
    """What only results of one rank have in common: the spans, from which responses follow, and the protocol."""
    cases = cases.known
    rows = f"{protocol}, {len(cases.labels)} responses of {len(cases.label)} spans"
    return judged_on(rows, cases.groups[cases.response], cases.label)


def _judges(cases: Responses, params: DetectScore) -> dict[str, Judge[Responses]]:
    """One a protocol."""
    ways: dict[str, Way[Responses]] = {
        "published": partial(protocols.in_sample, cases),
        "crossfit": partial(protocols.out_of_fold, cases),
    }
    return {name: _judge(cases, way, params) for name, way in ways.items()}


def _judge(cases: Responses, way: Way[Responses], params: DetectScore) -> Judge[Responses]:
    fit = FITS[params.scorer]
    absent = f"scorer={params.scorer} has no {{}} score of its own".format
    return Judge(cases, way, lambda train: fit(train, params), rule(params), absent=absent)


def _report(judge: Judge[Responses], protocol: str) -> Report:
    """What can be said of a judged detector."""
    report = Report(judged=judged_by(judge.cases, protocol))
    for metric, name in (("auc", SCORE), ("auc_ecs", "ecs"), ("auc_pks", "pks")):
        judge.measure_auc(report, metric, name)
        judge.measure_p(report, metric, name, part=name != SCORE)
    report.measure("pcc", lambda: _correlation(judge))
    report.measure("span_auc", lambda: _span_auc(judge))
    report.measure("prevalence", judge.prevalence)
    for name in ("precision", "recall", "f1", "accuracy"):
        judge.measure_calls(report, name, SCORE)
    report.measure("f1_prior", judge.f1_of_all)
    report.measure("accuracy_prior", judge.accuracy_of_the_commoner)
    judge.measure_baseline(report, "auc_length", trivial.fit_length)
    judge.measure_baseline(report, "auc_task", trivial.fit_stratum)
    if "auc" in report.metrics:
        for task in judge.strata:  # within which knowing the task cannot help
            judge.measure_auc(report, f"auc_in_task/{task}", SCORE, task)
        _tabulate(report, judge)
    return report


def _correlation(judge: Judge[Responses]) -> float:
    known = judge.known(SCORE)
    return statistics.pearson(known.scores, known.labels.astype(np.float64))


def _span_auc(judge: Judge[Responses]) -> float:
    known = judge.cases.label >= 0
    return statistics.auc(judge.cases.label[known], np.concatenate(judge.scores("span"))[known])


_IN_ALL: dict[str, Callable[[Judge[Responses]], float]] = {
    "auc": lambda judge: judge.auc(SCORE),
    "pcc": _correlation,
    "span_auc": _span_auc,
    "f1": lambda judge: judge.f1(SCORE),
    "precision": lambda judge: judge.precision(SCORE),
    "recall": lambda judge: judge.recall(SCORE),
    "accuracy": lambda judge: judge.accuracy(SCORE),
}


def _tabulate(report: Report, judge: Judge[Responses]) -> None:
    """The scored responses, every column's own worth over all spans, and the pictures of both."""
    cases, judged = judge.cases, judge.judged
    scores, called = judged.scores[SCORE], judged.calls[SCORE].astype(np.int64)
    report.tables["responses"] = cases.table.assign(score=scores, called=called).reset_index(drop=True)
    if "span" in judged.scores:
        spans = cases.whole.spans.assign(label=cases.label, score=np.concatenate(judged.scores["span"]))
        spans.insert(0, "response", cases.table["id"].to_numpy()[cases.response])
        report.tables["spans"] = spans
    known = cases.known
    features = pd.concat([_worth(known.ecs, 1 - known.label), _worth(known.pks, known.label)])
    picked = Counter(name for detector in judged.detectors for name in getattr(detector, "chosen", ()))
    features["picked"] = [picked[name] / len(judged.detectors) for name in features.index]
    report.tables["features"] = features.rename_axis("column").reset_index()
    judge.draw(report, [SCORE], {})
    report.figures["scores"] = partial(Late(_FIGURES, "distributions"), known.labels, scores[cases.labels >= 0])
    report.figures["auc_by_head_and_layer"] = partial(Late(_FIGURES, "worth"), report.tables["features"])


def _worth(columns: Columns, label: Ints) -> pd.DataFrame:
    values: Floats = statistics.row_aucs(label, np.ascontiguousarray(columns.values.T))
    return pd.DataFrame({"auc": values}, index=list(columns.names))


def _difference(report: Report, first: str, second: str) -> float:
    for name in (first, second):
        if name not in report.metrics:
            raise Undefined(f"{name} is undefined: {report.undefined[name]}")
    return report.metrics[first] - report.metrics[second]
