"""One judge of detectors for all stages: what scores are worth, how sure that is, and what trivial ones reach."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
from typing import Any, Generic, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, f1_score, precision_score, recall_score

from experiments import statistics
from experiments.arrays import Bools, Floats, Ints
from experiments.protocols import C, Fit, Judged, Rule, Scorer, Scores, Thinned, Way
from harness.progress import counted
from harness.running.differences import CLEAR, interval, less
from harness.stage import Late, Report, Undefined, judged_on

_ROUNDS = 199  # permutations at most: the smallest p is 0.01
_ENOUGH = 10  # of them on either side of a figure: nothing can be seen any more
_MUCH = 3  # times the variance of fixed scores: a jackknife with refits beyond it says that much is learnt
_COUNTS: Mapping[str, tuple[Callable[..., Any], Callable[..., Any]]] = {  # what stands above and below the line
    "f1": (lambda label, call: 2 * label * call, lambda label, call: label + call),
    "precision": (lambda label, call: label * call, lambda label, call: call),
    "recall": (lambda label, call: label * call, lambda label, call: label),
    "accuracy": (lambda label, call: label == call, lambda label, call: np.ones(len(label))),
}

# --- what that is worth ------------------------------------------------------------------------------------------


class Known(NamedTuple):
    """Labels, scores and groups of the cases that have a label and a score."""

    labels: Ints
    scores: Floats
    groups: NDArray[Any]


def _nothing_learnt(fit: Fit[Any], rule: Rule) -> Judged[Any]:
    return Judged({}, {}, ())


def _no_fit(train: Any) -> Scorer[Any]:
    return lambda cases: {}


@dataclass(frozen=True)
class Judge(Generic[C]):
    """What can be said of the detectors of some cases; what cannot raises Undefined when it is asked for.

    `fit` is learnt by a protocol, `way`, and so are baselines; `given` are scores for which nothing was.
    """

    cases: C
    way: Way[C] = _nothing_learnt
    fit: Fit[C] = _no_fit
    rule: Rule = field(default_factory=lambda: Rule({}, 2, 0))
    given: Scores = field(default_factory=dict)
    absent: Callable[[str], str] = "no detector is called {}".format  # why there are no scores of a name
    _kept: dict[tuple[str, Any], pd.Series[float]] = field(default_factory=dict)
    _drawn: list[tuple[Ints, Callable[[], Scores]]] = field(default_factory=list)  # as many as were needed

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
            return self.way(self.fit, self.rule)
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
        """The cases, of one stratum if one is named, that a detector has scored and whose label is known.

        In a stratum scores out of fold are ranks within their fold: how many positives of the stratum a fold has, and
        so others have to learn from, would count against it.
        """
        return self._known(self.scores(name), stratum, self._ranked_in(name, stratum))

    def _ranked_in(self, name: str, stratum: Any) -> Ints | None:
        """The folds in which scores are ranks; None where they are compared as they are."""
        learnt = name not in self.given and stratum is not None and len(self.strata) > 1
        return self.judged.part if learnt else None

    def judged_on(self, protocol: str, name: str) -> str:
        """What only the results of one rank have in common: the protocol, and the cases that it has judged.

        They are those that the detector has scored, or could have: one that leaves out what is hard is judged on less.
        """
        try:
            rows = self._rows(np.asarray(self.scores(name), dtype=np.float64), None)
        except Undefined:
            rows = self.cases.labels >= 0
        words = f"{protocol}, {rows.sum()} {self.cases.words.case}s"
        return judged_on(words, self.cases.groups[rows], self.cases.labels[rows])

    def auc(self, name: str, stratum: Any = None) -> float:
        """AUROC."""
        known = self.known(name, stratum)
        return statistics.auc(known.labels, known.scores)

    def influence(self, name: str, stratum: Any = None) -> pd.Series[float]:
        """How much each group moves the AUROC, and, where the detector learns, how much learning without some does.

        The squares add up to w F + (1 - w) J, where F is the variance of fixed scores and J that of the delete-d
        jackknife with refits (Shao and Wu 1989).  Under Hoeffding's decomposition of a statistic of degree two, such as
        an AUROC out of fold is with scores that are sums over training cases, its variance is V1 + V2.  F is V1 + V2/2
        on average, for a pair of cases counts twice, each scoring the other, and J is V1 + r V2 with r = 1 + n / m,
        where m of n groups stay; so w = (r - 1) / (r - 1/2).
        """
        if (name, stratum) not in self._kept:
            self._kept[name, stratum] = self._influence(name, stratum)
        return self._kept[name, stratum]

    def _influence(self, name: str, stratum: Any) -> pd.Series[float]:
        fixed = statistics.auc_influence(*self.known(name, stratum))
        if name in self.given or self.judged.without is None:
            if name not in self.given and self.judged.flattered:
                raise Undefined("none holds for what is judged on what it has learnt from")
            return pd.concat({"group": fixed})
        return self._beside_refits(fixed, self.scores(name), name, stratum)

    def compared(self, name: str, stratum: Any = None) -> pd.Series[float]:
        """The influence on the AUROC, for comparing it with another of the same cases."""
        if name not in self.given:
            return self.influence(name, stratum)
        return self._comparable(statistics.auc_influence(*self.known(name, stratum)), self.given[name], stratum)

    def _comparable(self, fixed: pd.Series[float], scores: NDArray[Any], stratum: Any = None) -> pd.Series[float]:
        """What moves scores that no refit changes, in the parts that what is learnt has: what they share cancels."""
        with suppress(Undefined):
            if self._refits:
                return self._beside_refits(fixed, scores, None, stratum)
        return pd.concat({"group": fixed})

    def _beside_refits(
        self, fixed: pd.Series[float], scores: NDArray[Any], learnt: str | None, stratum: Any
    ) -> pd.Series[float]:
        """An influence in two parts: of scores as they are, and how far each AUROC of fewer groups is from their mean.

        Where only some of the groups are looked at, J is to F what it is among these.
        """
        share, looked, _, _ = self._refits[0]
        part = None if learnt is None else self._ranked_in(learnt, stratum)
        try:
            areas = []
            for again in self._refits:
                known = self._known(scores if learnt is None else again.scores[learnt], stratum, part, again.left)
                areas.append(statistics.auc(known.labels, known.scores))
            larger = 1.0 if looked.all() else self._larger(fixed, self._known(scores, stratum, part, looked))
        except Undefined as reason:
            why = f"without some {self.cases.words.group}s too little is left to learn by: {reason}"
            raise Undefined(why) from reason
        weight, moved = 1 / (1 + share / 2), pd.Series(areas) - float(np.mean(areas))
        moved *= np.sqrt((1 - weight) * larger * share / (1 - share) / (len(areas) - 1))
        moves: pd.Series[float] = pd.concat({"group": fixed * np.sqrt(weight), "refit": moved})
        return moves

    @staticmethod
    def _larger(fixed: pd.Series[float], some: Known) -> float:
        """How many times the variance of some cases that of all is, scores being as they are."""
        return float((fixed**2).sum() / (statistics.auc_influence(*some) ** 2).sum())

    @cached_property
    def _refits(self) -> list[Thinned]:
        return [] if self.judged.without is None else self.judged.without()

    def interval(self, name: str, stratum: Any = None) -> tuple[float, float]:
        """95 % interval of the AUROC over groups."""
        rests_on = statistics.sizes(*self.known(name, stratum))
        return statistics.auc_interval(self.auc(name, stratum), self.influence(name, stratum), rests_on)

    def p(self, name: str, part: bool = False) -> float:
        """Two-sided p of the AUROC against chance.

        It comes from permuted labels, learnt from anew, where too little varies to tell otherwise and, but for a `part`
        of a detector, where much is learnt and before anything is said to lie below chance.
        """
        with suppress(Undefined):
            area, influence = self.auc(name), self.influence(name)
            p = statistics.auc_p(area, influence)
            if part or (not self._learns_much(influence) and not (area < 0.5 and p <= CLEAR)):
                return p
        return self._permutation_p(name)

    def _permutation_p(self, name: str) -> float:
        """The p among permuted labels, of which no more are drawn once it is clear that there is nothing to see."""
        observed, above, below = self.auc(name), 0, 0
        for drawn, (source, again) in enumerate(self._permuted(), start=1):
            area = self._area_of(self.given[name] if name in self.given else again()[name], source)
            above, below = above + (area >= observed), below + (area <= observed)
            if min(above, below) >= _ENOUGH:
                return min(1.0, 2 * min(above, below) / drawn)  # Besag and Clifford 1991
        return min(1.0, 2 * (1 + min(above, below)) / (1 + _ROUNDS))  # itself counted: Phipson and Smyth 2010

    def _learns_much(self, influence: pd.Series[float]) -> bool:
        """Whether J is many times F; not of so many groups that learning again would take long."""
        if "refit" not in influence or not self._refits[0].looked[self.cases.labels >= 0].all():
            return False
        squares = (influence**2).groupby(level=0).sum()
        return bool(squares["refit"] * 2 / self._refits[0].share > _MUCH * squares["group"])

    def _permuted(self) -> Iterator[tuple[Ints, Callable[[], Scores]]]:
        """Whose label each case is given, and what is learnt of them says; groups change places within a fold."""
        judged = None if isinstance(self._judged_or_why_not, Undefined) else self._judged_or_why_not
        part = judged.part if judged and judged.part is not None else np.zeros(len(self.cases.labels), np.int64)
        rows = np.flatnonzero(self.cases.labels >= 0)
        groups = np.unique(self.cases.groups[rows], return_inverse=True)[1]  # numbers are sorted sooner than names
        for number in counted(range(_ROUNDS), "learn from permuted labels", "rounds"):
            if number == len(self._drawn):
                rng, source = np.random.default_rng((self.rule.seed, number)), np.arange(len(self.cases.labels))
                source[rows] = rows[statistics.permuted(groups, part[rows], rng)]
                self._drawn.append((source, cache(partial(self._relearnt, source))))
            yield self._drawn[number]

    def _relearnt(self, source: Ints) -> Scores:
        return self.judged.relabelled(source) if self.judged.relabelled else self.judged.scores

    def _area_of(self, scores: NDArray[Any], source: Ints) -> float:
        """AUROC of scores, had each case the label of another."""
        values = np.asarray(scores, dtype=np.float64)
        labels, rows = self.cases.labels[source], self._rows(values, None)
        return statistics.auc(labels[rows], values[rows])

    def difference_interval(self, name: str, first: Any, second: Any) -> tuple[float, float]:
        """95 % interval of the AUROC in one stratum less that in another; what groups have in both cancels."""
        moved = less(self.influence(name, first), self.influence(name, second))
        return interval(self.auc(name, first) - self.auc(name, second), moved)

    def mean_interval(self, name: str, strata: Sequence[Any]) -> tuple[float, float]:
        """95 % interval of the mean of the AUROCs in strata."""
        moved, areas = self.mean_influence(name, strata), [self.auc(name, stratum) for stratum in strata]
        least = min(
            (statistics.sizes(*self.known(name, stratum)) for stratum in strata), key=lambda sizes: sizes.groups
        )
        return statistics.auc_interval(float(np.mean(areas)), moved, least)

    def mean_influence(self, name: str, strata: Sequence[Any]) -> pd.Series[float]:
        """How much each group moves the mean of the AUROCs in strata."""
        together = pd.concat([self.compared(name, stratum) for stratum in strata])
        return together.groupby(level=[0, 1], sort=False).sum() / len(strata)

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

    def call_influence(self, kind: str, name: str, stratum: Any = None) -> pd.Series[float]:
        """How much each group moves one of _COUNTS; Undefined where the threshold was learnt from those judged."""
        if self.judged.relabelled is not None:
            raise Undefined("how much the threshold's having been learnt adds is not known")
        labels, calls = self.calls(name, stratum)
        above, below = (part(labels, calls).astype(np.float64) for part in _COUNTS[kind])
        groups = self.cases.groups[self._rows(self.judged.calls[name], stratum)]
        moved = pd.Series((above - below * above.sum() / below.sum()) / below.sum()).groupby(groups).sum()
        moves: pd.Series[float] = pd.concat({"group": moved * np.sqrt(len(moved) / max(1, len(moved) - 1))})
        return moves

    def calibration_error(self, name: str, stratum: Any = None) -> float:
        """Expected calibration error of scores that are meant as probabilities."""
        known = self._known(self.scores(name), stratum, None)  # and never as ranks
        return statistics.calibration_error(known.labels, known.scores)

    def calibration_by_chance(self, name: str, stratum: Any = None) -> tuple[float, float]:
        """The calibration error that the same scores would have on average were they right, and the p of being so."""
        known = self._known(self.scores(name), stratum, None)
        return statistics.calibration_by_chance(known.labels, known.scores, self.rule.seed)

    def baseline(self, learn: Fit[C]) -> Floats:
        """What a trivial detector scores by the same protocol (n,), as ranks within its fold where there are folds."""
        judged = self.way(learn, replace(self.rule, thresholds={}))
        (scores,) = judged.scores.values()
        labelled = np.where(self.cases.labels >= 0, scores, np.nan)
        return labelled if judged.part is None else statistics.ranks_within(labelled, judged.part)

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
        """Report a detector's AUROC, with the ends of its interval and what moves it."""
        report.measure(metric, lambda: self.auc(name, stratum))
        report.measure_ends(metric, lambda: self.interval(name, stratum))
        explain(report, metric, lambda: self.compared(name, stratum))

    def measure_p(self, report: Report, metric: str, name: str, part: bool = False) -> None:
        """Report the p against chance of the AUROC of a detector, or of a part of one."""
        if metric in report.metrics:
            report.measure(f"{metric}_p", lambda: self.p(name, part))

    def measure_calls(self, report: Report, metric: str, name: str, stratum: Any = None) -> None:
        """Report one of _COUNTS, which the metric's name begins with, and what moves it."""
        kind = metric.partition("/")[0]
        report.measure(metric, lambda: getattr(self, kind)(name, stratum))
        explain(report, metric, lambda: self.call_influence(kind, name, stratum))

    def measure_baseline(self, report: Report, metric: str, learn: Fit[C]) -> None:
        """Report a trivial detector's AUROC, and what moves it."""
        scores = cache(lambda: self.baseline(learn))
        known = cache(lambda: self._known(scores(), None, None))
        report.measure(metric, lambda: statistics.auc(known().labels, known().scores))
        explain(report, metric, lambda: self._comparable(statistics.auc_influence(*known()), scores()))

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

    def _known(self, scores: NDArray[Any], stratum: Any, part: Ints | None, of: Bools | None = None) -> Known:
        """What is known of scores (n,), `of` some cases; as ranks within the `part` that has learnt what gave them."""
        scores = np.asarray(scores, dtype=np.float64)
        scores = scores if of is None else np.where(of, scores, np.nan)
        rows = self._rows(scores, stratum)
        if part is not None:
            scores = statistics.ranks_within(np.where(self.cases.labels >= 0, scores, np.nan), part)
        return Known(self.cases.labels[rows], scores[rows], self.cases.groups[rows])

    def _rows(self, values: Floats, stratum: Any) -> Bools:
        rows = ~np.isnan(values) & (self.cases.labels >= 0)
        return rows if stratum is None else rows & (np.asarray(self.cases.stratum) == stratum)


def explain(report: Report, metric: str, influence: Callable[[], pd.Series[float]]) -> None:
    """Add what moves a metric that is defined, where that is known."""
    if metric in report.metrics:
        with suppress(Undefined):
            report.influence[metric] = influence()
