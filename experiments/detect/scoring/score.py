"""Records -> Report: judge the detector that the settings describe, beside what trivial ones reach."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from experiments import judging, statistics
from experiments.arrays import Floats, Ints
from experiments.detect.scoring.detectors import FITS, SCORE, Responses, read_responses, rule
from experiments.detect.scoring.params import DetectScore
from experiments.judging import Judge, Judged
from harness.stage import Late, Records, Report, Undefined

_FIGURES = "experiments.detect.scoring.figures"


def score(records: Records, params: DetectScore) -> Report:
    """Judge the detector on `records`, by the protocol chosen, and say how much the published one flatters."""
    cases = read_responses(records.frame)
    # Baselines are learnt in sample, which flatters them a little: what they learn is one sign, or one rate a task.
    # Out of fold those rates run against the labels held back, and the baselines would look weaker than they are.
    judges = {
        "published": _judge(cases, cases, params, partial(judging.in_sample, cases)),
        "crossfit": _judge(cases, cases, params, partial(judging.out_of_fold, cases)),
    }
    report = _report(judges[params.protocol], params)
    report.measure("auc_in_sample", lambda: judges["published"].auc(SCORE))
    report.measure("auc_out_of_fold", lambda: judges["crossfit"].auc(SCORE))
    report.measure("optimism", lambda: _difference(report, "auc_in_sample", "auc_out_of_fold"))
    return report


def held_out(train: Records, test: Records, params: DetectScore) -> Report:
    """Judge on `test` the detector fitted, threshold included, on `train`."""
    seen, cases = read_responses(train.frame), read_responses(test.frame)
    return _report(_judge(cases, seen, params, partial(judging.held_out, seen, cases)), params)


def _judge(cases: Responses, seen: Responses, params: DetectScore, protocol: Any) -> Judge[Responses]:
    def judge() -> Judged[Responses]:
        fit = FITS[params.scorer]
        judged: Judged[Responses] = protocol(lambda train: fit(train, params), rule(params))
        return judged

    absent = f"scorer={params.scorer} has no {{}} score of its own".format
    return Judge(cases, seen, params.fold_seed, judge, absent=absent)


def _report(judge: Judge[Responses], params: DetectScore) -> Report:
    """What can be said of a judged detector."""
    report = Report()
    _measure_ranking(report, judge)
    _measure_decisions(report, judge)
    report.measure("auc_length", lambda: judge.baseline(judging.fit_length))
    report.measure("auc_task", lambda: judge.baseline(judging.fit_stratum))
    if "auc" in report.metrics:
        for task in judge.strata:  # within which knowing the task cannot help
            judge.measure_auc(report, f"auc_in_task/{task}", SCORE, task)
        _tabulate(report, judge)
    return report


def _measure_ranking(report: Report, judge: Judge[Responses]) -> None:
    def correlation() -> float:
        known = judge.known(SCORE)
        return statistics.pearson(known.scores, known.labels.astype(np.float64))

    def span_auc() -> float:
        known = judge.cases.label >= 0
        return statistics.auc(judge.cases.label[known], np.concatenate(judge.scores("span"))[known])

    judge.measure_auc(report, "auc", SCORE)
    report.measure("pcc", correlation)
    report.measure("span_auc", span_auc)
    report.measure("auc_ecs", lambda: judge.auc("ecs"))
    report.measure("auc_pks", lambda: judge.auc("pks"))


def _measure_decisions(report: Report, judge: Judge[Responses]) -> None:
    report.measure("prevalence", judge.prevalence)
    report.measure("precision", lambda: judge.precision(SCORE))
    report.measure("recall", lambda: judge.recall(SCORE))
    report.measure("f1", lambda: judge.f1(SCORE))
    report.measure("accuracy", lambda: judge.accuracy(SCORE))
    report.measure("f1_prior", judge.f1_of_all)
    report.measure("accuracy_prior", judge.accuracy_of_the_commoner)


def _tabulate(report: Report, judge: Judge[Responses]) -> None:
    """The scored responses, every column's own worth over all spans, and the pictures of both."""
    cases, judged = judge.cases, judge.judged
    scores, called = judged.scores[SCORE], judged.calls[SCORE].astype(np.int64)
    report.tables["responses"] = cases.table.assign(score=scores, called=called).reset_index(drop=True)
    features = pd.concat([_worth(cases.ecs, 1 - cases.label), _worth(cases.pks, cases.label)])
    picked = judging.picks(judged.detectors, lambda detector: detector.chosen)
    features["picked"] = [picked.get(name, 0.0) for name in features.index]
    report.tables["features"] = features.rename_axis("column").reset_index()
    judge.draw(report, [SCORE], {})
    report.figures["scores"] = partial(Late(_FIGURES, "distributions"), cases.labels, scores)
    report.figures["auc_by_head_and_layer"] = partial(Late(_FIGURES, "worth"), report.tables["features"])


def _worth(columns: pd.DataFrame, label: Ints) -> pd.DataFrame:
    values: Floats = statistics.column_aucs(label, columns.to_numpy())
    return pd.DataFrame({"auc": values}, index=columns.columns)


def _difference(report: Report, first: str, second: str) -> float:
    for name in (first, second):
        if name not in report.metrics:
            raise Undefined(f"{name} is undefined: {report.undefined[name]}")
    return report.metrics[first] - report.metrics[second]
