"""How models are loaded: quantised, spread, offloaded, or not at all, with one line that says why."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from experiments.detect.inference import compute
from experiments.models import language
from harness.stage import BadInput
from tests import tiny
from tests.test_resume import execute as execute_with


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("language")
    tiny.save_llama(place / "model")
    tiny.write_jsonl(place / "data.jsonl", tiny.samples(8))
    return place


@pytest.fixture
def execute(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run `detect` on the tiny model with an empty cache."""
    monkeypatch.setenv("RIGSWEEP_CACHE", str(tmp_path / "cache"))
    fixed = {"model": str(folder / "model"), "dataset": str(folder / "data.jsonl"), "folds": "2"}
    return lambda **given: execute_with(fixed, **given)


def prequantised(folder: Path, tmp_path: Path, method: str) -> str:
    """The tiny model with a config.json that says its weights are quantised."""
    shutil.copytree(folder / "model", tmp_path / method)
    file = tmp_path / method / "config.json"
    rule = {"quant_method": method, "bits": 4, "group_size": 128, "desc_act": False, "zero_point": True}
    file.write_text(json.dumps(json.loads(file.read_text()) | {"quantization_config": rule}))
    return str(tmp_path / method)


@pytest.mark.parametrize(("method", "missing"), [("gptq", "optimum|gptqmodel"), ("awq", "gptqmodel|autoawq")])
def test_a_quantised_check_point_says_which_package_is_missing(
    folder: Path, tmp_path: Path, method: str, missing: str
) -> None:
    name = prequantised(folder, tmp_path, method)
    with pytest.raises(BadInput, match=f"{method}: cannot be loaded: .*({missing})"):
        language.load(name, "fp16", "cpu")


def test_what_is_quantised_already_is_not_quantised_again(folder: Path, tmp_path: Path) -> None:
    name = prequantised(folder, tmp_path, "gptq")
    with pytest.raises(BadInput, match=r"precision = nf4: .* is quantised by gptq already; fp16, bf16 or fp32"):
        language.load(name, "nf4", "cpu")


def test_a_model_that_caps_its_scores_refuses_the_kernels_that_cannot(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "model", tmp_path / "capped")
    file = tmp_path / "capped" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"attn_logit_softcapping": 30.0}))
    with pytest.raises(BadInput, match=r"attention = flash: .* caps its attention scores, which only eager"):
        language.load(str(tmp_path / "capped"), "fp32", "cpu", attention="flash")


def test_offloaded_weights_give_the_same_records(execute: Any) -> None:
    whole = execute(cache="off").records.frame
    spread = execute(cache="off", device_map="auto", max_memory_gb="0.0003").records.frame  # less than the model has
    pd.testing.assert_frame_equal(spread, whole)


def test_a_lower_precision_says_what_it_changes(execute: Any) -> None:
    found = {finding.code: finding for finding in execute(precision="bf16", precision_check="3").audit.findings}
    assert "against fp32, bf16 moves ECS by" in found["precision_changes_features"].message
    assert "on 3 responses" in found["precision_changes_features"].message
    for quiet in (execute(precision="bf16", precision_check="0"), execute()):
        assert {"precision_changes_features", "batch_changes_features"} <= set(quiet.audit.passed)


def test_a_precision_that_cannot_be_checked_says_so(execute: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.detect.inference.check.free_bytes", lambda *_: 1000.0)
    found = {finding.code: finding for finding in execute(precision="bf16").audit.findings}
    assert "fp32 weights need" in found["precision_unchecked"].message


def test_the_batch_is_found_once_and_fits_into_memory(execute: Any, tmp_path: Path) -> None:
    assert execute().records.origin["batch_tokens"] == 1024
    (remembered,) = (tmp_path / "cache" / "remembered").iterdir()
    remembered.write_text("64")
    assert execute(cache="refresh").records.origin["batch_tokens"] == 64
    assert execute(batch_tokens="77").records.origin["batch_tokens"] == 77
    assert execute(max_memory_gb="0.0001").records.origin["batch_tokens"] < 1024


@pytest.mark.parametrize(("megabytes", "tokens"), [(1000, 1024), (103, 512), (10, 32), (1, 1)])
def test_a_batch_takes_four_fifths_of_what_is_free(
    megabytes: float, tokens: int, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    """A pretended extractor that needs 2 MB, and 0.1 MB a token."""
    (sample, *_) = encoded(folder)

    def peak(_: Any, batch: list[Any], __: str) -> float:
        return (2 + 0.1 * (sample.prompt_tokens - 1 + len(batch) * len(sample.tokens))) * 1e6

    monkeypatch.setattr(compute, "_peak_bytes", peak)
    monkeypatch.setattr(compute, "free_bytes", lambda *_: megabytes * 1e6)
    assert compute.find_batch_tokens(lambda batch: [], sample, "cpu", None) == tokens


def encoded(folder: Path) -> list[Any]:
    from experiments.detect.inference import data
    from experiments.redeep.encode import encode

    samples = data.read(folder / "data.jsonl").samples
    described = language.describe(str(folder / "model"))
    return [encode(each, described, chat_template=True, max_length=None, span_chars=0) for each in samples]


@pytest.mark.slow
def test_compiled_blocks_give_the_same_records(execute: Any) -> None:
    plain, compiled = (
        execute(cache="off", compile=word).records.frame.filter(regex="^(ecs|pks)") for word in ("false", "true")
    )
    np.testing.assert_allclose(compiled, plain, atol=1e-5)


def test_memory_is_tidied_up_as_often_as_asked(execute: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tidied: list[int] = []
    monkeypatch.setattr(compute.gc, "collect", lambda: tidied.append(1))
    execute(cache="off", batch_tokens="1", cleanup_every="4")
    assert len(tidied) == (8 + 1) // 4  # eight batches and the warm-up
