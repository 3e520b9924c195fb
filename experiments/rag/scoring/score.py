"""Records -> Report: every detector, and one fused of all, judged out of fold by tier and over all tiers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import cohen_kappa_score, confusion_matrix

from experiments import judging, protocols, trivial
from experiments.judging import Judge
from experiments.protocols import Way
from experiments.rag.detectors import DETECTORS, FUSED, colours
from experiments.rag.inference.verdicts import JUDGED, UNLABELLED
from experiments.rag.scoring.answers import Answers, considered, fit, fused, names, read_answers, rule
from experiments.rag.scoring.params import RagScore
from harness.stage import HELD_OUT, Late, Records, Report, Undefined

_FIGURES = "experiments.rag.scoring.figures"
_NO_PROBABILITY: dict[str, Callable[[RagScore], str]] = {
    FUSED: lambda params: (
        "a mean of ranks is no probability; fusion=logistic gives one" if params.fusion == "rank" else ""
    ),
    **{detector.name: detector.no_probability for detector in DETECTORS},
}
_NO_ANSWER = {"cut": "answers_cut", "empty": "answers_empty"}  # verdicts, and the metrics that say how many
_NOBODY = "no answer has a label: the data hold no accepted answers, or nobody was asked to answer"
_BY_TIER = ("auc", "f1", "precision", "recall", "ece", "ece_calibrated")


def score(records: Records, params: RagScore) -> Report:
    """Judge each detector out of fold, beside what trivial predictors reach."""
    frame = considered(records.frame, params)
    answers = read_answers(frame, params)
    judge = _judge(answers, partial(protocols.out_of_fold, answers), params)
    return _report(frame, judge, params, params.judging)


def held_out(train: Records, test: Records, params: RagScore) -> Report:
    """Judge on `test` by a fusion, thresholds and baselines learnt from `train`."""
    frames = [considered(records.frame, params) for records in (train, test)]
    seen, answers = (read_answers(frame, params) for frame in frames)
    judge = _judge(answers, partial(protocols.held_out, seen, answers), params)
    return _report(frames[1], judge, params, HELD_OUT)


def score_many(records: Records, params: Sequence[RagScore], metrics: Collection[str]) -> list[Report]:
    """The `metrics` of many settings, without intervals, tables and figures."""
    reports = []
    for settings in params:
        answers = read_answers(considered(records.frame, settings), settings)
        way, measures = partial(protocols.out_of_fold, answers), _measures(settings)
        judge = _judge(answers, way, settings, settings.detector)
        report = Report(judged=judge.judged_on(settings.judging, settings.detector))
        for name in metrics:
            report.measure(name, partial(measures[name], judge, settings.detector))
        reports.append(report)
    return reports


def _judge(answers: Answers, way: Way[Answers], params: RagScore, only: str = "") -> Judge[Answers]:
    def absent(name: str) -> str:
        return "one detector alone is nothing to fuse" if name == FUSED else f"the records hold no reading of {name}"

    return Judge(answers, way, lambda train: fit(train, params, only), rule(answers, params), answers.scores, absent)


# --- figures of one detector -----------------------------------------------------------------------------------------


def _measures(params: RagScore) -> dict[str, Callable[..., float]]:
    """What can be said of a detector by its name; what stands in _BY_TIER of one tier as well."""
    return {
        "auc": Judge.auc,
        "auc_in_tier": _auc_in_tier,
        "f1": Judge.f1,
        "precision": Judge.precision,
        "recall": Judge.recall,
        "ece": partial(_of_probabilities, params, lambda judge, *of: judge.calibration_error(*of)),
        "ece_calibrated": partial(_of_probabilities, params, lambda judge, *of: judge.calibration_by_chance(*of)[0]),
        "ece_p": partial(_of_probabilities, params, lambda judge, *of: judge.calibration_by_chance(*of)[1]),
        "degradation": _degradation,
    }


def _auc_in_tier(judge: Judge[Answers], name: str) -> float:
    if not judge.cases.tiers:
        raise Undefined("there is nothing to score")
    return float(np.mean([judge.auc(name, tier) for tier in judge.cases.tiers]))


def _of_probabilities(
    params: RagScore, measure: Callable[..., float], judge: Judge[Answers], name: str, tier: str | None = None
) -> float:
    """What can be said only of scores that are probabilities."""
    if why := _NO_PROBABILITY[name](params):
        raise Undefined(why)
    return measure(judge, name, tier)


def _degradation(judge: Judge[Answers], name: str) -> float:
    if not {"high", "low"} <= set(judge.cases.tiers):
        raise Undefined("the answers are not of a high and a low tier")
    return judge.auc(name, "high") - judge.auc(name, "low")


# --- the report ------------------------------------------------------------------------------------------------------


def _report(frame: pd.DataFrame, judge: Judge[Answers], params: RagScore, protocol: str) -> Report:
    """What can be said of every detector, the chosen one first."""
    report = Report(judged=judge.judged_on(protocol, params.detector))
    answers, measures = judge.cases, _measures(params)
    _measure(report, judge, measures, params.detector, "")
    report.measure("auc_in_tier", partial(_auc_in_tier, judge, params.detector))
    report.measure_ends("auc_in_tier", lambda: judge.mean_interval(params.detector, answers.tiers))
    judging.explain(report, "auc_in_tier", lambda: judge.mean_influence(params.detector, answers.tiers))
    for tier in answers.tiers if len(answers.tiers) > 1 else []:
        judge.measure_auc(report, f"auc_in_tier/{tier}", params.detector, tier)
    _measure_data(report, frame.sort_values(["group", "item"], kind="stable"))
    judge.measure_baseline(report, "auc_length", trivial.fit_length)
    judge.measure_baseline(report, "auc_tier", trivial.fit_stratum)
    report.measure("f1_prior", judge.f1_of_all)
    missing = _missing(answers, params)
    for name in names(answers, params):
        _measure(report, judge, measures, name, f"/{name}")
        report.metrics[f"missing/{name}"] = missing[name]
    _measure_agreement(report, judge, params)
    _tabulate(report, frame, judge, params)
    if len(frame) and (frame["verdict"] == UNLABELLED).all():
        report.undefined.update(dict.fromkeys(report.undefined, _NOBODY))
    return report


def _missing(answers: Answers, params: RagScore) -> dict[str, float]:
    """How many answers each detector has no score of; what is fused needs all of its parts."""
    unread = answers.readings.isna()
    for name, features in answers.learning.items():
        unread[name] = pd.Series(np.isnan(features.values).any(axis=1), unread.index)
    unread[FUSED] = unread[fused(answers, params)].any(axis=1)
    return {str(name): float(count) for name, count in unread.sum().items()}


def _measure(
    report: Report, judge: Judge[Answers], measures: dict[str, Callable[..., float]], name: str, suffix: str
) -> None:
    """Every metric of one detector, over all answers and by tier."""
    tiers = judge.cases.tiers
    _measure_part(report, judge, measures, name, suffix, None)
    judge.measure_p(report, f"auc{suffix}", name)
    report.measure(f"ece{suffix}_p", partial(measures["ece_p"], judge, name))
    if not suffix or {"high", "low"} <= set(tiers):
        report.measure(f"degradation{suffix}", partial(_degradation, judge, name))
        report.measure_ends(f"degradation{suffix}", lambda: judge.difference_interval(name, "high", "low"))
    for tier in tiers if suffix and len(tiers) > 1 else []:
        _measure_part(report, judge, measures, name, f"{suffix}/{tier}", tier)


def _measure_part(
    report: Report,
    judge: Judge[Answers],
    measures: dict[str, Callable[..., float]],
    name: str,
    suffix: str,
    tier: str | None,
) -> None:
    judge.measure_auc(report, f"auc{suffix}", name, tier)
    for metric in ("f1", "precision", "recall"):
        judge.measure_calls(report, f"{metric}{suffix}", name, tier)
    for metric in ("ece", "ece_calibrated"):
        report.measure(f"{metric}{suffix}", partial(measures[metric], judge, name, tier))


def _measure_data(report: Report, frame: pd.DataFrame) -> None:
    """What the detectors had to work with, whichever they are: base rates, what is no answer, retrieval."""
    for suffix, every in [("", frame), *((f"/{tier}", rows) for tier, rows in frame.groupby("tier"))]:
        rows = every[every["verdict"] != UNLABELLED]
        report.measure(f"prevalence{suffix}", partial(_mean, rows[rows["verdict"].isin(JUDGED)], "label"))
        report.measure(f"abstained{suffix}", partial(_share, rows[~rows["verdict"].isin(_NO_ANSWER)], "abstained"))
        for verdict, name in _NO_ANSWER.items():
            report.measure(f"{name}{suffix}", partial(_share, rows, verdict))
        if "achieved" in every and suffix:
            report.measure(f"achieved{suffix}", partial(_mean, every, "achieved"))
    report.measure("thinking_tokens", partial(_thinking, frame[frame["verdict"] != UNLABELLED]))
    once = frame.drop_duplicates("group")
    report.measure("recall_at_k", lambda: _mean(once, "recall"))
    report.measure("mrr", lambda: _mean(once, "reciprocal_rank"))


def _share(frame: pd.DataFrame, verdict: str) -> float:
    if frame.empty:
        raise Undefined("no answer is whole")
    return float((frame["verdict"] == verdict).mean())


def _thinking(frame: pd.DataFrame) -> float:
    if "thinking_tokens" not in frame:
        raise Undefined("these records do not say what was thought")
    if frame.empty:
        raise Undefined("no answer has a label")
    return float(frame["thinking_tokens"].mean())


def _mean(frame: pd.DataFrame, column: str) -> float:
    if column not in frame:
        raise Undefined("the answers came with the data, so nothing was retrieved")
    if frame.empty:
        raise Undefined("no answer is left that is whole, says something and has a label")
    return float(frame[column].mean())


def _measure_agreement(report: Report, judge: Judge[Answers], params: RagScore) -> None:
    """Cohen's kappa of every two detectors' calls, and its mean; fused, which is made of the others, left out."""

    def kappa(*pair: str) -> float:
        calls = np.array([judge.judged.calls[name] for name in pair])
        calls = calls[:, ~np.isnan(calls).any(axis=0)]
        if calls.shape[1] == 0 or (calls[:, 0] == calls.T).all(axis=0).any():
            raise Undefined("one of the two calls all answers alike")
        return float(cohen_kappa_score(*calls))

    rows = []
    for first, second in combinations([name for name in names(judge.cases, params) if name != FUSED], 2):
        name = f"agreement/{first}+{second}"
        report.measure(name, partial(kappa, first, second))
        if name in report.metrics:
            rows.append({"first": first, "second": second, "kappa": report.metrics[name]})

    def mean() -> float:
        if not rows:
            raise Undefined("there are no two detectors whose calls vary")
        return float(np.mean([row["kappa"] for row in rows]))

    report.measure("agreement", mean)
    report.tables["agreement"] = pd.DataFrame(rows, columns=["first", "second", "kappa"])


def _tabulate(report: Report, frame: pd.DataFrame, judge: Judge[Answers], params: RagScore) -> None:
    """Each detector by tier, the scored answers, and the pictures of both."""
    report.figures["retrieval_quality"] = partial(Late(_FIGURES, "retrieval_quality"), frame)
    answers, detectors = judge.cases, names(judge.cases, params)
    if not detectors:
        return
    table = pd.DataFrame([row for name in detectors for row in _summarised(report, answers, name)])
    report.tables["summary"] = table
    report.figures["auc_by_tier"] = partial(Late(_FIGURES, "by_tier"), table, "auc")
    report.figures["f1_by_tier"] = partial(Late(_FIGURES, "by_tier"), table, "f1")
    report.figures["auc_heat_map"] = partial(Late(_FIGURES, "heat_map"), table)
    try:
        judged = judge.judged
    except Undefined:
        return
    readings = answers.frame.filter(regex=f"^({'|'.join(detector.name for detector in DETECTORS)})_").columns
    scores, calls = pd.DataFrame(judged.scores), pd.DataFrame(judged.calls)
    report.tables["answers"] = answers.frame.drop(columns=readings).join(scores).join(calls.add_prefix("called_"))
    judge.draw(report, sorted(detectors, key=lambda name: name != FUSED), colours())
    known = {name: (answers.labels[~np.isnan(called)], called[~np.isnan(called)]) for name, called in calls.items()}
    confusions = {name: confusion_matrix(*pair, labels=[0, 1]) for name, pair in known.items() if len(pair[0])}
    if confusions:
        draw = Late("experiments.pictures", "confusion")
        report.figures["confusion"] = partial(draw, confusions, ("faithful", "halluc."))
    report.figures["agreement"] = partial(Late(_FIGURES, "agreement"), report.tables["agreement"])


def _summarised(report: Report, answers: Answers, name: str) -> list[dict[str, Any]]:
    """A detector's rows of the summary: each tier, best first, then all."""
    rows = []
    for tier in (*answers.tiers, "all") if len(answers.tiers) > 1 else ("all",):
        suffix = f"/{name}" + ("" if tier == "all" else f"/{tier}")
        chosen = answers.frame if tier == "all" else answers.frame[answers.stratum == tier]
        row = {"detector": name, "tier": tier, "answers": len(chosen), "base_rate": chosen["label"].mean()}
        row |= {metric: report.metrics.get(f"{metric}{suffix}", np.nan) for metric in _BY_TIER}
        row |= {f"auc_{end}": report.metrics.get(f"auc{suffix}_{end}", np.nan) for end in ("low", "high")}
        rows.append(row)
    return rows
