"""Language models behind one small interface, whether built in, in a folder or from the Hugging Face hub."""

from __future__ import annotations

import hashlib
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    StrictDataclassError,
)
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
from transformers.utils import logging

from harness.stage import BadInput

BUILTIN = Path(__file__).with_name("reference")
_WEIGHTS = ("*.safetensors", "*.bin")
_TOKENIZERS = ("tokenizer.json", "vocab.*", "*.model", "*.tiktoken")
# Threads gain a smaller model nothing, and where cores are shared they wait for each other: a hundred times slower.
_SMALL = 10_000_000  # parameters
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class LanguageModel:
    """A causal language model in evaluation mode, with its fast tokenizer."""

    name: str
    network: Any  # a transformers *ForCausalLM: its classes share no typed interface
    tokenizer: Any

    @property
    def device(self) -> torch.device:
        """Where input ids belong."""
        return torch.device(self.network.get_input_embeddings().weight.device)

    @property
    def window(self) -> int:
        """The most tokens the model was made for."""
        return int(self.network.config.get_text_config().max_position_embeddings)

    @cached_property
    def layers(self) -> list[nn.Module]:
        """The decoder layers, first to last."""
        return list(self._part(self.network.get_decoder(), _LAYERS))

    @cached_property
    def final_norm(self) -> nn.Module:
        """The norm between the last layer and the output head."""
        norm: nn.Module = self._part(self.network.get_decoder(), _FINAL_NORM)
        return norm

    def lens(self, states: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        """Read residual states (n, hidden) through final norm and output head: logits (n, vocabulary).

        They are written to `out` where the head is a plain product; a quantised or biased head takes memory of its own.
        """
        head = self.network.get_output_embeddings()
        normed = self.final_norm(states)
        if out is not None and type(head) is nn.Linear and head.bias is None:
            return torch.mm(normed, head.weight.T, out=out)
        logits: torch.Tensor = head(normed)
        return logits

    @contextmanager
    def residuals(self) -> Iterator[tuple[list[torch.Tensor], list[torch.Tensor]]]:
        """Collect, while a forward pass runs, the residual stream (b, t, hidden) before and after each layer's FFN.

        Where attention and FFN work side by side, the stream before the FFN is the layer's output less the FFN's.
        """
        before: list[torch.Tensor] = []
        after: list[torch.Tensor] = []

        def keep_input(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            before.append(inputs[0])

        def keep_ffn(_: nn.Module, __: Any, output: torch.Tensor) -> None:
            before.append(output)

        def keep_output(_: nn.Module, __: Any, output: Any) -> None:
            after.append(output[0] if isinstance(output, tuple) else output)

        def subtract_ffn(_: nn.Module, __: Any, output: Any) -> None:
            keep_output(_, __, output)
            before[-1] = after[-1] - before[-1]

        handles = []
        for layer in self.layers:
            if getattr(layer, "use_parallel_residual", type(layer).__name__ in _PARALLEL):
                handles.append(self._part(layer, ("mlp",)).register_forward_hook(keep_ffn))
                handles.append(layer.register_forward_hook(subtract_ffn))
            else:
                handles.append(self._part(layer, _BEFORE_FFN).register_forward_pre_hook(keep_input))
                handles.append(layer.register_forward_hook(keep_output))
        try:
            yield before, after
        finally:
            for handle in handles:
                handle.remove()

    def _part(self, module: nn.Module, names: tuple[str, ...]) -> Any:
        for name in names:
            if isinstance(part := getattr(module, name, None), nn.Module):
                return part
        raise BadInput(
            f"model {self.name}: its {type(module).__name__} has no part named {' or '.join(names)};"
            " laid out like Llama, Mistral, Qwen, Gemma, Phi, GPT-2 or GPT-NeoX are supported"
        )


# What transformers calls the parts that ReDeEP looks at, in the architectures supported.
_LAYERS = ("layers", "h")
_FINAL_NORM = ("norm", "ln_f", "final_layer_norm", "final_layernorm")
_BEFORE_FFN = ("pre_feedforward_layernorm", "post_attention_layernorm", "ln_2")  # its input is the residual stream
_PARALLEL = {"PhiDecoderLayer"}  # GPT-NeoX says so itself, in `use_parallel_residual`


def locate(name: str) -> Path:
    """The folder that holds a model; BadInput where there is none or it lacks weights or tokenizer."""
    folder = BUILTIN if name == "builtin" else Path(name).expanduser()
    if not folder.is_dir():
        folder = _from_hub(name)
    if not (folder / "config.json").is_file():
        raise BadInput(f"model {name}: the folder has no config.json; a Hugging Face model folder is needed")
    for what, patterns in (("weights", _WEIGHTS), ("tokenizer", _TOKENIZERS)):
        if not any(next(folder.glob(pattern), None) for pattern in patterns):
            raise BadInput(f"model {name}: the folder has no {what}; one of {', '.join(patterns)} is needed")
    return folder


def digest(name: str) -> str:
    """Content digest of a model: its hub commit, or SHA-256 over the files of its folder."""
    folder = locate(name)
    if folder.parent.name == "snapshots":  # the hub's own cache names a snapshot by its commit
        return folder.name
    total = hashlib.sha256()
    for file in sorted(path for path in folder.iterdir() if path.is_file()):
        with file.open("rb") as stream:
            total.update(file.name.encode() + hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()


def load(name: str, precision: str, device: str, attention: str) -> LanguageModel:
    """Load a model for evaluation on `device`, with the named attention implementation of transformers."""
    folder = locate(name)
    quantised = precision not in _DTYPES
    options: dict[str, Any] = {"attn_implementation": attention, "local_files_only": True}
    if quantised:
        options |= {"quantization_config": _quantisation(precision), "device_map": {"": device}}
    logging.disable_progress_bar()  # a bar over weights read in a second only hides the bar over samples
    logging.set_verbosity_error()  # what must not pass, as missing weights, is refused below
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        dtype = torch.bfloat16 if quantised else _DTYPES[precision]
        options |= {"config": config, "dtype": dtype, "output_loading_info": True}
        network, loaded = AutoModelForCausalLM.from_pretrained(folder, **options)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError, StrictDataclassError) as error:
        raise BadInput(f"model {name}: cannot be loaded: {_brief(error)}") from error
    if missing := sorted(loaded["missing_keys"]):  # transformers would fill these with random numbers
        raise BadInput(f"model {name}: its weights lack {len(missing)} that config.json asks for, such as {missing[0]}")
    if not quantised:  # bitsandbytes has placed its weights by then
        network.to(device)
    if not getattr(tokenizer, "is_fast", False):
        raise BadInput(f"model {name}: its tokenizer has no fast version, and character offsets need one")
    if device == "cpu" and network.num_parameters() < _SMALL:
        torch.set_num_threads(1)
    return LanguageModel(name, network.eval(), tokenizer)


def _quantisation(precision: str) -> Any:
    if precision == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type=precision, bnb_4bit_compute_dtype=torch.bfloat16)


def _from_hub(name: str) -> Path:
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise BadInput(f"model {name}: no such folder; a folder, `owner/name` of the Hugging Face hub or `builtin`")
    try:
        return Path(snapshot_download(name))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        raise BadInput(f"model {name}: neither a folder nor to be had from the hub: {_brief(error)}") from error


def _brief(error: BaseException) -> str:
    return textwrap.shorten(str(error), 200, placeholder=" …") or type(error).__name__
