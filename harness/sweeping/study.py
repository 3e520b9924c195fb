"""Sweeps: one coordinator asks, stores and tells in trial order; engines only evaluate.  The only module with optuna.

Trials are asked for in blocks, each block seeing all blocks before it; a sampler is seeded from the study's seed and
the trial's number.  So trial k is the same whether it is asked for once, again after a kill, or in a study made anew.
The study in the store is the truth; the one in memory that samplers look at is rebuilt from it.
"""

from __future__ import annotations

import importlib
import inspect
import json
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import optuna
import pandas as pd
import psutil
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState
from scipy.stats import qmc
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from harness.measuring import cost
from harness.running import cache, code, run
from harness.running.dominance import undominated
from harness.stage import BadInput, Progress
from harness.sweeping import space
from harness.sweeping.engines import Engine
from harness.sweeping.space import Range, Space, SweepOptions
from harness.sweeping.trial import Outcome, Task, evaluate, with_settings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

VERSION = 1  # of what a study holds; a program older than a study must leave it alone
_BLOCK = 50  # trials asked for at once by samplers that do not learn
_LEARNING = {"tpe", "gp", "cmaes", "nsga2"}

optuna.logging.set_verbosity(optuna.logging.WARNING)
_quiet = partial(warnings.catch_warnings, action="ignore", category=optuna.exceptions.ExperimentalWarning)


@dataclass(frozen=True)
class Sweep:
    """What is to be searched; `identity` is all that makes a study another one."""

    plan: run.Plan
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
        return ["maximize" if each == "maximize" else "minimize" for each in self.space.objectives.values()]

    @cached_property
    def task(self) -> Task:
        """What trials have in common; they must yield the objectives and what constraints bound."""
        wanted = (*self.space.objectives, *(each.metric for each in self.space.constraints))
        return Task(self.name, self.plan, self.options.holdout, wanted, apart=bool(self.slow))

    @cached_property
    def distributions(self) -> dict[str, BaseDistribution]:
        """The space in Optuna's words."""
        return {name: _distribution(field) for name, field in self.space.searched.items()}

    @cached_property
    def slow(self) -> frozenset[str]:
        """The searched settings that decide the records."""
        return frozenset(self.space.searched) & frozenset(self.plan.stage.infer_params.model_fields)

    @property
    def total(self) -> int:
        """How many trials there will be: a grid has an end."""
        return min(self.options.trials, len(self.grid)) if _is_grid(self) else self.options.trials

    @cached_property
    def grid(self) -> list[dict[str, Any]]:
        """Every point of a grid, inference in the outer loops."""
        return list(self.space.grid(self.slow))


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
        state = "failed" if self.values is None else "complete" if self.feasible else "infeasible"
        return {
            "number": self.number,
            "params": self.params,
            "metrics": self.outcome.metrics,
            "started": self.started,
            "ended": self.ended,
            "failure": self.outcome.reason,
            "tags": {"state": state},
        }

    @property
    def feasible(self) -> bool:
        """Whether it finished within every constraint."""
        return self.values is not None and all(excess <= 0 for excess in self.excesses.values())


