"""An image tower run in two parts, proven at load to be the tower: what lies before a block once, the rest often.

Nothing is taken from the name of an architecture.  A pair of pictures goes through the tower, and siblings of one class
that hand one tensor on are its blocks.  Its own forward then runs both parts: the first stops at a block, the second
skips all before it, so that whatever it does around its blocks (rotary positions, class tokens, pooling) is done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from experiments.models import devices, files
from experiments.models.residuals import first_tensor
from harness.stage import BadInput

Encode = Callable[[torch.Tensor], torch.Tensor]

TOLERANCE = 1e-4  # share of an embedding's length by which the roads may differ in fp32
_LEAST = 0.25  # of a tower's weights, what blocks must hold
_NEARLY = 0.9  # of the weights of other blocks: then the finer cut is the better
_SIDES = (71, 53)  # pixels of the pictures that it is tried out on
_FAULTS = (
    TypeError, ValueError, RuntimeError, KeyError, IndexError, AttributeError, AssertionError, NotImplementedError
)  # fmt: skip


@dataclass(frozen=True)
class Tower:
    """An image tower and where it is cut: `before` is what it calls before its blocks.

    `whole` says why it is a single block, itself; it is empty where it has been taken apart.
    """

    visual: nn.Module
    blocks: Sequence[nn.Module]
    before: Sequence[nn.Module]
    shape: tuple[int, ...]  # of a picture: 3, height, width
    whole: str = ""
    _prefix: dict[nn.Module, torch.Tensor] = field(default_factory=dict)  # what `before` gives, for one blank picture

    def depth_of(self) -> dict[nn.Module, int]:
        """Of each part, how many blocks may be computed once where it is changed in every pass."""
        depths = dict.fromkeys(self.visual.modules(), len(self.blocks))
        for depth in reversed(range(len(self.blocks))):
            depths |= dict.fromkeys(self.blocks[depth].modules(), depth)
        for part in self.before:
            depths |= dict.fromkeys(part.modules(), 0)
        return depths

    def trunk(self, pixels: torch.Tensor, depth: int) -> torch.Tensor:
        """Pixels (b, 3, height, width) -> what comes out of the first `depth` blocks (b, …); none: the pixels."""
        if not depth:
            return pixels

        def stop(_: nn.Module, __: Any, output: torch.Tensor) -> None:
            raise _Reached(output)

        handle = self.blocks[depth - 1].register_forward_hook(stop)
        try:
            self.visual(pixels)
        except _Reached as reached:
            return reached.states
        finally:
            handle.remove()
        raise RuntimeError(f"block {depth - 1} is not called")

    def tail(self, states: torch.Tensor, depth: int) -> torch.Tensor:
        """What `trunk` gave -> embeddings (b, d)."""
        if not depth:
            return read(self.visual(states))
        blank = torch.zeros(1, *self.shape, dtype=torch.float32, device=states.device)
        if not self._prefix:
            self._record(blank)
        count = len(states)
        skipped = {
            module: _giving(given.expand(count, *given.shape[1:])) for module, given in self._prefix.items()
        } | dict.fromkeys(self.blocks[:depth], _giving(states))
        with _instead(skipped):
            return read(self.visual(blank.expand(count, *self.shape)))

    def forget(self) -> None:
        """Have what lies before the blocks computed anew, in the precision that weights have by then."""
        self._prefix.clear()

    def _record(self, blank: torch.Tensor) -> None:
        """Keep what lies before the blocks for a blank picture: it is skipped where their outcome is given."""
        with ExitStack() as hooks, torch.no_grad():
            for module in self.before:
                hooks.callback(module.register_forward_hook(self._keep).remove)
            self.trunk(blank, 1)

    def _keep(self, module: nn.Module, _: Any, output: Any) -> None:
        if isinstance(output, torch.Tensor) and output.ndim and len(output) == 1:
            self._prefix[module] = output


def read(output: Any) -> torch.Tensor:
    """Embeddings (b, d) of what an image tower gives, which may be them, a tuple that begins so, or transformers'."""
    output = getattr(output, "pooler_output", output)
    embeddings: torch.Tensor = output[0] if isinstance(output, tuple | list) else output
    return embeddings


def pair(name: str, preprocess: Callable[[Image.Image], torch.Tensor]) -> torch.Tensor:
    """Two seeded pictures of noise, one wide and one tall, as the encoder sees them (2, 3, height, width)."""
    random = np.random.default_rng(0)
    made = [Image.fromarray(random.integers(0, 256, (*sides, 3), dtype=np.uint8)) for sides in (_SIDES, _SIDES[::-1])]
    try:
        seen = [preprocess(image) for image in made]
        return torch.stack(seen)
    except _FAULTS as error:
        raise BadInput(f"encoder = {name}: its preprocessing does not make pictures of one size: {error}") from error


@torch.no_grad()
def whole(name: str, visual: nn.Module, encode: Encode, pixels: torch.Tensor) -> torch.Tensor:
    """Embeddings (2, d) of a pair by the library's own road; BadInput where it cannot be run on its own pictures."""
    try:
        with devices.exact():
            expected, given = encode(pixels), read(visual(pixels))
    except _FAULTS as error:
        own, made = own_size(visual), (pixels.shape[-2], pixels.shape[-1])
        if own is not None and own != made:
            raise BadInput(
                f"encoder = {name}: its preprocessing makes pictures of {made[0]} x {made[1]} pixels, and its image"
                f" tower takes {own[0]} x {own[1]}; its configuration must name one size"
            ) from error
        raise BadInput(
            f"encoder = {name}: its image tower does not run: {type(error).__name__}: {files.brief(error)}"
        ) from error
    if (share := difference(given, expected)) > TOLERANCE:
        raise BadInput(f"encoder = {name}: its image tower alone gives embeddings that differ by {share:.1%} from its")
    return expected


