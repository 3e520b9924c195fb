"""Records -> Report: every detector's score, and one fused of all, judged out of fold by tier and over all tiers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import cohen_kappa_score, confusion_matrix, f1_score, precision_score, recall_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from experiments import statistics
from experiments.arrays import Floats, Ints
from experiments.rag.detectors import DETECTORS, FUSED
from experiments.rag.inference.params import TIERS
from experiments.rag.scoring import figures
from experiments.rag.scoring.params import RagScore
from harness.stage import BadInput, Records, Report, Undefined

_NEEDED = {
    "group": "text",
    "item": "text",
    "tier": "text",
    "verdict": "faithful, hallucinated or abstained",
    "label": "0 or 1",
    "length": "a number",
}


@dataclass(frozen=True)
class Answers:
    """Answers that say something: rows of records, and each detector's score of them (NaN: it could not be had)."""

    frame: pd.DataFrame
    scores: pd.DataFrame

    @property
    def labels(self) -> Ints:
        """1: hallucinated."""
        return self.frame["label"].to_numpy(np.int64)

    @property
    def questions(self) -> NDArray[Any]:
        """The question of each answer, whose answers share what they share."""
        return self.frame["group"].to_numpy()

    @property
    def tiers(self) -> list[str]:
        """The tiers there are, best first."""
        found = set(self.frame["tier"])
        return [tier for tier in (*TIERS, "retrieved", "given") if tier in found]

    def of(self, tier: str) -> NDArray[np.bool_]:
        """Which answers are of a tier."""
        return (self.frame["tier"] == tier).to_numpy()


def read_answers(frame: pd.DataFrame, params: RagScore) -> Answers:
    """Put the answers in one order, whatever order they were made in, and score them; abstentions are left out."""
    told = "; ".join(f"{name} ({what})" for name, what in _NEEDED.items())
    if missing := [name for name in _NEEDED if name not in frame]:
        raise BadInput(f"the records have no column {missing[0]}; needed are {told}")
    if not frame["label"].isin([0, 1]).all():
        row = frame["label"].isin([0, 1]).to_numpy().argmin()
        raise BadInput(f"the records hold label {frame['label'].iloc[row]} in row {row}; needed are {told}")
    frame = frame[frame["verdict"] != "abstained"].sort_values(["group", "item"], kind="stable", ignore_index=True)
    scored = {detector.name: detector.scores(frame, params) for detector in DETECTORS}
    scores = pd.DataFrame({name: score for name, score in scored.items() if score is not None})
    if scores.empty and len(frame):
        raise BadInput(f"the records hold no reading of any detector: no column {', '.join(f'{n}_…' for n in scored)}")
    return Answers(frame, scores)


# --- what is learnt: the fusion of the detectors, and for each a threshold -----------------------------------------


@dataclass(frozen=True)
class Judged:
    """Scores and calls (n, detectors), the fused one among them; NaN where a reading is missing."""

    scores: pd.DataFrame
    calls: pd.DataFrame


def fit(train: Answers, params: RagScore) -> Callable[[pd.DataFrame], Judged]:
    """Learn fusion and thresholds from some answers; the function returned judges any scores of the detectors."""
    labels = train.labels
    statistics.require_two_classes(labels)
    fuse = _FUSIONS[params.fusion](train.scores, labels) if len(train.scores.columns) > 1 else None

    def complete(scores: pd.DataFrame) -> pd.DataFrame:
        if fuse is None:
            return scores
        whole = scores.notna().all(axis=1)  # a fused score needs every detector's
        fused = pd.Series(np.nan, index=scores.index)
        fused[whole] = fuse(scores[whole]) if whole.any() else 0.0
        return scores.assign(**{FUSED: fused})

    own = complete(train.scores)
    thresholds = {str(name): _threshold(labels, own[name], str(name), params) for name in own}

    def judge(scores: pd.DataFrame) -> Judged:
        found = complete(scores)
        return Judged(found, found.ge(pd.Series(thresholds)).astype(float).where(found.notna()))

    return judge


