"""One configuration from its settings to an audited result: resolve -> infer or replay -> score -> audit."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field, ValidationError

from harness.measuring.measure import Clock
from harness.running import cache, hardware, surroundings
from harness.running.audit import Audit, audit, muted_codes
from harness.running.journal import open_journal
from harness.running.records import read_records, require_sound, write_records
from harness.stage import Audited, BadInput, Context, Finding, Params, Progress, Records, Report, Stage, rule

P = TypeVar("P", bound=Params)


class RunOptions(Params):
    """Settings of a run that no stage knows."""

    records: str | None = Field(
        None,
        description="score these records, no model runs: a parquet of save_records, the id of a tracked run, or a file"
        " or folder of features that the stage can import",
    )
    save_records: str | None = Field(None, description="write the records to this parquet file")
    report: str | None = Field(None, description="write the whole report to this JSON file")
    hardware: str = Field("auto", description="hardware profile: `auto`, or the tag of a file in hardware/")
    hardware_unchecked: bool = Field(
        False, description="take the word of `hardware` for what this machine is; the run is tagged so"
    )
    seed: int = Field(0, ge=0, lt=2**32, description="seed of everything random in inference")
    cache: Literal["use", "refresh", "off"] = Field(
        "use", description="take records from the cache, measure again and replace them, or leave the cache alone"
    )
    mute: str | None = Field(
        None, description="codes of checks, with commas between, whose findings are known: they are listed apart"
    )
    profile: bool = Field(
        False, description="log a torch profiler trace of the first batches; it slows them, so the cache is left alone"
    )


@dataclass(frozen=True)
class Plan:
    """What is to be run; `origins` says for each setting where its value came from."""

    stage: Stage[Any, Any]
    options: RunOptions
    infer: Params | None  # None: records made elsewhere are scored, by settings unknown here
    score: Params
    profile: hardware.Profile
    machine: hardware.Machine
    origins: dict[str, str]

    @property
    def settings(self) -> dict[str, Any]:
        """Every setting in force by name, inference before scoring; what was left unset is missing."""
        infer = self.infer.model_dump() if self.infer else {}
        values = infer | self.score.model_dump() | self.options.model_dump(include={"records", "seed"})
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True)
class Result:
    """All there is to say about one run."""

    plan: Plan
    records: Records
    report: Report
    audit: Audit
    digests: dict[str, str]
    environment: dict[str, str]
    replayed: bool
    shares: dict[str, float]  # of this run's own wall time, replayed or not
    trace: bytes | None

    def metrics(self) -> dict[str, float]:
        """Quality, cost and what the time went into, in one flat set."""
        return self.report.metrics | (self.records.cost.metrics() if self.records.cost else {}) | self.shares

    def as_json(self) -> dict[str, Any]:
        """The whole result as plain JSON values."""
        settings, cost = self.plan.settings, self.records.cost
        return {
            "stage": self.plan.stage.name,
            "metrics": self.report.metrics,
            "undefined": self.report.undefined,
            **self.audit.as_json(),
            "params": {name: {"value": value, "origin": self.plan.origins[name]} for name, value in settings.items()},
            "cost": vars(cost) | {"samples_per_min": cost.metrics().get("samples_per_min")} if cost else None,
            "shares": self.shares,
            "counts": self.records.origin.get("counts", {}),
            "replayed": self.replayed,
            "digests": self.digests,
            "environment": self.environment,
        }


def execute(plan: Plan, progress: Progress) -> Result:
    """Run one configuration; quality is the same whether its records are fresh, cached or read from a file."""
    for name in ("report", "save_records"):
        _require_writable(name, getattr(plan.options, name))
    clock = Clock(profile=plan.options.profile)
    records, digests, replayed = obtain(plan, progress, clock)
    if plan.options.save_records:
        with clock.spending("io"):
            write_records(records, Path(plan.options.save_records).expanduser())
    with clock.spending("scoring"):
        report = plan.stage.score(records, plan.score)
        audited = audit(Audited(plan.stage, records, report, plan.score, replayed), plan.options.mute)
    if plan.options.profile and clock.trace is None:
        why = "no batch was computed in this process, so there is no trace; infer anew, with workers=1"
        audited = audited.adding(Finding("info", "no_trace", why))
    settings = {name: value for name, value in plan.settings.items() if name != "records"}
    digests = digests | {"config": digest(settings)}  # a new dict: the old one is the records' own
    environment = surroundings.environment(plan.stage, plan.machine)
    result = Result(plan, records, report, audited, digests, environment, replayed, clock.shares(), clock.trace)
    if plan.options.report:
        write_json(Path(plan.options.report).expanduser(), result.as_json())
    return result


def resolve(stage: Stage[Any, Any], given: Mapping[str, str], profiles: list[hardware.Profile]) -> Plan:
    """Settle every setting: what was given, before the hardware profile's default, before the stage's.

    Raises BadInput with one line for an unknown name, a value that its field forbids, or a clash.
    """
    models: tuple[type[Params], ...] = (RunOptions, stage.infer_params, stage.score_params)
    known = {name: model for model in models for name in model.model_fields}
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
            raise BadInput(f"{stage.name} has no setting {name}; {hint}")
    options = validate(RunOptions, stage, given, dict.fromkeys(given, "given"))
    muted_codes(stage, options.mute)  # an unknown one is refused before anything is inferred
    machine = hardware.find_machine()
    unchecked = options.hardware_unchecked
    profile = hardware.choose_profile(options.hardware, machine, profiles, unchecked=unchecked)
    defaults = profile.defaults.get(stage.name, {})
    if unknown := [name for name in defaults if name not in known or name in RunOptions.model_fields]:
        raise BadInput(f"hardware profile {profile.tag}: defaults: {stage.name} has no setting {unknown[0]}")
    origins = dict.fromkeys(known, "default")
    origins |= dict.fromkeys(defaults, f"hardware {profile.tag}") | dict.fromkeys(given, "given")
    infer = validate(stage.infer_params, stage, defaults | dict(given), origins)
    score = validate(stage.score_params, stage, defaults | dict(given), origins)
    profile.require(infer.model_dump() | score.model_dump(), origins)
    if options.records:
        if useless := [name for name in given if name in stage.infer_params.model_fields]:
            raise BadInput(
                f"{useless[0]} = {given[useless[0]]} cannot change records={options.records}, which are scored as they"
                " are; leave out one of the two"
            )
        return Plan(stage, options, None, score, profile, machine, origins)
    return Plan(stage, options, infer, score, profile, machine, origins)


def write_json(path: Path, content: Any) -> None:
    """Write indented JSON; BadInput where the place does not allow it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")
    except OSError as error:
        raise BadInput(f"report = {path}: cannot be written: {error.strerror}") from error


