"""What a user types and what comes back: one line for every mistake, a run that says how it ended, an exit code."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pyarrow
import pytest

from experiments.detect import DETECT
from harness import __main__ as command_line
from harness import __version__
from harness.commands import bench, console
from harness.running import hardware
from harness.running.records import read_records, write_records
from harness.running.settings import RunOptions
from harness.stage import BadInput, Records
from tests.tiny import TEXT, features, new_store, samples, save_llama, without_own_time, write_jsonl

ROOT = Path(__file__).parent.parent
SOUND = ["--model", "@/model", "--dataset", "@/sound.jsonl", "--folds", "2"]
SCORED = ["--records", "@/sound.parquet", "--folds", "2"]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of sound and of broken inputs; `@` stands for it in the command lines below."""
    place = tmp_path_factory.mktemp("inputs")
    rows, model = samples(4), save_llama(place / "model")
    data = {
        "sound": rows,
        "empty": [],
        "column": [{"lables" if name == "labels" else name: value for name, value in rows[0].items()}],
        "class": [row | {"labels": []} for row in rows],
        "long": [rows[0] | {"response": TEXT * 30}],
        "padding": [rows[0] | {"prompt": "<pad><pad>\n<pad>"}],
    }
    for name, content in data.items():
        write_jsonl(place / f"{name}.jsonl", content)
    (place / "broken.jsonl").write_text((place / "sound.jsonl").read_text().replace('{"id": "r1"', '{"id" "r1"'))
    frame = features()
    frames = {"sound": frame, "nan": frame.assign(pks_1=[np.nan, *frame["pks_1"][1:]]), "none": frame[:0]}
    frames |= {f"no-{name}": frame.drop(columns=name) for name in ("group", "item", "label")}
    frames |= {"two": frame.assign(label=2 * frame["label"]), "anonymous": frame.assign(group=["r0", None] * 12)}
    frames |= {"bare": frame[["group", "item", "label"]], "words": frame.assign(ecs_0_0="high")}
    for name, content in frames.items():
        write_records(Records(content, None, {"counts": {}}), place / f"{name}.parquet")
    (place / "text.parquet").write_text("no parquet")
    (place / "object.json").write_text("{}")
    score = {
        "hallucination_label": 0,
        "prompt_attention_score": {"(0, 1)": 0.5},
        "parameter_knowledge_scores": {"layer_0": float("nan")},
    }
    released = {"id": "1", "source_id": "s", "model": "m", "response": "Yes.", "response_spans": [[0, 4]]}
    (place / "nan.json").write_text(json.dumps([released | {"scores": [score]}]))
    for fault in ("config", "tokenizer", "weights", "truncated", "lacking"):
        shutil.copytree(model, place / f"model-{fault}")
    (place / "model-config/config.json").unlink()
    (place / "model-tokenizer/tokenizer.json").unlink()
    (place / "model-weights/model.safetensors").unlink()
    weights = place / "model-truncated/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:9000])
    config = place / "model-lacking/config.json"
    config.write_text(config.read_text().replace('"num_hidden_layers": 3', '"num_hidden_layers": 4'))
    return place


@dataclass(frozen=True)
class Outcome:
    """What a command left behind; `run` is the newest run of the store, if any."""

    code: int
    out: str
    line: str
    run: Any


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty tracking store, a records cache and a working directory of the test's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RIGSWEEP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "commands")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", new_store(tmp_path))
    return os.environ["MLFLOW_TRACKING_URI"]


def newest_run(store: str) -> Any:
    client = mlflow.MlflowClient(store)
    experiment = client.get_experiment_by_name("commands")
    runs = client.search_runs([experiment.experiment_id]) if experiment else []
    return runs[0] if runs else None


def last_words(err: str) -> list[str]:
    """What stands on stderr besides what is said of work that takes long."""
    return [line for line in err.splitlines() if line and not re.search(r"/min, |… [0-9:]+$", line)]