def _threshold(labels: Ints, scores: pd.Series[float], name: str, params: RagScore) -> float:
    if name == params.detector and params.threshold != "auto":
        return float(params.threshold)
    known = scores.notna().to_numpy()
    try:
        return statistics.best_f1_threshold(labels[known], np.asarray(scores, dtype=np.float64)[known])
    except Undefined:  # a detector that has read one class only calls nothing
        return float("inf")


def _mean_rank(train: pd.DataFrame, labels: Ints) -> Callable[[pd.DataFrame], Floats]:
    """Mean over detectors of the share of training scores below a score, ties by half: nothing is learnt of labels."""
    del labels
    sorted_scores = {str(name): np.sort(train[name].dropna().to_numpy(np.float64)) for name in train}

    def rank(name: str, scores: Floats) -> Floats:
        own = sorted_scores[name]
        sides = np.searchsorted(own, scores, "left") + np.searchsorted(own, scores, "right")
        return np.asarray(sides / (2 * max(1, len(own))), dtype=np.float64)

    return lambda scores: np.mean([rank(name, scores[name].to_numpy(np.float64)) for name in sorted_scores], axis=0)


def _logistic(train: pd.DataFrame, labels: Ints) -> Callable[[pd.DataFrame], Floats]:
    """Logistic regression on the detectors' scores: probabilities."""
    whole = train.notna().all(axis=1).to_numpy()
    statistics.require_two_classes(labels[whole])
    model = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=1000))
    model.fit(train[whole].to_numpy(), labels[whole])
    return lambda scores: np.asarray(model.predict_proba(scores.to_numpy())[:, 1], dtype=np.float64)


_FUSIONS = {"rank": _mean_rank, "logistic": _logistic}


def out_of_fold(answers: Answers, params: RagScore) -> Judged:
    """Judge every answer by what was learnt on folds that hold no answer to its question."""
    parts = []
    for train, test in statistics.group_folds(
        answers.labels, answers.questions, params.folds, params.fold_seed, "questions"
    ):
        seen = Answers(answers.frame.iloc[train], answers.scores.iloc[train])
        parts.append(fit(seen, params)(answers.scores.iloc[test]))
    return Judged(*(pd.concat(each).sort_index() for each in zip(*((p.scores, p.calls) for p in parts), strict=True)))


# --- trivial baselines -----------------------------------------------------------------------------------------------


def fit_length(train: Answers) -> Callable[[Answers], Floats]:
    """The length of an answer, longer or shorter being worse as training says."""
    sign = 1.0 if statistics.auc(train.labels, train.frame["length"].to_numpy(np.float64)) >= 0.5 else -1.0
    return lambda answers: sign * answers.frame["length"].to_numpy(np.float64)


def fit_tier(train: Answers) -> Callable[[Answers], Floats]:
    """The share of hallucinated training answers of the same tier."""
    if len(train.tiers) < 2:
        raise Undefined(f"every answer is of tier {train.tiers[0]}" if train.tiers else "there is nothing to score")
    rates = train.frame.groupby("tier")["label"].mean()
    return lambda answers: answers.frame["tier"].map(rates).fillna(train.labels.mean()).to_numpy(np.float64)


# --- the report ------------------------------------------------------------------------------------------------------


def score(records: Records, params: RagScore) -> Report:
    """Judge each detector out of fold, beside what trivial predictors reach."""
    answers = read_answers(records.frame, params)
    return _report(records.frame, answers, cache(partial(out_of_fold, answers, params)), answers, params)


def held_out(train: Records, test: Records, params: RagScore) -> Report:
    """Judge on `test` by a fusion, thresholds and baselines learnt from `train`."""
    seen, answers = read_answers(train.frame, params), read_answers(test.frame, params)
    return _report(test.frame, answers, cache(lambda: fit(seen, params)(answers.scores)), seen, params)


