"""One trial of a sweep: settings -> the metrics that are searched by, on the rows that a trial may see."""

from __future__ import annotations

import gc
import time
from collections.abc import Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.measuring.clock import Clock
from harness.progress import working
from harness.running import run
from harness.running.settings import Plan
from harness.stage import HELD_OUT, BadInput, Records, Report, Undefined, judged_on, judged_together, one_line
from harness.sweeping.engines import in_fresh_process

_OTHER_ROWS = (
    "it was judged on other rows or labels than the trials before it, so it has no rank among them: a searched setting"
    " changes the data; sweep once for each of its values, then compare"
)
_KEPT = 2  # inferences whose records stay in memory


@dataclass(frozen=True)
class Outcome:
    """What came of one trial: metrics, or the reason why it failed.

    `judged` is what it has in common with those that it may be ranked with; see harness.stage.judged_on.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    undefined: dict[str, str] = field(default_factory=dict)
    reason: str | None = None
    seconds: float = 0.0
    judged: str = ""

    def beside(self, reference: Outcome | None) -> Outcome:
        """Itself, or failed, where what it was judged on is not what the study's first success was judged on."""
        if reference is None or self.reason is not None or self.judged == reference.judged:
            return self
        return replace(self, reason=_OTHER_ROWS)


def with_settings(plan: Plan, settings: Mapping[str, Any]) -> Plan:
    """The plan with some of its settings replaced, each checked against its field."""
    halves = {}
    for half in ("infer", "score"):
        params = getattr(plan, half)
        if params is not None:
            mine = {name: value for name, value in settings.items() if name in type(params).model_fields}
            halves[half] = type(params).model_validate(params.model_dump() | mine)
    return replace(plan, **halves)


@dataclass(frozen=True)
class Trial:
    """One finished trial, as it is stored."""

    number: int
    params: dict[str, Any]
    outcome: Outcome
    values: tuple[float, ...] | None  # None: it failed
    excesses: dict[str, float]  # constraint -> how far beyond; feasible at 0 and below
    started: float
    ended: float

    def row(self) -> dict[str, Any]:
        """What its tracking run says."""
        return {
            "number": self.number,
            "params": self.params,
            "metrics": self.outcome.metrics,
            "started": self.started,
            "ended": self.ended,
            "failure": self.outcome.reason,
            "tags": {"state": self.state} | run.judged_tags(self.outcome.judged),
        }

    @property
    def state(self) -> str:
        """How it ended."""
        return "failed" if self.values is None else "complete" if self.feasible else "infeasible"

    @property
    def feasible(self) -> bool:
        """Whether it finished within every constraint."""
        return self.values is not None and all(excess <= 0 for excess in self.excesses.values())


@dataclass(frozen=True)
class Objective:
    """What the trials of a study have in common: the plan that they vary, the share held out, the metrics wanted.

    Where settings of inference are `varied`, what the cache has not is inferred in a process of its own, whose memory
    may run out.
    """

    plan: Plan
    holdout: float
    wanted: tuple[str, ...]
    varied: bool

    @property
    def quality(self) -> list[str]:
        """Of what is wanted, the metrics that scoring yields; the others are costs."""
        return [name for name in self.wanted if name in {metric.name for metric in self.plan.stage.metrics}]

    @property
    def costs(self) -> bool:
        """Whether any of what is wanted is a cost."""
        return len(self.quality) < len(self.wanted)

    @property
    def apart(self) -> bool:
        """Whether what inferences take is compared, so that only those that began alike will do."""
        return self.varied and self.costs

    @property
    def quick(self) -> bool:
        """Whether the stage can give them for many settings at once."""
        return self.plan.stage.score_many is not None and set(self.quality) <= set(self.plan.stage.quick)


@dataclass(frozen=True)
class Halves:
    """Records, split into what trials see and what is held out (None at holdout 0).

    `judged` and `held` say of which rows all of them are, and those held out.
    """

    seen: Records
    held_out: Records | None
    judged: str
    held: str


