"""CLIP and SigLIP image encoders behind one small interface, from open_clip or from transformers, as asked for."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn
from torch.nn import functional

from experiments.models import devices, files, towers
from experiments.models.towers import Encode, Tower
from harness.progress import working
from harness.stage import BadInput, suggest


@dataclass(frozen=True)
class VisionModel:
    """An image encoder in evaluation mode: pixels -> embeddings (b, d), not normalised; `tail(trunk(pixels))` are they.

    `visual` holds every part, so that a part's name is its name in there.  `projection` is the part whose output is
    the input of the last projection into the embedding space where that is no layer of its own, else None.
    """

    tower: Tower
    preprocess: Callable[[Image.Image], torch.Tensor]  # RGB -> (3, height, width), normalised
    encode_text: Callable[[list[str]], torch.Tensor]  # captions -> (c, d), of unit length
    logit_scale: float
    device: torch.device
    dtype: torch.dtype
    projection: nn.Module | None = None

    @property
    def visual(self) -> nn.Module:
        """The image tower."""
        return self.tower.visual

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """Its blocks, or itself where it cannot be taken apart."""
        return self.tower.blocks

    def trunk(self, pixels: torch.Tensor, depth: int) -> torch.Tensor:
        """Pixels (b, 3, height, width) -> what comes out of the first `depth` blocks; of none, the pixels."""
        return self.tower.trunk(pixels, depth)

    def tail(self, states: torch.Tensor, depth: int) -> torch.Tensor:
        """What `trunk` gave -> embeddings (b, d)."""
        return self.tower.tail(states, depth)

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels (b, 3, height, width) -> embeddings (b, d)."""
        return self.tail(pixels, 0)

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
        built = build(name, folder, pretrained, torch.device(device))
        devices.spare_threads(built.visual, device)
        return assemble(name, built, torch.device(device), devices.DTYPES[precision], split_attention=split_attention)


@dataclass(frozen=True)
class Built:
    """What a library gives, in fp32: the image tower, its own road from pixels to embeddings, and what texts need."""

    visual: nn.Module
    encode_image: Encode
    preprocess: Callable[[Image.Image], torch.Tensor]
    encode_text: Callable[[list[str]], torch.Tensor]
    logit_scale: float


def assemble(
    name: str, built: Built, device: torch.device, dtype: torch.dtype, *, split_attention: bool = False
) -> VisionModel:
    """The encoder, proven on a pair of pictures to give in parts what its library gives, or refused in a BadInput."""
    visual, pixels = built.visual, towers.pair(name, built.preprocess).to(device, torch.float32)
    expected = towers.whole(name, visual, built.encode_image, pixels)
    if split_attention:
        split(visual)
        towers.whole(name, visual, lambda _: expected, pixels)
    tower = towers.take_apart(visual, pixels, expected)
    lower(visual, dtype)
    made = (built.preprocess, built.encode_text, built.logit_scale, device, dtype)
    return VisionModel(tower, *made, _before_projection(visual))


def _before_projection(visual: nn.Module) -> nn.Module | None:
    """Of open_clip's own tower the last norm, which its last projection, no layer, is applied to."""
    parts = dict(visual.named_children())
    ends = getattr(visual, "proj", None) is not None and not getattr(visual, "attn_pool_type", "")
    return parts.get("ln_post") if ends else None


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
        own = (native.q_proj_weight, native.k_proj_weight, native.v_proj_weight)  # where keys are of another width
        weights = native.in_proj_weight.chunk(3) if native.in_proj_weight is not None else own
        biases = (None,) * 3 if native.in_proj_bias is None else native.in_proj_bias.chunk(3)
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


def _linear(weight: torch.Tensor, bias: torch.Tensor | None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.detach())
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach())
    return layer


# --- open_clip -------------------------------------------------------------------------------------------------------


def _open_clip(name: str, folder: Path | None, pretrained: str | None, device: torch.device) -> Built:
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

    return of_open_clip(model, preprocess, encode_text)


def of_open_clip(
    model: Any,
    preprocess: Callable[[Image.Image], torch.Tensor],
    encode_text: Callable[[list[str]], torch.Tensor],
) -> Built:
    """What open_clip gives with one of its models."""

    def encode_image(pixels: torch.Tensor) -> torch.Tensor:
        return model.encode_image(pixels, normalize=False)  # type: ignore[no-any-return]

    return Built(model.visual, encode_image, preprocess, encode_text, float(model.logit_scale.detach().exp()))


# --- transformers ----------------------------------------------------------------------------------------------------


def _transformers(name: str, folder: Path | None, pretrained: str | None, device: torch.device) -> Built:
    if pretrained is not None:
        raise BadInput(f"pretrained = {pretrained}: library=transformers takes the weights of the encoder's own folder")
    from transformers import AutoConfig, AutoImageProcessor, AutoModel
    from transformers.utils import logging as chatter

    chatter.disable_progress_bar()
    chatter.set_verbosity_error()
    source = str(folder or name)
    try:
        config = AutoConfig.from_pretrained(source)
        files.require_encoder(name, config.to_dict())
        model, loaded = AutoModel.from_pretrained(source, output_loading_info=True, dtype=torch.float32)
        processor = AutoImageProcessor.from_pretrained(source)
    except BadInput:
        raise
    except Exception as error:  # transformers, the hub and safetensors raise whatever they like
        raise BadInput(f"encoder = {name}: transformers cannot load it: {files.brief(error)}") from error
    if missing := sorted(loaded["missing_keys"]):  # transformers would fill these with random numbers
        raise BadInput(f"encoder = {name}: its weights lack {len(missing)}, such as {missing[0]}")
    model.to(device).eval()

    def preprocess(image: Image.Image) -> torch.Tensor:
        return torch.as_tensor(processor(images=image, return_tensors="pt")["pixel_values"][0])

    def encode_image(pixels: torch.Tensor) -> torch.Tensor:
        return towers.read(model.get_image_features(pixel_values=pixels))

    projection = getattr(model, "visual_projection", None)
    visual = model.vision_model if projection is None else _Projected(model.vision_model, projection)
    scale = float(model.logit_scale.detach().exp())
    return Built(visual, encode_image, preprocess, partial(_encode_text, name, source, model, device), scale)


def _encode_text(name: str, source: str, model: Any, device: torch.device, captions: list[str]) -> torch.Tensor:
    """Captions -> embeddings (c, d) of unit length, padded as the model was trained: SigLIP sees its padding."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise BadInput(f"encoder = {name}: captions need its tokenizer: {files.brief(error)}") from error
    length = model.config.text_config.max_position_embeddings
    tokens = tokenizer(captions, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
    given = {"input_ids": tokens["input_ids"].to(device)}
    if hasattr(model, "text_projection"):
        given["attention_mask"] = tokens["attention_mask"].to(device)
    with torch.no_grad():
        features = towers.read(model.get_text_features(**given))
    return functional.normalize(features.float(), dim=-1)


class _Projected(nn.Module):
    """A CLIP's image tower with its projection, as transformers keeps them side by side."""

    def __init__(self, vision_model: nn.Module, visual_projection: nn.Module) -> None:
        super().__init__()
        self.vision_model, self.visual_projection = vision_model, visual_projection

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.visual_projection(towers.read(self.vision_model(pixel_values=pixels)))  # type: ignore[no-any-return]


def _quiet(record: logging.LogRecord) -> bool:
    """Keep open_clip's and timm's running commentary off the root logger."""
    return record.levelno >= logging.ERROR
