"""What a finished sweep may claim: the winner scored once on what no trial has seen, beside what it must beat."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.running.audit import Audit, audit, muted_codes
from harness.running.checks import WIDE
from harness.running.settings import Plan
from harness.stage import Audited, Finding, Progress, Report, one_line
from harness.sweeping.front import pareto, winner
from harness.sweeping.planning import Sweep
from harness.sweeping.trial import Evaluator, Trial, with_settings


@dataclass(frozen=True)
class Conclusion:
    """The winner (None: no trial finished within the constraints), its settings, and how it does on the holdout."""

    winner: Trial | None
    plan: Plan | None = None
    selection: Report | None = None
    holdout: Report | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    undefined: dict[str, str] = field(default_factory=dict)
    audit: Audit = field(default_factory=Audit)

    def as_json(self, sweep: Sweep, trials: Sequence[Trial]) -> dict[str, Any]:
        """The whole conclusion as plain JSON values; the winner's settings with the origin of each."""
        origins = dict.fromkeys(sweep.space.searched, "trial") | dict.fromkeys(
            sweep.space.fixed.keys() - sweep.given, "space"
        )
        settings = self.plan.settings if self.plan else {}
        return {
            "study": sweep.name,
            "identity": sweep.identity,
            "winner": self.winner.number if self.winner else None,
            "params": {
                name: {"value": value, "origin": origins.get(name, sweep.plan.origins[name])}
                for name, value in settings.items()
            },
            "pareto": [trial.number for trial in pareto(trials, sweep)],
            "metrics": self.metrics,
            "undefined": self.undefined,
            **self.audit.as_json(),
        }


def conclude(sweep: Sweep, trials: Sequence[Trial], evaluator: Evaluator, looks: int, progress: Progress) -> Conclusion:
    """Score the winner in full on what the trials saw, and beside the default settings on the holdout.

    `looks` counts at how many stages of the study the holdout has been looked at, this one included.
    """
    counts = {
        "trials_complete": float(sum(trial.values is not None for trial in trials)),
        "trials_failed": float(sum(trial.values is None for trial in trials)),
        "trials_infeasible": float(sum(trial.values is not None and not trial.feasible for trial in trials)),
    }
    best = winner(trials, sweep)
    if best is None or best.values is None:
        reasons = "; ".join(dict.fromkeys(trial.outcome.reason for trial in trials if trial.outcome.reason))
        broken = f"each broke one of {', '.join(map(str, sweep.space.constraints))}"
        mute = muted_codes(sweep.plan.stage, sweep.plan.options.mute)
        message = f"no trial finished within the constraints: {reasons[:500] or broken}; more trials, or a wider space"
        return Conclusion(None, metrics=counts, audit=Audit(mute=mute).adding(Finding("fail", "no_winner", message)))
    plan = with_settings(sweep.plan, best.params)
    seen, held = evaluator.records(plan, progress)
    selection = plan.stage.score(seen, plan.score)
    metrics = counts | {
        f"{name}_selected": value for name, value in zip(sweep.space.objectives, best.values, strict=True)
    }
    audited = audit(Audited(plan.stage, seen, selection, plan.score), plan.options.mute)
    if held is None:
        message = "holdout=0: every group took part in the search, so the best value is too good; keep some back"
        audited = audited.adding(Finding("warn", "no_holdout", message))
        return Conclusion(best, plan, selection, None, metrics, {}, audited)
    findings: list[Finding] = []
    if looks > 1:
        message = (
            f"the holdout has been looked at {looks} times while the study grew: what it says is a little too good"
        )
        findings.append(Finding("info", "holdout_seen_again", message))
    holdout = plan.stage.held_out(seen, held, plan.score)
    default = _default(sweep, evaluator, findings, progress)
    audited = audited.adding(*findings, *_doubts(sweep, holdout, default))
    metrics |= _compared(sweep, best, holdout, default)
    undefined = {
        _on_holdout(name): reason for name, reason in holdout.undefined.items() if name in sweep.space.objectives
    }
    return Conclusion(best, plan, selection, holdout, metrics, undefined, audited)


def _compared(sweep: Sweep, best: Trial, holdout: Report, default: Report) -> dict[str, float]:
    """The winner's figures on the holdout, the default settings' beside them, and what having selected it costs."""
    first = next(iter(sweep.space.objectives))
    metrics = {_on_holdout(name): holdout.metrics[name] for name in _told(sweep, holdout)}
    if first in default.metrics:
        metrics[f"{first}_default_holdout"] = default.metrics[first]
    if first in holdout.metrics and best.values is not None:
        metrics["selection_price"] = best.values[0] - holdout.metrics[first]
    return metrics


def _default(sweep: Sweep, evaluator: Evaluator, findings: list[Finding], progress: Progress) -> Report:
    """The stage's own settings, where the sweep was free to choose others, on the holdout; a finding if they fail."""
    try:
        seen, held = evaluator.records(sweep.plan, progress)
        assert held is not None
        return sweep.plan.stage.held_out(seen, held, sweep.plan.score)
    except Exception as error:  # they may be what this machine cannot run: no reason to lose the rest
        message = f"the default settings could not be scored: {one_line(error)}"
        findings.append(Finding("warn", "default_failed", message))
        return Report()


def _told(sweep: Sweep, report: Report) -> list[str]:
    """The metrics of a holdout that a reader needs: objectives with their intervals, and trivial baselines."""
    names = list(sweep.space.objectives)
    names += [f"{name}_{end}" for name in names for end in ("low", "high")]
    names += [metric.name for metric in sweep.plan.stage.metrics if metric.baseline_of in sweep.space.objectives]
    return [name for name in names if name in report.metrics]


def _on_holdout(name: str) -> str:
    stem, _, end = name.rpartition("_")
    return f"{stem}_holdout_{end}" if end in {"low", "high"} else f"{name}_holdout"


def _doubts(sweep: Sweep, holdout: Report, default: Report) -> Iterator[Finding]:
    first, direction = next(iter(sweep.space.objectives.items()))
    if first not in holdout.metrics:
        if first in holdout.undefined:
            yield Finding(
                "warn", "holdout_undefined", f"{first} on the holdout is undefined: {holdout.undefined[first]}"
            )
        return
    value, sign = holdout.metrics[first], 1 if direction == "maximize" else -1
    low, high = (holdout.metrics.get(f"{first}_{end}") for end in ("low", "high"))
    if low is not None and high is not None and high - low > WIDE:
        yield Finding(
            "warn",
            "holdout_interval_wide",
            f"on the holdout {first} is {value:.3f} with an interval from {low:.3f} to {high:.3f}: too few groups"
            " to tell settings apart by less than that; more data, or a larger holdout",
        )
    before = default.metrics.get(first)
    if before is not None and sign * (value - before) <= 0:
        yield Finding(
            "warn",
            "no_gain",
            f"on the holdout the winner's {first}, {value:.3f}, is no better than that of the default settings,"
            f" {before:.3f}: the search has gained nothing that lasts",
        )
    elif before is not None and low is not None and high is not None and low <= before <= high:
        yield Finding(
            "info",
            "gain_in_interval",
            f"on the holdout the default settings' {first}, {before:.3f}, lies in the winner's interval, {low:.3f} to"
            f" {high:.3f}",
        )
    for metric in sweep.plan.stage.metrics:
        trivial = holdout.metrics.get(metric.name)
        if metric.baseline_of == first and trivial is not None and sign * (value - trivial) <= 0:
            yield Finding(
                "warn", "trivial_baseline", f"on the holdout {metric.name} is {trivial:.3f}, the winner's {value:.3f}"
            )
