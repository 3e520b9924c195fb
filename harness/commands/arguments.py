"""What may be typed: one option a field of Params; nothing is declared twice."""

from __future__ import annotations

import argparse
import re
import types
import typing
from collections import ChainMap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from pydantic.fields import FieldInfo

from harness.running.detectors import ApplyOptions
from harness.running.settings import RunOptions
from harness.stage import BadInput, OneOf, Params, Stage, suggest
from harness.sweeping.space import SweepOptions
from harness.tracking.compare import CompareOptions

_OF_A_STAGE = {
    "sweep": "search a stage's settings",
    "score": "score records under new settings",
    "compare": "rank tracked runs",
}
_NOT_SETTINGS = {"command", "stage", "unknown", "debug", "version"}
_BOUNDS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise BadInput(f"{message}; {self.prog} --help lists what is allowed")


def parse(
    arguments: list[str], stages: Sequence[Stage[Any, Any]]
) -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    """One subcommand a stage, one option a field.  Only what was typed is in the namespace, so origins are known."""
    if arguments and arguments[0] in _OF_A_STAGE and "--stage" in arguments[:-1]:  # as `mlflow run` has it
        at = arguments.index("--stage")
        arguments = [arguments[0], arguments[at + 1], *arguments[1:at], *arguments[at + 2 :]]
    hyphenated = [_flag(word[2:]) if word.startswith("--") else word for word in arguments]
    parser = _parser(stages)
    namespace, unknown = parser.parse_known_args(hyphenated)
    namespace.unknown = unknown
    return parser, namespace


def _parser(stages: Sequence[Stage[Any, Any]]) -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m harness", description="rigsweep's command line", allow_abbrev=False)
    parser.add_argument("--version", action="store_true", help="show which version this is")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands", parser_class=_Parser)
    for stage in stages:
        _add_stage(commands, stage, f"python -m harness {stage.name}", _groups(stage))
    for command, does in _OF_A_STAGE.items():
        chosen = commands.add_parser(command, help=f"{does}: {command} STAGE", allow_abbrev=False)
        choices = chosen.add_subparsers(dest="stage", metavar="STAGE", required=True, parser_class=_Parser)
        for stage in stages:
            groups: dict[str, type[Params]] = {"compare": CompareOptions} if command == "compare" else _groups(stage)
            if command == "sweep":
                groups = {"sweep": SweepOptions} | groups
            _add_stage(choices, stage, f"python -m harness {command} {stage.name}", groups)
    _add_commands_of_a_run(commands)
    _add_apply(commands, stages)
    _add_bench(commands, stages)
    return parser


def _add_commands_of_a_run(commands: Any) -> None:
    again = commands.add_parser("reproduce", help="run a tracked run again: reproduce --run_id ID", allow_abbrev=False)
    again.add_argument("--run-id", help="the id of a run of a stage")
    advise = commands.add_parser("advise", help="what to try after a tracked run: advise --run ID", allow_abbrev=False)
    advise.add_argument("--run", "--run-id", dest="run_id", help="the id of a run of a stage")
    for command in (again, advise):
        command.add_argument("--debug", action="store_true", help="show tracebacks")


def _add_apply(commands: Any, stages: Sequence[Stage[Any, Any]]) -> None:
    apply = commands.add_parser(
        "apply",
        usage="python -m harness apply --detector RUN|FILE --dataset NEW [--SETTING VALUE ...]",
        help="score new data by what a run has learnt: apply --detector ID --dataset NEW",
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
        formatter_class=_wide,
    )
    apply.add_argument("--debug", action="store_true", help="show tracebacks")
    _add_fields(apply, "apply", ApplyOptions.model_fields)
    of_a_run = ("records", "hardware", "hardware_unchecked", "cache")
    _add_fields(apply, "run", {name: RunOptions.model_fields[name] for name in of_a_run})
    observing = [stage.infer_params.model_fields for stage in stages if stage.detectors]
    _add_fields(apply, "inference (as in the detector's run)", dict(ChainMap(*observing)))


