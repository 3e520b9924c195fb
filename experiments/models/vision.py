"""CLIP and SigLIP image encoders behind one small interface, from open_clip or from transformers, as asked for."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn
from torch.nn import functional

from experiments.models import devices, files
from harness.progress import working
from harness.stage import BadInput, suggest


@dataclass(frozen=True)
class VisionModel:
    """An image encoder in evaluation mode: `finish(blocks(embed(pixels)))` gives embeddings (b, d), not normalised.

    `visual` holds every part, so that a part's name is its name in there.  `projection` is the part whose output is
    the input of the last projection into the embedding space where that is no layer of its own, else None.
    """

    visual: nn.Module
    blocks: Sequence[nn.Module]
    embed: Callable[[torch.Tensor], torch.Tensor]
    finish: Callable[[torch.Tensor], torch.Tensor]
    preprocess: Callable[[Image.Image], torch.Tensor]  # RGB -> (3, height, width), normalised
    encode_text: Callable[[list[str]], torch.Tensor]  # captions -> (c, d), of unit length
    logit_scale: float
    device: torch.device
    dtype: torch.dtype
    projection: nn.Module | None = None

    def trunk(self, pixels: torch.Tensor, depth: int) -> torch.Tensor:
        """Pixels (b, 3, height, width) -> what comes out of the first `depth` blocks."""
        states = self.embed(pixels)
        for block in self.blocks[:depth]:
            states = block(states)
        return states

    def tail(self, states: torch.Tensor, depth: int) -> torch.Tensor:
        """What `trunk` gave -> embeddings (b, d)."""
        for block in self.blocks[depth:]:
            states = block(states)
        return self.finish(states)

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels (b, 3, height, width) -> embeddings (b, d)."""
        return self.tail(self.trunk(pixels, 0), 0)

    def computing(self) -> AbstractContextManager[Any]:
        """Within it, products are computed in the model's precision."""
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, self.dtype)


def load(
    name: str,
    library: str,
    pretrained: str | None,
    precision: str,
    device: str,
    *,
    split_attention: bool = False,
) -> VisionModel:
    """Load an encoder by the library asked for; another library is never tried."""
    require_precision(precision, device)
    folder = files.locate_encoder(name, library)
    build = _open_clip if library == "open_clip" else _transformers
    with working(f"load {name}"):
        model = build(name, folder, pretrained, torch.device(device), devices.DTYPES[precision])
    if split_attention:
        split(model.visual)
    devices.spare_threads(model.visual, device)
    lower(model.visual, model.dtype)
    return model


def require_precision(precision: str, device: str) -> None:
    """BadInput for a precision in which this device cannot multiply."""
    dtype = devices.DTYPES[precision]
    try:
        if precision == "bf16" and not devices.has_bf16(device):
            raise RuntimeError("it has no bf16 arithmetic")
        with torch.autocast(torch.device(device).type, dtype) if precision != "fp32" else nullcontext():
            functional.linear(torch.ones(2, 2, device=device), torch.ones(2, 2, device=device)).sum().item()
    except RuntimeError as error:
        raise BadInput(f"precision = {precision}: {device} cannot: {files.brief(error)}; fp32 can always") from error


def lower(visual: nn.Module, dtype: torch.dtype) -> None:
    """Hold the weights of products in the precision that autocast gives them anyway, but only once."""
    if dtype != torch.float32:
        for module in visual.modules():
            if isinstance(module, nn.Linear | nn.Conv2d | nn.MultiheadAttention):
                module.to(dtype)


class SplitAttention(nn.Module):
    """torch's MultiheadAttention with its four projections as layers that are called, so that hooks reach them."""

    def __init__(self, native: nn.MultiheadAttention) -> None:
        super().__init__()
        weights, biases = native.in_proj_weight.chunk(3), native.in_proj_bias.chunk(3)
        self.q_proj, self.k_proj, self.v_proj = (
            _linear(weight, bias) for weight, bias in zip(weights, biases, strict=True)
        )
        self.out_proj = _linear(native.out_proj.weight, native.out_proj.bias)
        self.heads = native.num_heads

    def forward(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **options: Any
    ) -> tuple[torch.Tensor, None]:
        """Attend as the native module does without dropout; weights are never returned."""
        projected = (self.q_proj(query), self.k_proj(key), self.v_proj(value))
        q, k, v = (each.unflatten(-1, (self.heads, -1)).transpose(1, 2) for each in projected)
        mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=options.get("attn_mask"))
        return self.out_proj(mixed.transpose(1, 2).flatten(2)), None


def split(visual: nn.Module) -> None:
    """Put SplitAttention in the place of every MultiheadAttention that it can stand in for."""
    for name, module in list(visual.named_modules()):
        if isinstance(module, nn.MultiheadAttention) and module.batch_first and module.bias_k is None:
            parent = visual.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], SplitAttention(module))


