"""The fast extractor says what the baseline says, for every architecture, level, precision and batch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from experiments.detect import baseline, data, extract
from experiments.detect.embed import embedder
from experiments.detect.encode import Encoded, encode
from experiments.models import language
from experiments.models.language import LanguageModel
from tests import tiny

SIZE = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
    "pad_token_id": 2,
}
GROUPED = SIZE | {"num_key_value_heads": 2}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "Llama": GROUPED | {"attention_bias": True},
    "Mistral": GROUPED | {"sliding_window": 48},
    "Qwen2": GROUPED,
    "Qwen3": GROUPED | {"head_dim": 16},
    "Gemma": GROUPED | {"head_dim": 16},
    "Gemma3Text": GROUPED | {"head_dim": 16, "sliding_window": 48},
    "Phi": SIZE,
    "Phi3": GROUPED,
    "GPT2": {"n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 512},
    "GPTNeoX": SIZE,
    "GPTNeoX, one block after the other": SIZE | {"use_parallel_residual": False},
}
HEADS = [(layer, head) for layer in range(3) for head in range(4)]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    folder = tiny.save_llama(tmp_path_factory.mktemp("llama"))
    return language.load(str(folder), "fp32", "cpu", "eager")


@pytest.fixture(scope="module")
def answers(llama: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> list[Encoded]:
    """Five responses of unequal length to one prompt."""
    path = tiny.write_jsonl(tmp_path_factory.mktemp("data") / "own.jsonl", tiny.samples(2)[:1])
    (sample,), _ = data.read(path)
    texts = [sample.response[:length] for length in (25, 46, 48, 47)] + [sample.response * 2]
    return [
        encode(replace(sample, response=text), llama, chat_template=True, max_length=None, span_chars=0)
        for text in texts
    ]


def both(model: LanguageModel, samples: list[Encoded], level: str, pks: str = "jsd", batch_tokens: int = 1) -> Any:
    """Features by the baseline and by the fast extractor, over all samples."""
    model.network.set_attn_implementation("eager")
    slow = [baseline.extract(model, s, HEADS, level, pks, embedder("model", model)) for s in samples]
    model.network.set_attn_implementation(extract.ATTENTION)
    fast = extract.extract(model, samples, HEADS, level, pks, embedder("model", model), batch_tokens)
    return [tuple(map(np.concatenate, zip(*found, strict=True))) for found in (slow, fast)]


@pytest.mark.parametrize("level", ["chunk", "token"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_gives_the_numbers_of_the_baseline(
    name: str, level: str, llama: LanguageModel, answers: list[Encoded]
) -> None:
    torch.manual_seed(0)
    config = getattr(transformers, name.partition(",")[0] + "Config")(
        vocab_size=len(llama.tokenizer), initializer_range=0.2, **ARCHITECTURES[name]
    )
    network = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    model = LanguageModel(name, network, llama.tokenizer)
    slow, fast = both(model, answers[:3], level)
    np.testing.assert_allclose(fast[0], slow[0], atol=1e-4)
    np.testing.assert_allclose(fast[1], slow[1], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("level", ["chunk", "token"])
def test_the_published_divergence_is_the_baselines_too(
    level: str, llama: LanguageModel, answers: list[Encoded]
) -> None:
    slow, fast = both(llama, answers, level, pks="published")
    np.testing.assert_allclose(fast[1], slow[1], rtol=1e-4)


@pytest.mark.parametrize("level", ["chunk", "token"])
def test_numbers_do_not_depend_on_what_shares_the_batch(
    level: str, llama: LanguageModel, answers: list[Encoded]
) -> None:
    llama.network.set_attn_implementation(extract.ATTENTION)

    def features(samples: list[Encoded], batch_tokens: int) -> list[extract.Features]:
        return extract.extract(llama, samples, HEADS, level, "jsd", embedder("model", llama), batch_tokens)

    assert len(extract.batches([len(s.tokens) for s in answers], 1000)) < len(answers)
    alone = [features([sample], 1)[0] for sample in answers]
    for found in (features(answers, 1), features(answers, 1000), features(answers[::-1], 1000)[::-1]):
        for one, other in zip(alone, found, strict=True):
            np.testing.assert_allclose(other[0], one[0], atol=1e-5)
            np.testing.assert_allclose(other[1], one[1], atol=1e-5)


@pytest.mark.parametrize("precision", ["bf16", "int8", "nf4"])
def test_lower_precisions_stay_near_the_baseline_in_the_same_precision(
    precision: str, llama: LanguageModel, answers: list[Encoded], tmp_path: Path
) -> None:
    llama.network.save_pretrained(tmp_path)
    llama.tokenizer.save_pretrained(tmp_path)
    model = language.load(str(tmp_path), precision, "cpu", "eager")
    slow, fast = both(model, answers[:2], "chunk")
    np.testing.assert_allclose(fast[1], slow[1], rtol=0.1, atol=0.02)


def test_one_head_costs_one_column(llama: LanguageModel, answers: list[Encoded]) -> None:
    llama.network.set_attn_implementation(extract.ATTENTION)
    every, some = (
        extract.extract(llama, answers[:1], heads, "chunk", "jsd", embedder("model", llama))[0][0]
        for heads in (HEADS, [(1, 2)])
    )
    np.testing.assert_array_equal(some[:, 0], every[:, HEADS.index((1, 2))])


@given(st.lists(st.integers(1, 400), max_size=40), st.integers(1, 2000))
def test_batches_hold_everything_once_within_the_budget_with_little_padding(lengths: list[int], budget: int) -> None:
    batches = extract.batches(lengths, budget)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        longest = max(lengths[i] for i in batch)
        assert len(batch) == 1 or longest * len(batch) <= budget
        assert sum(lengths[i] for i in batch) >= (1 - extract.PADDING) * longest * len(batch)
