"""Whether a model can read is seen by its loss on the prompts: converted badly, it is no better than unigrams."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from experiments.detect import DETECT
from experiments.detect.inference import reads as module
from experiments.models import files, language
from experiments.redeep.encode import encode
from experiments.redeep.sample import Sample
from harness.running import hardware, run
from harness.running.settings import resolve

CODE = "cannot_read"


def executed(model: str, **more: str) -> run.Result:
    given = {"model": model, "limit": "40", "folds": "2", "cache": "off", "extract_heads": "0.0", "batch_tokens": "800"}
    return run.execute(resolve(DETECT, given | more, hardware.load_profiles()))


def findings(result: run.Result) -> dict[str, str]:
    return {finding.code: finding.message for finding in result.audit.findings}


def converted(folder: Path, harm: Any) -> str:
    """The built-in model after somebody's conversion."""
    shutil.copytree(files.LANGUAGE, folder)
    network = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        harm(network)
    network.save_pretrained(folder)
    return str(folder)


def swap_rotary_pairs(network: Any) -> None:
    """What is left of a GGUF file's order of queries when it is taken for that of a Hugging Face folder."""
    for layer in network.model.layers:
        weight = layer.self_attn.q_proj.weight
        weight.copy_(weight.view(4, 2, 16, 128).transpose(1, 2).reshape(128, 128))


def forget(network: Any) -> None:
    for weight in network.parameters():
        if weight.ndim == 2:
            weight.normal_(0, 0.02, generator=torch.Generator().manual_seed(0))


def test_the_built_in_model_reads_the_built_in_prompts() -> None:
    result = executed("builtin")
    read = result.records.origin["reads"]
    assert read["loss"] < 0.6 * read["unigram_loss"]
    assert f"model_{CODE}" not in findings(result)


@pytest.mark.parametrize("harm", [swap_rotary_pairs, forget])
def test_weights_converted_badly_or_not_at_all_are_found(tmp_path: Path, harm: Any) -> None:
    result = executed(converted(tmp_path / "model", harm))
    assert "it cannot read them, and its features are noise" in findings(result)[f"model_{CODE}"]
    assert result.audit.verdict == "fail"


def test_of_too_little_text_nothing_is_said() -> None:
    assert executed("builtin", limit="2").records.origin["reads"] == {}


def test_the_loss_is_that_of_the_models_own_forward() -> None:
    model = language.load("builtin", "fp32", "cpu")
    texts = ["The notes name Ada, Bela and Carl. " * 20, "What do we know about Oslo and about Rome? " * 20]
    samples = [
        encode(Sample(str(i), text, "Nothing.", (), str(i)), model, chat_template=True, max_length=None, span_chars=0)
        for i, text in enumerate(texts)
    ]
    found = module.reads(model, samples)
    model.network.set_attn_implementation("eager")
    losses: list[float] = []
    for sample in samples:
        start, end = sample.prompt[0].start, sample.prompt[-1].end
        first = max(1, start)
        ids = torch.as_tensor(sample.ids[: min(end, first + 128)])
        with torch.no_grad():
            told = model.network(ids[None]).logits[0].log_softmax(-1)
        losses += [-told[i - 1, ids[i]].item() for i in range(first, len(ids))]
    assert found["tokens"] == len(losses)
    assert found["loss"] == pytest.approx(np.mean(losses), abs=1e-5)


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=12), min_size=2, max_size=5))
def test_the_unigrams_of_the_other_prompts_are_a_distribution(prompts: list[list[int]]) -> None:
    vocabulary = 30
    found = module._unigram_losses([np.asarray(ids) for ids in prompts], vocabulary)
    assert len(found) == sum(map(len, prompts))
    at = 0
    for place, ids in enumerate(prompts):
        rest = [token for other, each in enumerate(prompts) if other != place for token in each]
        n, known = len(rest), set(rest)

        def share(token: int, rest: list[int] = rest, n: int = n, known: set[int] = known) -> float:
            unknown = len(known) / (n + len(known)) / (vocabulary - len(known))
            return rest.count(token) / (n + len(known)) if token in known else unknown

        assert sum(map(share, range(vocabulary))) == pytest.approx(1)
        for token in ids:
            assert found[at] == pytest.approx(-math.log(share(token)))
            at += 1