def score_many(records: Records, params: Sequence[RagScore], names: Collection[str]) -> pd.DataFrame:
    """The metrics `names` of many settings, a row each, without intervals, tables and figures; NaN: undefined."""
    rows = []
    for each in params:
        answers = read_answers(records.frame, each)
        detector = _Detector(each.detector, answers, cache(partial(out_of_fold, answers, each)), each)
        report = Report()
        for name in names:
            report.measure(name, _METRICS[name](detector))
        rows.append({name: report.metrics.get(name, np.nan) for name in names})
    return pd.DataFrame(rows, columns=list(names))


@dataclass(frozen=True)
class _Detector:
    """One detector's scores and calls; what cannot be had raises Undefined when asked for."""

    name: str
    answers: Answers
    judged: Callable[[], Judged]
    params: RagScore

    def known(self, tier: str | None = None) -> tuple[Ints, Floats, NDArray[Any]]:
        """Labels, scores and questions of the answers that it has a score of."""
        found = self._column("scores")
        rows = found.notna().to_numpy() & (self.answers.of(tier) if tier else True)
        scores = np.asarray(found, dtype=np.float64)[rows]
        return self.answers.labels[rows], scores, self.answers.questions[rows]

    def calls(self, tier: str | None = None) -> tuple[Ints, Ints]:
        """Labels and calls of the answers that it has a score of."""
        found = self._column("calls")
        rows = found.notna().to_numpy() & (self.answers.of(tier) if tier else True)
        statistics.require_two_classes(self.answers.labels[rows])
        return self.answers.labels[rows], found.to_numpy()[rows].astype(np.int64)

    def _column(self, kind: str) -> pd.Series[float]:
        if kind == "scores" and self.name in self.answers.scores:  # nothing is learnt for these
            return self.answers.scores[self.name]
        if self.name not in self.answers.scores and self.name != FUSED:
            raise Undefined(f"the records hold no reading of {self.name}")
        judged = self.judged()
        found = judged.scores if kind == "scores" else judged.calls
        if self.name not in found:
            raise Undefined("one detector alone is nothing to fuse")
        return found[self.name]

    def auc(self, tier: str | None = None) -> float:
        labels, scores, _ = self.known(tier)
        return statistics.auc(labels, scores)

    def auc_in_tier(self) -> float:
        return float(np.mean([self.auc(tier) for tier in self.answers.tiers]))

    def interval(self, tier: str | None = None) -> tuple[float, float]:
        return _interval(*(each.tobytes() for each in self._plain(tier)), self.params.fold_seed)

    def _plain(self, tier: str | None) -> tuple[Ints, Floats, Ints]:
        labels, scores, questions = self.known(tier)
        return labels, scores, np.unique(questions, return_inverse=True)[1].astype(np.int64)

    def f1(self, tier: str | None = None) -> float:
        return float(f1_score(*self.calls(tier)))

    def recall(self, tier: str | None = None) -> float:
        return float(recall_score(*self.calls(tier)))

    def precision(self, tier: str | None = None) -> float:
        labels, calls = self.calls(tier)
        if not calls.any():
            raise Undefined("no answer was called hallucinated")
        return float(precision_score(labels, calls))

    def ece(self, tier: str | None = None) -> float:
        if self.name == FUSED and self.params.fusion == "rank":
            raise Undefined("a mean of ranks is no probability; fusion=logistic gives one")
        labels, scores, _ = self.known(tier)
        return statistics.calibration_error(labels, scores)

    def degradation(self) -> float:
        self._require_ends()
        return self.auc("high") - self.auc("low")

    def degradation_interval(self) -> tuple[float, float]:
        self._require_ends()
        return statistics.auc_difference_interval(self.known("high"), self.known("low"), self.params.fold_seed)

    def _require_ends(self) -> None:
        if not {"high", "low"} <= set(self.answers.tiers):
            raise Undefined("the answers are not of a high and a low tier")


_METRICS: dict[str, Callable[[_Detector], Callable[..., float]]] = {
    "auc": lambda detector: detector.auc,
    "auc_in_tier": lambda detector: detector.auc_in_tier,
    "f1": lambda detector: detector.f1,
    "precision": lambda detector: detector.precision,
    "recall": lambda detector: detector.recall,
    "ece": lambda detector: detector.ece,
    "degradation": lambda detector: detector.degradation,
}
_BY_TIER = ("auc", "f1", "precision", "recall", "ece")


