"""One judge of detectors for all stages: who is scored by what has learnt from whom, and what that is worth.

A stage says how a detector is learnt from training cases and how it scores others; folds, thresholds, intervals,
strata and trivial baselines are the judge's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, Generic, NamedTuple, Protocol, Self, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, f1_score, precision_score, recall_score

from experiments import statistics
from experiments.arrays import Bools, Floats, Ints
from harness.stage import Late, Report, Undefined


class Words(NamedTuple):
    """What the cases of a stage are called in its reasons."""

    case: str
    group: str
    stratum: str
    positive: str


class Cases(Protocol):
    """What detectors are judged on, n of them."""

    @property
    def words(self) -> Words:
        """What they are called."""

    @property
    def labels(self) -> Ints:
        """1 or 0 of each (n,); -1: not known, so that it is scored and not judged."""

    @property
    def groups(self) -> NDArray[Any]:
        """What no split may part, and intervals resample whole (n,)."""

    @property
    def stratum(self) -> NDArray[Any] | None:
        """What may explain a label by itself, such as the task (n,); None where the data name nothing."""

    @property
    def lengths(self) -> Floats:
        """How long each is (n,)."""

    def take(self, rows: Ints) -> Self:
        """Some of them, in ascending order."""


C = TypeVar("C", bound=Cases)
Scores = Mapping[str, NDArray[Any]]  # by name, an entry a case: higher is more positive, NaN: it could not be had
Scorer = Callable[[C], Scores]
Fit = Callable[[C], Scorer[C]]


@dataclass(frozen=True)
class Judged(Generic[C]):
    """Scores and calls of every case (n,), and the detectors that gave them: one, or one a fold.

    A call is 1 or 0, NaN where the score is.
    """

    scores: dict[str, NDArray[Any]]
    calls: dict[str, Floats]
    detectors: tuple[Scorer[C], ...]


# --- protocols: who is scored by a detector that has seen what ---------------------------------------------------


@dataclass(frozen=True)
class Rule:
    """How scores become calls, and cases folds: `thresholds` by score, None being the F1-best among training cases."""

    thresholds: Mapping[str, float | None]
    folds: int
    seed: int


def in_sample(cases: C, fit: Fit[C], rule: Rule) -> Judged[C]:
    """Fit, thresholds included, and score on the same cases, as published results are."""
    return held_out(cases, cases, fit, rule)


def held_out(train: C, test: C, fit: Fit[C], rule: Rule) -> Judged[C]:
    """Score `test` by a detector learnt, thresholds included, from those cases of `train` whose label is known."""
    known = np.flatnonzero(train.labels >= 0)
    learns = any(threshold is None for threshold in rule.thresholds.values())
    train = train if len(known) == len(train.labels) else train.take(known)
    if learns:
        statistics.require_two_classes(train.labels)
    detector = fit(train)
    scores = dict(detector(test))
    own = (scores if train is test else detector(train)) if learns else {}
    calls = {}
    for name, threshold in rule.thresholds.items():
        if name in scores:
            least = _best_threshold(train.labels, own[name]) if threshold is None else threshold
            calls[name] = np.where(np.isnan(scores[name]), np.nan, scores[name] >= least)
    return Judged(scores, calls, (detector,))


def out_of_fold(cases: C, fit: Fit[C], rule: Rule) -> Judged[C]:
    """Score every case by a detector learnt, thresholds included, on folds that hold neither it nor its group.

    Cases without a label are scored by one that has learnt from all others.
    """
    unknown = np.flatnonzero(cases.labels < 0)
    parts = [(test, held_out(cases.take(train), cases.take(test), fit, rule)) for train, test in folds(cases, rule)]
    fitted = tuple(part.detectors[0] for _, part in parts)
    if len(unknown):
        parts.append((unknown, held_out(cases, cases.take(unknown), fit, rule)))

    def pooled(kind: str) -> dict[str, Any]:
        pools: dict[str, NDArray[Any]] = {}
        for rows, part in parts:
            for name, values in getattr(part, kind).items():
                dtype = object if values.dtype == object else np.float64
                pools.setdefault(name, np.full(len(cases.labels), np.nan, dtype))[rows] = values
        return pools

    return Judged(pooled("scores"), pooled("calls"), fitted)


def folds(cases: Cases, rule: Rule) -> list[tuple[Ints, Ints]]:
    """Training and test rows of each fold, among cases whose label is known; a group stays together."""
    known = np.flatnonzero(cases.labels >= 0)
    split = statistics.group_folds(
        cases.labels[known], cases.groups[known], rule.folds, rule.seed, f"{cases.words.group}s"
    )
    return [(known[train], known[test]) for train, test in split] if len(known) < len(cases.labels) else split


def _best_threshold(labels: Ints, scores: Floats) -> float:
    """The F1-best of the scores that there are; infinite where they are of one class, so that nothing is called."""
    known = ~np.isnan(scores)
    try:
        return statistics.best_f1_threshold(labels[known], scores[known])
    except Undefined:
        return float("inf")


# --- what that is worth ------------------------------------------------------------------------------------------


class Known(NamedTuple):
    """Labels, scores and groups of the cases that have a label and a score."""

    labels: Ints
    scores: Floats
    groups: NDArray[Any]


def _nothing_learnt() -> Judged[Any]:
    return Judged({}, {}, ())


@dataclass(frozen=True)
class Judge(Generic[C]):
    """What can be said of the detectors of some cases; what cannot raises Undefined when it is asked for.

    `judge` gives what is learnt, `given` are scores for which nothing was.  Baselines are learnt from `seen`.
    """

    cases: C
    seen: C
    seed: int
    judge: Callable[[], Judged[C]] = _nothing_learnt
    given: Scores = field(default_factory=dict)
    absent: Callable[[str], str] = "no detector is called {}".format  # why there are no scores of a name
    _intervals: dict[tuple[str, Any], tuple[float, float]] = field(default_factory=dict)

    @property
    def judged(self) -> Judged[C]:
        """Scores and calls of every case."""
        if isinstance(self._judged_or_why_not, Undefined):
            raise self._judged_or_why_not
        return self._judged_or_why_not

    @cached_property
    def _judged_or_why_not(self) -> Judged[C] | Undefined:
        """Kept either way: what cannot be learnt would be tried again for every figure."""
        try:
            return self.judge()
        except Undefined as reason:
            return reason

    @cached_property
    def strata(self) -> list[Any]:
        """The strata that occur, sorted."""
        return [] if self.cases.stratum is None else sorted(pd.Series(self.cases.stratum).dropna().unique())

    def scores(self, name: str) -> NDArray[Any]:
        """A detector's scores of every case (n,)."""
        return self.given[name] if name in self.given else self._of(self.judged.scores, name)

    def known(self, name: str, stratum: Any = None) -> Known:
        """The cases, of one stratum if one is named, that a detector has scored and whose label is known."""
        scores = np.asarray(self.scores(name), dtype=np.float64)
        rows = self._rows(scores, stratum)
        return Known(self.cases.labels[rows], scores[rows], self.cases.groups[rows])

    def auc(self, name: str, stratum: Any = None) -> float:
        """AUROC."""
        known = self.known(name, stratum)
        return statistics.auc(known.labels, known.scores)

    def interval(self, name: str, stratum: Any = None) -> tuple[float, float]:
        """95 % bootstrap interval of the AUROC over groups."""
        if (name, stratum) not in self._intervals:
            self._intervals[name, stratum] = statistics.auc_interval(*self.known(name, stratum), self.seed)
        return self._intervals[name, stratum]

    def difference_interval(self, first: Known, second: Known) -> tuple[float, float]:
        """95 % interval of the AUROC of the first less that of the second; groups of both are resampled alike."""
        return statistics.auc_difference_interval(first, second, self.seed)

    def calls(self, name: str, stratum: Any = None) -> tuple[Ints, Ints]:
        """Labels and calls of the cases that have both."""
        calls = self._of(self.judged.calls, name)
        rows = self._rows(calls, stratum)
        statistics.require_two_classes(self.cases.labels[rows])
        return self.cases.labels[rows], calls[rows].astype(np.int64)

    def f1(self, name: str, stratum: Any = None) -> float:
        """F1 of the positive class."""
        return float(f1_score(*self.calls(name, stratum)))

    def accuracy(self, name: str, stratum: Any = None) -> float:
        """Share of the calls that are right."""
        return float(accuracy_score(*self.calls(name, stratum)))

    def recall(self, name: str, stratum: Any = None) -> float:
        """Share of the positives that are called so."""
        return float(recall_score(*self.calls(name, stratum)))

    def precision(self, name: str, stratum: Any = None) -> float:
        """Share of positives among those called so."""
        labels, calls = self.calls(name, stratum)
        if not calls.any():
            raise Undefined(f"no {self.cases.words.case} was called {self.cases.words.positive}")
        return float(precision_score(labels, calls))

    def calibration_error(self, name: str, stratum: Any = None) -> float:
        """Expected calibration error of scores that are meant as probabilities."""
        known = self.known(name, stratum)
        return statistics.calibration_error(known.labels, known.scores)

    def baseline(self, learn: Fit[C]) -> float:
        """AUROC of a trivial detector."""
        (scores,) = learn(self.seen)(self.cases).values()
        rows = self.cases.labels >= 0
        return statistics.auc(self.cases.labels[rows], scores[rows])

    def prevalence(self) -> float:
        """Share of positives among the cases whose label is known."""
        known = self.cases.labels[self.cases.labels >= 0]
        if not len(known):
            raise Undefined("there is nothing to score")
        return float(known.mean())

    def f1_of_all(self) -> float:
        """F1 of calling every case positive."""
        return 2 * self.prevalence() / (1 + self.prevalence())

    def accuracy_of_the_commoner(self) -> float:
        """Accuracy of always calling the commoner label."""
        return max(self.prevalence(), 1 - self.prevalence())

    def measure_auc(self, report: Report, metric: str, name: str, stratum: Any = None) -> None:
        """Report a detector's AUROC, with the ends of its interval."""
        report.measure(metric, lambda: self.auc(name, stratum))
        report.measure_ends(metric, lambda: self.interval(name, stratum))

    def draw(self, report: Report, names: Sequence[str], colours: Mapping[str, str]) -> None:
        """ROC and precision-recall curves of the detectors whose scores are of both labels."""
        known = {name: self.known(name)[:2] for name in names}
        curves = {name: pair for name, pair in known.items() if len(set(pair[0])) > 1}
        for picture in ("roc", "precision_recall") if curves else ():
            draw = Late("experiments.pictures", picture)
            report.figures[picture] = partial(draw, curves, f"{self.cases.words.case}s", colours)

    def _of(self, values: Mapping[str, NDArray[Any]], name: str) -> NDArray[Any]:
        if name not in values:
            raise Undefined(self.absent(name))
        return values[name]

    def _rows(self, values: Floats, stratum: Any) -> Bools:
        rows = ~np.isnan(values) & (self.cases.labels >= 0)
        return rows if stratum is None else rows & (np.asarray(self.cases.stratum) == stratum)