def prepare(given: Mapping[str, str], resolve: Callable[[Mapping[str, str]], run.Plan]) -> Sweep:
    """Check everything that can be checked before a model loads or anything is written."""
    mine = {name: value for name, value in given.items() if name in SweepOptions.model_fields}
    base = resolve({name: value for name, value in given.items() if name not in mine})
    stage = base.stage
    options = run.validate(SweepOptions, stage, mine, dict.fromkeys(mine, "given"))
    host_gb = round(psutil.virtual_memory().total / 2**30)
    bounds = cost.bounds(base.profile.match.device, host_gb, round(base.machine.memory_gb))
    found = space.load(options.space, stage, bounds, options.sampler)
    for name in ("report", "save_records", "profile"):
        if name in given:
            raise BadInput(f"{name} = {given[name]}: a sweep writes no such file; it logs sweep.json and trials.csv")
    if twice := [name for name in given if name in found.searched]:
        raise BadInput(f"{twice[0]} = {given[twice[0]]}: the space {found.name} searches it; give one or the other")
    if base.infer is None and (useless := [n for n in found.searched if n in stage.infer_params.model_fields]):
        raise BadInput(f"records = {base.options.records}: {useless[0]} decides records, so it cannot be searched")
    fixed = {name: value for name, value in found.fixed.items() if name not in given}
    plan = with_settings(base, fixed)
    size = found.size()
    if found.sampler == "grid" and size is not None and size > options.trials:
        raise BadInput(f"trials = {options.trials}: the grid {found.name} has {size} points; trials={size}, or random")
    _sampler(found, {}, 0, 0)  # its options, too, are looked at now
    _require_costs(plan, found)
    digests = run.input_digests(plan)
    for name in found.searched.keys() & stage.infer_params.model_fields.keys():
        for i, value in enumerate(choices if isinstance(choices := found.searched[name], tuple) else ()):
            other = with_settings(plan, {name: value})
            assert other.infer is not None
            digests |= {
                f"{key}.{name}.{i}": each for key, each in stage.inputs(other.infer).items() if each != digests[key]
            }
    identity = {
        "space": found.digest,
        "data": run.digest(digests),
        "settings": run.digest({name: value for name, value in plan.settings.items() if name not in found.searched}),
        "code": code.digest(f"{stage.package}.inference", f"{stage.package}.scoring"),
        "holdout": str(options.holdout),
        "hardware": plan.profile.tag,
    }
    return Sweep(plan, found, options, digests, identity, frozenset(given))


def _require_costs(plan: run.Plan, found: Space) -> None:
    """Refuse objectives and bounds that nothing here can measure."""
    wanted, device = {*found.objectives, *(each.metric for each in found.constraints)}, plan.profile.match.device
    for figure in (figure for figure in cost.COSTS if figure.name in wanted):
        if plan.infer is None:
            raise BadInput(
                f"space {found.name}: {figure.name} is measured by running the model, which records= does not"
            )
        if not figure.measured_on(device):
            others = " and ".join(cost.bounds(device, 0, 0))
            raise BadInput(f"space {found.name}: {figure.name} is not measured on {plan.profile.tag}; {others} is")


