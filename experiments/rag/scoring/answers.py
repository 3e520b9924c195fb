"""The answers that are judged, and what is learnt of them: how to fuse the detectors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from experiments import statistics
from experiments.arrays import Floats, Ints
from experiments.columns import Columns
from experiments.protocols import Rule, Scorer, Scores, Words
from experiments.rag.detectors import DETECTORS, FUSED
from experiments.rag.inference.params import TIERS
from experiments.rag.inference.verdicts import JUDGED, VERDICTS
from experiments.rag.scoring.params import RagScore
from harness.stage import BadInput, Undefined

_NEEDED = {
    "group": "text",
    "item": "text",
    "tier": "text",
    "verdict": f"one of {', '.join(VERDICTS)}",
    "label": "0 or 1, or -1 where there is none",
    "length": "a number",
}


@dataclass(frozen=True)
class Answers:
    """Answers that say something: rows of records, and the scores for which nothing was learnt (NaN: it has none).

    `learning` are the features of those detectors that have still to learn, by detector, and `parts` (n,) what they
    learn from to score the others; the frame is without them.
    """

    frame: pd.DataFrame
    readings: pd.DataFrame
    learning: Mapping[str, Columns]
    parts: Ints
    words = Words("answer", "question", "tier", "hallucinated")

    @property
    def labels(self) -> Ints:
        """1: hallucinated."""
        return self.frame["label"].to_numpy(np.int64)

    @property
    def groups(self) -> NDArray[Any]:
        """The question of each answer, whose answers share what they share."""
        return self.frame["group"].to_numpy()

    @property
    def stratum(self) -> NDArray[Any]:
        """The tier of each answer."""
        return self.frame["tier"].to_numpy()

    @property
    def lengths(self) -> Floats:
        """Characters of each answer, as they are compared."""
        return self.frame["length"].to_numpy(np.float64)

    @property
    def tiers(self) -> list[str]:
        """The tiers there are, best first."""
        there = set(self.frame["tier"])
        return [tier for tier in (*TIERS, "retrieved", "given") if tier in there]

    @property
    def scores(self) -> dict[str, Floats]:
        """The scores of every answer for which nothing was learnt."""
        return {str(name): self.readings[name].to_numpy(np.float64) for name in self.readings}

    def take(self, rows: Ints) -> Answers:
        """Some of them."""
        learning = {name: features.take(rows) for name, features in self.learning.items()}
        return Answers(self.frame.iloc[rows], self.readings.iloc[rows], learning, self.parts[rows])

    def relabelled(self, source: Ints) -> Answers:
        """Each with another's label."""
        return replace(self, frame=self.frame.assign(label=self.labels[source]))


def considered(frame: pd.DataFrame, params: RagScore) -> pd.DataFrame:
    """The rows that are to be looked at: all, or those whose label does not rest on little."""
    if params.ambiguous == "keep":
        return frame
    if "ambiguous" not in frame:
        raise BadInput("ambiguous = drop: the records do not say which labels are; run inference again, or keep")
    return frame[frame["ambiguous"] == ""]


def read_answers(frame: pd.DataFrame, params: RagScore) -> Answers:
    """Put the answers in one order, whatever order they were made in, and score them.

    Left out is what no detector is judged by: abstentions, and answers that were cut or are empty.
    """
    told = "; ".join(f"{name} ({what})" for name, what in _NEEDED.items())
    if missing := [name for name in _NEEDED if name not in frame]:
        raise BadInput(f"the records have no column {missing[0]}; needed are {told}")
    judged = frame["verdict"].isin(JUDGED)
    for name, sound in (("verdict", frame["verdict"].isin(VERDICTS)), ("label", frame["label"].isin([0, 1]) | ~judged)):
        if not sound.all():
            row = sound.to_numpy().argmin()
            raise BadInput(f"the records hold {name} {frame[name].iloc[row]} in row {row}; needed are {told}")
    frame = frame[judged].sort_values(["group", "item"], kind="stable", ignore_index=True)
    scored = {detector.name: detector.scores(frame, params) for detector in DETECTORS}
    readings = pd.DataFrame({name: score for name, score in scored.items() if score is not None})
    learning = {each.name: Columns.of(frame[each.features(frame)]) for each in DETECTORS if each.learns}
    learning = {name: features for name, features in learning.items() if features.names}
    if readings.empty and not learning and len(frame):
        raise BadInput(f"the records hold no reading of any detector: no column {', '.join(f'{n}_…' for n in scored)}")
    frame = frame.drop(columns=[name for features in learning.values() for name in features.names])
    return Answers(frame, readings, learning, _parts(frame["group"], params))