# --- trivial detectors -------------------------------------------------------------------------------------------


def fit_length(train: Cases) -> Scorer[Any]:
    """The length of a case, longer or shorter being worse as training says."""
    known = train.labels >= 0
    sign = 1.0 if statistics.auc(train.labels[known], train.lengths[known]) >= 0.5 else -1.0
    return lambda cases: {"length": sign * cases.lengths}


def fit_stratum(train: Cases) -> Scorer[Any]:
    """The share of positives among training cases of the same stratum; of all, for one never seen."""
    words = train.words
    if train.stratum is None:
        raise Undefined(f"the data name no {words.stratum}s")
    known = train.labels >= 0
    labels = pd.Series(train.labels[known])
    strata = pd.Series(np.asarray(train.stratum)[known], dtype=object)
    rates, prior = labels.groupby(strata.to_numpy()).mean(), labels.mean()
    if labels.empty:
        raise Undefined("there is nothing to score")
    if len(rates) < 2:
        raise Undefined(f"every {words.case} is of {words.stratum} {strata.iloc[0]}")
    return lambda cases: {"stratum": pd.Series(cases.stratum).map(rates).fillna(prior).to_numpy(np.float64)}


def picks(detectors: Sequence[Scorer[Any]], chosen: Callable[[Any], Sequence[str]]) -> dict[str, float]:
    """In which share of the fits each column was chosen."""
    shares: dict[str, float] = {}
    for detector in detectors:
        for name in chosen(detector):
            shares[name] = shares.get(name, 0.0) + 1 / len(detectors)
    return shares