class Evaluator:
    """Evaluates trials of one objective; remembers the last records, and what has failed."""

    def __init__(self, objective: Objective) -> None:
        self.objective = objective
        self._kept: dict[str, Halves] = {}
        self._failed: dict[str, str] = {}  # inferences that need not be tried again for the next trial

    def evaluate(self, trials: Sequence[Mapping[str, Any]]) -> list[Outcome]:
        """Metrics of trials that differ from the plan by these settings; one that fails says why and stops no other.

        Rows held out are not looked at.  Where the stage can give all that is wanted for many settings at once, it
        does.
        """
        plans = [with_settings(self.objective.plan, settings) for settings in trials]
        by_inference: dict[str, list[int]] = {}
        for i, plan in enumerate(plans):
            by_inference.setdefault(_inference(plan), []).append(i)
        outcomes: dict[int, Outcome] = {}
        for places in by_inference.values():
            outcomes |= zip(places, self._of_one_inference([plans[i] for i in places]), strict=True)
        return [outcomes[i] for i in range(len(trials))]

    def records(self, plan: Plan) -> Halves:
        """The plan's records, split."""
        key = _inference(plan)
        if key in self._failed:
            raise BadInput(self._failed[key])
        if key not in self._kept:
            while len(self._kept) >= _KEPT:
                del self._kept[next(iter(self._kept))]
            try:
                records = self._obtain(plan)
            except Exception as error:
                self._failed[key] = _reason(error)
                raise
            self._kept[key] = halves(plan, records, self.objective.holdout)
        return self._kept[key]

    def _obtain(self, plan: Plan) -> Records:
        if not self.objective.varied:
            return run.obtain(plan, Clock())[0]
        apart = self.objective.apart
        return run.find(plan, Clock(), apart=apart)[2] or in_fresh_process(infer, plan, apart)

    def _of_one_inference(self, plans: list[Plan]) -> list[Outcome]:
        """Outcomes of trials that share their inference."""
        start = time.perf_counter()
        try:
            own = self.records(plans[0])
            records = own.seen
            scored = _score(self.objective, records, plans)
        except Exception as error:
            gc.collect()  # what ran out of memory must not keep it from the next
            if len(plans) > 1:
                return [outcome for plan in plans for outcome in self._of_one_inference([plan])]
            return [Outcome(reason=_reason(error), seconds=time.perf_counter() - start)]
        seconds = (time.perf_counter() - start) / len(plans)
        # Where it is not asked for, a cost may be that of an earlier run, measured in other circumstances.
        cost = records.cost.metrics() if records.cost and self.objective.costs else {}
        return [_outcome(self.objective, report, cost, seconds, own.judged) for report in scored]


def infer(plan: Plan, apart: bool) -> Records:
    """The plan's records."""
    return run.obtain(plan, Clock(), apart=apart)[0]


def _inference(plan: Plan) -> str:
    """What plans of one inference have in common."""
    return str(plan.infer.canonical()) if plan.infer else ""


def halves(plan: Plan, records: Records, holdout: float) -> Halves:
    """Records split, with what they are judged on: all of them decide that, as a holdout may happen to be alike."""
    seen, held = split(plan, records, holdout)
    words = f"{plan.score.judging}, by trials that see all but a holdout of {holdout:g} (seed {plan.options.seed})"
    whole = judged_on(words, *plan.stage.strata(records.frame))
    return Halves(seen, held, whole, judged_on(HELD_OUT, *plan.stage.strata(held.frame)) if held else "")


def split(plan: Plan, records: Records, holdout: float) -> tuple[Records, Records | None]:
    """Hold out a share of the groups, as many of each label; the seed of the run decides which."""
    if holdout == 0:
        return records, None
    groups, labels = plan.stage.strata(records.frame)
    by_group = labels.groupby(groups.to_numpy(), sort=True).max()
    rng = np.random.default_rng(plan.options.seed)
    chosen: list[Any] = []
    for _, of_label in by_group.groupby(by_group, sort=True):
        chosen += list(rng.permutation(of_label.index.to_numpy())[: round(holdout * len(of_label))])
    mask = groups.isin(chosen).to_numpy()
    if not mask.any() or mask.all():
        raise BadInput(
            f"holdout = {holdout}: {len(by_group)} groups are too few to hold some out; holdout=0 or more data"
        )
    return _only(records, ~mask), _only(records, mask)


def _only(records: Records, rows: NDArray[np.bool_]) -> Records:
    return replace(records, frame=records.frame[rows].reset_index(drop=True))


def _reason(error: Exception) -> str:
    if isinstance(error, BrokenProcessPool):
        return "the process of its inference was killed, most likely for want of memory"
    text = str(error) if isinstance(error, BadInput | Undefined) else f"{type(error).__name__}: {error}"
    return one_line(text)[:1000]


@working("score")
def _score(objective: Objective, records: Records, plans: list[Plan]) -> list[Report]:
    """What can be said of each plan, of many at once without what takes long."""
    stage, settings = plans[0].stage, [plan.score for plan in plans]
    if stage.score_many is not None and objective.quick:
        return stage.score_many(records, settings, objective.quality)
    return [stage.score(records, params) for params in settings]


def _outcome(objective: Objective, report: Report, cost: dict[str, float], seconds: float, judged: str) -> Outcome:
    """What came of a trial; judged alike are trials of the same records whose scores are of the same rows."""
    metrics = report.metrics | cost
    missing = [name for name in objective.wanted if name not in metrics]
    why = [f"{name} is undefined: {report.undefined.get(name, 'these records do not define it')}" for name in missing]
    return Outcome(metrics, report.undefined, "; ".join(why) or None, seconds, judged_together(judged, report.judged))