def _linear(weight: torch.Tensor, bias: torch.Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    layer.weight, layer.bias = nn.Parameter(weight.detach()), nn.Parameter(bias.detach())
    return layer


# --- open_clip -------------------------------------------------------------------------------------------------------


def _open_clip(
    name: str, folder: Path | None, pretrained: str | None, device: torch.device, dtype: torch.dtype
) -> VisionModel:
    import open_clip

    known = open_clip.list_models()
    source = f"local-dir:{folder}" if folder else name
    if folder is None and not name.startswith("hf-hub:"):
        if name not in known:
            hint = suggest(name, known)
            raise BadInput(f"encoder = {name}: no folder, and open_clip has no such architecture; {hint}")
        if pretrained is None:
            tags = ", ".join(open_clip.list_pretrained_tags_by_model(name)) or "none"
            raise BadInput(f"encoder = {name}: pretrained is needed: a file of weights, or a tag of {name}: {tags}")
    logging.getLogger().addFilter(_quiet)
    try:
        model, _, preprocess = open_clip.create_model_and_transforms(
            source, pretrained, device=device, require_pretrained=True
        )
        tokenize = open_clip.get_tokenizer(source)
    except Exception as error:  # open_clip, the hub and safetensors raise whatever they like
        raise BadInput(f"encoder = {name}: open_clip cannot load it: {files.brief(error)}") from error
    finally:
        logging.getLogger().removeFilter(_quiet)
    model.eval()

    def encode_text(captions: list[str]) -> torch.Tensor:
        with torch.no_grad():
            return functional.normalize(model.encode_text(tokenize(captions).to(device)).float(), dim=-1)

    return take_apart(model.visual, preprocess, encode_text, float(model.logit_scale.detach().exp()), device, dtype)


def take_apart(
    visual: Any,
    preprocess: Callable[[Image.Image], torch.Tensor],
    encode_text: Callable[[list[str]], torch.Tensor],
    logit_scale: float,
    device: torch.device,
    dtype: torch.dtype,
) -> VisionModel:
    """Take an open_clip image tower apart at its blocks; one laid out otherwise is a single block."""
    blocks: Sequence[nn.Module]
    projection = None
    trunk = getattr(visual, "trunk", None)  # timm's
    if hasattr(visual, "_embeds") and hasattr(visual, "transformer") and not visual.output_tokens:
        blocks, embed = list(visual.transformer.resblocks), visual._embeds

        def finish(states: torch.Tensor) -> torch.Tensor:
            pooled: torch.Tensor = visual._pool(states)[0]
            return pooled if visual.proj is None else pooled @ visual.proj.to(pooled.dtype)

        projection = visual.ln_post if visual.proj is not None and visual.attn_pool is None else None
    elif trunk is not None and all(hasattr(trunk, part) for part in ("_pos_embed", "norm_pre", "blocks", "norm")):
        blocks = list(trunk.blocks)

        def embed(pixels: torch.Tensor) -> torch.Tensor:
            return trunk.norm_pre(trunk.patch_drop(trunk._pos_embed(trunk.patch_embed(pixels))))  # type: ignore[no-any-return]

        def finish(states: torch.Tensor) -> torch.Tensor:
            return visual.head(trunk.forward_head(trunk.norm(states)))  # type: ignore[no-any-return]

    else:
        blocks, embed, finish = [visual], nn.Identity(), nn.Identity()
    return VisionModel(visual, blocks, embed, finish, preprocess, encode_text, logit_scale, device, dtype, projection)


# --- transformers ----------------------------------------------------------------------------------------------------


def _transformers(
    name: str, folder: Path | None, pretrained: str | None, device: torch.device, dtype: torch.dtype
) -> VisionModel:
    from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoTokenizer
    from transformers.utils import logging as chatter

    if pretrained is not None:
        raise BadInput(f"pretrained = {pretrained}: library=transformers takes the weights of the encoder's own folder")
    chatter.disable_progress_bar()
    chatter.set_verbosity_error()
    source = str(folder or name)
    try:
        config = AutoConfig.from_pretrained(source)
        if config.model_type != "siglip":
            raise BadInput(
                f"encoder = {name}: model_type {config.model_type} of transformers is not supported; siglip is (SigLIP,"
                " and SigLIP2 of a fixed resolution); library=open_clip has others"
            )
        model, loaded = AutoModel.from_pretrained(source, output_loading_info=True, dtype=torch.float32)
        processor = AutoImageProcessor.from_pretrained(source)
    except BadInput:
        raise
    except Exception as error:  # transformers, the hub and safetensors raise whatever they like
        raise BadInput(f"encoder = {name}: transformers cannot load it: {files.brief(error)}") from error
    if missing := sorted(loaded["missing_keys"]):  # transformers would fill these with random numbers
        raise BadInput(f"encoder = {name}: its weights lack {len(missing)}, such as {missing[0]}")
    model.to(device).eval()
    visual = model.vision_model

    def preprocess(image: Image.Image) -> torch.Tensor:
        return torch.as_tensor(processor(images=image, return_tensors="pt")["pixel_values"][0])

    def encode_text(captions: list[str]) -> torch.Tensor:
        try:
            tokenizer = AutoTokenizer.from_pretrained(source)
        except (OSError, ValueError) as error:
            raise BadInput(f"encoder = {name}: captions need its tokenizer: {files.brief(error)}") from error
        length = config.text_config.max_position_embeddings
        ids = tokenizer(captions, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
        with torch.no_grad():
            features = model.text_model(input_ids=ids["input_ids"].to(device)).pooler_output
        return functional.normalize(features.float(), dim=-1)

    def finish(states: torch.Tensor) -> torch.Tensor:
        return visual.head(visual.post_layernorm(states))  # type: ignore[no-any-return]

    layers = [_Layer(layer) for layer in visual.encoder.layers]
    scale = float(model.logit_scale.detach().exp())
    return VisionModel(visual, layers, visual.embeddings, finish, preprocess, encode_text, scale, device, dtype)


class _Layer(nn.Module):
    """A transformers layer, which wants to be told that nothing is masked."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.layer(states, None)
        return output


def _quiet(record: logging.LogRecord) -> bool:
    """Keep open_clip's and timm's running commentary off the root logger."""
    return record.levelno >= logging.ERROR
