"""What is not as packed.py, the lens or the hooks take it to be is found at load, and named."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import transformers
from torch import nn
from torch.nn import functional

from docs import architectures
from experiments.detect.inference import data
from experiments.models import language
from experiments.models.language import LanguageModel
from experiments.redeep import extract
from experiments.redeep.embed import embedder
from experiments.redeep.encode import encode
from harness.stage import BadInput
from tests import tiny
from tests.test_resume import execute as execute_with


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    return language.load(str(tiny.save_llama(tmp_path_factory.mktemp("proof"))), "fp32", "cpu")


class Convolution(nn.Module):
    """What a projection gives, with a share of what it gave for the token before."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        given: torch.Tensor = self.inner(states)
        return given + 0.5 * functional.pad(given, (0, 0, 1, 0))[:, :-1]


def _convolve(model: LanguageModel) -> None:
    attention: Any = model.layers[1].self_attn
    attention.k_proj = Convolution(attention.k_proj)


def _mix_in_ffn(model: LanguageModel) -> None:
    model.layers[0].mlp.register_forward_hook(lambda _, __, given: given + given.mean(dim=1, keepdim=True))


def _gate(model: LanguageModel) -> None:
    model.layers[2].register_forward_hook(lambda _, __, given: given * torch.sigmoid(given))


def _logits(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[LanguageModel], None]:
    def fault(model: LanguageModel) -> None:
        def changed(_: nn.Module, __: Any, output: Any) -> Any:
            output.logits = change(output.logits)
            return output

        model.network.register_forward_hook(changed)

    return fault


def _broken(llama: LanguageModel, fault: Callable[[LanguageModel], None]) -> LanguageModel:
    model = LanguageModel("broken", copy.deepcopy(llama.network), llama.tokenizer)
    fault(model)
    return LanguageModel("broken", model.network, llama.tokenizer)


def test_a_model_without_fault_runs_packed(llama: LanguageModel) -> None:
    proof = llama.proof
    assert (proof.road, proof.why_alone, proof.scale) == ("packed", "", 1)
    assert proof.heads == {0: 4, 1: 4, 2: 4}
    assert {(added.before, added.after) for added in proof.added} == {("post_attention_layernorm", None)}


@pytest.mark.parametrize(
    ("fault", "named"), [(_convolve, "layer 1: what self_attn adds"), (_mix_in_ffn, "layer 0: what mlp adds")]
)
def test_whatever_else_mixes_tokens_is_named_and_texts_go_one_at_a_time(
    fault: Callable[[LanguageModel], None], named: str, llama: LanguageModel
) -> None:
    proof = _broken(llama, fault).proof
    assert proof.road == "alone"
    assert re.match(named + r" differs by \d+\.\d%$", proof.why_alone)


def test_a_gate_behind_the_ffn_is_refused_with_the_layer_and_by_how_much(llama: LanguageModel) -> None:
    with pytest.raises(BadInput, match=r"layer 2, mlp: no state before .* the nearest differs by \d+\.\d% of what"):
        _ = _broken(llama, _gate).proof


def test_a_factor_of_the_logits_is_measured(llama: LanguageModel) -> None:
    model = _broken(llama, _logits(lambda logits: logits / 4))
    assert model.proof.scale == pytest.approx(0.25)
    states = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model.lens(states), llama.lens(states) / 4)


def test_any_other_change_of_the_logits_is_refused(llama: LanguageModel) -> None:
    with pytest.raises(BadInput, match=r"its last state, read through .* differs from its logits by \d+"):
        _ = _broken(llama, _logits(torch.square)).proof


def _before_by_ablation(network: Any, layer: Any, ffn: Any, ids: torch.Tensor) -> torch.Tensor:
    """What a layer gives when its FFN gives nothing: the state before it, where its norm makes nothing of nothing."""
    given: list[torch.Tensor] = []
    handles = [
        ffn.register_forward_hook(
            lambda _, __, out: tuple(map(torch.zeros_like, out)) if isinstance(out, tuple) else torch.zeros_like(out)
        ),
        layer.register_forward_hook(lambda _, __, out: given.append(out[0] if isinstance(out, tuple) else out)),
    ]
    network(ids)
    for handle in handles:
        handle.remove()
    return given[0]


@pytest.mark.parametrize(
    "kind",
    ["cohere2", "exaone4", "granite", "gpt_neox", "gpt_oss", "lfm2", "llama4_text", "olmo2", "phi", "qwen3_next"],
)
@torch.no_grad()
def test_the_state_before_an_ffn_is_what_its_layer_gives_without_it(kind: str) -> None:
    model = LanguageModel(kind, architectures.build(kind), None)
    ids = torch.arange(3, 20)[None]
    with model.residuals() as (before, after):
        model.network(ids)
    for i, (layer, added) in enumerate(zip(model.layers, model.proof.added, strict=True)):
        ffn = layer.get_submodule(added.ffn)
        torch.testing.assert_close(before[i], _before_by_ablation(model.network, layer, ffn, ids), atol=1e-5, rtol=1e-4)
        assert not torch.allclose(before[i], after[i])


@torch.no_grad()
def test_what_follows_an_ffn_in_its_layer_does_not_count_as_it() -> None:
    """Gemma 4 E2B and E4B add a gated embedding of the token behind each FFN, and scale what a layer gives."""
    network = architectures.build("gemma4_text")
    assert network is not None
    for layer in network.model.layers:
        layer.layer_scalar.fill_(0.5)
    model = LanguageModel("gemma4", network, None)
    assert {added.after for added in model.proof.added} == {"per_layer_input_gate"}


