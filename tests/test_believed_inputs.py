"""What is read is known by its contents, runs nothing, and is refused in one line where it cannot be so."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from experiments.detect import DETECT
from experiments.detect.inference.inputs import inputs
from experiments.detect.inference.params import DetectInfer
from experiments.models import files, language
from experiments.redeep.encode import encode
from experiments.redeep.sample import Sample
from harness.running import detectors
from harness.stage import BadInput
from tests import tiny


def test_data_that_can_be_read_only_once_are_refused_for_nothing_would_tell_them_from_others(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BadInput, match="pipe: is neither a file nor a folder"):
        inputs(DetectInfer(dataset=str(tmp_path / "pipe")))
    with pytest.raises(BadInput, match=r"has no response.jsonl and no source_info.jsonl"):
        inputs(DetectInfer(dataset=str(tmp_path)))


def test_a_sentence_encoder_is_known_by_all_of_its_modules(tmp_path: Path) -> None:
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "modules.json").write_text("[]")
    digests = set()
    for mode in ("cls", "mean"):
        (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": mode}))
        digests.add(inputs(DetectInfer(embedder=str(tmp_path)))["embedder"])
    assert len(digests) == 2
    with pytest.raises(BadInput, match="embedder = owner/name: neither a folder nor to be had from the hub"):
        inputs(DetectInfer(embedder="owner/name"))


def test_a_model_folder_runs_no_code_of_its_own(tmp_path: Path) -> None:
    folder = tiny.save_llama(tmp_path / "model")
    ran = tmp_path / "ran"
    (folder / "own.py").write_text(f"open({str(ran)!r}, 'w').close()\nclass Config: pass\n")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Config"}}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(BadInput, match="cannot be loaded"):
        language.describe(str(folder))
    assert not ran.exists()


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", "[]"),
        ("config.json", "null"),
        ("tokenizer.json", "[]"),
        ("tokenizer_config.json", "[]"),
        ("config.json", '{"model_type": []}'),
    ],
)
def test_a_model_folder_whose_files_hold_something_else_is_refused_in_one_line(
    tmp_path: Path, file: str, content: str
) -> None:
    folder = tiny.save_llama(tmp_path / "model")
    (folder / file).write_text(content)
    with pytest.raises(BadInput, match="cannot be loaded") as refused:
        language.describe(str(folder))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("prompt", ["assistant", "model", "a", "user"])
def test_a_prompt_is_found_where_it_stands_though_the_template_has_the_same_words_on_both_sides(
    tmp_path: Path, prompt: str
) -> None:
    template = "user: {% for m in messages %}{{ m.content }}{% endfor %}\nassistant model a user: "
    model = language.describe(str(tiny.save_llama(tmp_path / "model", chat_template=template)))
    found = encode(Sample("s", prompt, "Bob.", None, ""), model, chat_template=True, max_length=None, span_chars=0)
    (span,) = found.prompt
    before = model.tokenizer.decode(found.ids[: span.start], skip_special_tokens=True)
    assert before.strip() == "user:"


# --- a detector that is kept -------------------------------------------------------------------------------------

KEPT: dict[str, Any] = {
    "stage": "detect",
    "observed": {
        "system_prompt": "Answer in ENGLISH",
        "template_options": '{"lang": "EN"}',
        "template_date": "2024-07-26",
    },
    "digests": {},
    "environment": {},
    "figures": {"auc": 0.7},
    "judged": "out of fold",
    "learnt_from": {"responses": 3},
    "threshold": 0.5,
}


@pytest.mark.parametrize(
    ("name", "value", "same"),
    [
        ("system_prompt", "answer in english", False),
        ("template_options", '{"lang": "en"}', False),
        ("template_options", '{"lang":"EN"}', True),
        ("template_date", "20240726", True),
    ],
)
def test_a_setting_is_the_detectors_own_where_it_means_the_same(name: str, value: str, same: bool) -> None:
    if same:
        detectors.require_observed(DETECT, KEPT, {name: value})
        return
    with pytest.raises(BadInput, match="scores nothing else"):
        detectors.require_observed(DETECT, KEPT, {name: value})


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("threshold", "NaN"),
        ("threshold", "Infinity"),
        ("observed", "5"),
        ("judged", "5"),
        ("environment", "[1]"),
        ("digests", '{"model": 5}'),
        ("figures", '{"auc": "high"}'),
        ("learnt_from", "null"),
    ],
)
def test_a_file_that_is_no_detector_is_refused_in_one_line_before_anything_is_scored(
    tmp_path: Path, part: str, value: str
) -> None:
    file = tmp_path / "detector.json"
    file.write_text(json.dumps({**KEPT, part: "HERE"}).replace('"HERE"', value))
    with pytest.raises(BadInput, match=r"detector .*detector\.json: ") as refused:
        detectors.read(file)
    assert "\n" not in str(refused.value)
    file.write_text(json.dumps(KEPT))
    assert detectors.read(file) == KEPT


def test_the_digest_of_nothing_is_never_made() -> None:
    with pytest.raises(AssertionError):
        files.digest([])
