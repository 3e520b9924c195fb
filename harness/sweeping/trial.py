"""One trial of a sweep: settings -> the metrics that are searched by, on the rows that a trial may see."""

from __future__ import annotations

import gc
import time
from collections.abc import Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.measuring.clock import Clock
from harness.running import run
from harness.stage import BadInput, Progress, Records, Undefined
from harness.sweeping.engines import in_fresh_process

_KEPT = 2  # inferences whose records stay in memory
_parts: dict[str, tuple[Records, Records | None]] = {}
_broken: dict[str, str] = {}  # inferences that failed, which need not be tried again for the next trial
_held: dict[str, tuple[set[Any], set[Any]]] = {}  # by study, the groups that trials have seen and those held out


@dataclass(frozen=True)
class Outcome:
    """What came of one trial: metrics, or the reason why it failed."""

    metrics: dict[str, float] = field(default_factory=dict)
    undefined: dict[str, str] = field(default_factory=dict)
    reason: str | None = None
    seconds: float = 0.0


def with_settings(plan: run.Plan, settings: Mapping[str, Any]) -> run.Plan:
    """The plan with some of its settings replaced, each checked against its field."""
    halves = {}
    for half in ("infer", "score"):
        params = getattr(plan, half)
        if params is not None:
            mine = {name: value for name, value in settings.items() if name in type(params).model_fields}
            halves[half] = type(params).model_validate(params.model_dump() | mine)
    return replace(plan, **halves)


@dataclass(frozen=True)
class Task:
    """What the trials of a study have in common: `study` is its name, which stands for its data as well.

    With `apart` every inference has a process of its own, because what it takes is to be compared.
    """

    study: str
    plan: run.Plan
    holdout: float
    wanted: tuple[str, ...]
    apart: bool

    @property
    def quality(self) -> list[str]:
        """Of what is wanted, the metrics that scoring yields; the others are costs."""
        return [name for name in self.wanted if name in {metric.name for metric in self.plan.stage.metrics}]

    @property
    def quick(self) -> bool:
        """Whether the stage can give them for many settings at once."""
        return self.plan.stage.score_many is not None and set(self.quality) <= set(self.plan.stage.quick)


def evaluate(task: Task, trials: Sequence[Mapping[str, Any]], progress: Progress) -> list[Outcome]:
    """Metrics of trials that differ from the plan by the settings given; one that fails says why and stops no other.

    Rows held out are not looked at.  Where the stage can give all that is wanted for many settings at once, it does.
    """
    plans = [with_settings(task.plan, settings) for settings in trials]
    groups: dict[str, list[int]] = {}
    for i, plan in enumerate(plans):
        groups.setdefault(plan.infer.model_dump_json() if plan.infer else "", []).append(i)
    outcomes: dict[int, Outcome] = {}
    for rows in groups.values():
        outcomes |= zip(rows, _evaluate(task, [plans[i] for i in rows], progress), strict=True)
    return [outcomes[i] for i in range(len(trials))]


def parts(task: Task, plan: run.Plan, progress: Progress) -> tuple[Records, Records | None]:
    """The plan's records, split into what trials see and what is held out (None at holdout 0)."""
    key = task.study + (plan.infer.model_dump_json() if plan.infer else "")
    if key in _broken:
        raise BadInput(_broken[key])
    if key not in _parts:
        while len(_parts) >= _KEPT:
            del _parts[next(iter(_parts))]
        try:
            records = in_fresh_process(_infer, plan) if task.apart else run.obtain(plan, progress, Clock())[0]
        except Exception as error:
            _broken[key] = _reason(error)
            raise
        _parts[key] = split(plan, records, task.holdout)
        _require_one_holdout(task, plan, *_parts[key])
    return _parts[key]


def _require_one_holdout(task: Task, plan: run.Plan, seen: Records, held: Records | None) -> None:
    """Refuse to search settings that select data: what one trial sees would be held out from another."""
    if held is None:
        return
    mine = [set(plan.stage.strata(each.frame)[0]) for each in (seen, held)]
    others = _held.setdefault(task.study, (set(), set()))
    if mine[0] & others[1] or mine[1] & others[0]:
        raise BadInput("the holdout would not be the same for all trials: a searched setting selects data; holdout=0")
    for known, more in zip(others, mine, strict=True):
        known |= more


def _infer(plan: run.Plan) -> Records:
    return run.obtain(plan, lambda *_: nullcontext(lambda *_: None), Clock(), apart=True)[0]


def split(plan: run.Plan, records: Records, holdout: float) -> tuple[Records, Records | None]:
    """Hold out a share of the groups, as many of each label; the seed of the run decides which."""
    if holdout == 0:
        return records, None
    groups, labels = plan.stage.strata(records.frame)
    by_group = labels.groupby(groups.to_numpy(), sort=True).max()
    rng = np.random.default_rng(plan.options.seed)
    held: list[Any] = []
    for _, of_label in by_group.groupby(by_group, sort=True):
        held += list(rng.permutation(of_label.index.to_numpy())[: round(holdout * len(of_label))])
    mask = groups.isin(held).to_numpy()
    if not mask.any() or mask.all():
        raise BadInput(
            f"holdout = {holdout}: {len(by_group)} groups are too few to hold some out; holdout=0 or more data"
        )
    return _only(records, ~mask), _only(records, mask)


def _only(records: Records, rows: NDArray[np.bool_]) -> Records:
    return replace(records, frame=records.frame[rows].reset_index(drop=True))


def _evaluate(task: Task, plans: list[run.Plan], progress: Progress) -> list[Outcome]:
    """Outcomes of trials that share their inference."""
    start = time.perf_counter()
    try:
        records, _ = parts(task, plans[0], progress)
        found = _score(task, records, plans)
    except Exception as error:
        gc.collect()  # what ran out of memory must not keep it from the next
        if len(plans) > 1:
            return [outcome for plan in plans for outcome in _evaluate(task, [plan], progress)]
        return [Outcome(reason=_reason(error), seconds=time.perf_counter() - start)]
    seconds = (time.perf_counter() - start) / len(plans)
    cost = records.cost.metrics() if records.cost else {}
    return [_outcome(task, metrics | cost, undefined, seconds) for metrics, undefined in found]


def _reason(error: Exception) -> str:
    if isinstance(error, BrokenProcessPool):
        return "the process of its inference was killed, most likely for want of memory"
    text = str(error) if isinstance(error, BadInput | Undefined) else f"{type(error).__name__}: {error}"
    return " ".join(text.split())[:1000]


def _score(task: Task, records: Records, plans: list[run.Plan]) -> list[tuple[dict[str, float], dict[str, str]]]:
    """Metrics, and why others are undefined, of each plan."""
    stage = plans[0].stage
    if stage.score_many is None or not task.quick:
        reports = [stage.score(records, plan.score) for plan in plans]
        return [(report.metrics, report.undefined) for report in reports]
    table = stage.score_many(records, [plan.score for plan in plans], task.quality)
    found = [{str(k): float(v) for k, v in row.items() if not np.isnan(v)} for row in table.to_dict("records")]
    # Why one is undefined only the whole score says.
    return [
        (row, {} if len(row) == len(task.quality) else stage.score(records, plan.score).undefined)
        for row, plan in zip(found, plans, strict=True)
    ]


def _outcome(task: Task, metrics: dict[str, float], undefined: dict[str, str], seconds: float) -> Outcome:
    missing = [name for name in task.wanted if name not in metrics]
    why = [f"{name} is undefined: {undefined.get(name, 'these records do not define it')}" for name in missing]
    return Outcome(metrics, undefined, "; ".join(why) or None, seconds)
