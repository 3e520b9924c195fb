"""Dropout at chosen layers, with masks that depend on nothing but seed, trial, pass, layer, image and position."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from experiments.models.vision import VisionModel
from harness.stage import BadInput, some

PROJECTION = "projection"
_PRESETS = {"all-linear": "", "mlp-down": r"(^|\.)mlp\.(c_proj|fc2)$"}
_LAST = re.compile(r"last-([1-9]\d*)")
_GOLDEN = -7046029254386353131  # 2**64 / golden ratio, as a signed number: the step of SplitMix64
_SIGMAS = 8  # how far above its mean the number of dropped entries may lie before the last ones are kept


@dataclass
class Site:
    """One place of dropout: the input of a layer, or where the projection is no layer the output of what precedes it.

    `size` is the number of entries an image has there, known once the encoder has run; `dropped` are the flat places
    of those to be set to 0 in the batch under way, where the number of entries in all stands for none.
    """

    name: str
    module: nn.Module
    depth: int  # how many blocks come before the one it lies in; all, where it lies after them
    after: bool = False
    size: int = 0
    dropped: torch.Tensor | None = None
    gates: torch.Tensor | None = None  # (b,): factors that the check of a site looks at the effect of

    def apply(self, x: torch.Tensor, scale: float) -> torch.Tensor:
        """The input (b, …) as the layer shall see it."""
        if self.gates is not None:
            self.size = x.numel() // len(self.gates)
            return (x.reshape(len(self.gates), -1) * self.gates[:, None].to(x.dtype)).view_as(x)
        if self.dropped is None:
            return x
        count = x.numel()
        thinned = x.new_empty(count + 1)  # one place more, for those that stand for none
        torch.mul(x.reshape(-1), scale, out=thinned[:count])
        return thinned.index_fill_(0, self.dropped, 0.0)[:count].view(x.shape)


@dataclass(frozen=True)
class Dropout:
    """Dropout with probability `p` at `sites`, switched on by `masked` for one pass over one batch."""

    model: VisionModel
    sites: list[Site]
    p: float
    seed: int
    hooks: Sequence[RemovableHandle] = ()
    _plan: dict[int, tuple[torch.Tensor, torch.Tensor, list[int]]] = field(default_factory=dict)

    @property
    def depth(self) -> int:
        """How many blocks come before the first site."""
        return min(site.depth for site in self.sites)

    def draw(self, images: torch.Tensor, trial: int, number: int) -> None:
        """Switch on the masks of pass `number` of a trial for images with these keys (b,)."""
        # MPS has no fp64: there the masks are drawn on the processor.
        at = images.device if images.device.type != "mps" else torch.device("cpu")
        streams = torch.tensor([self._stream(site, trial, number) for site in self.sites], device=at)
        site_of, step, sizes = self._layout(at)
        keys = _mix(images.to(at)[:, None] ^ streams)
        uniform = (_unsigned_shift(_mix(keys[:, site_of] + step), 11).double() + 0.5) * 2.0**-53
        # The gap to the next success of a Bernoulli sequence is geometric: only what is dropped has to be drawn.
        gaps = (uniform.log_() / math.log1p(-self.p)).floor_().long() + 1
        for site, of_site in zip(self.sites, gaps.split(sizes, dim=1), strict=True):
            place = of_site.cumsum(1) - 1
            first = torch.arange(len(images), device=at)[:, None] * site.size
            none = len(images) * site.size
            flat = torch.where(place < site.size, first + place, none).flatten()
            site.dropped = flat.to(images.device)

    def off(self) -> None:
        """Switch dropout off."""
        for site in self.sites:
            site.dropped = None

    def remove(self) -> None:
        """Leave the encoder as it was before."""
        for hook in self.hooks:
            hook.remove()

    def _stream(self, site: Site, trial: int, number: int) -> int:
        content = f"{self.seed} {trial} {number} {site.name}".encode()
        return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), signed=True)

    def _layout(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
        """For all draws of an image at once: whose they are, their counter's step, and how many each site has."""
        if 0 not in self._plan:
            means = [(site.size * self.p, site.size * self.p * (1 - self.p)) for site in self.sites]
            sizes = [
                min(site.size, math.ceil(mean + _SIGMAS * math.sqrt(variance)) + 8)
                for site, (mean, variance) in zip(self.sites, means, strict=True)
            ]
            counts = torch.tensor(sizes, device=device)
            site_of = torch.repeat_interleave(torch.arange(len(sizes), device=device), counts)
            step = torch.cat([torch.arange(1, size + 1, device=device) for size in sizes]) * _GOLDEN
            self._plan[0] = site_of, step, sizes
        return self._plan[0]