@pytest.mark.parametrize("precision", ["bf16", "fp16", "int8", "nf4"])
def test_lower_precisions_are_proven_within_their_rounding(precision: str, tmp_path: Path) -> None:
    folder = tiny.save_llama(tmp_path)
    assert language.load(str(folder), precision, "cpu").proof.road == "packed"


@pytest.fixture(scope="module")
def hybrid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model that attends in every other layer, and data."""
    folder = tmp_path_factory.mktemp("hybrid")
    tiny.save_llama(folder / "model")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "model")
    network = architectures.build("lfm2", len(tokenizer))
    assert network is not None
    network.save_pretrained(folder / "model")
    tiny.write_jsonl(folder / "data.jsonl", tiny.samples(8))
    return folder


@pytest.fixture
def execute(hybrid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("RIGSWEEP_CACHE", str(tmp_path / "cache"))
    fixed = {"model": str(hybrid / "model"), "dataset": str(hybrid / "data.jsonl"), "folds": "2"}
    return lambda **given: execute_with(fixed, **given)


def test_a_hybrid_gives_ecs_of_the_layers_that_attend_pks_of_all_and_says_so(execute: Any) -> None:
    found = execute()
    columns = set(found.records.frame.columns)
    assert {name for name in columns if name.startswith("ecs_")} == {f"ecs_{i}_{h}" for i in (1, 3) for h in range(4)}
    assert {name for name in columns if name.startswith("pks_")} == {f"pks_{i}" for i in range(4)}
    assert found.records.origin["road"]["taken"] == "alone"
    assert found.records.origin["counts"]["prompt_tokens_shared"] == 0
    said = [finding.message for finding in found.audit.findings if finding.code == "slower_road"]
    assert re.search(r"one at a time, .*: layer 0: what conv adds differs by \d", said[0])
    assert said[1] == "2 of 4 layers do not attend: they give PKS and no ECS"


def test_a_hybrids_numbers_do_not_depend_on_the_batch_or_on_who_computes_them(execute: Any) -> None:
    one, many, workers = (
        execute(cache="off", **given).records.frame.filter(regex="^(ecs|pks)")
        for given in ({"batch_tokens": "1"}, {"batch_tokens": "5000"}, {"workers": "2"})
    )
    pd.testing.assert_frame_equal(one, many)
    pd.testing.assert_frame_equal(one, workers)


def test_a_head_of_a_layer_that_does_not_attend_is_refused(execute: Any) -> None:
    with pytest.raises(BadInput, match=r"extract_heads = 0.1,1.0: 0.1 does not exist in .*; .* that attend are 1, 3$"):
        execute(extract_heads="0.1,1.0")
    assert len(execute(extract_heads="1.0").records.frame.filter(regex="^ecs").columns) == 1


@pytest.mark.slow
def test_the_table_of_architectures_says_what_the_proof_finds() -> None:
    without_figures = re.compile(r"\d+\.\d%")
    assert without_figures.sub("", architectures.renewed()) == without_figures.sub("", architectures.PAGE.read_text())


def test_a_template_that_raises_and_a_token_without_embedding_are_one_line(hybrid: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(hybrid / "model")
    sample = data.read(hybrid / "data.jsonl").samples[0]
    model = LanguageModel("strict", architectures.build("llama", 100), tokenizer)
    given: dict[str, Any] = {"max_length": None, "span_chars": 0}
    tokenizer.chat_template = "{{ raise_exception('a system message first') }}"
    with pytest.raises(BadInput, match=r"chat template of strict .*: a system message first; chat_template=false"):
        encode(sample, model, chat_template=True, **given)
    encoded = encode(sample, model, chat_template=False, **given)
    compute = extract.extractor(model, [(0, 0)], "token", "jsd", embedder("model", model, 100))
    with pytest.raises(BadInput, match=r"sample r0: token \d+ of model strict's tokenizer lies beyond the 100 that"):
        compute([encoded])


@pytest.mark.parametrize("kind", ["falcon", "mamba", "mpt"])
def test_what_cannot_be_watched_or_read_is_refused_in_one_line(kind: str, hybrid: Path, tmp_path: Path) -> None:
    transformers.AutoTokenizer.from_pretrained(hybrid / "model").save_pretrained(tmp_path)
    network = architectures.build(kind)
    assert network is not None
    network.save_pretrained(tmp_path)
    model = language.load(str(tmp_path), "fp32", "cpu")
    with pytest.raises(BadInput, match=r"not let its attention be watched|no max_position_embeddings|no feed-forward"):
        _ = model.proof, model.window


def test_the_text_part_of_a_model_that_sees_too_is_loaded_and_proven(hybrid: Path, tmp_path: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(hybrid / "model")
    tokenizer.save_pretrained(tmp_path)
    network = architectures.build("qwen3_vl", len(tokenizer))
    assert network is not None
    network.save_pretrained(tmp_path)
    model = language.load(str(tmp_path), "fp32", "cpu")
    assert type(model.network).__name__ == "Qwen3VLForConditionalGeneration"
    assert (model.proof.road, len(model.layers)) == ("packed", 4)
