"""The settings of one configuration: what may be given, and what is in force."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from pydantic import Field, ValidationError

from harness.running import hardware
from harness.running.audit import muted_codes
from harness.stage import BadInput, Params, Stage, rule, suggest

P = TypeVar("P", bound=Params)


class RunOptions(Params):
    """Settings of a run that no stage knows."""

    records: str | None = Field(
        None,
        description="score these records, no model runs: a parquet of save_records, the id of a tracked run, or a file"
        " or folder of features that the stage can import",
    )
    save_records: str | None = Field(None, description="write the records to this parquet file")
    save_detector: str | None = Field(
        None, description="write the detector, learnt from all that has a label, to this JSON file (detect)"
    )
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
        """Every setting in force by name, inference before scoring, canonical; what was left unset is missing."""
        values = (self.infer.canonical() if self.infer else {}) | self.score.canonical()
        values |= {"records": self.options.records, "seed": self.options.seed}
        return {name: value for name, value in values.items() if value is not None}


def resolve(stage: Stage[Any, Any], given: Mapping[str, Any], profiles: list[hardware.Profile]) -> Plan:
    """Settle every setting: what was given, before the hardware profile's default, before the stage's.

    Raises BadInput with one line for an unknown name, a value that its field forbids, or a clash.
    """
    models: tuple[type[Params], ...] = (RunOptions, stage.infer_params, stage.score_params)
    known = {name: model for model in models for name in model.model_fields}
    for name in given:
        if name not in known:
            raise BadInput(f"{stage.name} has no setting {name}; {suggest(name, known)}")
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


def validate(model: type[P], stage: Stage[Any, Any], values: Mapping[str, Any], origins: Mapping[str, str]) -> P:
    """The model made of those values that it has a field for; BadInput names the first that its field forbids."""
    try:
        return model.model_validate({name: value for name, value in values.items() if name in model.model_fields})
    except ValidationError as error:
        faults = error.errors(include_url=False)
        name = str(faults[0]["loc"][0])
        rules = [rule(fault["msg"]) for fault in faults if fault["loc"][0] == name]
        allowed = f"must be {' or '.join(rules)}"  # a field may allow a word or a number: each has its own fault
        raise BadInput(
            f"{stage.name}: {name} = {model.shown(name, values[name])} ({origins[name]}): {allowed}"
        ) from None