@cache
def _interval(labels: bytes, scores: bytes, questions: bytes, seed: int) -> tuple[float, float]:
    """Kept, for the headline's interval is also that of a detector by name."""
    as_ints = [np.frombuffer(each, dtype=np.int64) for each in (labels, questions)]
    return statistics.auc_interval(as_ints[0], np.frombuffer(scores), as_ints[1], seed)


def _report(
    frame: pd.DataFrame, answers: Answers, judged: Callable[[], Judged], seen: Answers, params: RagScore
) -> Report:
    """What can be said of every detector; baselines are learnt from the answers `seen`."""
    report = Report()
    names = [*answers.scores, *([FUSED] if len(answers.scores.columns) > 1 else [])]
    detectors = {name: _Detector(name, answers, judged, params) for name in names}
    headline = detectors.get(params.detector) or _Detector(params.detector, answers, judged, params)
    _measure(report, headline, "")
    report.measure("auc_in_tier", headline.auc_in_tier)
    for tier in answers.tiers if len(answers.tiers) > 1 else []:
        report.measure(f"auc_in_tier/{tier}", partial(headline.auc, tier))
        _measure_ends(report, f"auc_in_tier/{tier}", partial(headline.interval, tier))
    _measure_data(report, frame)
    labels = answers.labels
    report.measure("auc_length", lambda: statistics.auc(labels, fit_length(seen)(answers)))
    report.measure("auc_tier", lambda: statistics.auc(labels, fit_tier(seen)(answers)))
    report.measure("f1_prior", lambda: 2 * labels.mean() / (1 + labels.mean()) if len(labels) else np.nan)
    for name, detector in detectors.items():
        _measure(report, detector, f"/{name}")
        report.metrics[f"missing/{name}"] = float(answers.scores[name].isna().sum()) if name != FUSED else float(
            answers.scores.isna().any(axis=1).sum()
        )  # fmt: skip
    _measure_agreement(report, detectors)
    _tabulate(report, frame, detectors)
    return report


def _measure(report: Report, detector: _Detector, suffix: str) -> None:
    """Every metric of one detector, over all answers and by tier."""
    for name in _BY_TIER:
        report.measure(f"{name}{suffix}", _METRICS[name](detector))
    _measure_ends(report, f"auc{suffix}", detector.interval)
    tiers = detector.answers.tiers
    if not suffix or {"high", "low"} <= set(tiers):
        report.measure(f"degradation{suffix}", detector.degradation)
        _measure_ends(report, f"degradation{suffix}", detector.degradation_interval)
    for tier in tiers if suffix and len(tiers) > 1 else []:
        for name in _BY_TIER:
            report.measure(f"{name}{suffix}/{tier}", partial(_METRICS[name](detector), tier))
        _measure_ends(report, f"auc{suffix}/{tier}", partial(detector.interval, tier))


def _measure_ends(report: Report, name: str, interval: Callable[[], tuple[float, float]]) -> None:
    """The ends of the interval of a metric that is defined."""
    if name in report.metrics:
        once = cache(interval)
        report.measure(f"{name}_low", lambda: once()[0])
        report.measure(f"{name}_high", lambda: once()[1])


def _measure_data(report: Report, frame: pd.DataFrame) -> None:
    """What the detectors had to work with, whichever they are: base rates, abstentions, retrieval."""
    telling = frame[frame["verdict"] != "abstained"]
    report.measure("prevalence", lambda: _mean(telling, "label"))
    report.measure("abstained", partial(_abstained, frame))
    for tier, rows in frame.groupby("tier"):
        report.measure(f"prevalence/{tier}", partial(_mean, rows[rows["verdict"] != "abstained"], "label"))
        report.measure(f"abstained/{tier}", partial(_abstained, rows))
        if "achieved" in rows:
            report.measure(f"achieved/{tier}", partial(_mean, rows, "achieved"))
    once = frame.drop_duplicates("group")
    report.measure("recall_at_k", lambda: _mean(once, "recall"))
    report.measure("mrr", lambda: _mean(once, "reciprocal_rank"))


