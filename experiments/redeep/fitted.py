"""What a detector of `detect` has learnt, as plain numbers: they score responses here and wherever they are taken to.

Each score comes from operations on its own response alone, so that it is the same to the last bit in any company.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from scipy.special import expit

from experiments.arrays import Floats
from experiments.protocols import Scores
from experiments.redeep.responses import Responses

SCORE = "score"  # of a response, beside which a detector may tell its parts


class _Plain(BaseModel):
    """Numbers and names that JSON keeps to the last bit."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Scale(_Plain):
    """What puts values on 0 to 1; a constant reference scales to 0, and the audit names it."""

    low: float
    width: float

    @classmethod
    def of(cls, reference: Floats) -> Self:
        """Scale so that the reference spans 0 to 1."""
        return cls(low=float(reference.min()), width=float(np.ptp(reference)))

    def __call__(self, values: Floats) -> Floats:
        """Scale values (n,)."""
        return (values - self.low) / self.width if self.width > 0 else np.zeros_like(values)


_Heads = tuple[Annotated[str, StringConstraints(pattern="^ecs_")], ...]
_Layers = tuple[Annotated[str, StringConstraints(pattern="^pks_")], ...]


class Linear(_Plain):
    """m * PKS - alpha * ECS, each a scaled sum of the chosen columns, as a mean over a response's spans."""

    kind: Literal["linear"] = "linear"
    heads: _Heads
    layers: _Layers
    ecs: Scale
    pks: Scale
    alpha: float
    m: float

    @property
    def chosen(self) -> tuple[str, ...]:
        """The columns that it has chosen."""
        return (*self.heads, *self.layers)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it reads."""
        return self.chosen

    def scaled(self, cases: Responses) -> tuple[Floats, Floats]:
        """ECS and PKS of each span (n,), as they are weighed."""
        return self.ecs(cases.ecs.sum(self.heads)), self.pks(cases.pks.sum(self.layers))

    def __call__(self, cases: Responses) -> Scores:
        """Score each response, its spans, and its ECS and PKS alone."""
        ecs, pks = self.scaled(cases)
        span = self.m * pks - self.alpha * ecs
        parts = {"span": cases.parted(span), "ecs": cases.mean(-ecs), "pks": cases.mean(pks)}
        return {SCORE: cases.mean(span), **parts}


class Logistic(_Plain):
    """A logistic regression on the aggregates of some heads and of all layers, which `floor` bounds below."""

    kind: Literal["logistic"] = "logistic"
    heads: _Heads
    layers: _Layers
    floor: float
    centre: tuple[float, ...]
    spread: tuple[float, ...]
    weights: tuple[float, ...]
    intercept: float
    chosen: tuple[()] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it reads."""
        return (*self.heads, *self.layers)

    def __call__(self, cases: Responses) -> Scores:
        """Score each response."""
        inputs = (cases.aggregates(list(self.heads), self.floor) - self.centre) / self.spread
        # Not a matrix product, which adds up a row in an order that the number of rows decides.
        weighed = np.ascontiguousarray(inputs * self.weights)
        return {SCORE: expit(weighed.sum(axis=1) + self.intercept)}


class Ensemble(_Plain):
    """The mean of a linear and a logistic detector, each put on its rank among its scores in training, ascending."""

    kind: Literal["ensemble"] = "ensemble"
    linear: Linear
    logistic: Logistic
    linear_reference: tuple[float, ...]
    logistic_reference: tuple[float, ...]
    chosen: tuple[()] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it reads."""
        return tuple(dict.fromkeys((*self.logistic.columns, *self.linear.columns)))

    def __call__(self, cases: Responses) -> Scores:
        """Score each response."""
        members = ((self.linear, self.linear_reference), (self.logistic, self.logistic_reference))
        ranks = [
            np.searchsorted(np.asarray(reference), member(cases)[SCORE], side="right") / len(reference)
            for member, reference in members
        ]
        return {SCORE: np.mean(ranks, axis=0)}


Fitted = Annotated[Linear | Logistic | Ensemble, Field(discriminator="kind")]
