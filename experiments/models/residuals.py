"""The residual stream before and after each feed-forward block, wherever a layer adds what that block gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from harness.stage import BadInput

Keep = Callable[[torch.Tensor], None]


class Added(NamedTuple):
    """Between which two states of a layer its FFN's contribution, and nothing else, is added.

    `before` and `after` name the submodules that read these states; no `after` is the layer's output, and without
    `before` that state is what is left of `after` when `scale` times the outputs of `parts` are taken away.
    """

    ffn: str
    before: str | None
    after: str | None
    parts: tuple[str, ...]
    scale: float  # of what is added
    stream: float  # of both states, in `after`


class Event(NamedTuple):
    """A state (tokens, hidden), in fp32, that a submodule of a layer read or gave."""

    part: str
    given: bool
    state: torch.Tensor


class Seen(NamedTuple):
    """What one forward pass did in one layer."""

    read: torch.Tensor
    gave: torch.Tensor
    events: list[Event]


_FFN = ("mlp", "feed_forward", "ffn", "ff", "block_sparse_moe", "moe", "mlp_block", "fc1")  # what transformers calls it
_TIMES_EPSILON = 2  # by so many roundings of its terms a sum may differ
_LEAST = 1e-3  # a term with less than such a factor is none


@contextmanager
def collect(
    layers: Sequence[nn.Module], added: Sequence[Added], rows: torch.Tensor | slice
) -> Iterator[tuple[list[torch.Tensor], list[torch.Tensor]]]:
    """Collect, while a forward pass runs, the stream (b, rows, hidden) before and after each layer's FFN."""
    before, after = ([torch.empty(0)] * len(layers) for _ in range(2))
    with ExitStack() as hooks:
        for i, (layer, where) in enumerate(zip(layers, added, strict=True)):
            _collect_from(hooks, layer, where, rows, i, before, after)
        yield before, after


