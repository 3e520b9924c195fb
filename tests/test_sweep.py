"""A sweep finishes, resumes after kills, repeats itself, and says what its winner is worth."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import optuna
import pandas as pd
import pytest

from experiments.detect import DETECT
from harness.__main__ import main
from harness.running import hardware, run
from harness.running.settings import resolve
from harness.stage import BadInput, Params, Records
from harness.sweeping import planning, study, trial
from harness.sweeping.engines import InProcess, in_fresh_process
from harness.sweeping.planning import Sweep
from harness.sweeping.study import opened
from harness.sweeping.trial import Evaluator, Objective, Trial
from tests import tiny

SPACE = """
stage: detect
fields:
  top_n: {low: 1, high: 2}
  alpha: {low: 0.0, high: 2.0}
  select: [auc, mutual_info]
objectives:
  auc: maximize
sampler: tpe
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with features that tell hallucinations badly, a space, and empty stores."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tiny.new_store(tmp_path))
    frame = tiny.features(80).drop(columns="source")  # so many that a holdout has an interval
    noise = pd.Series(range(len(frame))).mul(7919).mod(101) / 101  # no generator: the same on every machine
    for column in ("ecs_0_0", "ecs_1_0", "pks_0", "pks_1"):
        frame[column] = (0.5 * frame[column] + 0.5 * noise.sample(frac=1, random_state=len(column)).to_numpy()).clip(
            0, 0.6
        )
        noise = noise.mul(31).mod(1)
    frame.to_parquet(tmp_path / "features.parquet")
    (tmp_path / "own.yaml").write_text(SPACE)
    return tmp_path


def words(*more: str) -> list[str]:
    fixed = {"space": "own.yaml", "records": "features.parquet", "folds": "3", "trials": "12"}
    return ["sweep", "detect", *(f"--{name}={value}" for name, value in fixed.items()), *more]


def stored(place: Path, storage: str = "sqlite:///optuna.db") -> list[optuna.trial.FrozenTrial]:
    (name,) = optuna.get_all_study_names(storage)
    return optuna.load_study(study_name=name, storage=storage).get_trials()


def said(trials: list[optuna.trial.FrozenTrial]) -> list[Any]:
    return [(each.number, each.params, each.values, each.state) for each in trials]


def runs(kind: str) -> list[mlflow.entities.Run]:
    return list(mlflow.MlflowClient().search_runs(["0"], f"tags.kind = '{kind}'", max_results=1000))


def test_a_sweep_leaves_a_study_a_parent_and_a_run_for_each_trial(place: Path) -> None:
    assert main(words()) == 0
    trials = stored(place)
    assert [each.state for each in trials] == [optuna.trial.TrialState.COMPLETE] * 12
    (parent,) = runs("study")
    children = runs("trial")
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
    assert sorted(int(run.data.tags["trial"]) for run in children) == list(range(12))
    for child in children:
        trial = trials[int(child.data.tags["trial"])]
        assert child.data.metrics["auc"] == trial.value
        assert child.data.params == {name: str(value) for name, value in trial.params.items()}
        assert child.info.status == "FINISHED"
    best = max(each.value or 0 for each in trials)
    metrics = parent.data.metrics
    assert metrics["auc_flattered"] == best
    assert metrics["auc_flattered_low"] <= best <= metrics["auc_flattered_high"]
    assert metrics["selection_price"] == pytest.approx(best - metrics["auc_holdout"])
    assert metrics["auc_holdout_low"] <= metrics["auc_holdout"] <= metrics["auc_holdout_high"]
    assert metrics["selection_price_low"] < metrics["selection_price"] < metrics["selection_price_high"]
    assert metrics["gain"] == pytest.approx(metrics["auc_holdout"] - metrics["auc_default_holdout"])
    assert {"auc_default_holdout", "auc_length_holdout", "trials_complete", "trials_failed"} <= metrics.keys()
    files = {file.path for file in mlflow.MlflowClient().list_artifacts(parent.info.run_id)}
    assert {"trials.csv", "trials.json", "sweep.json", "figures", "figures.html", "search_space.yaml"} <= files