def _add_bench(commands: Any, stages: Sequence[Stage[Any, Any]]) -> None:
    bench = commands.add_parser(
        "bench", help="measure a stage against its baseline, a sweep, or the start of commands", allow_abbrev=False
    )
    bench.add_argument("stage", choices=["sweep", "start", *(stage.name for stage in stages if stage.benches)])
    bench.add_argument("--table", help="only the one of this name")
    bench.add_argument("--quick", action="store_true", help="the first case only")
    bench.add_argument("--repeats", type=int, default=3, help="timed runs of each side, in turn [default 3]")
    bench.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where both sides run [default cpu]")
    bench.add_argument("--debug", action="store_true", help="show tracebacks")


def named(stages: Sequence[Stage[Any, Any]], name: str) -> Stage[Any, Any]:
    """The stage of that name; BadInput where there is none."""
    by_name = {stage.name: stage for stage in stages}
    if name not in by_name:
        raise BadInput(f"there is no stage {name}; {suggest(name, by_name)}")
    return by_name[name]


def typed(given: argparse.Namespace) -> dict[str, str]:
    """What was typed, by setting; an option that no field has is left for `resolve` to name."""
    unknown = [word.lstrip("-").partition("=")[0].replace("-", "_") for word in given.unknown if word.startswith("--")]
    if given.unknown and not unknown:
        raise BadInput(f"{given.command}: {given.unknown[0]} is not an option; settings are typed --name value")
    settings = {name: value for name, value in vars(given).items() if name not in _NOT_SETTINGS}
    if re.fullmatch("[0-9a-f]{32}", records := settings.get("records", "")) and not Path(records).exists():
        from harness.tracking.runs import artifact

        settings["records"] = str(artifact(records, "records.parquet"))
    return settings | dict.fromkeys(unknown, "")


def _add_stage(commands: Any, stage: Stage[Any, Any], usage: str, groups: dict[str, type[Params]]) -> None:
    """A subcommand with one option a field."""
    command = commands.add_parser(
        stage.name,
        usage=f"{usage} [--SETTING VALUE ...]",
        help=stage.summary,
        description=stage.summary,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
        formatter_class=_wide,
    )
    command.add_argument("--debug", action="store_true", help="show tracebacks")
    for title, model in groups.items():
        _add_fields(command, title, model.model_fields)


def _wide(prog: str) -> argparse.HelpFormatter:
    return argparse.HelpFormatter(prog, max_help_position=40, width=110)


def _add_fields(command: argparse.ArgumentParser, title: str, fields: Mapping[str, FieldInfo]) -> None:
    """One option a field."""
    group = command.add_argument_group(title)
    for name, field in fields.items():
        group.add_argument(_flag(name), dest=name, metavar=describe(field)[0], help=_help(field))


def _flag(word: str) -> str:
    """`top_n`, as `mlflow run -P` writes it, and `top-n` are the same option; a value behind `=` stays as it is."""
    name, equals, value = word.partition("=")
    return f"--{name.replace('_', '-')}{equals}{value}"


def _groups(stage: Stage[Any, Any]) -> dict[str, type[Params]]:
    return {
        "inference (decides the records)": stage.infer_params,
        "scoring (needs no model)": stage.score_params,
        "run": RunOptions,
    }


def describe(field: FieldInfo) -> tuple[str, list[str], str]:
    """What a user may type for a field: its type or choices, its bounds, its default."""
    names = {str: "TEXT", int: "INT", float: "NUMBER", bool: "true|false"}
    kind = field.annotation
    union = isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union
    shown: list[str] = []
    rules = list(field.metadata)
    for member in typing.get_args(kind) if union else (kind,):
        if typing.get_origin(member) is typing.Annotated:  # one side of a union may have bounds of its own
            member, *notes = typing.get_args(member)
            rules += [rule for note in notes for rule in getattr(note, "metadata", [note])]
        if member is str and (choices := [rule.choices for rule in rules if isinstance(rule, OneOf)]):
            shown += choices[0]
        elif typing.get_origin(member) is typing.Literal:
            shown += map(str, typing.get_args(member))
        elif member is not type(None):
            shown.append(names.get(member, str(member)))
    bounds = [
        f"{symbol} {getattr(rule, name)}" for rule in rules for name, symbol in _BOUNDS.items() if hasattr(rule, name)
    ]
    return "|".join(shown), bounds, "unset" if field.default is None else str(field.default).lower()


def _help(field: FieldInfo) -> str:
    _, bounds, default = describe(field)
    return f"{field.description} [{'; '.join([*bounds, f'default {default}'])}]".replace("%", "%%")
