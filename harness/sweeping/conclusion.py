"""What a finished sweep may claim: the winner scored once on what no trial has seen, beside what it must beat."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from harness.progress import working
from harness.running.audit import Audit, audit, muted_codes
from harness.running.settings import Plan
from harness.stage import Audited, Finding, Report, one_line
from harness.sweeping.front import pareto, winner
from harness.sweeping.planning import Sweep
from harness.sweeping.trial import Evaluator, Halves, Trial, with_settings
from harness.sweeping.verdict import Verdict


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


@working("score the winner")
def conclude(
    sweep: Sweep,
    trials: Sequence[Trial],
    evaluator: Evaluator,
    look: Callable[[str], tuple[int, int]],
) -> Conclusion:
    """Score the winner in full on what the trials saw, and beside the default settings on the holdout.

    `look` notes down that rows held out are looked at, and says how often they have been, and by how many studies.
    """
    counts = {
        "trials_complete": float(sum(trial.values is not None for trial in trials)),
        "trials_failed": float(sum(trial.values is None for trial in trials)),
        "trials_infeasible": float(sum(trial.values is not None and not trial.feasible for trial in trials)),
    }
    best = winner(trials, sweep)
    if best is None or best.values is None:
        return _without_winner(sweep, trials, counts)
    plan = with_settings(sweep.plan, best.params)
    own = evaluator.records(plan)
    selection = plan.stage.score(own.seen, plan.score)
    audited = _of_the_search(audit(Audited(plan.stage, own.seen, selection, plan.score), plan.options.mute))
    metrics = _flattered(sweep, best, selection) | counts
    if own.held_out is None:
        message = "holdout=0: every group took part in the search, so the best value is too good; keep some back"
        audited = audited.adding(Finding("warn", "no_holdout", message))
        return Conclusion(best, plan, selection, None, metrics, {}, audited)
    looks = look(own.held)
    holdout = plan.stage.held_out(own.seen, own.held_out, plan.score)
    default, findings = _default(sweep, evaluator, own, holdout)
    verdict = Verdict(plan.stage, sweep.first, holdout, default)
    audited = replace(audited, all_findings=()).adding(*findings, *verdict.findings(looks), *audited.all_findings)
    shown = {_on_holdout(name): holdout.metrics[name] for name in _told(sweep, holdout)}
    metrics = shown | verdict.metrics(selection) | metrics
    undefined = {
        _on_holdout(name): reason for name, reason in holdout.undefined.items() if name in sweep.space.objectives
    }
    return Conclusion(best, plan, selection, holdout, metrics, undefined, audited)


def _without_winner(sweep: Sweep, trials: Sequence[Trial], counts: dict[str, float]) -> Conclusion:
    reasons = "; ".join(dict.fromkeys(trial.outcome.reason for trial in trials if trial.outcome.reason))
    broken = f"each broke one of {', '.join(map(str, sweep.space.constraints))}"
    mute = muted_codes(sweep.plan.stage, sweep.plan.options.mute)
    message = f"no trial finished within the constraints: {reasons[:500] or broken}; more trials, or a wider space"
    return Conclusion(None, metrics=counts, audit=Audit(mute=mute).adding(Finding("fail", "no_winner", message)))


def _of_the_search(audited: Audit) -> Audit:
    """An audit of what the search saw, whose findings are not to be taken for those of the holdout."""
    told = [
        replace(each, message=f"on what the search saw, which flatters: {each.message}")
        for each in audited.all_findings
    ]
    return replace(audited, all_findings=tuple(told))


def _flattered(sweep: Sweep, best: Trial, selection: Report) -> dict[str, float]:
    """The values that have made the winner, and their intervals, under a name that says what they are."""
    metrics = {
        f"{name}_flattered": value for name, value in zip(sweep.space.objectives, best.values or (), strict=True)
    }
    for name in sweep.space.objectives:
        for end in ("low", "high"):
            if f"{name}_{end}" in selection.metrics:
                metrics[f"{name}_flattered_{end}"] = selection.metrics[f"{name}_{end}"]
    return metrics


def _default(sweep: Sweep, evaluator: Evaluator, own: Halves, holdout: Report) -> tuple[Report, list[Finding]]:
    """The stage's own settings, where the sweep was free to choose others, on the holdout; a finding if they fail."""
    try:
        mine = evaluator.records(sweep.plan)
        assert mine.held_out is not None
        report = sweep.plan.stage.held_out(mine.seen, mine.held_out, sweep.plan.score)
    except Exception as error:  # they may be what this machine cannot run: no reason to lose the rest
        message = f"the default settings could not be scored: {one_line(error)}"
        return Report(), [Finding("warn", "default_failed", message)]
    if (mine.judged, report.judged) != (own.judged, holdout.judged):
        message = (
            "the default settings are judged on other rows or labels than the winner, so that no gain can be told;"
            " a searched setting changes the data, or what can be scored of them"
        )
        return Report(), [Finding("warn", "default_elsewhere", message)]
    return report, []


def _told(sweep: Sweep, report: Report) -> list[str]:
    """The metrics of a holdout that a reader needs: objectives with their intervals, and trivial baselines."""
    names = list(sweep.space.objectives)
    names += [f"{name}_{end}" for name in names for end in ("low", "high")]
    names += [metric.name for metric in sweep.plan.stage.metrics if metric.baseline_of in sweep.space.objectives]
    return [name for name in names if name in report.metrics]


def _on_holdout(name: str) -> str:
    stem, _, end = name.rpartition("_")
    return f"{stem}_holdout_{end}" if end in {"low", "high"} else f"{name}_holdout"
