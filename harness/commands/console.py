"""What a person sees while a command works, and when it has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.running.audit import Audit
    from harness.running.run import Result
    from harness.sweeping.conclusion import Conclusion
    from harness.sweeping.planning import Sweep
    from harness.sweeping.trial import Trial
    from harness.tracking.runs import Tracked


def show(result: Result, debug: bool) -> None:
    """Metrics, then findings, worst first; what the stage's own summary shows by part stands there only."""
    metrics = {name: value for name, value in result.metrics().items() if name not in result.shares}
    summary = result.report.tables.get("summary")
    print(f"\n{result.plan.stage.name} on {result.plan.machine} as {result.plan.profile.tag}")

    def summarised(name: str) -> bool:
        return summary is not None and "/" in name and name.partition("/")[0] in summary

    _show_metrics({name: value for name, value in metrics.items() if not summarised(name)})
    ends = {f"{name}_{end}" for name in metrics for end in ("low", "high")}  # told by the audit
    for name, reason in result.report.undefined.items():
        if name not in ends and not summarised(name):
            print(f"  {name:<26}    undefined  {reason}")
    if summary is not None:
        print(f"\n{summary.to_string(index=False, float_format=number, na_rep='-')}\n")
    parts = sorted(((share, name) for name, share in result.shares.items() if name.startswith("share_")), reverse=True)
    shown = ", ".join(f"{name.removeprefix('share_')} {share:.1%}" for share, name in parts)
    print(f"  of {result.shares['wall_seconds']:.1f} s: {shown}")
    show_audit(result.audit, debug)


def _show_metrics(metrics: Mapping[str, float]) -> None:
    """A line a metric, with its interval and its p where it has them."""
    for name, value in metrics.items():
        stem, _, end = name.rpartition("_")
        if not (end in {"low", "high", "p"} and stem in metrics):
            ends = [metrics[f"{name}_{end}"] for end in ("low", "high") if f"{name}_{end}" in metrics]
            interval = f"  [{', '.join(map(number, ends))}]" if ends else ""
            print(f"  {name:<26} {number(value):>12}{interval}{_p(metrics.get(f'{name}_p'))}")


def _p(value: float | None) -> str:
    """A p as far as its digits mean anything."""
    return "" if value is None else f"  p {value:.2g}" if value >= 1e-3 else "  p < 0.001"


def show_trials(planned: Sweep, trials: list[Trial]) -> None:
    """How far a sweep has come, and the best trials."""
    from harness.sweeping.front import pareto

    failed = sum(trial.values is None for trial in trials)
    more = "; the same command goes on from here" if len(trials) < planned.total else ""
    print(f"\n{len(trials)} of {planned.total} trials, {failed} failed{more}; the best of many values flatter")
    for trial in pareto(trials, planned)[:10]:
        values = ", ".join(
            f"{name} {number(value)}" for name, value in zip(planned.space.objectives, trial.values or (), strict=True)
        )
        settings = " ".join(f"{name}={value}" for name, value in trial.params.items())
        print(f"  trial {trial.number:<5} {values}  with {settings}")


def show_conclusion(conclusion: Conclusion, debug: bool) -> None:
    """What a sweep has come to, and what its audit says."""
    _show_metrics(conclusion.metrics)
    show_audit(conclusion.audit, debug)


def show_place(tracked_run: Tracked, more: str = "") -> None:
    """Where a tracked run is to be found."""
    print(f"\nrun {tracked_run.name} ({tracked_run.run_id}) in {tracked_run.store}")
    print(f"look at it: mlflow ui --backend-store-uri {tracked_run.store}{more}")


def show_audit(audit: Audit, debug: bool) -> None:
    """Findings, worst first; then what was muted, and how many checks have passed (which, where asked for)."""
    for finding in audit.findings:
        print(f"  {finding.level.upper():<4}  {finding.code}: {finding.message}")
    if muted := dict.fromkeys(f"{finding.code} ({finding.level})" for finding in audit.muted):
        print(f"  muted: {', '.join(muted)}")
    if audit.checks:
        print(f"  {len(audit.checks)} checks, {len(audit.passed)} passed")
    for check in audit.checks if debug else ():
        if check.code in audit.passed:
            print(f"    passed  {check.code}, which looks whether {check.title}")


def number(value: float) -> str:
    """Four decimals, or as many digits where those would say nothing."""
    return f"{value:.4f}" if value == 0 or abs(value) >= 1e-3 else f"{value:.3e}"
