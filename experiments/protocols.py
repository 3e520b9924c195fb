"""Protocols of judging: who is scored by a detector that has learnt from whom, for all stages.

A stage says how a detector is learnt from training cases and how it scores others; folds and thresholds are made here,
and here a protocol is gone through again, without some of the cases or with other labels, to see what learning adds to
the spread of its result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Generic, NamedTuple, Protocol, Self, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from experiments import statistics
from experiments.arrays import Bools, Floats, Ints
from harness.progress import counted
from harness.stage import Undefined

_ROUNDS = 40  # of learning without some of the groups
_MOST = 600  # groups from which is known what learning adds to the spread of more
_SHARE = 0.2  # of the groups that are left out: of fewer, a choice that is a near thing would weigh too much


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
        """What no split may part, and no interval takes for more than one (n,)."""

    @property
    def stratum(self) -> NDArray[Any] | None:
        """What may explain a label by itself, such as the task (n,); None where the data name nothing."""

    @property
    def lengths(self) -> Floats:
        """How long each is (n,)."""

    def take(self, rows: Ints) -> Self:
        """Some of them, in ascending order."""

    def relabelled(self, source: Ints) -> Self:
        """The same cases, each with the label of the case that `source` (n,) names."""


C = TypeVar("C", bound=Cases)
Scores = Mapping[str, NDArray[Any]]  # by name, an entry a case: higher is more positive, NaN: it could not be had
Scorer = Callable[[C], Scores]
Fit = Callable[[C], Scorer[C]]


class Thinned(NamedTuple):
    """Scores learnt anew from those cases that are `left` (n,), which is a share of the groups `looked` at (n,)."""

    share: float
    looked: Bools
    left: Bools
    scores: Scores


@dataclass(frozen=True)
class Judged(Generic[C]):
    """Scores and calls of every case (n,), and the detectors that gave them: one, or one a fold.

    A call is 1 or 0, NaN where the score is.  `part` numbers the detector that has scored a case (n,).  Where what was
    learnt would have been something else on other cases, `without` scores them again and again without some of them,
    and `relabelled` as if the labels had been others.  `flattered`: judged on what was learnt from.
    """

    scores: dict[str, NDArray[Any]]
    calls: dict[str, Floats]
    detectors: tuple[Scorer[C], ...]
    part: Ints | None = None
    without: Callable[[], list[Thinned]] | None = None
    relabelled: Callable[[Ints], Scores] | None = None
    flattered: bool = False


@dataclass(frozen=True)
class Rule:
    """How scores become calls, and cases folds: `thresholds` by score, None being the F1-best among training cases."""

    thresholds: Mapping[str, float | None]
    folds: int
    seed: int


@dataclass(frozen=True)
class Learnt(Generic[C]):
    """A detector, its thresholds by score, and how it scores its `own` cases, the `whole` of those given or some.

    There are no own scores where no threshold had to be learnt.
    """

    detector: Scorer[C]
    thresholds: dict[str, float]
    own: dict[str, NDArray[Any]]
    whole: bool


Way = Callable[[Fit[C], Rule], Judged[C]]  # a protocol, and the cases that it is for


def in_sample(cases: C, fit: Fit[C], rule: Rule) -> Judged[C]:
    """Fit, thresholds included, and score on the same cases, as published results are."""

    def relabelled(source: Ints) -> Scores:
        others = cases.relabelled(source)
        scores = held_out(others, others, fit, replace(rule, thresholds={})).scores
        return {name: values for name, values in scores.items() if values.dtype != object}

    return replace(held_out(cases, cases, fit, rule), relabelled=relabelled, flattered=True)


def held_out(train: C, test: C, fit: Fit[C], rule: Rule) -> Judged[C]:
    """Score `test` by a detector learnt, thresholds included, from those cases of `train` whose label is known."""
    learnt = learn(train, fit, rule)
    scores = dict(learnt.own if learnt.own and learnt.whole and train is test else learnt.detector(test))
    calls = {
        name: np.where(np.isnan(scores[name]), np.nan, scores[name] >= least)
        for name, least in learnt.thresholds.items()
        if name in scores
    }
    return Judged(scores, calls, (learnt.detector,))


def learn(cases: C, fit: Fit[C], rule: Rule) -> Learnt[C]:
    """Learn a detector, thresholds included, from those cases whose label is known."""
    known = np.flatnonzero(cases.labels >= 0)
    whole, learns = len(known) == len(cases.labels), any(least is None for least in rule.thresholds.values())
    train = cases if whole else cases.take(known)
    if learns:
        statistics.require_two_classes(train.labels)
    detector = fit(train)
    own = dict(detector(train)) if learns else {}
    thresholds = {
        name: _best_threshold(train.labels, own[name]) if least is None else least
        for name, least in rule.thresholds.items()
        if least is not None or name in own
    }
    return Learnt(detector, thresholds, own, whole)


def out_of_fold(cases: C, fit: Fit[C], rule: Rule) -> Judged[C]:
    """Score every case by a detector learnt, thresholds included, on folds that hold neither it nor its group.

    Cases without a label are scored by one that has learnt from all others.
    """
    unknown = np.flatnonzero(cases.labels < 0)
    split = folds(cases, rule)
    parts = [
        (test, held_out(cases.take(train), cases.take(test), fit, rule))
        for train, test in counted(split, "learn fold by fold", "folds")
    ]
    fitted = tuple(part.detectors[0] for _, part in parts)
    if len(unknown):
        parts.append((unknown, held_out(cases, cases.take(unknown), fit, rule)))
    place = np.empty(len(cases.labels), dtype=np.int64)
    for number, (rows, _) in enumerate(parts):
        place[rows] = number

    def pooled(kind: str) -> dict[str, Any]:
        pools: dict[str, NDArray[Any]] = {}
        for rows, part in parts:
            for name, values in getattr(part, kind).items():
                dtype = object if values.dtype == object else np.float64
                pools.setdefault(name, np.full(len(cases.labels), np.nan, dtype))[rows] = values
        return pools

    scores = pooled("scores")
    return Judged(
        scores,
        pooled("calls"),
        fitted,
        place,
        without=partial(_without, cases, fit, split, scores, rule.seed),
        relabelled=partial(_relabelled, cases, fit, split, scores),
    )


def _without(cases: C, fit: Fit[C], split: list[tuple[Ints, Ints]], scores: Scores, seed: int) -> list[Thinned]:
    """Scores out of fold without a fifth of the groups, drawn anew each time; the folds are as they are."""
    rng = np.random.default_rng(seed)
    number = np.unique(cases.groups, return_inverse=True)[1]  # numbers are looked up sooner than names
    tested = np.concatenate([test for _, test in split])
    groups = _some(cases.labels[tested], number[tested], rng)
    looked, gone = np.isin(number, groups), max(1, round(_SHARE * len(groups)))
    found = []
    for _ in counted(range(_ROUNDS), "learn without some", "rounds"):
        left = np.isin(number, rng.permutation(groups)[gone:])
        some = [(train[left[train]], test[left[test]]) for train, test in split]
        again = _scored(cases, cases, fit, [(train, test) for train, test in some if len(train) and len(test)], scores)
        found.append(Thinned(1 - gone / len(groups), looked, left, again))
    return found


def _some(labels: Ints, groups: Ints, rng: np.random.Generator) -> Ints:
    """All groups of these rows (n,), or of very many as many of either label as there may be."""
    positive = pd.Series(labels).groupby(groups).max() == 1
    if len(positive) <= _MOST:
        return positive.index.to_numpy()
    of_label = [rng.permutation(positive.index[positive == label].to_numpy()) for label in (True, False)]
    few = min(map(len, of_label))
    counts = [min(len(each), max(_MOST // 2, _MOST - few)) for each in of_label]
    return np.sort(np.concatenate([each[:count] for each, count in zip(of_label, counts, strict=True)]))


def _relabelled(cases: C, fit: Fit[C], split: list[tuple[Ints, Ints]], scores: Scores, source: Ints) -> Scores:
    """Scores out of fold, the folds as they are, had the labels been those of `source` (n,)."""
    return _scored(cases.relabelled(source), cases, fit, split, scores)


def _scored(learnt: C, cases: C, fit: Fit[C], split: list[tuple[Ints, Ints]], before: Scores) -> dict[str, Floats]:
    """Scores that are numbers, as they were before but for what learns anew: training rows of `learnt`, test rows."""
    scores = {name: values.copy() for name, values in before.items() if values.dtype != object}
    for train, test in split:
        for name, values in fit(learnt.take(train))(cases.take(test)).items():
            if name in scores:
                scores[name][test] = values
    return scores


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
