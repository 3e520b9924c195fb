"""The command line: `python -m harness STAGE --setting value …`."""

from __future__ import annotations

import argparse
import sys
import types
import typing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from pydantic.fields import FieldInfo
from tqdm import tqdm

from experiments import STAGES
from harness import hardware, run
from harness.stage import BadInput, Params, Stage


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise BadInput(f"{message}; {self.prog} --help lists what is allowed")


def main(arguments: list[str] | None = None) -> int:
    """Run one command; 0 when it worked, 2 for bad input, 1 for any other fault, 130 when interrupted."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        return _main(arguments)
    except Exception as error:
        if "--debug" in arguments:
            raise
        line = " ".join(str(error).split())
        if isinstance(error, BadInput):
            print(f"rigsweep: {line}", file=sys.stderr)
            return 2
        print(f"rigsweep: {type(error).__name__}: {line} (--debug shows where)", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            "rigsweep: interrupted; the run is marked KILLED; the same command goes on where it stopped (but for"
            " cache=off and cache=refresh)",
            file=sys.stderr,
        )
        return 130


def _main(arguments: list[str]) -> int:
    parser, given = _parse(arguments)
    if given.command is None:
        parser.print_help()
        return 0
    if given.command == "bench":
        return _bench(given)
    stage = _stage(given.command)
    from harness.tracking import tracked  # mlflow takes seconds to import, which --help need not wait for

    with tracked(stage.name) as tracked_run:
        settings = _settings(given)
        plan = run.resolve(stage, settings, hardware.load_profiles())
        result = run.execute(plan, _progress)
        tracked_run.record(result)
        _print(result)
        print(f"\nrun {tracked_run.name} ({tracked_run.run_id}) in {tracked_run.store}")
        print(f"look at it: mlflow ui --backend-store-uri {tracked_run.store}")
        headline = stage.metrics[0].name
        if reason := result.report.undefined.get(headline):
            raise BadInput(f"{stage.name}: {headline} is undefined: {reason}; what could be measured was logged")
    return 0


def _stage(name: str) -> Stage[Any, Any]:
    return next(stage for stage in STAGES if stage.name == name)


def _bench(given: argparse.Namespace) -> int:
    """Measure a stage against its baseline, print the table and keep it as a run of its own."""
    if given.unknown:
        raise BadInput(f"bench: {given.unknown[0]} is not an option; --quick, --repeats and --device are")
    bench = _stage(given.stage).bench
    assert bench is not None  # the parser lists only stages that have one
    from harness.tracking import tracked

    with tracked(f"bench-{given.stage}") as tracked_run:
        table = bench(given.device, given.repeats, given.quick, _progress)
        print(table.to_string(index=False, float_format=lambda value: f"{value:.3f}"))
        tracked_run.record_table("bench", table)
        print(f"\nrun {tracked_run.name} ({tracked_run.run_id}) in {tracked_run.store}")
    return 0


def _parse(arguments: list[str]) -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    """One subcommand a stage, one option a field.  Only what was typed is in the namespace, so origins are known."""
    parser = _Parser(prog="python -m harness", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands", parser_class=_Parser)
    for stage in STAGES:
        command = commands.add_parser(
            stage.name,
            usage=f"python -m harness {stage.name} [--SETTING VALUE ...]",
            help=stage.summary,
            description=stage.summary,
            allow_abbrev=False,
            argument_default=argparse.SUPPRESS,
            formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=40, width=110),
        )
        command.add_argument("--debug", action="store_true", help="show tracebacks")
        for title, model in _groups(stage).items():
            group = command.add_argument_group(title)
            for name, field in model.model_fields.items():
                group.add_argument(_flag(name), dest=name, metavar=describe(field)[0], help=_help(field))
    bench = commands.add_parser("bench", help="measure a stage against its baseline", allow_abbrev=False)
    bench.add_argument("stage", choices=[stage.name for stage in STAGES if stage.bench])
    bench.add_argument("--quick", action="store_true", help="the first case only")
    bench.add_argument("--repeats", type=int, default=3, help="timed runs of each side, in turn [default 3]")
    bench.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where both sides run [default cpu]")
    bench.add_argument("--debug", action="store_true", help="show tracebacks")
    hyphenated = [_flag(word[2:]) if word.startswith("--") else word for word in arguments]
    namespace, unknown = parser.parse_known_args(hyphenated)
    namespace.unknown = unknown
    return parser, namespace


def _flag(word: str) -> str:
    """`top_n`, as `mlflow run -P` writes it, and `top-n` are the same option; a value behind `=` stays as it is."""
    name, equals, value = word.partition("=")
    return f"--{name.replace('_', '-')}{equals}{value}"


def _settings(given: argparse.Namespace) -> dict[str, str]:
    """What was typed, by setting; an option that no field has is left for `resolve` to name."""
    unknown = [word.lstrip("-").partition("=")[0].replace("-", "_") for word in given.unknown if word.startswith("--")]
    if given.unknown and not unknown:
        raise BadInput(f"{given.command}: {given.unknown[0]} is not an option; settings are typed --name value")
    settings = {name: value for name, value in vars(given).items() if name not in {"command", "unknown", "debug"}}
    return settings | dict.fromkeys(unknown, "")


def _groups(stage: Stage[Any, Any]) -> dict[str, type[Params]]:
    return {
        "inference (decides the records)": stage.infer_params,
        "scoring (needs no model)": stage.score_params,
        "run": run.RunOptions,
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
            rules += [rule for note in notes for rule in note.metadata]
        if typing.get_origin(member) is typing.Literal:
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


_BOUNDS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}


class _Bar(tqdm):  # type: ignore[type-arg]  # generic in its stubs only
    """A progress bar that counts samples a minute, the unit in which speed is reported."""

    @property
    def format_dict(self) -> dict[str, Any]:
        shown = dict(super().format_dict)
        rate = shown["rate"] or (self.n / shown["elapsed"] if shown["elapsed"] else 0)
        return shown | {"per_minute": f"{60 * rate:.0f} samples/min"}


@contextmanager
def _progress(total: int, description: str) -> Iterator[Callable[[int], object]]:
    layout = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{per_minute}, {remaining} left]"
    with _Bar(total=total, desc=description, bar_format=layout, dynamic_ncols=True, mininterval=0.5) as bar:
        yield bar.update


def _print(result: run.Result) -> None:
    """Metrics, then findings, worst first."""
    metrics = result.metrics()
    print(f"\n{result.plan.stage.name} on {result.plan.machine} as {result.plan.profile.tag}")
    for name, value in metrics.items():
        if name.endswith(("_low", "_high")):
            continue
        ends = [metrics[f"{name}_{end}"] for end in ("low", "high") if f"{name}_{end}" in metrics]
        interval = "  [{:.4f}, {:.4f}]".format(*ends) if ends else ""
        print(f"  {name:<22} {value:>12.4f}{interval}")
    for name, reason in result.report.undefined.items():
        print(f"  {name:<22}    undefined  {reason}")
    for finding in result.findings:
        print(f"  {finding.level.upper():<4}  {finding.code}: {finding.message}")


if __name__ == "__main__":
    sys.exit(main())