@torch.no_grad()
def take_apart(visual: nn.Module, pixels: torch.Tensor, expected: torch.Tensor) -> Tower:
    """The tower in blocks where that gives the embeddings expected (2, d) of a pair, else as a single block."""
    shape = tuple(pixels.shape[1:])
    try:
        with devices.exact():
            blocks, before, why = _find(visual, pixels)
            tower = Tower(visual, blocks, before, shape)
            why = why or _wrong(tower, pixels, expected)
    except _FAULTS as error:
        why = f"{type(error).__name__}: {files.brief(error)}"
    if why:
        return Tower(visual, [visual], (), shape, why)
    tower.forget()
    return tower


def difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest distance of embeddings (b, d), as a share of their length; infinite where they cannot be compared."""
    if found.shape != expected.shape or expected.ndim != 2:
        return float("inf")
    share = float(((found - expected).norm(dim=1) / expected.norm(dim=1)).max())
    return share if np.isfinite(share) else float("inf")


def own_size(visual: nn.Module) -> tuple[int, int] | None:
    """Height and width that a tower is built for, where any part of it tells: of timm the patches, else the tower."""
    for name in ("img_size", "image_size"):
        for module in reversed(list(visual.modules())):
            if (size := getattr(module, name, None)) is not None:
                return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
    return None


# --- where its blocks are ----------------------------------------------------------------------------------------


def _find(visual: nn.Module, pixels: torch.Tensor) -> tuple[list[nn.Module], list[nn.Module], str]:
    """The siblings that hand one tensor on and hold most weights, what is called before them, or why there are none.

    Of those that hold nearly as many, the most: a stem and all that follows may be siblings as well.
    """
    runs = list(_runs(visual))
    chained = [run for run in runs if _chained(visual, run, pixels)]
    if not chained:
        lacks = "read what the one before gives" if runs else "hold a good part of its weights"
        return [], [], f"of its neighbours of one class none {lacks}"
    most = max(map(_weights, chained))
    blocks = max((run for run in chained if _weights(run) >= _NEARLY * most), key=len)
    return blocks, _before(visual, blocks[0], pixels), ""


def _runs(visual: nn.Module) -> Iterator[list[nn.Module]]:
    """Neighbours of one class, at least two, that hold a good part of all weights."""
    least = _LEAST * _weights([visual])
    for parent in visual.modules():
        for _, some in groupby(parent.children(), key=type):
            run = list(some)
            if len(run) > 1 and _weights(run) >= least:
                yield run


def _weights(parts: Sequence[nn.Module]) -> int:
    return sum(weight.numel() for part in parts for weight in part.parameters())


def _chained(visual: nn.Module, run: Sequence[nn.Module], pixels: torch.Tensor) -> bool:
    """Whether each is called once, in this order, on the very tensor (2, …) that the one before it has given."""
    calls: list[tuple[nn.Module, torch.Tensor | None, Any]] = []

    def look(module: nn.Module, given: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
        calls.append((module, first_tensor(given, named), output))

    with ExitStack() as hooks:
        for part in run:
            hooks.callback(part.register_forward_hook(look, with_kwargs=True).remove)
        visual(pixels)
    if [module for module, _, _ in calls] != list(run):
        return False
    states = [output for _, _, output in calls]
    if not all(isinstance(state, torch.Tensor) and len(state) == len(pixels) for state in states):
        return False
    return all(this[2] is following[1] for this, following in pairwise(calls))


def _before(visual: nn.Module, block: nn.Module, pixels: torch.Tensor) -> list[nn.Module]:
    """The outermost parts that are done when the first block begins."""
    done: list[nn.Module] = []
    with ExitStack() as hooks:
        for part in visual.modules():
            hooks.callback(part.register_forward_hook(lambda module, *_: done.append(module)).remove)

        def stop(*_: Any) -> None:
            raise _Reached(pixels)

        hooks.callback(block.register_forward_pre_hook(stop).remove)
        try:
            visual(pixels)
        except _Reached:
            inner = {part for module in done for part in module.modules() if part is not module}
            return [module for module in dict.fromkeys(done) if module not in inner]
    raise RuntimeError("the first block is not called")


def _wrong(tower: Tower, pixels: torch.Tensor, expected: torch.Tensor) -> str:
    """Where the tower in two parts gives other embeddings, if anywhere."""
    last = len(tower.blocks)
    for depth in sorted({0, 1, last // 2, last}):
        share = difference(tower.tail(tower.trunk(pixels, depth), depth), expected)
        if share > TOLERANCE:
            return f"cut behind block {depth}, its embeddings differ by {share:.1%}"
    return ""


class _Reached(Exception):
    """The block at which the first part ends, with what it has given."""

    def __init__(self, states: torch.Tensor) -> None:
        super().__init__()
        self.states = states


def _giving(value: torch.Tensor) -> Callable[..., torch.Tensor]:
    return lambda *_, **__: value


@contextmanager
def _instead(forwards: Mapping[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """Have parts give something without computing; what was compiled of them is left out as well."""
    names = ("forward", "_compiled_call_impl")
    kept = {module: {name: module.__dict__[name] for name in names if name in module.__dict__} for module in forwards}
    for module, forward in forwards.items():
        module.__dict__ |= {"forward": forward, "_compiled_call_impl": None}
    try:
        yield
    finally:
        for module, own in kept.items():
            for name in names:
                module.__dict__.pop(name, None)
            module.__dict__ |= own