def obtain(
    plan: Plan, progress: Progress, clock: Clock, *, apart: bool = False
) -> tuple[Records, dict[str, str], bool]:
    """Read, replay or infer: the records, the digests of what they were made from, whether they are a replay."""
    use = "off" if plan.options.profile else plan.options.cache
    if plan.infer is None:
        with clock.spending("io"):
            records, digests = _read(plan.stage, Path(str(plan.options.records)).expanduser())
            require_sound(records)
        return records, digests, True
    with clock.spending("setup"):  # libraries are imported on the way
        digests = dict(plan.stage.inputs(plan.infer))
        deciding = surroundings.deciding(plan.stage, plan.profile.tag, plan.machine)
        deciding |= {"process": "of its own"} if apart else {}  # whose memory is less
        name = cache.key(plan.stage, plan.infer, digests, plan.options.seed, deciding)
    with clock.spending("io"):
        if use == "use" and (kept := cache.find(name)):
            return kept, digests, True
    plan.profile.apply()
    with open_journal(None if use == "off" else name, fresh=use == "refresh") as journal, clock.sampling():
        context = Context(plan.profile.tag, plan.profile.match.device, plan.options.seed, clock, journal, progress)
        records = plan.stage.infer(plan.infer, context)
        require_sound(records)
        records.origin.update(infer=plan.infer.model_dump(), digests=digests)
        if use != "off":
            with clock.spending("io"):
                cache.keep(name, records)
    return records, digests, False


def input_digests(plan: Plan) -> dict[str, str]:
    """What a run's records are made from, or were, by name."""
    if plan.infer is None:
        return _read(plan.stage, Path(str(plan.options.records)).expanduser())[1]
    return dict(plan.stage.inputs(plan.infer))


def _read(stage: Stage[Any, Any], path: Path) -> tuple[Records, dict[str, str]]:
    if not path.exists():
        raise BadInput(f"records = {path}: no such file; a parquet of save_records, or features made elsewhere")
    if path.suffix == ".parquet":
        records = read_records(path)
    elif stage.read is not None:
        records = stage.read(path)
    else:
        raise BadInput(f"records = {path}: {stage.name} reads parquet files only")
    return records, records.origin.get("digests") or {"data": _content(path)}


def _content(path: Path) -> str:
    """SHA-256 of a file, or over the names and contents of the files in a folder."""
    if path.is_dir():
        files = sorted(each for each in path.iterdir() if each.is_file())
        return digest([[file.name, _content(file)] for file in files])
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _require_writable(name: str, path: str | None) -> None:
    """Refuse a place that cannot be written to before hours of inference, not after."""
    if path is None:
        return
    target = Path(path).expanduser().absolute()
    folder = next(parent for parent in target.parents if parent.exists())
    if target.is_dir() or not folder.is_dir() or not os.access(target if target.exists() else folder, os.W_OK):
        raise BadInput(f"{name} = {path}: cannot be written; a file in a folder that allows it is needed")


def validate(model: type[P], stage: Stage[Any, Any], values: Mapping[str, Any], origins: Mapping[str, str]) -> P:
    """The model made of those values that it has a field for; BadInput names the first that its field forbids."""
    try:
        return model.model_validate({name: value for name, value in values.items() if name in model.model_fields})
    except ValidationError as error:
        faults = error.errors(include_url=False)
        name = str(faults[0]["loc"][0])
        rules = [rule(fault["msg"]) for fault in faults if fault["loc"][0] == name]
        allowed = f"must be {' or '.join(rules)}"  # a field may allow a word or a number: each has its own fault
        raise BadInput(f"{stage.name}: {name} = {values[name]} ({origins[name]}): {allowed}") from error


def digest(content: Any) -> str:
    """SHA-256 of plain JSON values."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
