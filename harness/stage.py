"""The whole vocabulary of rigsweep: what a stage is and what flows through it.

infer (expensive, cached, timed) -> Records -> score (cheap, pure) -> Report -> audit -> Findings
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict
from pydantic_core import core_schema

from harness.progress import working

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from harness.measuring.clock import Clock
    from harness.measuring.cost import Cost
    from harness.running.journal import Journal

Direction = Literal["maximize", "minimize", "none"]
Level = Literal["info", "warn", "fail"]
_MANY = 100  # names that no line can list
Goal = Literal["memory", "speed", "quality"]
Doubt = tuple[Level, str]  # about a result, with the sentence that says it
IN_SAMPLE = "in sample"  # how the name of a protocol begins that judges on what was learnt from
HELD_OUT = "held out"


class BadInput(ValueError):
    """Something the user can mend; its text is one line that says what, where and what is allowed."""


class Undefined(ValueError):
    """A metric that these data do not define; its text is the reason, a clause that follows "because"."""


def one_line(error: object) -> str:
    """A text, such as that of an error, without its line ends."""
    return " ".join(str(error).split())


def suggest(name: object, known: Iterable[str]) -> str:
    """What a user may have meant by a name that is not known, or what there is: all, unless it is a great many."""
    names = list(known)
    near = difflib.get_close_matches(str(name), names, n=1)
    listed = ", ".join(names) if len(names) < _MANY else some(names)
    return f"did you mean {near[0]}?" if near else f"there are {listed}"


def some(names: Iterable[object]) -> str:
    """The first few of some names, and how many there are besides."""
    shown = list(map(str, names))
    return ", ".join(shown[:3]) + (f" and {len(shown) - 3} more" if len(shown) > 3 else "")


class Params(BaseModel):
    """Settings of one half of a stage: frozen, flat, scalar, each with bounds and a description."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        validate_default=True,
        protected_namespaces=(),
        hide_input_in_errors=True,
    )

    def canonical(self) -> dict[str, Any]:
        """Every setting by name in the one form that digests are made of: equal settings are equal here."""
        values = self.model_dump(mode="json")
        return {name: value + 0.0 if isinstance(value, float) else value for name, value in values.items()}

    @classmethod
    def shown(cls, name: str, value: object) -> str:
        """A value of a setting as it may be told."""
        notes = cls.model_fields[name].metadata
        return next((note.form(str(value)) for note in notes if isinstance(note, Shown)), str(value))

    @classmethod
    def yardstick(cls) -> dict[str, str]:
        """The settings that decide what a result is judged on or by, and what each of them decides."""
        fields = cls.model_fields.items()
        return {name: note.what for name, field in fields for note in field.metadata if isinstance(note, Decides)}

    @property
    def judging(self) -> str:
        """The protocol in words, where these settings score: who is judged by what has learnt from whom."""
        return "nothing learnt"


@dataclass(frozen=True)
class Decides:
    """In a field's annotation: the setting decides `what`, on which or by which a result is judged.

    Results that differ in it have no common rank, and a search would choose the easiest data: no sweep may vary it.
    """

    what: str


@dataclass(frozen=True)
class Shown:
    """In a field's annotation: how a text typed for it may be told, as it may hold what nobody should see."""

    form: Callable[[str], str]


class OneOf:
    """In a field's annotation: the text must be one of these, which need not be known before the program runs."""

    def __init__(self, *choices: str) -> None:
        self.choices = choices

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        """Pydantic's schema of a Literal of the choices."""
        return core_schema.literal_schema(list(self.choices))


def rule(message: str) -> str:
    """What pydantic's message says of a value, as a clause that follows "must be"."""
    return (
        message.removeprefix("Input should be ")
        .removeprefix("Value error, ")
        .replace("String should match pattern", "text that matches", 1)
    )


