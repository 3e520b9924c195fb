"""The table of architectures in detect.md: `python -m docs.architectures` proves tiny random models and writes it."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import experiments.models  # noqa: F401 - makes torchvision importable, which transformers imports

# isort: split
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoModelForImageTextToText, PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)
from transformers.utils import logging

from experiments.models.language import LanguageModel
from harness.stage import BadInput

PAGE = Path(__file__).with_name("detect.md")
_BLOCK = re.compile(r"(<!-- architectures -->\n).*?(<!-- end -->)", re.DOTALL)
_LARGEST = 16_000_000  # weights of what still counts as tiny
_LAYERS = 4
# What a tiny model has, by what configurations call it.
_SIZES: dict[str, Any] = {
    "vocab_size": 320, "hidden_size": 64, "n_embd": 64, "d_model": 64, "embedding_size": 64, "word_embed_proj_dim": 64,
    "intermediate_size": 128, "ffn_dim": 128, "n_inner": 128, "d_ff": 128, "ffn_hidden_size": 128,
    "intermediate_size_mlp": 128, "moe_intermediate_size": 64, "shared_expert_intermediate_size": 64,
    "shared_intermediate_size": 64, "expert_ffn_hidden_size": 64,
    "num_hidden_layers": _LAYERS, "n_layer": _LAYERS, "n_layers": _LAYERS, "num_layers": _LAYERS,
    "num_attention_heads": 4, "n_head": 4, "n_heads": 4, "attention_heads": 4, "num_key_value_heads": 2,
    "multi_query_group_num": 2, "head_dim": 16, "global_head_dim": 16, "kv_channels": 16, "rotary_dim": 16,
    "max_position_embeddings": 512, "n_positions": 512, "max_seq_len": 512, "n_ctx": 512, "seq_length": 512,
    "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "moe_num_experts": 4, "num_experts_per_tok": 2,
    "moe_k": 2, "moe_topk": 2, "n_group": 1, "topk_group": 1, "num_expert_group": 1, "n_shared_experts": 1,
    "sliding_window": 48, "attention_chunk_size": 60, "window_size": 48, "first_k_dense_replace": 1,
    "q_lora_rank": 32, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 16,
    "qk_head_dim": 16, "index_head_dim": 16, "index_n_heads": 2, "index_topk": 8,
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 16, "linear_value_head_dim": 16,
    "mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 16, "mamba_d_ssm": 128, "mamba_n_groups": 1,
    "n_mamba_heads": 2, "mamba_num_heads": 8, "mamba_head_dim": 16, "ssm_state_size": 16, "mamba_expand": 2,
    "state_size": 16, "num_heads": 4, "n_groups": 1, "time_step_rank": 8, "mamba_dt_rank": 8, "chunk_size": 16,
    "block_ff_dim": 128, "lru_width": 64, "conv_dim": 64, "vocab_size_per_layer_input": 320,
    "hidden_size_per_layer_input": 16, "num_kv_shared_layers": 1, "use_mamba_kernels": False,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.2, "init_std": 0.2,
}  # fmt: skip
_HYBRID = ["mamba", "attention"] * 2
# Of hybrids, layers of both kinds, which as many as a tiny model has would not all show.
_KINDS: dict[str, dict[str, Any]] = {
    "granitemoehybrid": {"layer_types": _HYBRID},
    "bamba": {"attn_layer_indices": [1, 3]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "lfm2": {"layer_types": ["conv", "full_attention"] * 2},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
}
_SEVERAL_ANGLES = {"qwen2_vl_text", "qwen2_5_vl_text", "paddleocr_vl_text"}
# What a tiny part for images or sound has, which no text goes through.
_SEEING: dict[str, Any] = {
    "hidden_size": 64, "embed_dim": 64, "intermediate_size": 128, "num_hidden_layers": 2, "depth": 2, "num_heads": 4,
    "num_attention_heads": 4, "out_hidden_size": 64, "projection_dim": 64, "text_hidden_size": 64,
    "deepstack_visual_indexes": [0, 1], "fullatt_block_indexes": [1],
}  # fmt: skip
_UNFIT = (
    TypeError, ValueError, KeyError, AttributeError, IndexError, RuntimeError, AssertionError, StrictDataclassError
)  # fmt: skip


def main() -> int:
    """Write the table into the page."""
    logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    PAGE.write_text(renewed())
    return 0


def renewed() -> str:
    """The text of the page with what the proof says now; half a minute."""
    rows = sorted(found(), key=lambda row: row[0].lower())
    return _BLOCK.sub(lambda block: f"{block[1]}\n{table(rows)}\n\n{block[2]}", PAGE.read_text())


def table(rows: list[tuple[str, str, str, str]]) -> str:
    """One row an architecture: whether it works packed, works alone and why, or is refused and why."""
    lines = [("architecture", "packed", "alone", "refused"), ("---",) * 4, *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', ' ') for cell in line)} |" for line in lines)


def found() -> Iterator[tuple[str, str, str, str]]:
    """What the proof says of each decoder that transformers can build; those that cannot be made tiny are left out."""
    told = set()
    for kind in (*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, *MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES):
        network = build(kind)
        name = type(network).__name__
        if network is None or name in told or not _runs(network):
            print(f"{kind}: {'once is enough' if name in told else 'no tiny decoder'}", file=sys.stderr)
            continue
        told.add(name)
        model = LanguageModel(kind, network, None)
        try:
            why = model.proof.why_alone
        except BadInput as refusal:
            yield name, "", "", str(refusal).removeprefix(f"model {kind}: ")
        else:
            yield name, "" if why else "yes", why, ""


@torch.no_grad()
def _runs(network: PreTrainedModel) -> bool:
    """Whether it takes text alone as it is, and no token of it sees the next."""
    ids = torch.arange(3, 20)[None]
    try:
        one, other = (network(each).logits[0, 0] for each in (ids, ids + (ids == 19).long()))
    except _UNFIT:
        return False
    return bool(torch.allclose(one, other, atol=1e-4))


def build(kind: str, vocabulary: int = 320) -> PreTrainedModel | None:
    """A random model of an architecture with at most so few weights, or None."""
    torch.manual_seed(0)
    maker = AutoModelForCausalLM if kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES else AutoModelForImageTextToText
    for make in (_by_arguments, _by_attributes):
        try:
            config = make(kind, vocabulary)
            with torch.device("meta"):
                weights = maker.from_config(config).num_parameters()
            if weights <= _LARGEST and not getattr(config, "is_encoder_decoder", False):
                made: PreTrainedModel = maker.from_config(config, dtype=torch.float32).eval()
                return made
        except _UNFIT as error:
            print(f"{kind}: {type(error).__name__}: {str(error)[:120]}", file=sys.stderr)
    return None


def _by_arguments(kind: str, vocabulary: int) -> Any:
    """A configuration made tiny from the start, so that what it derives from sizes fits."""
    usual = CONFIG_MAPPING[kind]()
    text = usual.get_text_config(decoder=True)
    if text is usual:
        return type(usual)(**_known(text, vocabulary))
    parts = {}
    for name in usual.sub_configs:
        part = getattr(usual, name, None)
        if part is text and text is not None:
            parts[name] = _known(text, vocabulary) | {"model_type": text.model_type}
        elif part is not None and text is not None:
            told = part.to_dict()
            small = {size: value for size, value in _SEEING.items() if size in told}
            parts[name] = small | {"model_type": part.model_type}
    return type(usual)(**parts)


def _by_attributes(kind: str, vocabulary: int) -> Any:
    """A configuration made tiny afterwards, where it does not take all of its sizes."""
    config = CONFIG_MAPPING[kind]()
    for part in {id(each): each for each in (config, config.get_text_config(decoder=True))}.values():
        for name, size in _known(part, vocabulary).items():
            setattr(part, name, size)
    return config


def _known(config: Any, vocabulary: int) -> dict[str, Any]:
    """The sizes that a configuration has, and what goes with them."""
    told = config.to_dict()
    known = {name: size for name, size in _SIZES.items() if isinstance(told.get(name), int | float)}
    known |= {name: _SIZES[name] for name in ("head_dim", "num_key_value_heads") if name in told}
    known |= {name: vocabulary for name in ("vocab_size", "vocab_size_per_layer_input") if name in known}
    if "qk_rope_head_dim" in known:  # latent attention has as many keys as queries
        known |= {"num_key_value_heads": known["num_attention_heads"]}
        known |= {"head_dim": known["qk_rope_head_dim"]} if "head_dim" in known else {}
    for name in ("layer_types", "mlp_layer_types", "layers_block_type"):
        if isinstance(kinds := told.get(name), list):
            known[name] = (list(dict.fromkeys(kinds)) * _LAYERS)[:_LAYERS]
    rope = told.get("rope_parameters") or {}
    if "mrope_section" in rope or config.model_type in _SEVERAL_ANGLES:
        known["rope_parameters"] = {"rope_type": "default", "rope_theta": 1e4} | rope | {"mrope_section": [2, 3, 3]}
    return known | _KINDS.get(config.model_type, {})


if __name__ == "__main__":
    sys.exit(main())