class Study:
    """The stored study of a sweep, held by this process alone."""

    def __init__(self, sweep: Sweep, stored: optuna.Study, storage: optuna.storages.BaseStorage) -> None:
        self.sweep, self.stored, self._storage = sweep, stored, storage
        self._id = storage.get_study_id_from_name(sweep.name)

    @property
    def parent(self) -> str | None:
        """The tracking run that the trials belong to."""
        return self.stored.user_attrs.get("parent_run")

    @parent.setter
    def parent(self, run_id: str) -> None:
        self.stored.set_user_attr("parent_run", run_id)

    def look(self, trials: int) -> int:
        """Note down that the holdout is looked at after so many trials: at how many stages it has been."""
        stages = sorted({*self.stored.user_attrs.get("holdout_looked_at", []), trials})
        self.stored.set_user_attr("holdout_looked_at", stages)
        return len(stages)

    def trials(self) -> list[Trial]:
        """Every finished trial."""
        frozen = self.stored.get_trials(deepcopy=False)
        return [_finished(each) for each in frozen if each.state.is_finished()]

    def conduct(self, engine: Engine, progress: Progress, report: Callable[[Trial], None]) -> None:
        """Run what is missing to the number of trials asked for; `report` is told of each trial as it ends."""
        sweep = self.sweep
        rows = {each.number: each for each in self.stored.get_trials(deepcopy=False)}
        finished = {n: each for n, each in rows.items() if each.state.is_finished()}
        total = sweep.total
        size = _block_size(sweep)
        memory = optuna.create_study(directions=sweep.directions, sampler=_Nothing())
        first = next((start for start in range(0, total, size) if not _all_in(finished, start, size)), total)
        for number in range(min(first, len(finished))):
            memory.add_trial(finished[number])
        failed = sum(each.state == TrialState.FAIL for each in finished.values())
        best = _best_of(self.trials(), sweep)
        with progress(total, "sweep", "trials", min(len(finished), total)) as advance:
            advance(0, _note(sweep, best, failed))
            for start in range(first, total, size):
                block = range(start, min(start + size, total))
                asked = {number: _ask(sweep, memory, number) for number in block}
                outcomes = self._evaluate(asked, rows, engine, progress)
                for number, trial in asked.items():
                    done = self._tell(memory, trial, outcomes[number], rows.get(number))
                    if number in finished:
                        continue
                    report(done)
                    failed += done.values is None
                    best = _better(sweep, best, done)
                    advance(1, _note(sweep, best, failed))
                    _require_success(sweep, failed, number + 1, done)

    def _evaluate(
        self,
        asked: Mapping[int, optuna.Trial],
        rows: dict[int, FrozenTrial],
        engine: Engine,
        progress: Progress,
    ) -> dict[int, Outcome]:
        """Outcomes of a block: those stored already, the others from the engine, stored before anyone is told."""
        sweep, outcomes, todo = self.sweep, dict[int, Outcome](), list[int]()
        for number, trial in asked.items():
            row = rows.get(number)
            if row is None:
                rows[number] = row = self._begin(trial)
            elif row.params != trial.params:
                raise BadInput(f"study {sweep.name}: trial {number} cannot be repeated; other package versions made it")
            if "outcome" in row.user_attrs:
                outcomes[number] = Outcome(**json.loads(row.user_attrs["outcome"]))
            elif row.user_attrs["attempts"] >= sweep.options.max_attempts:
                reason = f"given up: its process has died {row.user_attrs['attempts']} times"
                self._keep(row, outcomes, Outcome(reason=reason))
            else:
                todo.append(number)
        settings = {number: _plain(asked[number]) for number in todo}
        for job in _jobs(sweep, settings):
            for number in job:
                self._attempt(rows[number], 1)
            try:
                found = engine.submit(evaluate, sweep.task, [settings[number] for number in job], progress).result()
            except KeyboardInterrupt:  # which is not the trial's fault
                for number in job:
                    self._attempt(rows[number], 0)
                raise
            for number, outcome in zip(job, found, strict=True):
                self._keep(rows[number], outcomes, outcome)
        return outcomes

    def _attempt(self, row: FrozenTrial, more: int) -> None:
        """Count, before a trial is evaluated, how often it has been begun."""
        self._storage.set_trial_user_attr(row._trial_id, "attempts", row.user_attrs["attempts"] + more)

    def _begin(self, trial: optuna.Trial) -> FrozenTrial:
        """Store a trial that is about to run, with all its parameters at once."""
        row = optuna.trial.create_trial(
            state=TrialState.RUNNING,
            params=trial.params,
            distributions=trial.distributions,
            user_attrs={"attempts": 0},
        )
        return self._storage.get_trial(self._storage.create_new_trial(self._id, template_trial=row))

    def _keep(self, row: FrozenTrial, outcomes: dict[int, Outcome], outcome: Outcome) -> None:
        outcomes[row.number] = outcome
        self._storage.set_trial_user_attr(row._trial_id, "outcome", json.dumps(asdict(outcome)))

    def _tell(self, memory: optuna.Study, trial: optuna.Trial, outcome: Outcome, row: FrozenTrial | None) -> Trial:
        """Tell the samplers' study and then the stored one, which takes over what samplers have noted down."""
        assert row is not None
        space, state, values = self.sweep.space, TrialState.FAIL, None
        if outcome.reason is None:
            state, values = TrialState.COMPLETE, [outcome.metrics[name] for name in space.objectives]
            for constraint in space.constraints:
                trial.set_constraint(str(constraint), constraint.excess(outcome.metrics[constraint.metric]))
        memory.tell(trial, values, state)
        if not row.state.is_finished():
            for name, value in memory.get_trials(deepcopy=False)[trial.number].system_attrs.items():
                self._storage.set_trial_system_attr(row._trial_id, name, value)
            if outcome.reason is not None:
                self._storage.set_trial_user_attr(row._trial_id, "reason", outcome.reason)
            self._storage.set_trial_state_values(row._trial_id, state, values)
        excesses = dict(trial.constraints) if outcome.reason is None else {}
        started = row.datetime_start.timestamp() if row.datetime_start else time.time()
        return Trial(
            row.number, _plain(row), outcome, tuple(values) if values else None, excesses, started, time.time()
        )


