"""Search spaces: what a sweep varies, what it aims at, checked against the stage before any model loads."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import yaml
from pydantic import Field, ValidationError

from harness.measuring import cost
from harness.stage import BadInput, Params, Stage, one_line, rule, suggest

FOLDER = Path(__file__).parents[2] / "search_spaces"
SAMPLERS = ("tpe", "gp", "cmaes", "qmc", "random", "grid", "nsga2")
_PARTS = ("stage", "fields", "objectives", "constraints", "sampler", "inner")
_RANGE = ("low", "high", "step", "log")
_CONSTRAINT = re.compile(r"(\w+) *(<=|>=) *(hardware|[-+.\deE]+)")

Value = bool | int | float | str


class SweepOptions(Params):
    """Settings of a sweep that are not a stage's."""

    trials: int = Field(100, ge=1, le=10**6, description="trials in all; the same command again goes on to so many")
    space: str | None = Field(None, description="a name in search_spaces/, or a .yaml file (unset: the stage's name)")
    sampler: str | None = Field(None, description=f"{', '.join(SAMPLERS)} (unset: the space's)")
    storage: str = Field("sqlite:///optuna.db", description="where Optuna keeps the study: an SQLAlchemy address")
    holdout: float = Field(
        0.3, ge=0, le=0.8, description="share of the groups that no trial sees; the winner is scored on it once"
    )
    max_failure_rate: float = Field(0.5, ge=0, le=1, description="stop when more of the trials than this have failed")
    max_attempts: int = Field(3, ge=1, le=100, description="fail a trial that has so often killed its process")


@dataclass(frozen=True)
class Range:
    """From `low` to `high`, both included, in steps where `step` is set, on a log scale where `log` is."""

    low: float
    high: float
    step: float | None = None
    log: bool = False

    @property
    def whole(self) -> bool:
        """Whether its values are integers."""
        return all(isinstance(each, int) for each in (self.low, self.high, self.step or 1))

    def points(self) -> list[Value] | None:
        """Every value, where they can be counted."""
        step = self.step or (1 if self.whole and not self.log else None)
        if step is None:
            return None
        count = math.floor((self.high - self.low) / step + 1e-9) + 1
        # Rounded, so that 0.2 + 2 * 0.2 is the 0.6 that a user would type.
        return [self.low + i * step if self.whole else round(self.low + i * step, 12) for i in range(count)]


@dataclass(frozen=True)
class Constraint:
    """A metric's bound, from above or below."""

    metric: str
    at_most: bool
    bound: float

    def excess(self, value: float) -> float:
        """How far a value lies beyond the bound: feasible at 0 and below."""
        return value - self.bound if self.at_most else self.bound - value

    def __str__(self) -> str:
        return f"{self.metric} {'<=' if self.at_most else '>='} {self.bound:g}"


@dataclass(frozen=True)
class Space:
    """What a sweep varies (ranges and choices), holds fixed, aims at (metric -> direction), and how it searches.

    While settings of inference vary, each of them is kept for `inner` trials that vary the rest.
    """

    name: str
    searched: dict[str, Range | tuple[Value, ...]]
    fixed: dict[str, Value]
    objectives: dict[str, str]
    constraints: tuple[Constraint, ...]
    sampler: str
    options: dict[str, Value]
    inner: int
    text: str = ""  # the file it was read from

    @property
    def digest(self) -> str:
        """Of everything that decides which trials are asked for."""
        decides = {name: value for name, value in vars(self).items() if name != "text"}
        return hashlib.sha256(json.dumps(decides, default=vars, sort_keys=True).encode()).hexdigest()

    def grid(self, slow: frozenset[str]) -> Iterator[dict[str, Value]]:
        """Every point, the `slow` fields varying in the outer loops."""
        names = sorted(self.searched, key=lambda name: name not in slow)
        axes = [_points(self.searched[name]) or [] for name in names]
        return (dict(zip(names, point, strict=True)) for point in itertools.product(*axes))

    def size(self) -> int | None:
        """How many points there are; None where a range is continuous."""
        counts = [_points(each) for each in self.searched.values()]
        return None if None in counts else math.prod(len(each or ()) for each in counts)


def _points(field: Range | tuple[Value, ...]) -> list[Value] | None:
    return field.points() if isinstance(field, Range) else list(field)


