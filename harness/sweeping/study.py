"""Studies: one coordinator asks, stores and tells in trial order; engines only evaluate.

Trials are asked for in blocks, each block seeing all blocks before it; a sampler is seeded from the study's seed and
the trial's number.  So trial k is the same whether it is asked for once, again after a kill, or in a study made anew.
The study in the store is the truth; the one in memory that samplers look at is rebuilt from it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import datetime
from functools import partial, reduce
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from harness.progress import working
from harness.running import cache
from harness.stage import BadInput, one_line
from harness.sweeping import asking
from harness.sweeping.engines import Engine
from harness.sweeping.front import better
from harness.sweeping.planning import Sweep
from harness.sweeping.samplers import Nothing
from harness.sweeping.trial import Evaluator, Outcome, Trial

VERSION = 2  # of what a study holds; a program older than a study must leave it alone


class Study:
    """The stored study of a sweep, held by this process alone."""

    def __init__(self, sweep: Sweep, stored: optuna.Study, storage: optuna.storages.BaseStorage) -> None:
        self.sweep, self.stored, self._storage = sweep, stored, storage
        self.evaluator = Evaluator(sweep.objective)
        self._id = storage.get_study_id_from_name(sweep.name)

    @property
    def parent(self) -> str | None:
        """The tracking run that the trials belong to."""
        return self.stored.user_attrs.get("parent_run")

    @parent.setter
    def parent(self, run_id: str) -> None:
        self.stored.set_user_attr("parent_run", run_id)

    def look(self, trials: int, held: str) -> tuple[int, int]:
        """Note down that the rows `held` are looked at after so many trials: how often they have been, by how many.

        All studies of the store count, whichever space they search: what is held out is the same.
        """
        mine = dict(self.stored.user_attrs.get("looks", {}))
        mine[held] = sorted({*mine.get(held, []), trials})
        self.stored.set_user_attr("looks", mine)
        looks = [study.user_attrs.get("looks", {}).get(held, []) for study in self._storage.get_all_studies()]
        return sum(map(len, looks)), sum(map(bool, looks))

    def trials(self) -> list[Trial]:
        """Every finished trial."""
        frozen = self.stored.get_trials(deepcopy=False)
        return [_finished(row) for row in frozen if row.state.is_finished()]

    def conduct(self, engine: Engine, report: Callable[[Trial], None]) -> None:
        """Run what is missing to the number of trials asked for; `report` is told of each trial as it ends."""
        sweep = self.sweep
        rows = {row.number: row for row in self.stored.get_trials(deepcopy=False)}
        finished = {number: row for number, row in rows.items() if row.state.is_finished()}
        total = sweep.total
        size = asking.block_size(sweep)
        mirror = optuna.create_study(directions=sweep.directions, sampler=Nothing())
        first = next((start for start in range(0, total, size) if not _all_in(finished, start, size)), total)
        for number in range(min(first, len(finished))):
            mirror.add_trial(finished[number])
        failed = sum(row.state == TrialState.FAIL for row in finished.values())
        before = self.trials()
        best = reduce(partial(better, sweep), before, None)
        reference = next((trial.outcome for trial in before if trial.values is not None), None)
        with working("sweep", total, "trials", min(len(finished), total)) as advance:
            advance(0, _note(sweep, best, failed))
            for start in range(first, total, size):
                block = range(start, min(start + size, total))
                asked = {number: asking.ask(sweep, mirror, number) for number in block}
                outcomes = self._evaluate(asked, rows, engine)
                for number, trial in asked.items():
                    outcome = outcomes[number].beside(reference)
                    reference = reference or (outcome if outcome.reason is None else None)
                    done = self._tell(mirror, trial, outcome, rows.get(number))
                    if number in finished:
                        continue
                    report(done)
                    failed += done.values is None
                    best = better(sweep, best, done)
                    advance(1, _note(sweep, best, failed))
                    _require_success(sweep, failed, number + 1, done)

    def _evaluate(
        self,
        asked: Mapping[int, optuna.Trial],
        rows: dict[int, FrozenTrial],
        engine: Engine,
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
                work = engine.submit(self.evaluator.evaluate, [settings[number] for number in job])
                evaluated = work.result()
            except KeyboardInterrupt:  # which is not the trial's fault
                for number in job:
                    self._attempt(rows[number], 0)
                raise
            for number, outcome in zip(job, evaluated, strict=True):
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

    def _tell(self, mirror: optuna.Study, trial: optuna.Trial, outcome: Outcome, row: FrozenTrial | None) -> Trial:
        """Tell the samplers' study and then the stored one, which takes over what samplers have noted down."""
        assert row is not None
        space, state, values = self.sweep.space, TrialState.FAIL, None
        if outcome.reason is None:
            state, values = TrialState.COMPLETE, [outcome.metrics[name] for name in space.objectives]
            for constraint in space.constraints:
                trial.set_constraint(str(constraint), constraint.excess(outcome.metrics[constraint.metric]))
        mirror.tell(trial, values, state)
        if not row.state.is_finished():
            for name, value in mirror.get_trials(deepcopy=False)[trial.number].system_attrs.items():
                self._storage.set_trial_system_attr(row._trial_id, name, value)
            if outcome.reason is not None:
                self._storage.set_trial_user_attr(row._trial_id, "reason", outcome.reason)
            self._storage.set_trial_state_values(row._trial_id, state, values)
        return _trial(row, outcome, values, trial.constraints if values else {}, datetime.now())