def first_tensor(arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
    """The states that a module is called with, if any."""
    return next((each for each in (*arguments, *named.values()) if isinstance(each, torch.Tensor)), None)


def _collect_from(
    hooks: ExitStack,
    layer: nn.Module,
    where: Added,
    rows: torch.Tensor | slice,
    i: int,
    before: list[torch.Tensor],
    after: list[torch.Tensor],
) -> None:
    def chosen(states: torch.Tensor) -> torch.Tensor:
        states = states if states.ndim == 3 else states[None]
        return states[:, rows.to(states.device) if isinstance(rows, torch.Tensor) else rows]

    def keep_before(states: torch.Tensor) -> None:
        before[i] = chosen(states)

    def keep_after(states: torch.Tensor) -> None:
        after[i] = chosen(states) if where.stream == 1 else chosen(states) / where.stream

    def subtract(states: torch.Tensor) -> None:
        keep_after(states)
        before[i] = after[i] - (before[i] if where.scale == 1 else where.scale * before[i])

    keep_end = keep_after if where.before else subtract
    handles = [
        _on_output(layer, keep_end) if where.after is None else _on_input(layer.get_submodule(where.after), keep_end)
    ]
    if where.before:
        handles.append(_on_input(layer.get_submodule(where.before), keep_before))
    else:  # a copy, for layers add to it in place
        handles.append(_on_output(layer.get_submodule(where.parts[0]), lambda states: keep_before(states.clone())))
    for handle in handles:
        hooks.callback(handle.remove)


def _on_input(module: nn.Module, keep: Keep) -> Any:
    return module.register_forward_pre_hook(lambda _, given, named: keep(first_tensor(given, named)), with_kwargs=True)


def _on_output(module: nn.Module, keep: Keep) -> Any:
    return module.register_forward_hook(lambda _, __, output: keep(output[0] if isinstance(output, tuple) else output))


# --- where it is added -------------------------------------------------------------------------------------------


def find(name: str, i: int, layer: nn.Module, seen: Seen, epsilon: float) -> Added:
    """The states nearest to the FFN between which only what it, or what follows it, gave is added."""
    ffn = next((part for part in _FFN if isinstance(getattr(layer, part, None), nn.Module)), None)
    start = next((k for k, event in enumerate(seen.events) if ffn and event.part.split(".")[0] == ffn), None)
    if ffn is None or start is None:
        raise BadInput(f"model {name}: layer {i} has no feed-forward part, for it runs none named {' or '.join(_FFN)}")
    hidden = seen.gave.shape[-1]
    events = [event._replace(part=event.part if event.state.shape[-1] == hidden else "") for event in seen.events]
    earlier = [event for event in events[: start + 1] if event.part and not event.given]
    later = [event for event in events[start + 1 :] if event.part]
    gave = sorted((event for event in later if event.given), key=lambda event: event.part.count("."))
    given: list[tuple[Event, ...]] = [(event,) for event in gave]
    given += [pair for pair in combinations(gave, 2) if pair[0].part != pair[1].part]
    ends: list[tuple[str | None, torch.Tensor]] = [
        (event.part, event.state) for event in later if not event.given and not event.part.startswith(f"{ffn}.")
    ]
    ends.append((None, seen.gave))
    best = np.inf
    for after, state in ends:
        for event in reversed(earlier):
            for parts in given:
                fit = _fit(state, event.state, [part.state for part in parts], epsilon)
                if fit.holds:
                    return Added(ffn, event.part, after, tuple(part.part for part in parts), fit.scale, fit.stream)
                best = min(best, fit.gap)
    own = [event for event in gave if event.part.split(".")[0] == ffn]
    beside = [event for event in events if event.part and event.given and event.part.split(".")[0] != ffn]
    for added in own:
        for other in beside:
            fit = _fit(seen.gave, seen.read, [other.state, added.state], epsilon)
            if fit.holds:
                return Added(ffn, None, None, (added.part,), fit.scale, fit.stream)
            best = min(best, fit.gap)
    raise BadInput(
        f"model {name}: layer {i}, {ffn}: no state before the feed-forward part plus what that adds is the state behind"
        f" it; the nearest differs by {best:.1%} of what is added"
    )


class _Fit(NamedTuple):
    holds: bool
    scale: float
    stream: float
    gap: float


def _fit(after: torch.Tensor, before: torch.Tensor, parts: list[torch.Tensor], epsilon: float) -> _Fit:
    """Whether after = stream * (before + scale * the sum of parts), in every number but for rounding."""
    added, sizes = sum(parts[1:], parts[0]), sum((part.abs() for part in parts[1:]), parts[0].abs())
    tries = [(1.0, 1.0), (ratio(after - before, added), 1.0)]
    both = torch.stack([before.flatten(), added.flatten()], dim=1).double()
    gram, right = both.T @ both, both.T @ after.flatten().double()
    if float(torch.linalg.det(gram)) > 1e-9 * float(gram[0, 0] * gram[1, 1]):
        a, b = torch.linalg.solve(gram, right).tolist()
        if a:
            tries.append((b / a, a))
    gaps = []
    for scale, stream in tries:
        rest = (after - stream * (before + scale * added)).abs()
        terms = after.abs() + stream * (before.abs() + abs(scale) * sizes)
        told = min(scale, stream) > _LEAST and scale < 1 / _LEAST
        if told and bool((rest <= _TIMES_EPSILON * epsilon * terms).all()):
            return _Fit(True, scale, stream, 0.0)
        gaps.append(float(rest.norm() / (scale * stream * added).norm().clamp(min=1e-30)) if scale else np.inf)
    return _Fit(False, 1.0, 1.0, min(gaps))


def ratio(of: torch.Tensor, to: torch.Tensor) -> float:
    """The factor that brings one nearest to the other; 1 where that is but for rounding."""
    return float((of * to).sum().double() / (to * to).sum().double().clamp(min=1e-30))
