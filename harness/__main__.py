"""The command line: `python -m harness STAGE --setting value …`."""

from __future__ import annotations

import argparse
import json
import re
import shlex
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments import STAGES
from harness.commands.arguments import parse
from harness.commands.console import number, progress, show, show_conclusion, show_trials
from harness.running import hardware, run
from harness.running.records import write_records
from harness.stage import BadInput, Remedy, Stage
from harness.sweeping import space
from harness.sweeping.engines import InProcess
from harness.tracking.compare import CompareOptions

if TYPE_CHECKING:
    import pandas as pd

    from harness.sweeping.conclusion import Conclusion


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
    parser, given = parse(arguments, STAGES)
    if given.command is None:
        parser.print_help()
        return 0
    if given.command == "bench":
        return _bench(given)
    if given.command == "sweep":
        return _sweep(given)
    if given.command == "compare":
        return _compare(given)
    if given.command == "reproduce":
        return _reproduce(given)
    if given.command == "advise":
        return _advise(given)
    stage = _stage(given.stage if given.command == "score" else given.command)
    if given.command == "score" and not getattr(given, "records", None):
        raise BadInput(
            "score: it takes a stage and --records, a file or the id of a run; without them a model would run"
        )
    from harness.tracking.runs import tracked  # mlflow takes seconds to import, which --help need not wait for

    with tracked(stage.name) as tracked_run:
        settings = _settings(given)
        plan = run.resolve(stage, settings, hardware.load_profiles())
        tracked_run.begin(plan)
        result = run.execute(plan, progress)
        tracked_run.record(result)
        show(result, "debug" in given)
        print(f"\nrun {tracked_run.name} ({tracked_run.run_id}) in {tracked_run.store}")
        print(f"look at it: mlflow ui --backend-store-uri {tracked_run.store}")
        headline = stage.metrics[0].name
        if reason := result.report.undefined.get(headline):
            raise BadInput(f"{stage.name}: {headline} is undefined: {reason}; what could be measured was logged")
    return 0


def _stage(name: str) -> Stage[Any, Any]:
    return next(stage for stage in STAGES if stage.name == name)


def _sweep(given: argparse.Namespace) -> int:
    """Search a stage's settings, go on with the study where there is one, and score the winner on the holdout."""
    from harness.sweeping import conclusion as conclude  # optuna takes a second to import
    from harness.sweeping import study as sweep
    from harness.tracking.runs import Children, tracked

    stage = _stage(given.stage)
    planned = sweep.prepare(_settings(given), lambda rest: run.resolve(stage, rest, hardware.load_profiles()))
    with (
        sweep.opened(planned) as (study, why),
        tracked(stage.name, "study", study.parent, f"sweep {planned.name}") as tracked_run,
    ):
        study.parent = tracked_run.run_id
        print(f"study {planned.name} in {planned.options.storage}" + (f": {why}" if why else ""))
        children = Children(tracked_run, planned.tags())
        try:
            for trial in study.trials():
                children.add(**trial.row())
            study.conduct(InProcess(), progress, lambda trial: children.add(**trial.row()))
        except KeyboardInterrupt:
            show_trials(planned, study.trials())
            raise
        finally:
            children.close()
        trials = study.trials()
        conclusion = conclude.conclude(planned, trials, study.look(len(trials)), progress)
        children.mark("pareto", {trial.number for trial in sweep.pareto(trials, planned)})
        children.mark("winner", {conclusion.winner.number} if conclusion.winner else set())
        chosen = conclusion.winner.params if conclusion.winner else {}
        best = {f"best.{name}": str(value) for name, value in chosen.items()}
        tracked_run.record_sweep(
            planned.settings(),
            conclusion.metrics,
            planned.tags() | best | {"kind": "study", "note": _summary(conclusion)},
            conclusion.audit,
            sweep.table(trials, planned),
        )
        texts = {
            "sweep.json": json.dumps(conclusion.as_json(planned, trials), indent=2),
            "search_space.yaml": planned.space.text,
        }
        drawn = conclusion.selection.figures if conclusion.selection else {}
        tracked_run.record_files({**sweep.figures(study), **drawn}, texts | {"figures.html": sweep.interactive(study)})
        show_trials(planned, trials)
        show_conclusion(conclusion, "debug" in given)
        print(f"\nrun {tracked_run.name} ({tracked_run.run_id}) in {tracked_run.store}")
        print(f"look at it: mlflow ui --backend-store-uri {tracked_run.store}, filter: {planned.filter()}")
        if conclusion.winner is None:
            raise BadInput(f"sweep: {conclusion.audit.findings[0].message}")
    return 0