def test_the_same_command_again_goes_on_to_the_number_of_trials_asked_for(place: Path) -> None:
    assert main(words("--trials=5")) == 0
    first = said(stored(place))
    assert main(words("--trials=5")) == 0
    assert said(stored(place)) == first
    assert main(words()) == 0
    assert said(stored(place))[:5] == first
    assert len(stored(place)) == len(runs("trial")) == 12
    assert len(runs("study")) == 1
    assert main(words("--storage=sqlite:///other.db")) == 0
    assert said(stored(place, "sqlite:///other.db")) == said(stored(place))


@pytest.mark.parametrize("sampler", ["tpe", "gp", "cmaes", "qmc", "random", "grid", "nsga2"])
def test_every_sampler_repeats_itself_across_an_interruption(place: Path, sampler: str) -> None:
    (place / "own.yaml").write_text(SPACE.replace("high: 2.0}", "high: 2.0, step: 0.25}"))
    count = 36 if sampler == "grid" else 60 if sampler == "nsga2" else 20
    for storage, stops in (("whole.db", [count]), ("parts.db", [3, 7, count])):
        for trials in stops if sampler != "grid" else [count]:
            options = {"sampler": sampler, "trials": str(trials)}
            assert (
                conduct(f"sqlite:///{storage}", options, killed_after=trials // 2 if len(stops) > 1 else None) == trials
            )
    whole, parts = (said(stored(place, f"sqlite:///{name}")) for name in ("whole.db", "parts.db"))
    assert whole == parts
    assert len({str(params) for _, params, _, _ in whole}) > 5


def conduct(storage: str, options: dict[str, str], killed_after: int | None) -> int:
    """Run a study without tracking, once broken off after some trials where asked for: how many it has in the end."""
    given = {"space": "own.yaml", "records": "features.parquet", "folds": "3", "storage": storage} | options
    for limit in ([killed_after] if killed_after else []) + [10**6]:
        planned = planning.prepare(given, lambda rest: resolve(DETECT, rest, hardware.load_profiles()))
        ended: list[Trial] = []

        def report(trial: Trial, limit: int = limit, ended: list[Trial] = ended) -> None:
            ended.append(trial)
            if len(ended) >= limit:
                raise KeyboardInterrupt

        with opened(planned) as (held, _):
            try:
                held.conduct(InProcess(), report)
            except KeyboardInterrupt:
                continue
            return len(held.trials())
    raise AssertionError


# --- kills -------------------------------------------------------------------------------------------------------


def child(arguments: list[str], variables: dict[str, str], folder: str) -> None:
    os.environ.update(variables)
    os.chdir(folder)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.exit(main(arguments))


def killed(place: Path, kills: int, trials: int) -> int:
    """Start the same sweep again and again, each time killed at a random moment, then let it end: exit code."""
    server = multiprocessing.get_context("forkserver")  # whose children have imported everything before they begin
    modules = ["experiments", "harness.tracking.runs", "harness.sweeping.study", "harness.__main__", "torch"]
    server.set_forkserver_preload(modules)
    draw = random.Random(0)
    variables = {name: os.environ[name] for name in ("MLFLOW_TRACKING_URI", "RIGSWEEP_CACHE")}
    arguments = words(f"--trials={trials}", "--max_attempts=100")
    done = 0
    while done < kills:
        process = server.Process(target=child, args=(arguments, variables, str(place)))
        process.start()
        process.join(draw.uniform(0.5, 2.5))
        if process.exitcode is None:
            process.kill()
            done += 1
        process.join()
        assert process.exitcode != 0, "the sweep ended before it was killed often enough"
    process = server.Process(target=child, args=(arguments, variables, str(place)))
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def check_kills(place: Path, kills: int, trials: int) -> None:
    assert killed(place, kills, trials) == 0
    assert main(words(f"--trials={trials}", "--max_attempts=100", "--storage=sqlite:///whole.db")) == 0
    assert said(stored(place)) == said(stored(place, "sqlite:///whole.db"))
    assert len(stored(place)) == trials
    studies = {each.data.tags["study"] for each in runs("trial")}
    assert len(studies) == 1  # the undisturbed study has the same identity, and the same name
    parents = {each.info.run_id: each for each in runs("study")}
    by_parent: dict[str, list[int]] = {}
    for each in runs("trial"):
        assert each.info.status == "FINISHED"
        by_parent.setdefault(each.data.tags["mlflow.parentRunId"], []).append(int(each.data.tags["trial"]))
    assert [sorted(numbers) for numbers in by_parent.values()] == [list(range(trials))] * 2
    assert {each.info.status for each in parents.values()} == {"FINISHED"}
    first, second = (parents[run_id].data.metrics for run_id in by_parent)
    assert first == second


def test_two_kills_lose_nothing_and_count_nothing_twice(place: Path) -> None:
    check_kills(place, kills=2, trials=60)


@pytest.mark.slow
def test_twenty_kills_lose_nothing_and_count_nothing_twice(place: Path) -> None:
    check_kills(place, kills=20, trials=450)


# --- failures and bad input --------------------------------------------------------------------------------------


def test_a_trial_that_fails_has_a_reason_and_no_value(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = DETECT.score_many
    assert real is not None

    def some(records: Any, settings: Any, names: Any) -> Any:
        if any(each.alpha > 1 for each in settings):
            raise MemoryError("pretended")
        return real(records, settings, names)

    monkeypatch.setitem(vars(DETECT), "score_many", some)  # the class is frozen
    assert main(words("--sampler=random", "--max_failure_rate=0.9")) == 0
    failed = [each for each in stored(place) if each.state == optuna.trial.TrialState.FAIL]
    assert {each.params["alpha"] > 1 for each in failed} == {True}
    assert {each.user_attrs["reason"] for each in failed} == {"MemoryError: pretended"}
    assert all(each.values is None for each in failed)
    by_state = {each.data.tags["state"]: each for each in runs("trial")}
    assert by_state["failed"].info.status == "FAILED"
    assert by_state["failed"].data.tags["error"] == "MemoryError: pretended"


def test_a_study_in_which_most_trials_fail_stops(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame = pd.read_parquet("features.parquet").assign(label=0)
    frame.to_parquet("features.parquet")
    assert main(words("--trials=40")) == 2
    assert (
        "10 of 10 trials failed, more than max_failure_rate = 0.5; the last: auc is undefined"
        in capsys.readouterr().err
    )
    assert len(stored(place)) == 10


def test_a_trial_that_keeps_killing_its_process_is_given_up(place: Path) -> None:
    given = {"space": "own.yaml", "records": "features.parquet", "folds": "3", "trials": "4", "max_attempts": "2"}

    class Deadly(InProcess):
        def submit(self, function: Any, *arguments: Any) -> Any:
            (settings,) = arguments[0]
            if settings == deadly:
                raise SystemExit  # as if killed: nothing more is written
            return super().submit(function, *arguments)

    def planned() -> Sweep:
        return planning.prepare(given, lambda rest: resolve(DETECT, rest, hardware.load_profiles()))

    deadly: dict[str, Any] = {}
    with opened(planned()) as (held, _):
        held.conduct(InProcess(), lambda trial: None)
        deadly = held.trials()[2].params
    Path("optuna.db").unlink()
    for attempt in range(3):
        with opened(planned()) as (held, _):
            try:
                held.conduct(Deadly(), lambda trial: None)
            except SystemExit:
                assert attempt < 2
    reasons = [each.user_attrs.get("reason") for each in stored(place)]
    assert reasons == [None, None, "given up: its process has died 2 times", None]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--sampler=grid", "--space=detect"], "trials = 12: the grid detect has 1960 points; trials=1960, or random"),
        (["--report=r.json"], "report = r.json: a sweep writes no such file"),
        (["--sampler=best"], "space --sampler = best: must be tpe or gp"),
        (["--storage=sqlite:////nowhere/at/all.db"], "storage = sqlite:////nowhere/at/all.db: cannot be opened: "),
        (["--storage=nonsense"], "storage = nonsense: cannot be opened: "),
        (["--trials=0"], "detect: trials = 0 (given): must be greater than or equal to 1"),
        (["--alpha=1"], "alpha = 1: the space own searches it; give one or the other"),
        (["--space=detect-performance"], "records = features.parquet: precision decides records, so it cannot be"),
        (["--records=none.parquet"], "records = none.parquet: no such file"),
        (["--tirals=3"], "detect has no setting tirals"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(
    place: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    assert main(words(*more)) == 2
    (line,) = [each for each in capsys.readouterr().err.splitlines() if each.startswith("rigsweep: ")]
    assert message in line
    assert not runs("trial")


def test_a_changed_space_is_a_new_study_and_says_why(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words("--trials=2")) == 0
    (place / "own-other.yaml").write_text(SPACE)
    assert main(words("--trials=2", "--space=own-other.yaml", "--storage=sqlite:///optuna.db")) == 0
    assert "a new study" not in capsys.readouterr().out  # another space's study is no predecessor
    (place / "own.yaml").write_text(SPACE.replace("high: 2.0", "high: 1.5"))
    assert main(words("--trials=2")) == 0
    assert "a new study, for since detect-own-" in (out := capsys.readouterr().out)
    assert "there is a change of space" in out
    assert len(optuna.get_all_study_names("sqlite:///optuna.db")) == 3


def test_what_a_choice_alone_reads_is_part_of_the_study(place: Path) -> None:
    def inputs(infer: Any) -> dict[str, str]:
        return {"data": "d"} | ({"adapter": "a"} if infer.precision == "bf16" else {})

    (place / "own.yaml").write_text(PRECISIONS)
    detect = replace(DETECT, inputs=inputs)
    swept = planning.prepare({"space": "own.yaml"}, lambda rest: resolve(detect, rest, hardware.load_profiles()))
    assert swept.digests == {"data": "d", "adapter.precision.1": "a"}


def test_inferences_by_equal_settings_are_one() -> None:
    class Weighted(Params):
        weight: float = 0.0

    plan = resolve(DETECT, {}, hardware.load_profiles())
    plans = [replace(plan, infer=Weighted.model_validate({"weight": weight})) for weight in ("0", "-0.0")]
    assert len(set(map(trial._inference, plans))) == 1


def test_a_study_of_a_newer_version_is_left_alone(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words("--trials=2")) == 0
    (name,) = optuna.get_all_study_names("sqlite:///optuna.db")
    optuna.load_study(study_name=name, storage="sqlite:///optuna.db").set_user_attr("version", study.VERSION + 1)
    assert main(words("--trials=4")) == 2
    assert "made by a newer version of rigsweep" in capsys.readouterr().err
    assert len(stored(place)) == 2


def test_without_a_holdout_the_best_value_is_called_too_good(place: Path) -> None:
    assert main(words("--holdout=0")) == 0
    (parent,) = runs("study")
    assert "no_holdout" in parent.data.tags["mlflow.note.content"]
    assert "auc_holdout" not in parent.data.metrics


def test_a_muted_check_of_the_winner_is_listed_apart(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words("--trials=4", "--mute=interval_wide,cost_unknown", "--debug")) == 0
    out = capsys.readouterr().out
    assert "muted: " in out
    assert "cost_unknown (info)" in out
    assert re.search(r"\d+ checks, \d+ passed", out)
    assert "passed  feature_constant, which looks whether a feature has the same value in every row" in out
    (parent,) = runs("study")
    assert parent.data.tags["muted"] == "interval_wide,cost_unknown"
    assert main(words("--trials=4")) == 0
    assert "muted" not in runs("study")[0].data.tags
    assert main(words("--trials=4", "--mute=no_holdot")) == 2
    assert "detect has no check no_holdot; did you mean no_holdout?" in capsys.readouterr().err


def test_what_a_sweep_adds_about_its_winner_can_be_muted(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words("--trials=4", "--holdout=0", "--mute=no_holdout")) == 0
    assert capsys.readouterr().out.count("no_holdout") == 1
    assert runs("study")[0].data.tags["muted"] == "no_holdout"
    (place / "own.yaml").write_text(SPACE + "constraints: [auc >= 2]\n")
    assert main(words("--trials=4", "--mute=no_winner")) == 2
    assert "no trial finished within the constraints: each broke one of auc >= 2" in capsys.readouterr().err


def test_several_objectives_have_a_front_and_a_knee(place: Path) -> None:
    text = SPACE.replace("  auc: maximize\n", "  auc: maximize\n  recall: maximize\n") + "constraints:\n  - f1 >= 0.1\n"
    (place / "own.yaml").write_text(text)
    assert main(words()) == 0
    table = pd.read_csv(mlflow.artifacts.download_artifacts(f"runs:/{runs('study')[0].info.run_id}/trials.csv"))
    values = table[table["state"] == "complete"][["auc", "recall"]].to_numpy()
    beaten = [bool(((values >= own).all(axis=1) & (values > own).any(axis=1)).any()) for own in values]
    assert not (table[table["state"] == "complete"]["pareto"].to_numpy() & beaten).any()
    tagged = {int(each.data.tags["trial"]) for each in runs("trial") if each.data.tags.get("pareto") == "true"}
    assert tagged == set(table[table["pareto"]]["trial"])
    (winner,) = [each for each in runs("trial") if each.data.tags.get("winner") == "true"]
    assert int(winner.data.tags["trial"]) in tagged


def test_optunas_own_command_line_reads_the_study(place: Path) -> None:
    assert main(words()) == 0
    (name,) = optuna.get_all_study_names("sqlite:///optuna.db")
    command = [
        str(Path(sys.executable).with_name("optuna")),
        "best-trial",
        "--study-name",
        name,
        "--storage",
        "sqlite:///optuna.db",
    ]
    shown = subprocess.run([*command, "--format", "json"], capture_output=True, text=True, check=True).stdout
    best = optuna.load_study(study_name=name, storage="sqlite:///optuna.db").best_trial
    assert json.loads(shown)["number"] == best.number


def test_inference_settings_stay_while_the_rest_is_tried(place: Path) -> None:
    tiny.save_llama(place / "model")
    tiny.write_jsonl(place / "data.jsonl", tiny.samples(24))
    (place / "own.yaml").write_text(
        SPACE.replace("fields:\n", "fields:\n  precision: [fp32, bf16]\n  attention: [eager, sdpa]\n") + "inner: 4\n"
    )
    given = {"model": "model", "dataset": "data.jsonl", "folds": "2", "space": "own.yaml", "trials": "8"}
    assert main(["sweep", "detect", *(f"--{name}={value}" for name, value in given.items())]) == 0
    slow = [(each.params["precision"], each.params["attention"]) for each in stored(place)]
    assert [len(set(slow[start : start + 4])) for start in (0, 4)] == [1, 1]


def test_a_second_process_is_told_that_the_study_is_held(place: Path) -> None:
    given = {"space": "own.yaml", "records": "features.parquet", "folds": "3"}
    planned = planning.prepare(given, lambda rest: resolve(DETECT, rest, hardware.load_profiles()))
    start = time.monotonic()
    with opened(planned), pytest.raises(BadInput, match="is being run already"), opened(planned):
        raise AssertionError
    assert time.monotonic() - start < 10


def interrupt(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Press Ctrl-C, again where Python was just collecting garbage and has therefore dropped the first."""
    for _ in range(3):
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            return process.communicate(timeout=20)
    pytest.fail("it goes on after three interruptions")


def test_an_interruption_ends_with_a_summary_and_the_way_on(place: Path) -> None:
    code = "import sys; from harness.__main__ import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, *words("--trials=100000")]
    folder = Path(study.__file__).parents[2]
    variables = os.environ | {"PYTHONPATH": str(folder), "PYTHONUNBUFFERED": "1"}
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        command,
        cwd=place,
        env=variables,
        stdout=pipe,
        stderr=pipe,
        text=True,
        # A shell's background jobs are deaf to it, and so would be what they start.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith("study detect-own-")
    while len(stored(place)) < 3:
        time.sleep(0.2)
    out, err = interrupt(process)
    assert process.returncode == 130
    assert "of 100000 trials, 0 failed; the same command goes on from here" in out
    assert "rigsweep: interrupted" in err
    (parent,) = runs("study")
    assert parent.info.status == "KILLED"
    assert {each.info.status for each in runs("trial")} == {"FINISHED"}


def test_an_inference_that_is_killed_for_want_of_memory_is_a_failed_trial(place: Path) -> None:
    plan = resolve(DETECT, {"records": "features.parquet"}, hardware.load_profiles())
    evaluator = Evaluator(Objective(plan, 0.3, ("auc",), varied=True))

    def die(*_: Any) -> Any:
        return in_fresh_process(os.abort)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trial, "infer", die)
        patch.setattr(trial, "in_fresh_process", lambda function, *arguments: function(*arguments))
        patch.setattr(run, "find", lambda *_, **__: ("key", {}, None))
        (outcome,) = evaluator.evaluate([{"alpha": 1.0}])
    assert outcome.metrics == {}
    assert outcome.reason == "the process of its inference was killed, most likely for want of memory"


def test_an_interruption_is_not_held_against_a_trial(place: Path) -> None:
    class Interrupted(InProcess):
        def submit(self, *_: Any) -> Any:
            raise KeyboardInterrupt

    given = {"space": "own.yaml", "records": "features.parquet", "folds": "3", "trials": "4", "sampler": "random"}
    planned = planning.prepare(given, lambda rest: resolve(DETECT, rest, hardware.load_profiles()))
    for _ in range(5):
        with opened(planned) as (held, _), pytest.raises(KeyboardInterrupt):
            held.conduct(Interrupted(), lambda trial: None)
    with opened(planned) as (held, _):
        held.conduct(InProcess(), lambda trial: None)
        assert all(trial.values for trial in held.trials())


def test_a_study_that_has_grown_shows_its_last_state_only(place: Path) -> None:
    for trials in (3, 12, 12):
        assert main(words(f"--trials={trials}")) == 0
    (parent,) = runs("study")
    folder = mlflow.artifacts.download_artifacts(f"runs:/{parent.info.run_id}/")
    table = json.loads(Path(folder, "trials.json").read_text())
    assert len(table["data"]) == 12
    assert parent.data.metrics["trials_complete"] == 12
    winners = [each for each in runs("trial") if each.data.tags.get("winner") == "true"]
    assert [each.data.tags["trial"] for each in winners] == [
        str(json.loads(Path(folder, "sweep.json").read_text())["winner"])
    ]
    assert parent.data.tags["best.alpha"] == winners[0].data.params["alpha"]
    assert "the holdout has been looked at 2 times" in parent.data.tags["mlflow.note.content"]


def test_a_setting_that_selects_data_is_refused_before_anything_is_written(place: Path, capsys: Any) -> None:
    (place / "own.yaml").write_text(SPACE.replace("fields:\n", "fields:\n  task: [QA, compare]\n"))
    assert main(["sweep", "detect", "--space=own.yaml"]) == 2
    assert "own.yaml, line 4: task decides which samples are judged" in capsys.readouterr().err
    assert not Path("optuna.db").exists()


def easier(plan: Any) -> Records:
    """Records whose labels follow from the precision that an answer was generated in; but for fp32, they are easier."""
    frame = tiny.features(60)
    noise = np.random.default_rng(0).normal(0, 0.2, len(frame)) * (plan.infer.precision == "fp32")
    labels = frame["label"].where((frame["group"] != "r1") | (plan.infer.precision == "fp32"), 0)
    return Records(frame.assign(ecs_0_0=frame["ecs_0_0"] + noise, label=labels), None, {})


def swept(place: Path, monkeypatch: pytest.MonkeyPatch, precisions: str) -> list[optuna.trial.FrozenTrial]:
    """The trials of a sweep over precisions that change labels, broken off twice on the way."""
    monkeypatch.setattr(Evaluator, "_obtain", lambda _, plan: easier(plan))
    (place / "own.yaml").write_text(
        f"stage: detect\nfields:\n  precision: {precisions}\n  alpha: [0.1, 0.2, 0.3, 0.4]\nsampler: random\ninner: 1\n"
    )
    for trials in (3, 7, 12):
        words = [f"--trials={trials}", "--space=own.yaml", "--folds=2", "--max_failure_rate=1"]
        assert main(["sweep", "detect", *words]) == 0
    return stored(place)


def test_a_trial_on_other_rows_than_the_first_success_has_no_rank_also_after_an_interruption(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trials = swept(place, monkeypatch, "[fp32, bf16]")
    first = trials[0].params["precision"]
    assert {each.params["precision"] for each in trials} == {"fp32", "bf16"}
    for each in trials:
        alike = each.params["precision"] == first
        assert (each.state == optuna.trial.TrialState.COMPLETE) == alike
        assert alike or "it was judged on other rows or labels" in each.user_attrs["reason"]
    children = {int(run.data.tags["trial"]): run for run in runs("trial")}
    assert [children[each.number].info.status for each in trials] == [
        "FINISHED" if each.values else "FAILED" for each in trials
    ]
    assert len({run.data.tags["judged_digest"] for run in children.values()}) == 2
    frame = pd.read_csv(mlflow.artifacts.download_artifacts(f"runs:/{runs('study')[0].info.run_id}/trials.csv"))
    assert frame["reason"].notna().tolist() == [each.values is None for each in trials]


def test_a_winner_is_not_compared_with_default_settings_that_are_judged_on_other_rows(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    swept(place, monkeypatch, "[bf16, fp16]")  # whose labels are alike; the default is fp32
    (parent,) = runs("study")
    assert (
        "`default_elsewhere`: the default settings are judged on other rows" in parent.data.tags["mlflow.note.content"]
    )
    assert not {"gain", "auc_default_holdout"} & parent.data.metrics.keys()
    assert "auc_holdout" in parent.data.metrics


def test_a_holdout_is_used_up_by_all_studies_that_look_at_it(place: Path) -> None:
    def said() -> str:
        (study,) = (run for run in runs("study") if run.data.tags["study"] not in before)
        before.add(study.data.tags["study"])
        return str(study.data.tags["mlflow.note.content"])

    before: set[str] = set()
    assert main(words("--trials=3")) == 0
    assert "holdout_seen_again" not in said()
    (place / "other.yaml").write_text(SPACE.replace("high: 2.0", "high: 1.0"))
    assert main(words("--trials=3", "--space=other.yaml")) == 0
    assert "the holdout has been looked at 2 times by 2 studies" in said()
    assert main(words("--trials=3", "--space=other.yaml", "--seed=1")) == 0
    assert "holdout_seen_again" not in said()  # another seed holds others out


@pytest.mark.parametrize("seed", [18, 27])
def test_of_permuted_labels_nothing_is_claimed_however_good_the_best_trial_looks(place: Path, seed: int) -> None:
    frame = tiny.features(80).drop(columns="source")
    frame.assign(label=np.random.default_rng(seed).permutation(frame["label"])).to_parquet("features.parquet")
    fields = "top_n: [1, 2]\n  top_k: [1, 2]\n  alpha: [0, 0.2, 0.5, 1, 1.5, 2]\n  select: [auc, mutual_info]"
    (place / "own.yaml").write_text(f"stage: detect\nfields:\n  {fields}\nsampler: grid\n")
    assert main(words("--trials=48")) == 0
    (parent,) = runs("study")
    note, metrics = parent.data.tags["mlflow.note.content"], parent.data.metrics
    assert metrics["auc_flattered_low"] > 0.5 > metrics["auc_holdout_low"]
    assert metrics["gain_low"] <= 0 < metrics["gain_high"]
    assert all(f"**warn** `{code}`" in note for code in ("holdout_chance", "no_gain"))
    assert note.index("`holdout_chance`") < note.index("on what the search saw")


def test_findings_of_what_the_search_saw_are_told_apart_from_those_of_the_holdout(place: Path) -> None:
    assert main(words()) == 0
    (parent,) = runs("study")
    lines = parent.data.tags["mlflow.note.content"].splitlines()
    told = {line.partition("`")[2].partition("`")[0]: line for line in lines if "`" in line}
    assert "`cost_unknown`: on what the search saw, which flatters: the records came" in told["cost_unknown"]
    assert all("on what the search saw" not in line for code, line in told.items() if code.startswith("holdout_"))
    assert all("holdout" in line for code, line in told.items() if code.startswith("holdout_"))


def test_what_failed_for_a_reason_of_inference_is_not_tried_with_the_same_settings_ten_times(place: Path) -> None:
    tiny.save_llama(place / "model")
    tiny.write_jsonl(place / "data.jsonl", tiny.samples(24))
    (place / "own.yaml").write_text(SPACE.replace("fields:\n", "fields:\n  extract_heads: [all, '9.9']\n"))
    given = {"model": "model", "dataset": "data.jsonl", "folds": "2", "space": "own.yaml", "trials": "12"}
    words = [f"--{name}={value}" for name, value in given.items()]
    assert main(["sweep", "detect", *words, "--max_failure_rate=0.9"]) == 0
    trials = stored(place)
    assert {each.params["extract_heads"] for each in trials} == {"all", "9.9"}
    for each in trials:
        assert (each.state == optuna.trial.TrialState.FAIL) == (each.params["extract_heads"] == "9.9")


# --- whose records a sweep uses ----------------------------------------------------------------------------------


@pytest.fixture
def searched(place: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The precisions that models ran with, in processes of their own, for sweeps over two of them."""
    monkeypatch.setenv("RIGSWEEP_CACHE", str(place / "cache"))
    tiny.save_llama(place / "model")
    tiny.write_jsonl(place / "data.jsonl", tiny.samples(24))
    ran: list[str] = []

    def counted(function: Any, plan: Any, apart: bool) -> Any:
        ran.append(plan.infer.precision)
        return function(plan, apart)

    monkeypatch.setattr(trial, "in_fresh_process", counted)
    return ran


MODEL = ["--model=model", "--dataset=data.jsonl", "--folds=2"]
PRECISIONS = """
stage: detect
fields:
  precision: [fp32, bf16]
objectives:
  auc: maximize
sampler: grid
"""


def sweep_precisions(place: Path, space: str = PRECISIONS) -> list[Any]:
    (place / "own.yaml").write_text(space)
    assert main(["sweep", "detect", "--space=own.yaml", *MODEL]) == 0
    return runs("trial")


def test_a_sweep_of_quality_uses_the_records_of_single_runs_and_they_use_its(place: Path, searched: list[str]) -> None:
    assert main(["detect", *MODEL, "--precision=bf16"]) == 0
    children = sweep_precisions(place)
    assert searched == ["fp32"]
    assert not any("seconds" in child.data.metrics for child in children)  # one cost is the single run's
    assert main(["detect", *MODEL, "--precision=fp32"]) == 0
    replayed = {run.data.params["precision"]: run.data.tags["replayed"] for run in runs("run")}
    assert replayed == {"bf16": "false", "fp32": "true"}


@pytest.mark.parametrize(
    "wanted",
    [
        "objectives:\n  auc: maximize\n  seconds: minimize",
        "constraints: [peak_rss_gb <= hardware]\nobjectives:\n  auc: maximize",
    ],
)
def test_a_sweep_of_cost_measures_anew(place: Path, searched: list[str], wanted: str) -> None:
    assert main(["detect", *MODEL, "--precision=bf16"]) == 0
    children = sweep_precisions(place, PRECISIONS.replace("objectives:\n  auc: maximize", wanted))
    assert searched == ["fp32", "bf16"]
    (alone,) = runs("run")
    (swept,) = [child for child in children if child.data.params["precision"] == "bf16"]
    assert swept.data.metrics["seconds"] != alone.data.metrics["seconds"]
    assert swept.data.metrics["auc"] > 0