def _abstained(frame: pd.DataFrame) -> float:
    return float((frame["verdict"] == "abstained").mean())


def _mean(frame: pd.DataFrame, column: str) -> float:
    if column not in frame:
        raise Undefined("the answers came with the data, so nothing was retrieved")
    if frame.empty:
        raise Undefined("every answer abstains")
    return float(frame[column].mean())


def _measure_agreement(report: Report, detectors: dict[str, _Detector]) -> None:
    """Cohen's kappa of every two detectors' calls, and its mean; fused, which is made of the others, left out."""
    single = [detector for name, detector in detectors.items() if name != FUSED]

    def kappa(first: _Detector, second: _Detector) -> float:
        calls = pd.concat([each.judged().calls[each.name] for each in (first, second)], axis=1).dropna().to_numpy()
        if len(calls) == 0 or (calls == calls[0]).all(axis=0).any():
            raise Undefined("one of the two calls all answers alike")
        return float(cohen_kappa_score(*calls.T))

    rows = []
    for first, second in combinations(single, 2):
        name = f"agreement/{first.name}+{second.name}"
        report.measure(name, partial(kappa, first, second))
        if name in report.metrics:
            rows.append({"first": first.name, "second": second.name, "kappa": report.metrics[name]})

    def mean() -> float:
        if not rows:
            raise Undefined("there are no two detectors whose calls vary")
        return float(np.mean([row["kappa"] for row in rows]))

    report.measure("agreement", mean)
    report.tables["agreement"] = pd.DataFrame(rows, columns=["first", "second", "kappa"])


def _tabulate(report: Report, frame: pd.DataFrame, detectors: dict[str, _Detector]) -> None:
    """Each detector by tier, the scored answers, and the pictures of both."""
    report.figures["retrieval_quality"] = partial(figures.retrieval_quality, frame)
    answers = next(iter(detectors.values())).answers if detectors else None
    if answers is None:
        return
    rows = []
    for name in detectors:
        for tier in (*answers.tiers, "all") if len(answers.tiers) > 1 else ("all",):
            suffix = f"/{name}" + ("" if tier == "all" else f"/{tier}")
            found = {metric: report.metrics.get(f"{metric}{suffix}", np.nan) for metric in _BY_TIER}
            found |= {f"auc_{end}": report.metrics.get(f"auc{suffix}_{end}", np.nan) for end in ("low", "high")}
            chosen = answers.frame[answers.of(tier)] if tier != "all" else answers.frame
            row = {"detector": name, "tier": tier, "answers": len(chosen), "base_rate": chosen["label"].mean()}
            rows.append(row | found)
    table = pd.DataFrame(rows)
    report.tables["summary"] = table
    report.figures["auc_by_tier"] = partial(figures.by_tier, table, "auc")
    report.figures["f1_by_tier"] = partial(figures.by_tier, table, "f1")
    report.figures["auc_heat_map"] = partial(figures.heat_map, table)
    try:
        judged = next(iter(detectors.values())).judged()
    except Undefined:
        return
    prefixes = tuple(f"{detector.name}_" for detector in DETECTORS)
    readings = [column for column in answers.frame if str(column).startswith(prefixes)]
    told = answers.frame.drop(columns=readings)
    report.tables["answers"] = told.join(judged.scores).join(judged.calls.add_prefix("called_"))
    labels = answers.labels
    report.figures["roc"] = partial(figures.roc, labels, judged.scores)
    confusions = {}
    for name in map(str, judged.calls):
        known = judged.calls[name].notna().to_numpy()
        if known.any():
            confusions[name] = confusion_matrix(labels[known], judged.calls[name].to_numpy()[known], labels=[0, 1])
    if confusions:
        report.figures["confusion"] = partial(figures.confusion, confusions)
    report.figures["agreement"] = partial(figures.agreement, report.tables["agreement"])