def load(name: str | None, stage: Stage[Any, Any], bounds: Mapping[str, float], sampler: str | None = None) -> Space:
    """Read a space: a file, or a name in search_spaces/; BadInput names file, line, value and what is allowed.

    `bounds` are what a constraint means by `hardware`, by the metric that it bounds.
    """
    path = _find(name or stage.name)
    try:
        text = path.read_text()
        node, content = yaml.compose(text), yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BadInput(f"space {path}: cannot be read: {one_line(error)}") from error
    reader = _Reader(path, node, stage)
    if not isinstance(content, dict):
        reader.fail((), "holds no mapping of " + ", ".join(_PARTS))
    for part in content:
        if part not in _PARTS:
            reader.fail((part,), f"{part} is not a part of a space; {', '.join(_PARTS)} are")
    if content.get("stage") != stage.name:
        reader.fail(("stage",), f"stage = {content.get('stage')}: the sweep is of {stage.name}")
    searched, fixed = reader.fields(content.get("fields") or {})
    objectives = reader.objectives(content.get("objectives") or {})
    constraints = tuple(reader.constraints(content.get("constraints") or [], bounds))
    how = content.get("sampler") or {"name": "tpe"}
    how = {"name": how} if isinstance(how, str) else how
    if not isinstance(how, dict):
        reader.fail(("sampler",), f"sampler = {how}: must be a name, or a mapping of name and options")
    chosen = sampler or how.get("name")
    if chosen not in SAMPLERS:
        where = "--sampler" if sampler else f"{path.name}, line {reader.line(('sampler',))}: sampler"
        raise BadInput(f"space {where} = {chosen}: must be {' or '.join(SAMPLERS)}")
    options = {key: value for key, value in how.items() if key != "name"} if chosen == how.get("name") else {}
    inner = content.get("inner", 10)
    if not isinstance(inner, int) or inner < 1:
        reader.fail(("inner",), f"inner = {inner}: must be a whole number of at least 1")
    space = Space(path.stem, searched, fixed, objectives, constraints, str(chosen), options, inner, text)
    if chosen == "grid" and space.size() is None:
        name = next(name for name, values in searched.items() if _points(values) is None)
        reader.fail(("fields", name), f"{name}: a grid needs a step, or a list of values")
    return space


def _find(name: str) -> Path:
    if (path := Path(name).expanduser()).suffix in {".yaml", ".yml"}:
        return path
    known = sorted(path.stem for path in FOLDER.glob("*.yaml"))
    if name not in known:
        raise BadInput(f"space = {name}: no such search space, nor a .yaml file; {suggest(name, known)}")
    return FOLDER / f"{name}.yaml"


