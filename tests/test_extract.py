"""The fast extractor says what the baseline says, for every architecture, level, precision and batch."""

from __future__ import annotations

import copy
import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from docs import architectures
from experiments.detect.bench import baseline
from experiments.detect.inference import data
from experiments.models import language, packed
from experiments.models.language import LanguageModel
from experiments.redeep import extract
from experiments.redeep.embed import embedder
from experiments.redeep.encode import Encoded, encode
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
    "Gemma2": GROUPED | {"head_dim": 16, "sliding_window": 48, "attn_logit_softcapping": 2.0},
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
    return language.load(str(folder), "fp32", "cpu")


@pytest.fixture(scope="module")
def answers(llama: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> list[Encoded]:
    """Five responses of unequal length to one prompt."""
    path = tiny.write_jsonl(tmp_path_factory.mktemp("data") / "own.jsonl", tiny.samples(2)[:1])
    (sample,) = data.read(path).samples
    texts = [sample.response[:length] for length in (25, 46, 48, 47)] + [sample.response * 2]
    return [
        encode(replace(sample, response=text), llama, chat_template=True, max_length=None, span_chars=0)
        for text in texts
    ]


def both(model: LanguageModel, samples: list[Encoded], level: str, pks: str = "jsd", batch_tokens: int = 1) -> Any:
    """Features by the baseline and by the fast extractor, over all samples."""
    model.network.set_attn_implementation("eager")
    heads = [(layer, head) for layer, count in model.proof.heads.items() for head in range(count)]
    slow = [baseline.extract(model, s, heads, level, pks, baseline.embedder(model)) for s in samples]
    model.network.set_attn_implementation(packed.PACKED)
    fast = [(found.ecs, found.pks) for found in features(model, samples, level, pks, batch_tokens, heads)]
    return [tuple(map(np.concatenate, zip(*found, strict=True))) for found in (slow, fast)]


def features(
    model: LanguageModel,
    samples: list[Encoded],
    level: str,
    pks: str = "jsd",
    batch_tokens: int = 1,
    heads: Any = HEADS,
    states: bool = False,
) -> list[extract.Features]:
    compute = extract.extractor(model, heads, level, pks, None if states else embedder("model", model, 500))
    return [each for batch in extract.batches(samples, batch_tokens) for each in compute(batch)]


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


ARCHITECTURES_2026 = [
    "cohere", "cohere2", "deepseek_v3", "exaone4", "exaone_moe", "falcon_h1", "gemma4_text", "gpt_oss", "granite",
    "granitemoehybrid", "jamba", "lfm2", "lfm2_moe", "llama4_text", "olmo2", "olmo3", "qwen3_5_text", "qwen3_moe",
    "qwen3_next",
]  # fmt: skip


@pytest.mark.parametrize("level", ["chunk", "token"])
@pytest.mark.parametrize("kind", ARCHITECTURES_2026)
def test_architectures_of_any_layout_give_the_numbers_of_the_baseline_on_the_road_that_is_proven(
    kind: str, level: str, llama: LanguageModel, answers: list[Encoded]
) -> None:
    """Prompts are longer than the windows and chunks of these models."""
    model = LanguageModel(kind, architectures.build(kind, len(llama.tokenizer)), llama.tokenizer)
    slow, fast = both(model, answers[:3], level, batch_tokens=1000)
    np.testing.assert_allclose(fast[0], slow[0], atol=1e-3)
    np.testing.assert_allclose(fast[1], slow[1], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("level", ["chunk", "token"])
def test_the_published_divergence_is_the_baselines_too(
    level: str, llama: LanguageModel, answers: list[Encoded]
) -> None:
    slow, fast = both(llama, answers, level, pks="published")
    np.testing.assert_allclose(fast[1], slow[1], rtol=1e-4)


@pytest.mark.parametrize(("level", "states"), [("chunk", False), ("chunk", True), ("token", False)])
def test_numbers_do_not_depend_on_what_shares_the_batch(
    level: str, states: bool, llama: LanguageModel, answers: list[Encoded]
) -> None:
    llama.network.set_attn_implementation(packed.PACKED)
    alone = [features(llama, [sample], level, states=states)[0] for sample in answers]
    orders = [answers, answers[::-1]]
    for order, batch_tokens in itertools.product(orders, (1, 150, 1000)):
        found = features(llama, order, level, batch_tokens=batch_tokens, states=states)
        found = found if order is answers else found[::-1]

        for one, other in zip(alone, found, strict=True):
            np.testing.assert_allclose(other[0], one[0], atol=1e-5)
            np.testing.assert_allclose(other[1], one[1], atol=1e-5)


@pytest.mark.parametrize("precision", ["bf16", "int8", "nf4"])
def test_lower_precisions_stay_near_the_baseline_in_the_same_precision(
    precision: str, llama: LanguageModel, answers: list[Encoded], tmp_path: Path
) -> None:
    llama.network.save_pretrained(tmp_path)
    llama.tokenizer.save_pretrained(tmp_path)
    model = language.load(str(tmp_path), precision, "cpu")
    slow, fast = both(model, answers[:2], "chunk")
    np.testing.assert_allclose(fast[1], slow[1], rtol=0.1, atol=0.02)


def test_one_head_costs_one_column(llama: LanguageModel, answers: list[Encoded]) -> None:
    llama.network.set_attn_implementation(packed.PACKED)
    every, some = (features(llama, answers[:1], "chunk", heads=heads)[0].ecs for heads in (HEADS, [(1, 2)]))
    np.testing.assert_array_equal(some[:, 0], every[:, HEADS.index((1, 2))])


@pytest.mark.parametrize("attention", ["eager", "flash"])
def test_every_kernel_gives_the_same_numbers(attention: str, llama: LanguageModel, answers: list[Encoded]) -> None:
    llama.network.set_attn_implementation(packed.PACKED)
    for level in ("chunk", "token"):
        sdpa, found = (features(each, answers, level) for each in (llama, replace(llama, attention=attention)))
        for one, other in zip(sdpa, found, strict=True):
            np.testing.assert_allclose(other.ecs, one.ecs, atol=1e-5)
            np.testing.assert_allclose(other.pks, one.pks, atol=1e-5)


def test_choices_that_are_nearly_ties_are_counted(llama: LanguageModel, answers: list[Encoded]) -> None:
    llama.network.set_attn_implementation(packed.PACKED)
    assert features(llama, answers[:1], "token")[0].ties == 0
    same = replace(answers[0], ids=np.full_like(answers[0].ids, 5))  # equal tokens, whose keys differ by position only
    blind = replace(llama, network=copy.deepcopy(llama.network))
    for layer in blind.layers:
        torch.nn.init.zeros_(layer.self_attn.k_proj.weight)  # every key the same: every choice is a tie
    for level, choices in (("token", len(same.tokens)), ("chunk", 0)):
        assert features(blind, [same], level)[0].ties >= choices * len(HEADS)


def test_batches_keep_a_prompt_together_and_within_the_budget(answers: list[Encoded]) -> None:
    other = replace(answers[0], ids=answers[0].ids[::-1].copy())
    size = extract.computed_tokens(answers)
    assert size == answers[0].prompt_tokens - 1 + sum(len(each.tokens) for each in answers)
    assert list(extract.batches([*answers, other], size)) == [answers, [other]]
    assert list(extract.batches([*answers, other], 10**6)) == [[*answers, other]]
    assert list(extract.batches([*answers, other], 1)) == [answers, [other]]  # a prompt is not read again for a few
    many = [replace(each, ids=np.append(each.ids, i)) for i in range(40) for each in answers]
    parts = list(extract.batches(many, 1))
    assert [each for part in parts for each in part] == many
    assert len(parts) > 1
    alike = [each for each in many for _ in range(3)]
    assert [len(part) for part in extract.batches(alike, 1)] == [3 * len(part) for part in parts]
    again = (len(parts) - 1) * (answers[0].prompt_tokens - 1)
    assert again < 0.3 * sum(extract.computed_tokens(part) for part in parts)
