"""What to try next follows from a run's figures, and leaves out what is done already or cannot be done there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import pytest

from experiments import STAGES
from experiments.detect import DETECT
from experiments.montecarlo import MONTECARLO
from experiments.rag import RAG
from harness import __main__ as command_line
from harness.__main__ import main
from harness.running.hardware import Profile, load_profiles
from harness.stage import Goal, Params, Stage
from harness.tracking import advise
from harness.tracking.advise import Past
from harness.tracking.runs import tracked
from tests.tiny import new_store

PROFILES = {profile.tag: profile for profile in load_profiles()}
GPU, MAC, T4 = PROFILES["rtx-4090"], PROFILES["apple-silicon"], PROFILES["colab-t4"]
OUT_OF_MEMORY = "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB"


def run(error: str = "", metrics: dict[str, float] | None = None, **settings: Any) -> Past:
    every = DETECT.infer_params().model_dump() | DETECT.score_params().model_dump() | settings
    return Past(every, metrics or {}, error, 24.0)


def measured(tokens: float, **more: float) -> dict[str, float]:
    """Figures of a run whose samples have so many tokens."""
    return {"samples": 100, "tokens": 100 * tokens, "samples_per_min": 12.5, "seconds": 480} | more


def tried(goal: Goal, past: Past, profile: Profile = GPU) -> list[str]:
    advice = advise.advise(DETECT, past, profile)
    return [f"{each.setting}={each.value}" for each in advice[goal][1]] if goal in advice else []


def test_out_of_memory_quantise_then_shorten_then_compute_less_at_once_then_offload() -> None:
    expected = ["precision=int8", "max_sequence_length=6000", "batch_tokens=1", "cleanup_every=1", "device_map=auto"]
    past = run(OUT_OF_MEMORY, precision="bf16")
    assert tried("memory", past) == expected
    assert OUT_OF_MEMORY in advise.advise(DETECT, past, GPU)["memory"][0]
    last = {"precision": "nf4", "max_sequence_length": 4000, "batch_tokens": 1, "cleanup_every": 1}
    assert tried("memory", run(OUT_OF_MEMORY, **last)) == ["max_sequence_length=2000", "device_map=auto"]


def test_an_endpoint_that_was_too_slow_gets_more_time_and_fewer_requests() -> None:
    every = RAG.infer_params(endpoint="http://h/v1", model="m").model_dump() | RAG.score_params().model_dump()
    error = "BadInput: max_error_rate = 0.1: 9 of 12 failed, the first for this reason: no reply within 300 s"
    need, remedies = advise.advise(RAG, Past(every, {}, error, 24.0), GPU)["speed"]
    assert error in need
    assert [(each.setting, each.value) for each in remedies] == [("request_timeout", 240.0), ("in_flight", 4)]
    assert "speed" not in advise.advise(RAG, Past(every, {}, "BadInput: no such file", 24.0), GPU)


@pytest.mark.parametrize(
    "error",
    [
        "RuntimeError: [enforce fail at alloc_cpu.cpp:120] err == 0. DefaultCPUAllocator: can't allocate memory",
        "RuntimeError: Error code 12 (Cannot allocate memory)",
        "numpy._core._exceptions._ArrayMemoryError: Unable to allocate 7.28 TiB for an array",
        "TerminatedWorkerError: A worker process was killed by the Operating System. The exit codes are {SIGKILL(-9)}",
        "RuntimeError: cuBLAS error: CUBLAS_STATUS_ALLOC_FAILED",
    ],
)
def test_want_of_memory_is_known_by_whatever_says_so(error: str) -> None:
    assert tried("memory", run(error))


def test_a_gate_that_is_not_met_calls_for_quality_though_the_headline_is_fine() -> None:
    every = MONTECARLO.infer_params().model_dump() | MONTECARLO.score_params().model_dump() | {"passes": "4,16"}
    metrics = {"icc": 0.81, "snr": 4.2, "spearman": 0.67, "gate": 1.0, "passes_predicted_heavy": 27.0}
    need, remedies = advise.advise(MONTECARLO, Past(every, metrics, "", 24.0), GPU)["quality"]
    assert need == "spearman 0.670"
    assert ("passes", "4,16,27") in {(each.setting, each.value) for each in remedies}
    scored = Past(every, metrics, "", 24.0, inferred=False)
    settings = {each.setting for each in advise.advise(MONTECARLO, scored, GPU)["quality"][1]}
    assert settings <= MONTECARLO.score_params.model_fields.keys()


def test_memory_that_is_nearly_full_is_as_good_as_none_and_else_nothing_is_said() -> None:
    full = run(metrics={"peak_device_gb": 22.0, "peak_rss_gb": 3.0})
    assert tried("memory", full)[0] == "precision=bf16"
    assert advise.advise(DETECT, full, GPU)["memory"][0] == "peak_device_gb 22.0 of 24.0 GiB"
    assert tried("memory", run(metrics={"peak_device_gb": 12.0, "peak_rss_gb": 23.0})) == []
    assert tried("memory", run("BadInput: dataset x: no such file")) == []


def test_what_the_machine_cannot_do_is_left_out() -> None:
    assert "precision=bf16" not in tried("memory", run(OUT_OF_MEMORY), T4)
    assert "precision=fp16" in tried("memory", run(OUT_OF_MEMORY), T4)
    assert "precision=int8" not in tried("memory", run(OUT_OF_MEMORY, precision="bf16"), MAC)
    assert "attention=sdpa" in tried("speed", run(metrics=measured(4000)), T4)
    assert "workers=2" not in tried("speed", run(metrics=measured(100, share_model=0.2, share_io=0.5)), MAC)


@pytest.mark.parametrize(
    ("tokens", "settings", "first"),
    [
        (500, {"batch_tokens": 64}, "batch_tokens=auto"),
        (1999, {"precision": "bf16"}, None),  # the batch is as large as it can be
        (2001, {}, "attention=flash"),
        (5999, {"attention": "flash"}, "attention=sdpa"),
        (6001, {}, "max_sequence_length=6000"),
    ],
)
def test_slow_batch_what_is_short_take_a_better_kernel_for_longer_inputs_and_shorten_beyond(
    tokens: float, settings: dict[str, Any], first: str | None
) -> None:
    assert next(iter(tried("speed", run(metrics=measured(tokens), **settings))), None) == first


def test_padding_and_a_model_that_waits_are_told_by_their_figures() -> None:
    metrics = measured(3000, batch_fill=0.5, share_model=0.3, share_tokenising=0.4, share_io=0.1)
    lines = advise.advise(DETECT, run(metrics=metrics, batch_tokens=512), GPU)["speed"][1]
    why = {each.setting: each.why for each in lines}
    assert "batch_fill is 0.50" in why["batch_tokens"]
    assert "30% of the time, 50%" in why["workers"]
    assert "compile" not in why
    assert "compile" in {each.split("=")[0] for each in tried("speed", run(metrics=measured(3000, seconds=900.0)))}


def test_low_quality_other_heads_another_detector_more_data_the_threshold() -> None:
    metrics = {"auc": 0.6, "auc_low": 0.5, "auc_high": 0.7, "auc_pks": 0.65, "auc_ecs": 0.5, "f1": 0.6, "f1_prior": 0.6}
    expected = ["select=mutual_info", "scorer=ensemble", "alpha=0", "limit=500", "threshold=auto"]
    assert tried("quality", run(metrics=metrics, limit=50, threshold=0.3)) == expected
    assert tried("quality", run(metrics=metrics, select="mutual_info", scorer="ensemble")) == ["alpha=0"]
    assert advise.advise(DETECT, run(metrics=metrics), GPU)["quality"][0] == "auc 0.600 [0.500, 0.700]"
    assert tried("quality", run(metrics={"auc": 0.95})) == []


def test_a_run_that_scored_the_records_of_another_is_advised_on_scoring_only() -> None:
    scored = advise.past(
        DETECT, {"records": "r.parquet", "alpha": "0.3"}, measured(100) | {"auc": 0.6}, {"memory_gb": "24.0"}
    )
    assert scored.settings["alpha"] == 0.3
    assert advise.advise(DETECT, scored, GPU).keys() == {"quality"}


@pytest.mark.parametrize("profile", PROFILES.values(), ids=lambda profile: profile.tag)
@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_whatever_is_advised_can_be_run_on_that_machine(stage: Stage[Any, Any], profile: Profile) -> None:
    metrics = dict.fromkeys((metric.name for metric in stage.metrics), 0.0) | measured(3000)
    models: tuple[type[Params], ...] = (stage.infer_params, stage.score_params)
    settings: dict[str, Any] = {}
    for model in models:
        own = {name: v for name, v in profile.defaults.get(stage.name, {}).items() if name in model.model_fields}
        settings |= model.model_validate(own).model_dump()
    for goal, (need, remedies) in advise.advise(stage, Past(settings, metrics, OUT_OF_MEMORY, 16), profile).items():
        assert need
        assert remedies, goal
        for remedy in remedies:
            changed = settings | {remedy.setting: remedy.value}
            assert changed != settings
            assert any(character.isdigit() for character in remedy.why) or str(settings[remedy.setting]) in remedy.why
            profile.require(changed, dict.fromkeys(changed, "given"))
            for model in models:
                model.model_validate({name: value for name, value in changed.items() if name in model.model_fields})


# --- from the command line -----------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", new_store(tmp_path))


def test_a_run_that_failed_for_want_of_memory_is_advised_on(
    store: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any) -> Any:
        raise MemoryError("Unable to allocate 9 GiB")

    monkeypatch.setattr(command_line, "STAGES", (replace(DETECT, infer=fail),))
    assert main(["detect", "--limit", "40", "--cache", "off", "--mute", "interval_wide"]) == 1
    (failed,) = mlflow.MlflowClient().search_runs(["0"])
    capsys.readouterr()
    assert main(["advise", "--run", failed.info.run_id]) == 0
    shown = capsys.readouterr().out
    assert "memory: it failed: MemoryError: Unable to allocate 9 GiB" in shown
    assert "precision=bf16" in shown
    assert "next: mlflow run . -e detect -P limit=40 -P mute=interval_wide -P precision=bf16" in shown


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "advise: it takes --run ID"),
        (["--run", "0" * 32], "not in"),
        (["--run", "study"], "is a study, not a stage's run"),
        (["--rum", "x"], "advise: it takes --run ID"),
    ],
)
def test_what_is_no_run_of_a_stage_is_refused(
    store: None, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    with tracked("detect", "study") as study:
        pass
    assert main(["advise", *(word.replace("study", study.run_id) for word in words)]) == 2
    (line,) = [each for each in capsys.readouterr().err.splitlines() if each.startswith("rigsweep: ")]
    assert said in line