class _Reader:
    """Checks the parts of one file against a stage; every fault names its line."""

    def __init__(self, path: Path, node: Any, stage: Stage[Any, Any]) -> None:
        self._path, self._node, self._stage = path, node, stage
        models: tuple[type[Params], ...] = (stage.infer_params, stage.score_params)
        self._models = {name: model for model in models for name in model.model_fields}
        self._decide = {name: what for model in models for name, what in model.yardstick().items()}
        self._directions = {metric.name: metric.direction for metric in stage.metrics} | cost.directions()

    def fail(self, place: tuple[Any, ...], message: str) -> NoReturn:
        """Raise BadInput that names the line of a place."""
        raise BadInput(f"space {self._path.name}, line {self.line(place)}: {message}")

    def line(self, place: tuple[Any, ...]) -> int:
        """The line, from 1, of the innermost part of `place` that the file has."""
        node, line = self._node, 1
        for step in place:
            if isinstance(node, yaml.MappingNode):
                pairs = [(key, value) for key, value in node.value if key.value == str(step)]
                if not pairs:
                    break
                line, node = pairs[0][0].start_mark.line + 1, pairs[0][1]
            elif isinstance(node, yaml.SequenceNode) and isinstance(step, int):
                node = node.value[step]
                line = node.start_mark.line + 1
        return line

    def fields(self, content: Any) -> tuple[dict[str, Range | tuple[Value, ...]], dict[str, Value]]:
        """What is searched, and what is held fixed."""
        if not isinstance(content, dict):
            self.fail(("fields",), "fields must be a mapping of settings to a range, a list or a value")
        searched: dict[str, Range | tuple[Value, ...]] = {}
        fixed: dict[str, Value] = {}
        for name, value in content.items():
            place = ("fields", name)
            if name not in self._models:
                self.fail(place, f"{self._stage.name} has no setting {name}; {suggest(name, self._models)}")
            if name in self._decide and isinstance(value, dict | list):
                self.fail(
                    place,
                    f"{name} decides {self._decide[name]}, so its values have no common rank and cannot be searched;"
                    f" give it one value, sweep once for each (-P {name}=…), then compare",
                )
            if isinstance(value, dict):
                searched[name] = self._range(place, value)
            elif isinstance(value, list):
                searched[name] = self._choices(place, value)
            else:
                fixed[name] = self._checked(place, value)
        if not searched:
            self.fail(("fields",), "the space is empty: give at least one setting a range or a list of values")
        return searched, fixed

    def _range(self, place: tuple[str, str], content: Mapping[str, Any]) -> Range:
        name = place[1]
        for key in content:
            if key not in _RANGE:
                self.fail((*place, key), f"{name}: {key} is not a part of a range; {', '.join(_RANGE)} are")
        for key in ("low", "high"):
            if isinstance(content.get(key), bool) or not isinstance(content.get(key), int | float):
                self.fail(place, f"{name}: {key} = {content.get(key)}: a range needs numbers low and high")
            self._checked((*place, key), content[key])
        field = self._models[name].model_fields[name].annotation
        kind: type[int] | type[float] = float if float in _members(field) else int
        numbers = {key: content[key] for key in ("low", "high", "step") if isinstance(content.get(key), int | float)}
        if kind is int and any(value != int(value) for value in numbers.values()):
            self.fail(place, f"{name}: {numbers}: {name} takes whole numbers only")
        content = {**content, **{key: kind(value) for key, value in numbers.items()}}
        values = Range(content["low"], content["high"], content.get("step"), bool(content.get("log", False)))
        if values.low >= values.high:
            self.fail(place, f"{name}: low = {values.low} must be below high = {values.high}")
        if values.log and (values.step is not None or values.low <= 0):
            self.fail(place, f"{name}: a log range has no step and begins above 0")
        if values.step is not None:
            if isinstance(values.step, bool) or not isinstance(values.step, int | float) or values.step <= 0:
                self.fail((*place, "step"), f"{name}: step = {values.step}: must be a number above 0")
            self._checked((*place, "step"), values.low + values.step)
            points = values.points() or []
            if not math.isclose(float(points[-1]), values.high):
                self.fail(place, f"{name}: high = {values.high} is not low plus whole steps of {values.step}")
        return values

    def _choices(self, place: tuple[str, str], content: list[Any]) -> tuple[Value, ...]:
        if not content:
            self.fail(place, f"{place[1]}: the list is empty")
        choices: list[Value] = []
        for i, value in enumerate(content):
            choice = self._checked((*place, i), value)
            if choice in choices:
                self.fail((*place, i), f"{place[1]}: {choice} stands there twice")
            choices.append(choice)
        return tuple(choices)

    def _checked(self, place: tuple[Any, ...], value: Any) -> Value:
        """One value as its field has it, so that what means the same is the same."""
        name = place[1]
        try:
            canonical: dict[str, Value] = self._models[name].model_validate({name: value}).canonical()
            return canonical[name]
        except ValidationError as error:
            rules = [rule(fault["msg"]) for fault in error.errors() if fault["loc"][:1] == (name,)]
            self.fail(place, f"{name} = {self._models[name].shown(name, value)}: must be {' or '.join(rules)}")

    def objectives(self, content: Any) -> dict[str, str]:
        """Metric -> maximize or minimize; the first metric of the stage where none is named."""
        if not content:
            content = {self._stage.metrics[0].name: self._stage.metrics[0].direction}
        if not isinstance(content, dict):
            self.fail(("objectives",), "objectives must be a mapping of metrics to maximize or minimize")
        for name, direction in content.items():
            place = ("objectives", name)
            self._known(place, name)
            if direction not in {"maximize", "minimize"}:
                self.fail(place, f"{name} = {direction}: must be maximize or minimize")
            if self._directions[name] not in {direction, "none"}:
                self.fail(place, f"{name} = {direction}: better is to {self._directions[name]} it")
        return dict(content)

    def constraints(self, content: Any, bounds: Mapping[str, float]) -> Iterator[Constraint]:
        """The bounds that a result must keep to."""
        for i, text in enumerate(content):
            match = _CONSTRAINT.fullmatch(str(text).strip())
            if match is None:
                self.fail(("constraints", i), f"{text}: a constraint reads `peak_rss_gb <= 12` or `… <= hardware`")
            metric, sign, bound = match.groups()
            self._known(("constraints", i), metric)
            if bound == "hardware" and metric not in bounds:
                self.fail(("constraints", i), f"{text}: `hardware` is a bound of {' or '.join(bounds)} here")
            try:
                yield Constraint(metric, sign == "<=", bounds[metric] if bound == "hardware" else float(bound))
            except ValueError:
                self.fail(("constraints", i), f"{text}: {bound} is not a number")

    def _known(self, place: tuple[Any, ...], name: Any) -> None:
        if name not in self._directions:
            self.fail(place, f"{self._stage.name} has no metric {name}; {suggest(name, self._directions)}")


def _members(annotation: Any) -> set[Any]:
    """The plain types that a field's annotation allows."""
    parts = typing.get_args(annotation)
    return {annotation} if not parts else {each for part in parts for each in _members(part)}