@dataclass(frozen=True)
class Metric:
    """What a number in a Report means; `chance` is what guessing reaches.

    `baseline_of` marks a trivial predictor's value of another metric, `within_of` that metric's value inside groups in
    which a confounder is constant.  Below `failed` a result is of no use, from `usable` on it is.  A metric `x` may be
    reported with the ends of its interval, `x_low` and `x_high`, its p against chance, `x_p`, and by part, as `x/part`.
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
    only when called, so that a sweep of thousands of scores never pays for a picture.  `influence` says of a metric how
    much each group of what was judged moves it, from which harness.running.differences has how sure it is, and
    whether two differ.  `judged` is what only results of one rank have in common; see judged_on.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    undefined: dict[str, str] = field(default_factory=dict)
    influence: dict[str, pd.Series[float]] = field(default_factory=dict)
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    figures: dict[str, Callable[[], Figure]] = field(default_factory=dict)
    judged: str = ""

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

    def measure_ends(self, name: str, interval: Callable[[], tuple[float, float]]) -> None:
        """File both ends of the interval of a metric that is defined."""
        if name in self.metrics:
            ends = cache(interval)
            self.measure(f"{name}_low", lambda: ends()[0])
            self.measure(f"{name}_high", lambda: ends()[1])


def judged_on(protocol: str, groups: Iterable[object], labels: Iterable[object]) -> str:
    """A protocol in words, and behind a colon a digest of it and of what it has judged: rows (n,) of groups and labels.

    Neither the order of the rows nor how often all of a group are repeated, as by more trials, makes a difference.
    """
    import pandas as pd

    rows = pd.DataFrame({"group": [*groups], "label": [*labels]}).astype(str)
    shares = rows.groupby("group")["label"].value_counts(normalize=True).sort_index()
    content = [protocol, [[str(place), round(share, 9)] for place, share in shares.items()]]
    return f"{protocol}: {hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]}"


def judged_together(first: str, second: str) -> str:
    """Of two that judged_on gives, one that is the same only where both are; in the words of the first."""
    words, _, digest = first.rpartition(": ")
    return f"{words}: {hashlib.sha256(f'{digest} {second}'.encode()).hexdigest()[:16]}"


@dataclass(frozen=True)
class Audited:
    """All that an audit looks at: a stage, what it observed and concluded, by which settings, and whether anew."""

    stage: Stage[Any, Any]
    records: Records
    report: Report
    params: Any  # as the stage's score_params has them
    replayed: bool = False


@dataclass(frozen=True)
class Check:
    """One question that an audit puts to a result: what it looks for, what to do about it, and how it looks.

    `rule` gives a level and a sentence for each doubt that it has; a check without any has passed.
    """

    code: str
    title: str
    mend: str
    rule: Callable[[Audited], Iterable[Doubt]]

    def findings(self, audited: Audited) -> Iterator[Finding]:
        """What the rule has to say."""
        return (Finding(level, self.code, message) for level, message in self.rule(audited))


def check(title: str, mend: str) -> Callable[[Callable[[Audited], Iterable[Doubt]]], Check]:
    """Make a check of the rule that follows, whose name is its code."""
    return lambda rule: Check(rule.__name__, title, mend, rule)


def checks_in(module: str) -> tuple[Check, ...]:
    """The checks that a module holds, as they come in it, so that none is written and not asked."""
    return tuple(value for value in vars(import_module(module)).values() if isinstance(value, Check))


@dataclass(frozen=True)
class Context:
    """What infer may know of its surroundings.

    `journal` takes rows as they come and knows which units of work an interrupted run has left done.
    """

    hardware: str
    device: str
    seed: int
    clock: Clock
    journal: Journal


@dataclass(frozen=True)
class Late:
    """A function that is imported when it is first called, so that a command pays only for what it uses."""

    module: str
    name: str

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Call the function."""
        return self.load()(*arguments, **named)

    def load(self) -> Callable[..., Any]:
        """Import the function."""
        with working("load libraries"):
            function: Callable[..., Any] = getattr(import_module(self.module), self.name)
        return function


def load(function: Callable[..., Any]) -> None:
    """Import what stands behind a function that is late, be it one with arguments given already."""
    behind = function.func if isinstance(function, partial) else function
    if isinstance(behind, Late):
        behind.load()


def no_remedies(settings: Mapping[str, Any], metrics: Mapping[str, float]) -> tuple[Remedy, ...]:
    """What a stage advises that knows nothing to try."""
    return ()


I = TypeVar("I", bound=Params)  # noqa: E741 - the letters of the design: I for infer, S for score
S = TypeVar("S", bound=Params)


@dataclass(frozen=True)
class Detectors(Generic[S]):
    """How what a run of a stage learns outlives it, as plain JSON that scores what it has not seen.

    `learn(records, params)` learns from all that has a label, Undefined where that does not suffice; its `observed` are
    the settings by which inference must observe what is to be scored.  Those that are `free` may be others all the
    same: they change nothing but rounding, or their contents have a digest.  `apply(learnt, records)` gives one JSON
    object a case, in the order of the records, and `row` are the texts that a row of data to be scored must have.
    """

    learn: Callable[[Records, S], dict[str, Any]]
    apply: Callable[[Mapping[str, Any], Records], Iterator[dict[str, Any]]]
    row: tuple[str, ...]
    free: tuple[str, ...] = ()


@dataclass(frozen=True)
class Stage(Generic[I, S]):
    """One pipeline: an expensive model pass followed by a cheap decision.

    `package` is the package of the stage, whose `inference` decides the records together with what it imports, and
    `packages` the distributions whose versions decide them as well.
    `inputs` digests whatever `infer` reads (name -> digest), so that a cache key follows content, not names.
    `read` imports records that another program made.  The first of `metrics` is the headline.
    `benches` measure the stage against named baselines, by the name of the table: one row a case, from
    `(device, repeats, quick)`.
    `strata(frame)` gives for each row the group that no split may part, and the label that a split spreads evenly.
    `held_out(train, test, params)` learns from the one and judges on the other.  `score_many(records, params, names)`
    is `score` for many settings at once, without what takes long; it can give the metrics in `quick`.
    `feature_ranges` maps the prefix of feature columns to the closed range that their values must lie in.
    `checks()` are those of the audit that only this stage has.
    `remedies(settings, metrics)` lists what to try after a run with these settings and figures, the most promising
    first; what the machine cannot do, or the run has done, need not be left out.  `detectors` are those that `apply`
    scores new data by, where the stage has any.
    """

    name: str
    summary: str
    package: str
    packages: tuple[str, ...]
    infer_params: type[I]
    score_params: type[S]
    inputs: Callable[[I], Mapping[str, str]]
    infer: Callable[[I, Context], Records]
    score: Callable[[Records, S], Report]
    metrics: tuple[Metric, ...]
    feature_ranges: Callable[[Records], Mapping[str, tuple[float, float]]]
    strata: Callable[[pd.DataFrame], tuple[pd.Series[Any], pd.Series[int]]]
    held_out: Callable[[Records, Records, S], Report]
    checks: Callable[[], Sequence[Check]] = tuple
    read: Callable[[Path], Records] | None = None
    benches: Mapping[str, Callable[[str, int, bool], pd.DataFrame]] = field(default_factory=dict)
    score_many: Callable[[Records, Sequence[S], Collection[str]], list[Report]] | None = None
    quick: tuple[str, ...] = ()
    remedies: Callable[[Mapping[str, Any], Mapping[str, float]], Iterable[Remedy]] = no_remedies
    detectors: Detectors[S] | None = None