@pytest.fixture
def harness(store: str, inputs: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run a command in this process; on stderr there may be one line, besides what is said of work that takes long."""

    def command(*words: str) -> Outcome:
        capsys.readouterr()
        code = command_line.main([word.replace("@", str(inputs)) for word in words])
        out, err = capsys.readouterr()
        lines = last_words(err)
        assert len(lines) == (code != 0), err
        return Outcome(code, out, "".join(lines), newest_run(store))

    return command


@pytest.mark.parametrize(
    ("words", "said"),
    [
        pytest.param(["--dataset", "@/no.jsonl"], ["dataset @/no.jsonl: no such file or folder", "JSONL"], id="absent"),
        pytest.param(["--dataset", "@/broken.jsonl"], ["broken.jsonl, line 2: not JSON"], id="malformed line"),
        pytest.param(["--dataset", "@/column.jsonl"], ["unknown column 'lables'; did you mean labels?"], id="column"),
        pytest.param(["--dataset", "@/empty.jsonl"], ["empty.jsonl: holds no samples; allowed:"], id="no sample"),
        pytest.param(["--split", "test"], ["no sample has split='test'; values that exist"], id="nothing selected"),
        pytest.param(["--dataset", "@/class.jsonl"], ["detect: auc is undefined: all 4 labels are 0"], id="one class"),
        pytest.param(["--folds", "3"], ["auc is undefined: 3 folds need 3 prompts of each label"], id="too many folds"),
        pytest.param(["--dataset", "@/long.jsonl"], ["sample r0", "a window of 512 tokens; shorten"], id="long"),
        pytest.param(["--dataset", "@/padding.jsonl"], ["sample r0: its prompt holds no token besides"], id="padding"),
        pytest.param(["--alhpa", "1"], ["detect has no setting alhpa; did you mean alpha?"], id="misspelt"),
        pytest.param(["--zzzz=1"], ["detect has no setting zzzz; there are records,"], id="unknown"),
        pytest.param(["--top_n", "0"], ["top_n = 0", "must be greater than or equal to 1"], id="out of range"),
        pytest.param(["--alpha", "inf"], ["alpha = inf", "finite"], id="infinite"),
        pytest.param(["--top-n", "many"], ["top_n = many", "must be a valid integer"], id="wrong type"),
        pytest.param(["--level", "word"], ["level = word", "'chunk' or 'token'"], id="no such choice"),
        pytest.param(["--cache", "maybe"], ["cache = maybe", "'use', 'refresh' or 'off'"], id="no such option"),
        pytest.param(["--extract_heads", "9.9"], ["extract_heads = 9.9", "3 layers x 4 heads"], id="no such head"),
        pytest.param(["--heads", "9.9"], ["heads = 9.9", "from ecs_0_0 to ecs_2_3"], id="no such column"),
        pytest.param(["--model", "@/model-config"], ["folder has no config.json"], id="config"),
        pytest.param(["--model", "@/model-weights"], ["has no weights; one of *.safetensors"], id="no weights"),
        pytest.param(["--model", "@/model-tokenizer"], ["has no tokenizer; one of tokenizer.json"], id="no tokenizer"),
        pytest.param(["--model", "@/model-truncated"], ["model-truncated: cannot be loaded"], id="truncated weights"),
        pytest.param(["--model", "@/model-lacking"], ["lack 9 ", "such as model.layers.3"], id="lacking"),
        pytest.param(["--model", "@/nowhere"], ["model @/nowhere: no such folder"], id="no model"),
        pytest.param(["--hardware", "gpu9"], ["hardware = gpu9: no such profile; there are auto, "], id="hardware"),
        pytest.param(["--records", "@/sound.parquet"], ["model = @/model cannot change "], id="records and model"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_and_a_failed_run(
    harness: Callable[..., Outcome], inputs: Path, words: list[str], said: list[str]
) -> None:
    check_failure(harness("detect", *SOUND, *words), inputs, said)


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("no.parquet", ["records = @/no.parquet: no such file"]),
        ("text.parquet", ["records @/text.parquet: cannot be read as parquet"]),
        ("object.json", ["object.json", "a list of ReDeEP responses"]),
        ("nan.parquet", ["1 values that are not finite, the first in row 0, column pks_1; features must be finite"]),
        ("nan.json", ["nan.json: [0] (id '1')", "(column pks_0) is nan; allowed: finite numbers"]),
        ("none.parquet", ["the records hold no row"]),
        ("no-group.parquet", ["the records have no column group; needed are group, item, label (0 or 1)"]),
        ("no-item.parquet", ["the records have no column item; needed"]),
        ("no-label.parquet", ["the records have no column label; needed"]),
        ("two.parquet", ["the records hold label 2 in row 3; needed"]),
        ("anonymous.parquet", ["the records hold group nan in row 1; needed"]),
        ("bare.parquet", ["the records hold no features, or features that are not numbers; needed"]),
        ("words.parquet", ["features that are not numbers; needed are"]),
    ],
)
def test_records_that_cannot_be_scored_are_named(
    harness: Callable[..., Outcome], inputs: Path, file: str, said: list[str]
) -> None:
    check_failure(harness("detect", "--records", f"@/{file}"), inputs, said)


def check_failure(outcome: Outcome, inputs: Path, said: list[str]) -> None:
    assert outcome.code == 2
    assert outcome.line.startswith("rigsweep: ")
    assert [part for part in said if part.replace("@", str(inputs)) not in outcome.line] == [], outcome.line
    assert outcome.run.info.status == "FAILED"
    assert outcome.line.removeprefix("rigsweep: ") in outcome.run.data.tags["error"]


def test_one_class_alone_logs_what_can_be_measured(harness: Callable[..., Outcome]) -> None:
    recorded = harness("detect", *SOUND, "--dataset", "@/class.jsonl").run.data
    assert recorded.metrics["prevalence"] == 0
    assert recorded.metrics["samples"] == 4
    assert "auc" not in recorded.metrics
    assert recorded.tags["undefined.auc"] == "all 4 labels are 0, and both 0 and 1 are needed"
    assert recorded.tags["audit"] == "fail"


def test_a_headline_that_is_undefined_fails_the_run_even_where_that_is_muted(harness: Callable[..., Outcome]) -> None:
    outcome = harness("detect", *SOUND, "--dataset", "@/class.jsonl", "--mute", "headline_undefined")
    assert (outcome.code, outcome.run.info.status, outcome.run.data.tags["audit"]) == (2, "FAILED", "fail")
    assert "muted: headline_undefined (fail)" in outcome.out


def test_a_check_that_is_not_there_is_refused_before_inference(
    harness: Callable[..., Outcome], inputs: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RIGSWEEP_CACHE", str(tmp_path / "cache"))
    check_failure(harness("detect", *SOUND, "--mute", "in_smaple"), inputs, ["did you mean in_sample?"])
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("option", ["report", "save_records"])
def test_a_place_that_cannot_be_written_is_refused_before_inference(
    harness: Callable[..., Outcome], inputs: Path, option: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RIGSWEEP_CACHE", str(tmp_path / "cache"))
    failed = harness("detect", *SOUND, f"--{option}", "@/sound.jsonl/out.parquet")
    check_failure(failed, inputs, ["@/sound.jsonl/out.parquet", "cannot be written"])
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("variable", "value"),
    [("MLFLOW_TRACKING_URI", "sqlite:///@/sound.jsonl/mlflow.db"), ("MLFLOW_RUN_ID", "0123456789abcdef")],
)
def test_a_tracking_store_that_cannot_be_used_is_named(
    harness: Callable[..., Outcome], inputs: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value.replace("@", str(inputs)))
    outcome = harness("detect", *SCORED)
    assert (outcome.code, outcome.run) == (2, None)
    assert outcome.line.startswith(f"rigsweep: tracking store {os.environ['MLFLOW_TRACKING_URI']}: ")


def test_an_unknown_stage_and_a_stray_word_are_named(harness: Callable[..., Outcome]) -> None:
    assert "detect" in harness("detcet").line
    assert "expected one argument" in harness("detect", "--alpha").line
    assert "0.5 is not an option; settings are typed --name value" in harness("detect", "0.5").line


def test_debug_lets_the_fault_through_with_its_cause(harness: Callable[..., Outcome], store: str) -> None:
    with pytest.raises(BadInput) as caught:
        harness("detect", "--records", "@/text.parquet", "--debug")
    assert isinstance(caught.value.__cause__, pyarrow.ArrowException)
    assert newest_run(store).info.status == "FAILED"


@pytest.mark.parametrize(
    ("fault", "code", "line", "status"),
    [
        (RuntimeError("first\nsecond"), 1, "RuntimeError: first second (--debug shows where)", "FAILED"),
        (KeyboardInterrupt(), 130, "interrupted; the run is marked KILLED", "KILLED"),
    ],
)
def test_a_fault_inside_inference_ends_the_run(
    harness: Callable[..., Outcome],
    monkeypatch: pytest.MonkeyPatch,
    fault: BaseException,
    code: int,
    line: str,
    status: str,
) -> None:
    def fail(*_: Any) -> Any:
        raise fault

    monkeypatch.setattr(command_line, "STAGES", (replace(DETECT, infer=fail),))
    outcome = harness("detect", *SOUND)
    assert (outcome.code, outcome.run.info.status) == (code, status)
    assert outcome.line.startswith(f"rigsweep: {line}")


# --- what works --------------------------------------------------------------------------------------------------


def test_the_report_holds_the_whole_result_and_where_each_setting_came_from(
    harness: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine = hardware.find_machine()
    lab = hardware.Profile(
        tag="lab",
        description="this machine",
        match=hardware.Match(device=machine.devices[-1]),
        defaults={
            "detect": {"precision": "bf16", "alpha": 0.3, "top_k": 2},
            "another": {"alpha": 0.4, "setting_of_another_stage": 1},
        },
    )
    monkeypatch.setattr(hardware, "load_profiles", lambda: [lab])
    words = ["--hardware", "lab", "--alpha", "0.7", "--top_n=2", "--report", "new/report.json"]
    outcome = harness("detect", *SOUND, *words)
    report = json.loads((tmp_path / "new/report.json").read_text())
    assert outcome.code == 0
    expected = {
        "alpha": (0.7, "given"),
        "top_n": (2, "given"),
        "top_k": (2, "hardware lab"),
        "precision": ("bf16", "hardware lab"),
        "m": (1.0, "default"),
        "seed": (0, "default"),
    }
    assert {name: tuple(report["params"][name].values()) for name in expected} == expected
    assert "setting_of_another_stage" not in report["params"]
    for part in ("metrics", "undefined", "findings", "cost", "environment", "counts", "digests"):
        assert report[part], part
    assert 0 <= report["metrics"]["auc"] <= 1
    assert "auc_task" in report["undefined"]
    assert report["cost"]["samples"] == 4
    assert report["audit"] in {finding["level"] for finding in report["findings"]}
    assert f"auc {report['metrics']['auc']:.4f}" in " ".join(outcome.out.split())


def test_this_machine_is_recognised_and_where_its_defaults_came_from_is_in_the_run(
    harness: Callable[..., Outcome],
) -> None:
    machine, profiles = hardware.find_machine(), hardware.load_profiles()
    profile = hardware.choose_profile("auto", machine, profiles)
    assert (profile.match.device == "cpu") == profile.tag.startswith("cpu-")
    found = harness("detect", *SOUND, "--hardware", "auto").run.data
    assert found.tags["hardware"] == found.params["hardware"] == profile.tag
    assert found.tags["device"] == machine.name
    assert profile.defaults["detect"]
    for name, value in profile.defaults["detect"].items():
        assert found.params[name] == str(value)
        assert found.tags[f"origin.{name}"] == f"hardware {profile.tag}"
    assert found.tags["origin.folds"] == "given"
    assert "origin.alpha" not in found.tags


@pytest.mark.parametrize("name", ["seed", "alhpa"])
def test_a_profile_may_set_what_the_stage_declares_not_how_a_run_is_made(
    harness: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    match = hardware.Match(device=hardware.find_machine().devices[-1])
    lab = hardware.Profile(tag="lab", description="", match=match, defaults={"detect": {name: 7}})
    monkeypatch.setattr(hardware, "load_profiles", lambda: [lab])
    outcome = harness("detect", *SCORED)
    assert outcome.code == 2
    assert outcome.line == f"rigsweep: hardware profile lab: defaults: detect has no setting {name}"


@pytest.mark.parametrize("words", [["--top_n", "2"], ["--top-n", "2"], ["--top_n=2"], ["--top-n=2"]], ids=" ".join)
def test_underscores_and_hyphens_name_the_same_setting(harness: Callable[..., Outcome], words: list[str]) -> None:
    outcome = harness("detect", *SCORED, *words)
    assert outcome.code == 0
    assert outcome.run.data.params["top_n"] == "2"


def test_how_many_checks_have_passed_is_shown_and_with_debug_which(harness: Callable[..., Outcome]) -> None:
    plain, debug = harness("detect", *SCORED), harness("detect", *SCORED, "--debug")
    count = re.search(r"^  (\d+) checks, (\d+) passed$", plain.out, re.MULTILINE)
    assert count is not None
    assert "    passed  " not in plain.out
    assert debug.out.count("\n    passed  ") == int(count[2]) < int(count[1])


def test_saved_records_can_be_scored_again(harness: Callable[..., Outcome], tmp_path: Path) -> None:
    first = harness("detect", *SOUND, "--save_records", "kept.parquet").run.data
    again = harness("detect", "--records", "kept.parquet", "--folds", "2").run.data
    assert (first.tags["replayed"], again.tags["replayed"]) == ("false", "true")
    assert without_own_time(again.metrics) == without_own_time(first.metrics)
    assert again.tags["data_digest"] == first.tags["data_digest"]


def test_a_profiled_run_logs_a_trace_is_tagged_and_leaves_the_cache_alone(harness: Callable[..., Outcome]) -> None:
    profiled = harness("detect", *SOUND, "--profile", "true").run
    client = mlflow.MlflowClient()
    assert "trace.json.gz" in {file.path for file in client.list_artifacts(profiled.info.run_id)}
    assert profiled.data.tags["profile"] == "true"
    plain = harness("detect", *SOUND).run
    assert plain.data.tags["replayed"] == "false"
    assert "trace.json.gz" not in {file.path for file in client.list_artifacts(plain.info.run_id)}


def test_help_lists_every_setting_with_bounds_and_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command_line.main(["detect", "--help"])
    assert ended.value.code == 0
    shown = "".join(capsys.readouterr().out.split())
    for model in (DETECT.infer_params, DETECT.score_params, RunOptions):
        for name, field in model.model_fields.items():
            assert f"--{name.replace('_', '-')}" in shown
            default = "unset" if field.default is None else str(field.default).lower()
            limits = {"alpha": ">=0;<=10;", "folds": ">=2;<=50;", "limit": ">=1;"}.get(name, "")
            assert "".join(str(field.description).split()) in shown
            assert f"{limits}default{default}]" in shown


def test_the_version_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.main(["--version"]) == 0
    assert capsys.readouterr().out == f"rigsweep {__version__}\n"


def bench_of(name: str) -> Callable[..., pd.DataFrame]:
    return lambda device, repeats, quick: pd.DataFrame([{"case": f"{name} on {device}", "seconds": repeats}])


def test_a_benchmark_has_all_tables_of_its_stage_or_the_one_asked_for(
    harness: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    benches = {name: bench_of(name) for name in ("first", "second")}
    monkeypatch.setattr(command_line, "STAGES", (replace(DETECT, benches=benches),))
    both = harness("bench", "detect", "--repeats", "2")
    assert "first on cpu        2" in both.out
    files = {file.path for file in mlflow.MlflowClient().list_artifacts(both.run.info.run_id)}
    assert files == {"first.csv", "second.csv"}
    assert "first" not in harness("bench", "detect", "--table", "second").out
    assert harness("bench", "detect", "--table", "secnd").line.endswith("has no table secnd; did you mean second?")
    assert harness("bench", "sweep", "--table", "x").line.endswith("sweep has no table x; there are bookkeeping")


def test_what_a_sweep_costs_beside_its_trials_is_measured_on_a_stages_own_records(
    harness: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch, inputs: Path
) -> None:
    records = read_records(inputs / "sound.parquet")
    stage = replace(DETECT, infer=lambda *_: records, inputs=lambda _: {"data": "made"})
    monkeypatch.setattr(command_line, "STAGES", (replace(stage, name="other", score_many=None), stage))
    monkeypatch.setattr(bench, "bookkeeping", lambda *arguments: pd.DataFrame([{"trials": arguments[2]}]))
    assert "200" in harness("bench", "sweep", "--quick").out


# --- as a process of its own ---------------------------------------------------------------------------------------


def process(*words: str) -> subprocess.Popen[str]:
    """A fresh interpreter in which Ctrl-C works, whatever started the tests."""
    return subprocess.Popen(
        [sys.executable, *words],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def test_stages_and_the_audit_come_without_what_only_their_work_needs() -> None:
    names = "pandas", "numpy", "scipy", "sklearn"
    code = f"import sys, experiments, harness.running.audit; print(set({names}) & set(sys.modules))"
    assert process("-c", code).communicate() == ("set()\n", "")


def test_a_process_that_fails_writes_nothing_but_its_line(store: str) -> None:
    running = process("-m", "harness", "detect", "--alhpa", "1")
    out, err = running.communicate()
    assert (out, last_words(err)) == ("", ["rigsweep: detect has no setting alhpa; did you mean alpha?"])
    assert running.returncode == 2
    assert newest_run(store).info.status == "FAILED"


def test_ctrl_c_marks_the_run_killed(store: str) -> None:
    code = """if True:
        import sys, threading
        from dataclasses import replace
        from experiments.detect import DETECT
        from harness import __main__ as command_line

        def infer(*_):
            print("inferring", flush=True)
            threading.Event().wait()

        command_line.STAGES = (replace(DETECT, inputs=lambda _: {}, infer=infer),)
        sys.exit(command_line.main(["detect"]))
    """
    running = process("-c", code)
    assert running.stdout is not None
    assert running.stdout.readline() == "inferring\n", running.communicate()
    running.send_signal(signal.SIGINT)
    _, err = running.communicate()
    assert running.returncode == 130
    (said,) = last_words(err)
    assert said.startswith("rigsweep: interrupted; the run is marked KILLED; the same command goes on where it stopped")
    assert newest_run(store).info.status == "KILLED"
    assert newest_run(store).data.tags["error"] == "interrupted"


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.5, "0.5000"), (0.0, "0.0000"), (-0.25, "-0.2500"), (4.13e-11, "4.130e-11"), (1e6, "1000000.0000")],
)
def test_a_small_number_is_shown_by_its_digits_and_not_as_zero(value: float, shown: str) -> None:
    assert console.number(value) == shown