def _jobs(sweep: Sweep, settings: Mapping[int, Mapping[str, Any]]) -> list[list[int]]:
    """Trials to evaluate at once: those of one inference where scoring many is quick, else each by itself."""
    if not sweep.task.quick:
        return [[number] for number in settings]
    by_inference: dict[str, list[int]] = {}
    for number, values in settings.items():
        by_inference.setdefault(str([values[name] for name in sorted(sweep.slow)]), []).append(number)
    return list(by_inference.values())


@contextmanager
def opened(sweep: Sweep) -> Iterator[tuple[Study, str | None]]:
    """The study, made or found, and held; why it is a new one where the store has others of the same space."""
    storage, lock = _storage(sweep.options.storage)
    with cache.lock(lock.with_name(f"{lock.name}.{sweep.name}.lock"), f"study {sweep.name} is being run already"):
        names = optuna.get_all_study_names(storage)
        why = None
        if sweep.name not in names:
            alike = [name for name in names if name.rpartition("-")[0] == sweep.name.rpartition("-")[0]]
            why = _changed(sweep, optuna.load_study(study_name=alike[-1], storage=storage)) if alike else None
        study = optuna.create_study(
            study_name=sweep.name,
            storage=storage,
            sampler=_Nothing(),
            directions=sweep.directions,
            load_if_exists=True,
        )
        if study.user_attrs.get("version", VERSION) > VERSION:
            raise BadInput(f"study {sweep.name}: made by a newer version of rigsweep, which alone can go on with it")
        if sweep.name not in names:
            with _quiet():
                study.set_metric_names(list(sweep.space.objectives))
            study.set_user_attr("version", VERSION)
            study.set_user_attr("identity", sweep.identity)
        yield Study(sweep, study, storage), why


def _storage(address: str) -> tuple[optuna.storages.BaseStorage, Path]:
    """The store, and a path beside it for locks; BadInput where it cannot be opened."""
    try:
        url = make_url(address)
        options = {"pool_pre_ping": True} if url.get_backend_name() != "sqlite" else {}
        storage = optuna.storages.RDBStorage(address, engine_kwargs=options)
    except (SQLAlchemyError, RuntimeError, ImportError, OSError) as error:
        line = str(error).strip().splitlines()[0]
        raise BadInput(f"storage = {address}: cannot be opened: {line}") from error
    local = url.get_backend_name() == "sqlite" and url.database
    return storage, Path(str(url.database)).absolute() if local else cache.folder() / "studies"


def _changed(sweep: Sweep, before: optuna.Study) -> str:
    identity = before.user_attrs.get("identity", {})
    changed = [name for name, value in sweep.identity.items() if identity.get(name) != value]
    return f"a new study, for since {before.study_name} there is a change of {', '.join(changed) or 'version'}"


def _plain(trial: optuna.Trial | FrozenTrial) -> dict[str, Any]:
    """Parameters without the last digits that steps leave: 0.6 for 0.6000000000000001."""
    steps = {name for name, each in trial.distributions.items() if isinstance(each, FloatDistribution) and each.step}
    return {name: round(value, 12) if name in steps else value for name, value in trial.params.items()}