def key(name: str) -> int:
    """What stands for an image in its masks: a digest of its name, so that its neighbours do not matter."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), signed=True)


def attach(model: VisionModel, sites: str, p: float, seed: int, pixels: torch.Tensor) -> Dropout:
    """Hook dropout into an encoder; BadInput names sites that are not there or do not change an image's embedding.

    `pixels` (2, 3, height, width) are what the sites are tried out on.
    """
    chosen = choose(model, sites)
    scale = 1 / (1 - p)
    dropout = Dropout(model, chosen, p, seed, [_hook(site, scale) for site in chosen])
    try:
        _require_alive(model, chosen, sites, pixels)
    except BaseException:
        dropout.remove()
        raise
    return dropout


@contextmanager
def attached(model: VisionModel, sites: str, p: float, seed: int, pixels: torch.Tensor) -> Iterator[Dropout]:
    """Have dropout in an encoder for a while, as `attach` hooks it in."""
    dropout = attach(model, sites, p, seed, pixels)
    try:
        yield dropout
    finally:
        dropout.remove()


def choose(model: VisionModel, sites: str) -> list[Site]:
    """The linear layers that a preset or a regular expression names, first to last; BadInput where there is none."""
    depth_of, last = model.tower.depth_of(), len(model.blocks)
    layers = [
        Site(name, module, depth_of[module])
        for name, module in model.visual.named_modules()
        if isinstance(module, nn.Linear)
    ]
    if model.projection is not None:
        layers.append(Site(PROJECTION, model.projection, depth_of[model.projection], after=True))
    if match := _LAST.fullmatch(sites):
        if model.tower.whole:
            raise BadInput(f"sites = {sites}: the encoder runs as one block, for {model.tower.whole}; name its layers")
        if (count := int(match[1])) > last:
            raise BadInput(f"sites = {sites}: the encoder has {last} blocks")
        return [site for site in layers if last - count <= site.depth < last]
    if sites == PROJECTION and model.projection is None:
        return layers[-1:]  # what comes last is the projection, where it is a layer of its own
    try:
        matching = [site for site in layers if re.search(_PRESETS.get(sites, sites), site.name)]
    except re.error as error:
        raise BadInput(f"sites = {sites}: neither a preset nor a regular expression: {error}") from error
    if not matching:
        names = ", ".join(site.name for site in layers[-4:])
        raise BadInput(f"sites = {sites}: fits no linear layer of the encoder, whose last are {names}")
    return matching


def _hook(site: Site, scale: float) -> RemovableHandle:
    if site.after:
        return site.module.register_forward_hook(lambda module, inputs, output: site.apply(output, scale))
    return site.module.register_forward_pre_hook(lambda module, inputs: (site.apply(inputs[0], scale), *inputs[1:]))


def _require_alive(model: VisionModel, sites: Sequence[Site], given: str, pixels: torch.Tensor) -> None:
    """Every site must change the embedding of its own image, and of no other: its gate's gradient says so."""
    with torch.enable_grad(), model.computing():
        for site in sites:
            site.gates = torch.ones(2, device=pixels.device, requires_grad=True)
        embeddings = model(pixels)
        seen = embeddings[0].float() @ torch.linspace(1, 2, embeddings.shape[1], device=pixels.device)
        gradients = torch.autograd.grad(
            seen, [site.gates for site in sites if site.gates is not None], allow_unused=True
        )
    for site in sites:
        site.gates = None
    pairs = list(zip(sites, gradients, strict=True))
    if dead := [site.name for site, gradient in pairs if gradient is None or gradient[0] == 0]:
        attention = any(name.endswith("attn.out_proj") or "attention.out_proj" in name for name in dead)
        why = "; torch's MultiheadAttention never calls it: attention=split does" if attention else ""
        raise BadInput(
            f"sites = {given}: {len(dead)} of {len(sites)} sites do not change the embedding: {some(dead)}{why}"
        )
    if mixed := [site.name for site, gradient in pairs if gradient is not None and gradient[1] != 0]:
        raise BadInput(f"sites = {given}: these mix the images of a batch, so none has masks of its own: {some(mixed)}")


def _mix(z: torch.Tensor) -> torch.Tensor:
    """SplitMix64's output function (Steele, Lea, Flood 2014) on int64, whose products wrap around."""
    z = (z ^ _unsigned_shift(z, 30)) * -4658895280553007687
    z = (z ^ _unsigned_shift(z, 27)) * -7723592293110705685
    return z ^ _unsigned_shift(z, 31)


def _unsigned_shift(z: torch.Tensor, bits: int) -> torch.Tensor:
    return (z >> bits) & ((1 << (64 - bits)) - 1)
