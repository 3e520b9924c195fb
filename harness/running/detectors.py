"""What a run has learnt, as one JSON file: with it other data are scored, and it says what that is worth."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from harness import __version__
from harness.progress import working
from harness.running.settings import validate
from harness.stage import BadInput, Params, Records, Report, Stage, Undefined, one_line


class _Kept(BaseModel):
    """What any stage's detector is kept with; its own parts are the stage's to check."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    stage: str
    observed: dict[str, Any] | None
    digests: dict[str, str]
    environment: dict[str, str]
    figures: dict[str, float]
    judged: str
    learnt_from: dict[str, int]
    threshold: float


class ApplyOptions(Params):
    """What `apply` takes besides the settings of inference that name the data."""

    detector: str | None = Field(None, description="what a run has learnt: the run's id, or its detector.json")
    output: str = Field("scored.jsonl", description="write one JSON object a line to this file")


@working("learn the detector that is kept")
def learnt(
    stage: Stage[Any, Any],
    params: Params,
    records: Records,
    report: Report,
    digests: Mapping[str, str],
    environment: Mapping[str, str],
) -> dict[str, Any] | None:
    """All that is needed to score other data as here, and the run's figures; None where nothing can be learnt."""
    if stage.detectors is None:
        return None
    try:
        detector = stage.detectors.learn(records, params)
    except Undefined:
        return None
    return {
        "rigsweep": __version__,
        "stage": stage.name,
        **detector,
        "scoring": params.canonical(),
        "judged": report.judged,
        "figures": report.metrics,
        "digests": {name: value for name, value in digests.items() if name != "config"},
        "environment": dict(environment),
    }


def read(path: Path) -> dict[str, Any]:
    """Read what `learnt` returned; BadInput where a file is something else."""
    try:
        content = json.loads(path.read_bytes(), parse_constant=_no_number)
        _Kept.model_validate(content)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        where = ".".join(map(str, fault["loc"])) or "it"
        raise BadInput(
            f"detector {path}: is not what a run has logged as detector.json: {where}: {fault['msg'].lower()}"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(f"detector {path}: cannot be read: {one_line(error)[:200]}") from error
    return dict(content)


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number")


def observing(stage: Stage[Any, Any], detector: Mapping[str, Any], given: Mapping[str, str]) -> dict[str, Any]:
    """The settings by which new data are observed: those of the detector, and what is given for the data.

    BadInput where a setting that decides what the detector reads is given another value.
    """
    observed = detector["observed"]
    if observed is None:
        raise BadInput(
            "the detector has learnt from records made elsewhere, so that no model is known which would observe new"
            " data as they were; records=… scores others like them"
        )
    assert stage.detectors is not None
    require_observed(stage, detector, given)
    return {**observed, **given}


def require_observed(stage: Stage[Any, Any], detector: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Refuse settings of inference, those that there are, by which other features come about than the detector's."""
    observed, free = detector["observed"] or {}, stage.detectors.free if stage.detectors else ()
    for name in sorted(settings.keys() & observed.keys() - set(free)):
        if _one_form(stage, name, settings[name]) != _one_form(stage, name, observed[name]):
            raise BadInput(
                f"{name} = {settings[name]}: the detector has learnt from what was observed with {name} ="
                f" {observed[name]}, and scores nothing else"
            )


def _one_form(stage: Stage[Any, Any], name: str, value: Any) -> Any:
    """A setting's value, typed or recorded, as equal ones are equal."""
    if name not in stage.infer_params.model_fields:  # what `auto` came to
        return str(value)
    return validate(stage.infer_params, stage, {name: value}, {name: "given"}).canonical()[name]


def require_inputs(detector: Mapping[str, Any], digests: Mapping[str, str]) -> None:
    """Refuse what was observed by another model than that of the run, where both are known; data may be others."""
    then = detector["digests"]
    for name in sorted(then.keys() & digests.keys() - {"data"}):
        if then[name] != digests[name]:
            raise BadInput(
                f"the {name} is not the one that the detector has learnt from: its digest is {digests[name][:12]}, and"
                f" was {then[name][:12]}"
            )