def _finished(frozen: FrozenTrial) -> Trial:
    outcome = Outcome(**json.loads(frozen.user_attrs["outcome"]))
    started, ended = frozen.datetime_start, frozen.datetime_complete
    return Trial(
        frozen.number,
        _plain(frozen),
        outcome,
        tuple(frozen.values) if frozen.state == TrialState.COMPLETE else None,
        dict(frozen.constraints) if frozen.state == TrialState.COMPLETE else {},
        started.timestamp() if started else 0.0,
        ended.timestamp() if ended else time.time(),
    )


# --- asking ------------------------------------------------------------------------------------------------------


class _Nothing(optuna.samplers.RandomSampler):
    """For the stored study, which is never asked."""


def _is_grid(sweep: Sweep) -> bool:
    return sweep.space.sampler == "grid"


def _block_size(sweep: Sweep) -> int:
    """Part of a study's identity, through its space: what learns is asked one by one."""
    return 1 if sweep.space.sampler in _LEARNING else _BLOCK


def _all_in(finished: Mapping[int, Any], start: int, size: int) -> bool:
    return all(number in finished for number in range(start, start + size))


def _ask(sweep: Sweep, memory: optuna.Study, number: int) -> optuna.Trial:
    """Trial `number`, decided by the study's seed, that number and the trials told so far."""
    if _is_grid(sweep):
        memory.enqueue_trial(sweep.grid[number])
        return memory.ask(sweep.distributions)
    fixed = _kept(sweep, memory, number)
    if sweep.space.sampler == "qmc":
        memory.enqueue_trial(_quasi_random(sweep, number) | fixed)
        return memory.ask(sweep.distributions)
    sampler = _sampler(sweep.space, sweep.distributions, sweep.plan.options.seed, number)
    if fixed:
        with _quiet():
            sampler = optuna.samplers.PartialFixedSampler(fixed, sampler)
    memory.sampler = sampler
    return memory.ask(sweep.distributions)


def _kept(sweep: Sweep, memory: optuna.Study, number: int) -> dict[str, Any]:
    """Settings of inference that stay for a while, as the others cost nothing to try; not if they have failed."""
    leader = number - number % sweep.space.inner
    if not sweep.slow or sweep.slow == set(sweep.distributions) or leader == number:
        return {}
    before = memory.get_trials(deepcopy=False)[leader]
    return {} if before.state == TrialState.FAIL else {name: before.params[name] for name in sweep.slow}


def _quasi_random(sweep: Sweep, number: int) -> dict[str, Any]:
    """The point of a low-discrepancy sequence, which depends on the trial's number alone."""
    kinds = {"sobol": qmc.Sobol, "halton": qmc.Halton}
    kind = kinds[str(sweep.space.options.get("qmc_type", "sobol"))]
    sequence = kind(len(sweep.distributions), scramble=True, rng=sweep.plan.options.seed)
    with warnings.catch_warnings(action="ignore"):
        unit = (sequence.fast_forward(number) if number else sequence).random(1)[0]
    return {name: _at(field, float(u)) for (name, field), u in zip(sweep.space.searched.items(), unit, strict=True)}


def _at(field: Range | tuple[Any, ...], unit: float) -> Any:
    """The value at a share of a field's way, 0 to 1."""
    points = list(field) if isinstance(field, tuple) else field.points()
    if points is not None:
        return points[min(int(unit * len(points)), len(points) - 1)]
    assert isinstance(field, Range)
    low, high = (np.log(end) if field.log else end for end in (field.low, field.high))
    value = float(np.exp(low + unit * (high - low)) if field.log else low + unit * (high - low))
    return (
        int(np.clip(round(value), field.low, field.high))
        if field.whole
        else float(np.clip(value, field.low, field.high))
    )