def _jobs(sweep: Sweep, settings: Mapping[int, Mapping[str, Any]]) -> list[list[int]]:
    """Trials to evaluate at once: those of one inference where scoring many is quick, else each by itself."""
    if not sweep.objective.quick:
        return [[number] for number in settings]
    by_inference: dict[str, list[int]] = {}
    for number, values in settings.items():
        by_inference.setdefault(str([values[name] for name in sorted(sweep.slow)]), []).append(number)
    return list(by_inference.values())


def _all_in(finished: Mapping[int, Any], start: int, size: int) -> bool:
    return all(number in finished for number in range(start, start + size))


def _note(sweep: Sweep, best: Trial | None, failed: int) -> str:
    name = next(iter(sweep.space.objectives))
    text = f"best {name} {best.values[0]:.4f} (flattered)" if best and best.values else f"no {name} yet"
    return text + (f", {failed} failed" if failed else "")


def _require_success(sweep: Sweep, failed: int, done: int, last: Trial) -> None:
    """Stop where most trials fail: something other than their settings is wrong."""
    if done >= 10 and failed > sweep.options.max_failure_rate * done:
        raise BadInput(
            f"sweep: {failed} of {done} trials failed, more than max_failure_rate = {sweep.options.max_failure_rate};"
            f" the last: {last.outcome.reason}; what finished is kept, and a larger max_failure_rate goes on"
        )


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
            sampler=Nothing(),
            directions=sweep.directions,
            load_if_exists=True,
        )
        if study.user_attrs.get("version", VERSION) > VERSION:
            raise BadInput(f"study {sweep.name}: made by a newer version of rigsweep, which alone can go on with it")
        if sweep.name not in names:
            with asking.quiet():
                study.set_metric_names(list(sweep.space.objectives))
            study.set_user_attr("version", VERSION)
            study.set_user_attr("identity", sweep.identity)
        yield Study(sweep, study, storage), why


@working("open the study's store")
def _storage(address: str) -> tuple[optuna.storages.BaseStorage, Path]:
    """The store, and a path beside it for locks; BadInput where it cannot be opened."""
    try:
        url = make_url(address)
        options = {"pool_pre_ping": True} if url.get_backend_name() != "sqlite" else {}
        storage = optuna.storages.RDBStorage(address, engine_kwargs=options)
    except (SQLAlchemyError, RuntimeError, ImportError, OSError) as error:
        raise BadInput(f"storage = {address}: cannot be opened: {one_line(error)[:300]}") from error
    local = url.get_backend_name() == "sqlite" and url.database
    return storage, Path(str(url.database)).absolute() if local else cache.folder() / "studies"


def _changed(sweep: Sweep, before: optuna.Study) -> str:
    identity = before.user_attrs.get("identity", {})
    changed = [name for name, value in sweep.identity.items() if identity.get(name) != value]
    return f"a new study, for since {before.study_name} there is a change of {', '.join(changed) or 'version'}"


def _plain(trial: optuna.Trial | FrozenTrial) -> dict[str, Any]:
    """Parameters without the last digits that steps leave: 0.6 for 0.6000000000000001."""
    kinds = trial.distributions.items()
    steps = {name for name, kind in kinds if isinstance(kind, FloatDistribution) and kind.step}
    return {name: round(value, 12) if name in steps else value for name, value in trial.params.items()}


def _finished(row: FrozenTrial) -> Trial:
    complete = row.state == TrialState.COMPLETE
    values, excesses = (row.values, row.constraints) if complete else (None, {})
    outcome = Outcome(**json.loads(row.user_attrs["outcome"]))
    outcome = replace(outcome, reason=row.user_attrs.get("reason"))  # it may lie in the trials before
    return _trial(row, outcome, values, excesses, row.datetime_complete)


def _trial(
    row: FrozenTrial,
    outcome: Outcome,
    values: Sequence[float] | None,
    excesses: Mapping[str, float],
    ended: datetime | None,
) -> Trial:
    began, over = (moment.timestamp() if moment else time.time() for moment in (row.datetime_start, ended))
    return Trial(row.number, _plain(row), outcome, tuple(values) if values else None, dict(excesses), began, over)