def _parts(groups: pd.Series[Any], params: RagScore) -> Ints:
    """Numbers that part the answers into as many parts as there are folds; a question's answers stay together."""
    number, known = pd.factorize(groups)
    drawn = np.random.default_rng(params.fold_seed).permutation(len(known)) % params.folds
    return np.asarray(drawn[number], dtype=np.int64)


def rule(answers: Answers, params: RagScore) -> Rule:
    """How every detector's scores are called: by the threshold given for the one chosen, the F1-best for the others."""
    thresholds: dict[str, float | None] = dict.fromkeys(names(answers, params))
    if params.detector in thresholds and params.threshold != "auto":
        thresholds[params.detector] = float(params.threshold)
    return Rule(thresholds, params.folds, params.fold_seed)


def names(answers: Answers, params: RagScore) -> list[str]:
    """The detectors that there are; one alone is nothing to fuse."""
    single = [*answers.scores, *answers.learning]
    return [*single, FUSED] if len(fused(answers, params)) > 1 else single


def fused(answers: Answers, params: RagScore) -> list[str]:
    """The detectors that are to be fused."""
    return [*answers.scores, *(answers.learning if params.fuse == "all" else ())]


def fit(train: Answers, params: RagScore, only: str = "") -> Scorer[Answers]:
    """Learn what has to be learnt from some answers; the function returned gives every detector's score of any.

    What too little has been read for to be learnt has no score (NaN), and takes none from the others.  `only` one
    detector may be wanted, so that others need not learn.
    """
    statistics.require_two_classes(train.labels)
    members = fused(train, params) if only in {"", FUSED} else []
    wanted = {name: features for name, features in train.learning.items() if only in {"", name} or name in members}
    taught = {name: _taught(name, features, train.labels, params) for name, features in wanted.items()}
    unseen = {name: _by_others(train, name, params) for name in train.learning if name in members}
    fuse: Callable[[pd.DataFrame], Floats] | None = None
    if len(members) > 1:
        with suppress(Undefined):
            fuse = _FUSIONS[params.fusion](train.readings.assign(**unseen), train.labels)

    def detect(answers: Answers) -> Scores:
        learnt = {name: score(answers.learning[name]) for name, score in taught.items()}
        if len(members) < 2:
            return answers.scores | learnt
        scores = answers.readings.assign(**{name: learnt[name] for name in unseen})
        whole = scores.notna().all(axis=1).to_numpy()  # a fused score needs every detector's
        together = np.full(len(whole), np.nan)
        if fuse is not None and whole.any():
            together[whole] = fuse(scores[whole])
        return {**answers.scores, **learnt, FUSED: together}

    return detect


def _taught(name: str, features: Columns, labels: Ints, params: RagScore) -> Callable[[Columns], Floats]:
    """Have a detector learn from what it has read; what it has not read it does not score."""
    learns = next(each.learns for each in DETECTORS if each.name == name)
    assert learns is not None
    whole = np.flatnonzero(~np.isnan(features.values).any(axis=1))
    learnt: Callable[[Columns], Floats] | None = None
    with suppress(Undefined):
        learnt = learns(features.take(whole), labels[whole], params)

    def score(others: Columns) -> Floats:
        scores, read = np.full(len(others.values), np.nan), np.flatnonzero(~np.isnan(others.values).any(axis=1))
        if learnt is not None:
            scores[read] = learnt(others.take(read))
        return scores

    return score


def _by_others(train: Answers, name: str, params: RagScore) -> Floats:
    """How a detector scores training answers (n,) when it has learnt from others: flattered scores would be trusted."""
    features, scores = train.learning[name], np.full(len(train.labels), np.nan)
    for part in np.unique(train.parts):
        rest, seen = np.flatnonzero(train.parts == part), np.flatnonzero(train.parts != part)
        scores[rest] = _taught(name, features.take(seen), train.labels[seen], params)(features.take(rest))
    return scores


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
