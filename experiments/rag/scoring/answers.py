"""The answers that are judged, and what is learnt of them: how to fuse the detectors."""

from __future__ import annotations

from collections.abc import Callable
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
from experiments.protocols import Rule, Scorer, Scores, Words
from experiments.rag.detectors import DETECTORS, FUSED
from experiments.rag.inference.params import TIERS
from experiments.rag.scoring.params import RagScore
from harness.stage import BadInput

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
    readings: pd.DataFrame
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
        """Each detector's score of every answer, for which nothing was learnt."""
        return {str(name): self.readings[name].to_numpy(np.float64) for name in self.readings}

    def take(self, rows: Ints) -> Answers:
        """Some of them."""
        return Answers(self.frame.iloc[rows], self.readings.iloc[rows])

    def relabelled(self, source: Ints) -> Answers:
        """Each with another's label."""
        return replace(self, frame=self.frame.assign(label=self.labels[source]))


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
    readings = pd.DataFrame({name: score for name, score in scored.items() if score is not None})
    if readings.empty and len(frame):
        raise BadInput(f"the records hold no reading of any detector: no column {', '.join(f'{n}_…' for n in scored)}")
    return Answers(frame, readings)


def rule(answers: Answers, params: RagScore) -> Rule:
    """How every detector's scores are called: by the threshold given for the one chosen, the F1-best for the others."""
    thresholds: dict[str, float | None] = dict.fromkeys(names(answers))
    if params.detector in thresholds and params.threshold != "auto":
        thresholds[params.detector] = float(params.threshold)
    return Rule(thresholds, params.folds, params.fold_seed)


def names(answers: Answers) -> list[str]:
    """The detectors that there are; one alone is nothing to fuse."""
    single = [str(name) for name in answers.readings]
    return [*single, FUSED] if len(single) > 1 else single


def fit(train: Answers, params: RagScore) -> Scorer[Answers]:
    """Learn to fuse from some answers; the function returned gives every detector's score of any answers."""
    statistics.require_two_classes(train.labels)
    fuse = _FUSIONS[params.fusion](train.readings, train.labels) if FUSED in names(train) else None

    def detect(answers: Answers) -> Scores:
        if fuse is None:
            return answers.scores
        whole = answers.readings.notna().all(axis=1).to_numpy()  # a fused score needs every detector's
        fused = np.full(len(whole), np.nan)
        fused[whole] = fuse(answers.readings[whole]) if whole.any() else 0.0
        return {**answers.scores, FUSED: fused}

    return detect


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
