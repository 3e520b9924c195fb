"""What to try after a run: the remedies of its stage that its figures call for and its machine allows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from harness.measuring import cost
from harness.running.hardware import Profile
from harness.stage import BadInput, Goal, Remedy, Stage, one_line

_FULL = 0.85  # of the memory: beyond this share a longer input may not fit
_GOOD = 0.8  # of the way from guessing to perfect
_OUT_OF_MEMORY = (  # as torch says it of a GPU and of the processor, Python, the kernel, joblib and CUDA's libraries
    "out of memory", "memoryerror", "allocate memory", "unable to allocate", "killed", "sigkill", "alloc_failed",
)  # fmt: skip
_TOO_SLOW = "no reply within"  # as it is said of an endpoint


@dataclass(frozen=True)
class Past:
    """What is known of a tracked run: its settings in force, metrics, why it failed if so, the memory it had.

    `inferred` is false where it scored the records of another run, whose speed and memory are not its own.
    """

    settings: Mapping[str, Any]
    metrics: Mapping[str, float]
    error: str
    memory_gb: float | None
    inferred: bool = True


def past(
    stage: Stage[Any, Any], params: Mapping[str, str], metrics: Mapping[str, float], tags: Mapping[str, str]
) -> Past:
    """A run from what a tracking store holds of it; settings that are not a stage's are left out."""
    settings: dict[str, Any] = {}
    for model in (stage.infer_params, stage.score_params):
        known = {name: value for name, value in params.items() if name in model.model_fields}
        settings |= model.model_validate(known).model_dump()
    memory = tags.get("memory_gb")
    return Past(settings, metrics, tags.get("error", ""), float(memory) if memory else None, "records" not in params)


def advise(stage: Stage[Any, Any], run: Past, profile: Profile) -> dict[Goal, tuple[str, list[Remedy]]]:
    """By goal, in order of urgency: the figure that calls for something, and what to try, the first thing first.

    Left out is what the run has done already, what its machine cannot do, and what the stage does not allow.
    """
    needs = dict(_needs(stage, run))
    advice: dict[Goal, tuple[str, list[Remedy]]] = {goal: (need, []) for goal, need in needs.items()}
    for remedy in stage.remedies(run.settings, run.metrics):
        if remedy.goal in needs and _possible(stage, run, profile, remedy):
            tried = advice[remedy.goal][1]
            if remedy.setting not in {other.setting for other in tried}:
                tried.append(remedy)
    return advice


def _needs(stage: Stage[Any, Any], run: Past) -> Iterator[tuple[Goal, str]]:
    if run.inferred:
        yield from _needs_of_inference(run)
    yield from _needs_of_scoring(stage, run)


def _needs_of_inference(run: Past) -> Iterator[tuple[Goal, str]]:
    if any(words in run.error.lower() for words in _OUT_OF_MEMORY):
        yield "memory", f"it failed: {one_line(run.error)[:200]}"
    elif run.memory_gb:
        known = [figure for figure in cost.COSTS if figure.name in run.metrics]
        of_device, of_host = ([peak.name for peak in known if peak.bound == bound] for bound in ("device", "host"))
        peak = max(of_device or of_host, key=lambda name: run.metrics[name], default=None)
        if peak and run.metrics[peak] > _FULL * run.memory_gb:
            yield "memory", f"{peak} {run.metrics[peak]:.1f} of {run.memory_gb:.1f} GiB"
    if _TOO_SLOW in run.error:
        yield "speed", f"it failed: {one_line(run.error)[:200]}"
    elif speeds := cost.speeds(run.metrics):
        yield "speed", ", ".join(f"{name} {value:,.1f}" for name, value in speeds.items())


def _needs_of_scoring(stage: Stage[Any, Any], run: Past) -> Iterator[tuple[Goal, str]]:
    headline, *others = stage.metrics
    for metric in (headline, *(metric for metric in others if metric.usable is not None)):
        value, chance = run.metrics.get(metric.name), metric.chance or 0.0
        enough = metric.usable if metric.usable is not None else chance + _GOOD * (1 - chance)
        if value is not None and metric.direction == "maximize" and value < enough:
            ends = [run.metrics.get(f"{metric.name}_{end}") for end in ("low", "high")]
            interval = f" [{ends[0]:.3f}, {ends[1]:.3f}]" if None not in ends else ""
            yield "quality", f"{metric.name} {value:.3f}{interval}"
            return


def _possible(stage: Stage[Any, Any], run: Past, profile: Profile, remedy: Remedy) -> bool:
    """Whether it is a change, the stage takes it beside the run's other settings, and the machine can do it."""
    if run.settings.get(remedy.setting) == remedy.value:
        return False
    if not run.inferred and remedy.setting in stage.infer_params.model_fields:
        return False  # the records are made, by settings unknown here
    limit = profile.cannot.get(remedy.setting)
    if limit is not None and limit.forbids(remedy.value):
        return False
    for model in (stage.infer_params, stage.score_params):
        if remedy.setting in model.model_fields:
            own = {name: value for name, value in run.settings.items() if name in model.model_fields}
            try:
                model.model_validate(own | {remedy.setting: remedy.value})
            except ValueError:
                return False
            return True
    raise BadInput(f"{stage.name}: remedies name {remedy.setting}, which is no setting of it")