def _summary(conclusion: Conclusion) -> str:
    """What a reader of the study's page should see first."""
    if conclusion.winner is None:
        return "No winner."
    settings = " ".join(f"{name}={value}" for name, value in conclusion.winner.params.items())
    ranked = sorted(conclusion.metrics.items(), key=lambda item: item[0].startswith("trials_"))
    figures = "\n".join(f"- {name}: {value:.4f}" for name, value in ranked)
    return f"Winner: trial {conclusion.winner.number}, {settings}\n\n{figures}"


def _compare(given: argparse.Namespace) -> int:
    """Rank tracked runs of a stage, and log the leaderboard and its pictures as a run of its own."""
    from harness.tracking import compare
    from harness.tracking.runs import listed, tracked

    stage, settings = _stage(given.stage), _settings(given)
    if unknown := [name for name in settings if name not in CompareOptions.model_fields]:
        raise BadInput(f"compare has no option {unknown[0]}; there are {', '.join(CompareOptions.model_fields)}")
    options = run.validate(CompareOptions, stage, settings, dict.fromkeys(settings, "given"))
    runs, _ = listed(options.tags(stage.name))
    table = compare.leaderboard(runs, stage, options)
    shown = table.drop(columns="run_id").head(options.top)
    print(shown.to_string(index=False, float_format=number, na_rep="-"))
    with tracked(stage.name, "comparison", name=f"compare {stage.name}") as tracked_run:
        tracked_run.record_table("leaderboard", table)
        metric = options.metric or stage.metrics[0].name
        tracked_run.record_files(compare.figures(table, metric), {})
        print(f"\n{len(table)} runs; pictures in run {tracked_run.name} ({tracked_run.run_id}) in {tracked_run.store}")
    return 0


def _reproduce(given: argparse.Namespace) -> int:
    """Run a tracked run again: 0 when every metric of quality is equal, 1 when one differs."""
    from harness.tracking import reproduce
    from harness.tracking.runs import artifact, tracked

    if given.unknown or given.run_id is None:
        raise BadInput("reproduce: it takes --run_id ID, the id of a run of a stage")
    recorded = json.loads(artifact(given.run_id, "report.json").read_text())
    stage = _stage(recorded["stage"])
    plan = run.resolve(stage, reproduce.settings(recorded, stage), hardware.load_profiles())
    if other := reproduce.obstacles(recorded, run.input_digests(plan)):
        raise BadInput(
            f"reproduce: cannot be compared, for the {' and '.join(other)} of the run are not these any more"
        )
    with tracked(stage.name, "reproduction", name=f"reproduce {given.run_id[:8]}") as tracked_run:
        result = run.execute(plan, progress)
        table = reproduce.compare(recorded, result)
        tracked_run.record_table("reproduction", table)
        print(table.to_string(index=False, na_rep="-"))
        for line in reproduce.changes(recorded, result):
            print(f"  changed  {line}")
    differing = table.query("verdict == 'differs'")
    print(f"\n{len(differing)} metrics differ, {(table['verdict'] == 'equal').sum()} are equal bit for bit")
    return int(len(differing) > 0)