def _sampler(
    found: Space, distributions: Mapping[str, BaseDistribution], seed: int, number: int
) -> optuna.samplers.BaseSampler:
    """A sampler whose randomness is that of one trial."""
    kinds: dict[str, Any] = {
        "tpe": optuna.samplers.TPESampler,
        "gp": optuna.samplers.GPSampler,
        "cmaes": optuna.samplers.CmaEsSampler,
        "nsga2": optuna.samplers.NSGAIISampler,
        "random": optuna.samplers.RandomSampler,
    }
    own = {"qmc": ["qmc_type"], "grid": []}
    kind = kinds.get(found.sampler)
    ours = {"seed", "group", "constraints_func", "source_trials", "x0"}
    allowed = own[found.sampler] if kind is None else sorted(set(inspect.signature(kind).parameters) - ours)
    if unknown := [name for name in found.options if name not in allowed]:
        raise BadInput(f"space {found.name}: sampler {found.sampler} has no option {unknown[0]}; {', '.join(allowed)}")
    if found.sampler == "cmaes" and len(found.objectives) > 1:
        raise BadInput(
            f"space {found.name}: sampler cmaes has one objective; tpe, gp, nsga2, qmc and random take several"
        )
    if found.options.get("qmc_type", "sobol") not in {"sobol", "halton"}:
        raise BadInput(f"space {found.name}: qmc_type = {found.options['qmc_type']}: must be sobol or halton")
    if kind is None:
        return _Nothing()
    own_seed = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
    relative = {name: each for name, each in distributions.items() if not each.single()}
    if found.sampler != "tpe" or len(found.objectives) == 1:  # of several, TPE samples each setting by itself
        # What all trials have in common is known: finding it out anew for every trial would take longer and longer.
        kind = type(kind.__name__, (kind,), {"infer_relative_search_space": lambda *_: dict(relative)})
    try:
        sampler: optuna.samplers.BaseSampler = kind(seed=own_seed, **found.options)
    except (TypeError, ValueError, ImportError) as error:
        raise BadInput(f"space {found.name}: sampler {found.sampler}: {' '.join(str(error).split())}") from error
    return sampler


def _distribution(field: Range | tuple[Any, ...]) -> BaseDistribution:
    if isinstance(field, tuple):
        return CategoricalDistribution(field)
    if field.whole:
        return IntDistribution(int(field.low), int(field.high), log=field.log, step=int(field.step or 1))
    points = field.points()
    return FloatDistribution(field.low, float(points[-1]) if points else field.high, log=field.log, step=field.step)


# --- what has been found -----------------------------------------------------------------------------------------


def winner(trials: Sequence[Trial], sweep: Sweep) -> Trial | None:
    """The best feasible trial, the earliest on a tie; of several objectives, the knee of the front.

    The knee is the member nearest, objectives scaled to 0-1 over the front, to the point best in each.
    """
    front = pareto(trials, sweep)
    if not front:
        return None
    losses = _losses(front, sweep)
    width = np.ptp(losses, axis=0)
    scaled = (losses - losses.min(axis=0)) / np.where(width > 0, width, 1)
    return front[int((scaled**2).sum(axis=1).argmin())]


def pareto(trials: Sequence[Trial], sweep: Sweep) -> list[Trial]:
    """The feasible trials that no other beats in every objective, by number; equals keep the earliest."""
    able = [trial for trial in trials if trial.feasible]
    if not able:
        return []
    kept = undominated(_losses(able, sweep), equals=False)
    return [trial for trial, best in zip(able, kept, strict=True) if best]


def table(trials: Sequence[Trial], sweep: Sweep) -> pd.DataFrame:
    """One row a trial: number, state, parameters, metrics, why it failed."""
    front = {trial.number for trial in pareto(trials, sweep)}
    return pd.DataFrame(
        [
            {
                "trial": trial.number,
                "state": "failed" if trial.values is None else "complete" if trial.feasible else "infeasible",
                "pareto": trial.number in front,
                **{name: trial.outcome.metrics.get(name) for name in sweep.space.objectives},
                **{f"params.{name}": value for name, value in trial.params.items()},
                **trial.outcome.metrics,
                "seconds_to_score": trial.outcome.seconds,
                "reason": trial.outcome.reason,
            }
            for trial in trials
        ]
    )


def _losses(trials: Sequence[Trial], sweep: Sweep) -> np.ndarray[Any, Any]:
    signs = np.array([-1.0 if direction == "maximize" else 1.0 for direction in sweep.space.objectives.values()])
    return np.asarray(signs * np.array([trial.values for trial in trials]))


