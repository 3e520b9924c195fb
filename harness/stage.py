"""The whole vocabulary of rigsweep: what a stage is and what flows through it.

infer (expensive, cached, timed) -> Records -> score (cheap, pure) -> Report -> audit -> Findings
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

import pandas as pd
from pydantic import BaseModel, ConfigDict

from harness.measuring.measure import Clock, Cost

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from harness.running.cache import Journal

Direction = Literal["maximize", "minimize", "none"]
Level = Literal["info", "warn", "fail"]
Goal = Literal["memory", "speed", "quality"]


class BadInput(ValueError):
    """Something the user can mend; its text is one line that says what, where and what is allowed."""


class Undefined(ValueError):
    """A metric that these data do not define; its text is the reason, a clause that follows "because"."""


class Params(BaseModel):
    """Settings of one half of a stage: frozen, flat, scalar, each with bounds and a description."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


def rule(message: str) -> str:
    """What pydantic's message says of a value, as a clause that follows "must be"."""
    return message.removeprefix("Input should be ").replace("String should match pattern", "text that matches", 1)


@dataclass(frozen=True)
class Metric:
    """What a number in a Report means; `chance` is what guessing reaches.

    `baseline_of` marks a trivial predictor's value of another metric, `within_of` that metric's value inside groups in
    which a confounder is constant.  Below `failed` a result is of no use, from `usable` on it is.  A metric `x` may be
    reported with the ends of its interval, `x_low` and `x_high`, and by part, as `x/part`.
    """

    name: str
    unit: str
    direction: Direction
    summary: str
    chance: float | None = None
    baseline_of: str | None = None
    within_of: str | None = None
    usable: float | None = None
    failed: float | None = None


@dataclass(frozen=True)
class Finding:
    """One sentence about whether a result may be believed, with what to do about it."""

    level: Level
    code: str
    message: str


@dataclass(frozen=True)
class Remedy:
    """A setting's value to try next, for the sake of what, and why: a clause that names the figure behind it."""

    goal: Goal
    setting: str
    value: bool | int | float | str
    why: str


@dataclass(frozen=True)
class Records:
    """What infer observed: one row an observation, what it cost to get (None: unknown), where it came from.

    `origin` is plain JSON; `counts` (name -> how many were read, kept, cut …) is there for every stage.

    A row whose column `error` is not empty could not be observed: its features are missing, and so, where `error_x` is
    not empty, are the features whose names begin with `x_`.  `evidence`, where there is such a column, is how much a
    row had to be judged by; at 0 there is nothing to observe.
    """

    frame: pd.DataFrame
    cost: Cost | None
    origin: dict[str, Any]


@dataclass(frozen=True)
class Report:
    """What score concluded.

    A metric is in `metrics` (finite) or in `undefined` (with the reason), never both.  `figures` are drawn
    only when called, so that a sweep of thousands of scores never pays for a picture.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    undefined: dict[str, str] = field(default_factory=dict)
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    figures: dict[str, Callable[[], Figure]] = field(default_factory=dict)

    def measure(self, name: str, compute: Callable[[], float]) -> None:
        """File what `compute` returns under `metrics`, or its reason for raising Undefined under `undefined`."""
        try:
            value = float(compute())
        except Undefined as reason:
            self.undefined[name] = str(reason)
            return
        if math.isfinite(value):
            self.metrics[name] = value
        else:
            self.undefined[name] = f"the computation gave {value}"


Progress = Callable[..., AbstractContextManager[Callable[..., object]]]


@dataclass(frozen=True)
class Context:
    """What infer may know of its surroundings.

    `journal` takes rows as they come and knows which units of work an interrupted run has left done.
    `with progress(total, description) as advance:` shows a bar, and `advance(n)` says that n more samples are done;
    a third argument names another unit than samples, and `advance(n, note)` shows a note beside the bar.
    """

    hardware: str
    device: str
    seed: int
    clock: Clock
    journal: Journal
    progress: Progress

    def records(self, frame: pd.DataFrame, counts: Mapping[str, int], **origin: Any) -> Records:
        """Records of these rows, with what the journal has counted and measured."""
        cost = Cost.of(self.journal.readings(), self.hardware, self.device)
        return Records(frame, cost, {"counts": dict(counts) | self.journal.counts(), **origin})


I = TypeVar("I", bound=Params)  # noqa: E741 - the letters of the design: I for infer, S for score
S = TypeVar("S", bound=Params)


@dataclass(frozen=True)
class Stage(Generic[I, S]):
    """One pipeline: an expensive model pass followed by a cheap decision.

    `inputs` digests whatever `infer` reads (name -> digest), so that a cache key follows content, not names.
    `read` imports records that another program made.  The first of `metrics` is the headline.
    `bench(device, repeats, quick, progress)` measures the stage against a named baseline: one row a case.
    `strata(frame)` gives for each row the group that no split may part, and the label that a split spreads evenly.
    `held_out(train, test, params)` learns from the one and judges on the other.  `score_many(records, params, names)`
    is `score` for many settings at once, a row each, NaN being undefined; it can give the metrics in `quick`.
    `feature_ranges` maps the prefix of feature columns to the closed range that their values must lie in.
    `remedies(settings, metrics)` lists what to try after a run with these settings and figures, the most promising
    first; what the machine cannot do, or the run has done, need not be left out.
    """

    name: str
    summary: str
    infer_params: type[I]
    score_params: type[S]
    inputs: Callable[[I], Mapping[str, str]]
    infer: Callable[[I, Context], Records]
    score: Callable[[Records, S], Report]
    metrics: tuple[Metric, ...]
    feature_ranges: Callable[[Records], Mapping[str, tuple[float, float]]]
    strata: Callable[[pd.DataFrame], tuple[pd.Series[Any], pd.Series[int]]]
    held_out: Callable[[Records, Records, S], Report]
    audits: tuple[Callable[[Records, Report, S], Iterable[Finding]], ...] = ()
    read: Callable[[Path], Records] | None = None
    bench: Callable[[str, int, bool, Progress], pd.DataFrame] | None = None
    score_many: Callable[[Records, Sequence[S], Collection[str]], pd.DataFrame] | None = None
    quick: tuple[str, ...] = ()
    remedies: Callable[[Mapping[str, Any], Mapping[str, float]], Iterable[Remedy]] = lambda settings, metrics: ()