def _advise(given: argparse.Namespace) -> int:
    """Print what to try after a run, and the command that tries the first of it."""
    from harness.tracking import advise
    from harness.tracking.runs import recorded

    if given.unknown or given.run_id is None:
        raise BadInput("advise: it takes --run ID, the id of a run of a stage")
    params, metrics, tags = recorded(given.run_id)
    if tags.get("kind") != "run" or tags.get("stage") not in {stage.name for stage in STAGES}:
        raise BadInput(
            f"advise: run {given.run_id} is a {tags.get('kind', 'run of another program')}, not a stage's run"
        )
    stage, tag = _stage(tags["stage"]), tags.get("hardware", "auto")
    profiles = hardware.load_profiles()
    profile = next((profile for profile in profiles if profile.tag == tag), None)
    if profile is None:
        raise BadInput(f"advise: run {given.run_id} was measured on {tag}, a hardware tag that is not in hardware/")
    found = advise.advise(stage, advise.past(stage, params, metrics, tags), profile)
    print(f"run {tags.get('mlflow.runName', given.run_id)} of {stage.name} on {tag}")
    for goal, (need, remedies) in found.items():
        print(f"\n{goal}: {need}")
        if goal == "quality":
            searched = space.load(None, stage, {"peak_rss_gb": 0}).searched  # records cannot be searched for others
            again = "" if searched.keys() & stage.infer_params.model_fields.keys() else f" --records {given.run_id}"
            print(f"  python -m harness sweep {stage.name}{again}  (searches {', '.join(searched)})")
        for remedy in remedies:
            print(f"  {_typed(remedy):<28} {remedy.why}")
        if not remedies:
            print("  nothing left that this stage and this machine know")
    tried = [remedy for _, remedies in found.values() for remedy in remedies]
    if tried:
        kept = [name for name in params if tags.get(f"origin.{name}") == "given" and name != tried[0].setting]
        typed = [f"{name}={params[name]}" for name in kept]
        typed += ["hardware_unchecked=true"] if "hardware_unchecked" in tags else []
        words = " ".join(f"-P {shlex.quote(each)}" for each in [*typed, _typed(tried[0])])
        print(f"\nnext: mlflow run . -e {stage.name} {words}\nthen: mlflow run . -e compare -P stage={stage.name}")
    return 0


def _typed(remedy: Remedy) -> str:
    return f"{remedy.setting}={str(remedy.value).lower()}"


def _bench(given: argparse.Namespace) -> int:
    """Measure a stage against its baseline, print the table and keep it as a run of its own."""
    if given.unknown:
        raise BadInput(f"bench: {given.unknown[0]} is not an option; --quick, --repeats and --device are")
    from harness.tracking.runs import tracked

    with tracked(f"bench-{given.stage}", "benchmark") as tracked_run:
        for name, table in _bench_tables(given):
            print(f"\n{table.to_string(index=False, float_format=lambda value: f'{value:.3f}')}")
            tracked_run.record_table(name, table)
        print(f"\nrun {tracked_run.name} ({tracked_run.run_id}) in {tracked_run.store}")
    return 0


def _bench_tables(given: argparse.Namespace) -> Iterator[tuple[str, pd.DataFrame]]:
    """The tables of a benchmark, each as soon as it is measured."""
    if given.stage != "sweep":
        for name, bench in _stage(given.stage).benches.items():
            yield name, bench(given.device, given.repeats, given.quick, progress)
        return
    from experiments.detect.bench.scoring import bench as bench_score
    from experiments.detect.bench.scoring import paper_features
    from harness.commands.bookkeeping import bookkeeping

    with tempfile.TemporaryDirectory(prefix="rigsweep-bench-") as folder:
        file = Path(folder) / "features.parquet"
        write_records(paper_features()[0], file)
        settings = {"records": str(file), "folds": "5"}
        yield "bookkeeping", bookkeeping(_stage("detect"), settings, 200 if given.quick else 2000, progress)
    if not given.quick:
        yield "scoring", bench_score(given.device, given.repeats, given.quick, progress)


def _settings(given: argparse.Namespace) -> dict[str, str]:
    """What was typed, by setting; an option that no field has is left for `resolve` to name."""
    unknown = [word.lstrip("-").partition("=")[0].replace("-", "_") for word in given.unknown if word.startswith("--")]
    if given.unknown and not unknown:
        raise BadInput(f"{given.command}: {given.unknown[0]} is not an option; settings are typed --name value")
    settings = {name: value for name, value in vars(given).items() if name not in _NOT_SETTINGS}
    if re.fullmatch("[0-9a-f]{32}", records := settings.get("records", "")) and not Path(records).exists():
        from harness.tracking.runs import artifact

        settings["records"] = str(artifact(records, "records.parquet"))
    return settings | dict.fromkeys(unknown, "")


_NOT_SETTINGS = {"command", "stage", "unknown", "debug"}


if __name__ == "__main__":
    sys.exit(main())
