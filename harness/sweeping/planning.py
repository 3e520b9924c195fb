"""What is to be searched, checked as far as it can be before a model loads or anything is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import psutil

from harness.measuring import cost
from harness.running import code, run
from harness.running.settings import Plan, validate
from harness.stage import BadInput
from harness.sweeping import samplers
from harness.sweeping.space import Space, SweepOptions, load
from harness.sweeping.trial import Objective, with_settings

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


@dataclass(frozen=True)
class Sweep:
    """What is to be searched; `identity` is all that makes a study another one."""

    plan: Plan
    space: Space
    options: SweepOptions
    digests: dict[str, str]
    identity: dict[str, str]
    given: frozenset[str] = frozenset()  # settings that the command line has, which win over the space's own

    @property
    def name(self) -> str:
        """The study's name."""
        return f"{self.plan.stage.name}-{self.space.name}-{run.digest(self.identity)[:10]}"

    def settings(self) -> dict[str, Any]:
        """What the sweep holds fixed, and how it searches."""
        fixed = {name: value for name, value in self.plan.settings.items() if name not in self.space.searched}
        return (
            fixed
            | self.options.model_dump(exclude={"trials"}, exclude_none=True)
            | {"space": self.space.name, "sampler": self.space.sampler}
        )

    def tags(self) -> dict[str, str]:
        """What the run of a study and those of its trials have in common."""
        return {
            "stage": self.plan.stage.name,
            "kind": "trial",
            "study": self.name,
            "hardware": self.plan.profile.tag,
            "device": self.plan.machine.name,
        } | {f"{name}_digest": digest for name, digest in self.digests.items()}

    def filter(self) -> str:
        """What to type into MLflow's search field to see the trials."""
        return f"tags.study = '{self.name}' and tags.kind = 'trial'"

    @property
    def directions(self) -> list[Literal["minimize", "maximize"]]:
        """One an objective."""
        aims = self.space.objectives.values()
        return ["maximize" if aim == "maximize" else "minimize" for aim in aims]

    @property
    def first(self) -> tuple[str, str]:
        """The objective that is concluded by, and its direction."""
        return next(iter(self.space.objectives.items()))

    @cached_property
    def objective(self) -> Objective:
        """What trials have in common; they must yield the objectives and what constraints bound."""
        wanted = dict.fromkeys([*self.space.objectives, *(bound.metric for bound in self.space.constraints)])
        return Objective(self.plan, self.options.holdout, tuple(wanted), varied=bool(self.slow))

    @cached_property
    def distributions(self) -> dict[str, BaseDistribution]:
        """The space in Optuna's words."""
        return {name: samplers.distribution(field) for name, field in self.space.searched.items()}

    @cached_property
    def slow(self) -> frozenset[str]:
        """The searched settings that decide the records."""
        return frozenset(self.space.searched) & frozenset(self.plan.stage.infer_params.model_fields)

    @property
    def is_grid(self) -> bool:
        """Whether every point is tried."""
        return self.space.sampler == "grid"

    @property
    def total(self) -> int:
        """How many trials there will be: a grid has an end."""
        return min(self.options.trials, len(self.grid)) if self.is_grid else self.options.trials

    @cached_property
    def grid(self) -> list[dict[str, Any]]:
        """Every point of a grid, inference in the outer loops."""
        return list(self.space.grid(self.slow))


def prepare(given: Mapping[str, str], resolve: Callable[[Mapping[str, str]], Plan]) -> Sweep:
    """Check everything that can be checked before a model loads or anything is written."""
    mine = {name: value for name, value in given.items() if name in SweepOptions.model_fields}
    base = resolve({name: value for name, value in given.items() if name not in mine})
    stage = base.stage
    options = validate(SweepOptions, stage, mine, dict.fromkeys(mine, "given"))
    host_gb = round(psutil.virtual_memory().total / 2**30)
    bounds = cost.bounds(base.profile.match.device, host_gb, round(base.machine.memory_gb))
    space = load(options.space, stage, bounds, options.sampler)
    _require_fit(given, base, space, options)
    plan = with_settings(base, {name: value for name, value in space.fixed.items() if name not in given})
    _require_costs(plan, space)
    digests = _digests(plan, space)
    identity = {
        "space": space.digest,
        "data": run.digest(digests),
        "settings": run.digest({name: value for name, value in plan.settings.items() if name not in space.searched}),
        "code": code.digest(f"{stage.package}.inference", f"{stage.package}.scoring"),
        "holdout": str(options.holdout),
        "hardware": plan.profile.tag,
    }
    return Sweep(plan, space, options, digests, identity, frozenset(given))


def _digests(plan: Plan, space: Space) -> dict[str, str]:
    """What the records are made from, also where choices of the space read something else."""
    own, stage = run.input_digests(plan), plan.stage
    digests = dict(own)
    for name in space.searched.keys() & stage.infer_params.model_fields.keys():
        for i, value in enumerate(choices if isinstance(choices := space.searched[name], tuple) else ()):
            other = with_settings(plan, {name: value})
            assert other.infer is not None
            inputs = stage.inputs(other.infer)
            digests |= {f"{key}.{name}.{i}": content for key, content in inputs.items() if content != own.get(key)}
    return digests


def _require_fit(given: Mapping[str, str], base: Plan, space: Space, options: SweepOptions) -> None:
    """Refuse a space that does not go together with what was typed."""
    for name in ("report", "save_records", "profile"):
        if name in given:
            raise BadInput(f"{name} = {given[name]}: a sweep writes no such file; it logs sweep.json and trials.csv")
    if twice := [name for name in given if name in space.searched]:
        raise BadInput(f"{twice[0]} = {given[twice[0]]}: the space {space.name} searches it; give one or the other")
    decide = [name for name in space.searched if name in base.stage.infer_params.model_fields]
    if base.infer is None and decide:
        raise BadInput(f"records = {base.options.records}: {decide[0]} decides records, so it cannot be searched")
    size = space.size()
    if space.sampler == "grid" and size is not None and size > options.trials:
        raise BadInput(f"trials = {options.trials}: the grid {space.name} has {size} points; trials={size}, or random")
    samplers.sampler(space, {}, 0, 0)  # its options, too, are looked at now


def _require_costs(plan: Plan, space: Space) -> None:
    """Refuse objectives and bounds that nothing here can measure."""
    wanted, device = {*space.objectives, *(bound.metric for bound in space.constraints)}, plan.profile.match.device
    for figure in (figure for figure in cost.COSTS if figure.name in wanted):
        if plan.infer is None:
            raise BadInput(
                f"space {space.name}: {figure.name} is measured by running the model, which records= does not"
            )
        if not figure.measured_on(device):
            others = " and ".join(cost.bounds(device, 0, 0))
            raise BadInput(f"space {space.name}: {figure.name} is not measured on {plan.profile.tag}; {others} is")