def _best_of(trials: Sequence[Trial], sweep: Sweep) -> Trial | None:
    best: Trial | None = None
    for trial in trials:
        best = _better(sweep, best, trial)
    return best


def _better(sweep: Sweep, best: Trial | None, trial: Trial) -> Trial | None:
    """The better of two in the first objective."""
    if not trial.feasible or (best is not None and _losses([trial], sweep)[0, 0] >= _losses([best], sweep)[0, 0]):
        return best
    return trial


def _note(sweep: Sweep, best: Trial | None, failed: int) -> str:
    name = next(iter(sweep.space.objectives))
    text = f"best {name} {best.values[0]:.4f}" if best and best.values else f"no {name} yet"
    return text + (f", {failed} failed" if failed else "")


def _require_success(sweep: Sweep, failed: int, done: int, last: Trial) -> None:
    """Stop where most trials fail: something other than their settings is wrong."""
    if done >= 10 and failed > sweep.options.max_failure_rate * done:
        raise BadInput(
            f"sweep: {failed} of {done} trials failed, more than max_failure_rate = {sweep.options.max_failure_rate};"
            f" the last: {last.outcome.reason}; what finished is kept, and a larger max_failure_rate goes on"
        )


# --- pictures ----------------------------------------------------------------------------------------------------


def figures(study: Study) -> dict[str, Callable[[], Figure]]:
    """Optuna's pictures of a study, as far as it has trials enough for them."""
    return {name: partial(_drawn, plot) for name, plot in _plots(study, "optuna.visualization.matplotlib").items()}


def interactive(study: Study) -> str:
    """The same pictures as one HTML page that needs no network."""
    with warnings.catch_warnings(action="ignore"):
        plots = [plot() for plot in _plots(study, "optuna.visualization").values()]
    parts = [plot.to_html(full_html=False, include_plotlyjs=i == 0) for i, plot in enumerate(plots)]
    return f"<!doctype html><meta charset=utf-8><title>{study.sweep.name}</title>" + "".join(parts)


def _plots(study: Study, module: str) -> dict[str, Callable[[], Any]]:
    drawing = importlib.import_module(module)
    sweep, complete = study.sweep, [trial for trial in study.trials() if trial.values is not None]
    if len(complete) < 2:
        return {}
    varied = [name for name in sweep.distributions if len({str(trial.params[name]) for trial in complete}) > 1]
    objectives = list(sweep.space.objectives)
    plots: dict[str, Callable[[], Any]] = {}
    for i, name in enumerate(objectives):
        aim: dict[str, Any] = {"target_name": name}
        if len(objectives) > 1:
            aim["target"] = partial(_value, i)
        plots[f"history_{name}"] = partial(drawing.plot_optimization_history, study.stored, **aim)
        if varied:
            plots[f"slices_{name}"] = partial(drawing.plot_slice, study.stored, params=varied, **aim)
        if len(varied) > 1:
            plots[f"parallel_{name}"] = partial(drawing.plot_parallel_coordinate, study.stored, params=varied, **aim)
            evaluator = optuna.importance.PedAnovaImportanceEvaluator()  # the one whose cost is linear in the trials
            plots[f"importance_{name}"] = partial(
                drawing.plot_param_importances, study.stored, evaluator=evaluator, params=varied, **aim
            )
    if len(objectives) in {2, 3}:
        plots["pareto_front"] = partial(drawing.plot_pareto_front, study.stored, target_names=objectives)
    return plots


def _value(i: int, trial: FrozenTrial) -> float:
    return float(trial.values[i])


def _drawn(plot: Callable[[], Any]) -> Figure:
    with warnings.catch_warnings(action="ignore"):  # of pictures that a few trials cannot fill
        axes = np.ravel(np.asarray(plot(), dtype=object))[0]
    figure: Figure = axes.figure
    figure.set_size_inches(11, 6)
    return figure
