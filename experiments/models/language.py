"""Language models behind one small interface, whether built in, in a folder or from the Hugging Face hub."""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import psutil
import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
    BitsAndBytesConfig,
)
from transformers.utils import logging

from experiments.models import devices, files
from experiments.models.packed import PACKED
from experiments.models.proof import Proof, prove
from experiments.models.residuals import collect
from harness.progress import working
from harness.stage import BadInput


class Reader(Protocol):
    """What can be said of a model without its weights: how it splits text, and how much of it it takes."""

    @property
    def name(self) -> str: ...
    @property
    def tokenizer(self) -> Any: ...
    @property
    def window(self) -> int: ...


@dataclass(frozen=True)
class Described:
    """A model's configuration and fast tokenizer."""

    name: str
    config: Any
    tokenizer: Any

    @property
    def window(self) -> int:
        """The most tokens the model was made for."""
        return _window(self.name, self.config)


@dataclass(frozen=True)
class LanguageModel:
    """A causal language model in evaluation mode, with its fast tokenizer."""

    name: str
    network: Any  # a transformers *ForCausalLM: its classes share no typed interface
    tokenizer: Any
    attention: str = "sdpa"  # the kernel that packed.py attends with
    compiled: bool = False

    @property
    def device(self) -> torch.device:
        """Where input ids belong; of weights that are offloaded, where they are brought to be used."""
        embedding = self.network.get_input_embeddings()
        hook = getattr(embedding, "_hf_hook", None)
        return torch.device(hook.execution_device if hook else embedding.weight.device)

    @property
    def window(self) -> int:
        """The most tokens the model was made for."""
        return _window(self.name, self.network.config)

    @cached_property
    def decoder(self) -> nn.Module:
        """What holds the layers and the final norm."""
        network = self.network
        known: list[Any] = [network.get_decoder(), network.base_model, getattr(network, "model", None)]
        found: nn.Module = next((each for each in known if any(hasattr(each, name) for name in _LAYERS)), known[0])
        return found

    @cached_property
    def layers(self) -> list[nn.Module]:
        """The decoder layers, first to last."""
        return list(self._part(self.decoder, _LAYERS))

    @cached_property
    def final_norm(self) -> nn.Module:
        """The norm between the last layer and the output head."""
        norm: nn.Module = self._part(self.decoder, _FINAL_NORM)
        return norm

    def lens(self, states: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        """Read residual states (n, hidden) as the model reads its last: logits (n, vocabulary).

        They are written to `out` where the head is a plain product; a quantised or biased head takes memory of its own.
        """
        logits = self.read(states, out)
        return logits if self.proof.scale == 1 else logits.mul_(self.proof.scale)

    def read(self, states: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        """The same without a factor that the model may give its logits."""
        head = self.network.get_output_embeddings()
        normed = self.final_norm(states)
        plain = type(head) is nn.Linear and head.bias is None and not hasattr(head, "_hf_hook")
        logits: torch.Tensor = torch.mm(normed, head.weight.T, out=out) if plain and out is not None else head(normed)
        cap = getattr(self.network.config.get_text_config(), "final_logit_softcapping", None)
        return logits.div_(cap).tanh_().mul_(cap) if cap else logits

    @cached_property
    def proof(self) -> Proof:
        """How the model may be run, and where its FFNs add; BadInput where its numbers could not be believed."""
        with working(f"prove {self.name}"):
            return prove(self)

    def residuals(
        self, rows: torch.Tensor | slice = slice(None)
    ) -> AbstractContextManager[tuple[list[torch.Tensor], list[torch.Tensor]]]:
        """Collect, while a forward pass runs, the residual stream (b, rows, hidden) before and after each layer's FFN.

        Where attention and FFN work side by side, the stream before the FFN is the layer's output less the FFN's.
        """
        return collect(self.layers, self.proof.added, rows)

    def _part(self, module: nn.Module, names: tuple[str, ...]) -> Any:
        for name in names:
            if isinstance(part := getattr(module, name, None), nn.Module):
                return part
        raise BadInput(f"model {self.name}: its {type(module).__name__} has no part named {' or '.join(names)}")


# What transformers calls the parts of a decoder; what they do is proven.
_LAYERS = ("layers", "h", "blocks")
_FINAL_NORM = (
    "norm",
    "ln_f",
    "final_layer_norm",
    "final_layernorm",
    "embedding_norm",
    "norm_f",
    "layer_norm",
    "final_norm",
)


def _window(name: str, config: Any) -> int:
    found = getattr(config.get_text_config(), "max_position_embeddings", None)
    if not found:
        raise BadInput(f"model {name}: its config.json has no max_position_embeddings, how many tokens it was made for")
    return int(found)


def describe(name: str) -> Described:
    """Read a model's configuration and tokenizer, not its weights."""
    folder, in_it = files.as_named(files.locate_model(name))
    with readable(name):
        tokenizer = AutoTokenizer.from_pretrained(folder, **AS_DATA, **in_it)
        config = AutoConfig.from_pretrained(folder, **AS_DATA, **in_it)
    if not getattr(tokenizer, "is_fast", False):
        raise BadInput(f"model {name}: its tokenizer has no fast version, and character offsets need one")
    return Described(name, config, tokenizer)


# A folder is read as it lies here, and no code that it brings along is run, nor is anybody asked whether to.
AS_DATA: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
_UNREADABLE = (
    OSError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError, ImportError, RuntimeError,
    struct.error, SafetensorError, StrictDataclassError,
)  # fmt: skip


@contextmanager
def readable(name: str) -> Iterator[None]:
    """Whatever transformers throws at a damaged or unsupported model, as one line."""
    logging.disable_progress_bar()  # a bar over weights read in a second only hides the bar over samples
    logging.set_verbosity_error()  # what must not pass, as missing weights, is refused by `load`
    try:
        with working(f"load {name}"):
            yield
    except _UNREADABLE as error:
        raise BadInput(f"model {name}: cannot be loaded: {files.brief(error)}") from error


def load(
    name: str,
    precision: str,
    device: str,
    *,
    attention: str = "auto",
    device_map: str = "single",
    max_memory_gb: float | None = None,
    compiled: bool = False,
) -> LanguageModel:
    """Load a model for evaluation by packed.forward, whole on `device` or spread and offloaded by accelerate.

    `precision` is that of the weights; of a check point that is quantised already, that of its computations.
    """
    described = describe(name)
    options = _placement(device, device_map, max_memory_gb) | _numbers(name, described.config, precision, device)
    options |= {"config": described.config, **AS_DATA}
    folder, in_it = files.as_named(files.locate_model(name))
    with readable(name):
        maker, watched = _maker(described.config)
        options |= {"attn_implementation": PACKED} if watched else {}  # that it is not the proof says, where it matters
        network, loaded = maker.from_pretrained(folder, output_loading_info=True, **options, **in_it)
    if missing := sorted(loaded["missing_keys"]):  # transformers would fill these with random numbers
        raise BadInput(f"model {name}: its weights lack {len(missing)} that config.json asks for, such as {missing[0]}")
    if attention in {"sdpa", "flash"} and getattr(described.config.get_text_config(), "attn_logit_softcapping", None):
        raise BadInput(f"attention = {attention}: {name} caps its attention scores, which only eager attention can")
    devices.spare_threads(network, device)
    model = LanguageModel(
        name, network.eval(), described.tokenizer, "sdpa" if attention == "auto" else attention, compiled
    )
    if compiled:
        for layer, added in zip(model.layers, model.proof.added, strict=True):
            layer.get_submodule(added.ffn).compile(dynamic=True)
    return model


def _maker(config: Any) -> tuple[Any, bool]:
    """What makes a model of its configuration, the text part of one that sees too; and if attention can be chosen."""
    text, both = MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    sees = type(config) not in text and type(config) in both
    if type(config) not in (both if sees else text):
        raise ValueError(f"{type(config).__name__} is of no decoder that transformers knows")
    made = (both if sees else text)[type(config)]
    return (AutoModelForImageTextToText if sees else AutoModelForCausalLM), made._can_set_attn_implementation()


def _placement(device: str, device_map: str, max_memory_gb: float | None) -> dict[str, Any]:
    """Where accelerate puts the weights: what exceeds `max_memory_gb` a device goes on to the processor, then disk."""
    if device_map == "single":
        return {"device_map": {"": device}}
    options: dict[str, Any] = {"device_map": device_map, "offload_folder": tempfile.mkdtemp(prefix="rigsweep-offload-")}
    if max_memory_gb is not None:
        accelerators = range(torch.cuda.device_count()) if device == "cuda" else [device]
        limit = dict.fromkeys(accelerators, f"{max_memory_gb}GiB")
        options["max_memory"] = {"cpu": f"{psutil.virtual_memory().available / 2**30:.2f}GiB"} | limit
    return options


def _numbers(name: str, config: Any, precision: str, device: str) -> dict[str, Any]:
    """In which numbers weights are held and computed with."""
    quantised = getattr(config, "quantization_config", None)
    if precision in devices.DTYPES:
        return {"dtype": devices.DTYPES[precision]}
    if files.as_named(files.locate_model(name))[1]:
        raise BadInput(
            f"precision = {precision}: {name} is a GGUF file, whose weights are restored; fp16, bf16 or fp32"
        )
    if quantised:
        method = dict(quantised).get("quant_method", "another")
        raise BadInput(f"precision = {precision}: {name} is quantised by {method} already; fp16, bf16 or fp32")
    dtype = torch.bfloat16 if devices.has_bf16(device) else torch.float16
    if precision == "int8":
        rule = BitsAndBytesConfig(load_in_8bit=True)
    else:
        rule = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type=precision, bnb_4bit_compute_dtype=dtype)
    return {"dtype": dtype, "quantization_config": rule}
