"""What is proven of a language model before its numbers are used: how it may be run, and where its FFNs add.

Nothing is taken from the name of an architecture.  Short random pieces go through the model's own forward and through
packed.forward, and what each layer makes of the same states is compared; then the states seen inside a layer are
searched for the two between which nothing but the FFN's contribution is added.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from experiments.models import devices, packed
from experiments.models.packed import PACKED, Piece
from experiments.models.residuals import Added, Event, Seen, find, first_tensor, ratio
from harness.stage import BadInput


@dataclass(frozen=True)
class Proof:
    """What was found: whether texts may share a row, and if not why, and what the features are read from."""

    why_alone: str  # empty where they may
    added: tuple[Added, ...]
    heads: dict[int, int]  # of the layers that attend, how many heads
    scale: float  # of the logits, in those of final norm and head

    @property
    def road(self) -> str:
        """`packed`, or `alone`: one sequence at a time."""
        return "alone" if self.why_alone else "packed"


class Model(packed.Model, Protocol):
    """What is proven, with the way its states are read as logits."""

    @property
    def name(self) -> str: ...
    @property
    def layers(self) -> list[nn.Module]: ...
    def read(self, states: torch.Tensor) -> torch.Tensor: ...


_CONTEXT, _RESPONSE, _OTHER, _SECOND = 9, 7, 8, 5  # tokens of the pieces
_ROPES = {"dynamic", "longrope"}  # turn by angles that depend on the longest text of the row
_LOCAL = {torch.float32: 1e-3, torch.float64: 1e-3}  # share of what a layer adds by which roads may differ
_LOCAL_HALF, _LOCAL_QUANTISED = 0.1, 0.3
_LOGITS = {torch.float32: 1e-3, torch.float64: 1e-3}
_LOGITS_HALF = 0.05


@torch.no_grad()
def prove(model: Model) -> Proof:
    """Find out how a model may be run and what is to be read of it; BadInput names layer, part and by how much."""
    chosen = model.network.config._attn_implementation
    try:
        with devices.exact():
            return _prove(model)
    except BadInput:
        raise
    except (TypeError, ValueError, RuntimeError, KeyError, IndexError, AttributeError, AssertionError) as error:
        raise BadInput(
            f"model {model.name}: its forward pass does not run as a decoder's over a row of texts:"
            f" {type(error).__name__}: {' '.join(str(error).split())[:160]}"
        ) from error
    finally:
        model.network.set_attn_implementation(chosen)


def _prove(model: Model) -> Proof:
    ids = _Ids(model)
    model.network.set_attn_implementation("eager")
    first, logits = _own(model, np.concatenate([ids.context, ids.response]), depth=2)
    epsilon = torch.finfo(model.network.dtype).eps
    added = [find(model.name, i, *each, epsilon) for i, each in enumerate(zip(model.layers, first, strict=True))]
    scale = _scale(model, first[-1].gave, logits)
    second, _ = _own(model, np.concatenate([ids.context, ids.second]))
    third, _ = _own(model, ids.other)
    model.network.set_attn_implementation(PACKED)
    if model.network.config._attn_implementation != PACKED:
        raise BadInput(f"model {model.name}: {type(model.network).__name__} does not let its attention be watched")
    calls = _calls(model, ids)
    alone = [Piece(ids.context), Piece(ids.response, 0)]
    if differs := _difference(model, alone, first):
        raise BadInput(f"model {model.name}: {differs} from the model's own forward, even alone")
    together = [*alone, Piece(ids.other), Piece(ids.second, 0)]
    row = [_behind(a, b, c, len(ids.context)) for a, b, c in zip(first, third, second, strict=True)]
    differs = _difference(model, together, row)
    if not differs and (rope := _rope(model.network.config.get_text_config())):
        differs = f"rotary positions of type {rope} depend on the longest text of a row"
    return Proof(differs, tuple(added), calls, scale)


class _Ids:
    """Token ids drawn for the pieces, the same at every load."""

    def __init__(self, model: Model) -> None:
        vocabulary = int(model.network.get_input_embeddings().weight.shape[0])
        drawn = np.random.default_rng(0).integers(3, max(4, vocabulary), 64)
        ends = np.cumsum([_CONTEXT, _RESPONSE, _OTHER, _SECOND])
        self.context, self.response, self.other, self.second, _ = np.split(drawn, ends)


# --- what is seen ------------------------------------------------------------------------------------------------


def _own(model: Model, ids: NDArray[np.int64], depth: int = 1) -> tuple[list[Seen], torch.Tensor]:
    """The model's own forward over one sequence: what was seen in each layer, and its logits (tokens, vocabulary)."""
    with _watching(model, len(ids), None, depth) as seen:
        output = model.network(torch.as_tensor(ids, device=model.device)[None], use_cache=False)
    return _complete(model, seen), output.logits[0]


def _complete(model: Model, seen: list[Seen | None]) -> list[Seen]:
    for i, layer in enumerate(seen):
        if layer is None:
            raise BadInput(f"model {model.name}: layer {i}: its states are no row of tokens x hidden numbers")
    return [layer for layer in seen if layer is not None]


def _behind(first: Seen, other: Seen, second: Seen, start: int) -> Seen:
    """One layer over a row: the first sequence, the other, and the second from its token `start` on."""

    def cat(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        return torch.cat([a, b, c[start:]])

    of_parts = [[event for event in each.events if "." not in event.part] for each in (first, other, second)]
    alike = len({tuple(event[:2] for event in events) for events in of_parts}) == 1
    events = (
        [a._replace(state=cat(a.state, b.state, c.state)) for a, b, c in zip(*of_parts, strict=True)] if alike else []
    )
    return Seen(cat(first.read, other.read, second.read), cat(first.gave, other.gave, second.gave), events)


@contextmanager
def _watching(
    model: Model, tokens: int, forced: Sequence[torch.Tensor] | None, depth: int = 1
) -> Iterator[list[Seen | None]]:
    """Keep what every layer and its parts, to a depth, read and give; each reads `forced` instead where that is given.

    Deeper parts are looked at once only, for their states take memory.
    """
    seen: list[Seen | None] = [None] * len(model.layers)
    with ExitStack() as hooks:
        for i, layer in enumerate(model.layers):
            _watch_layer(hooks, layer, i, tokens, seen, None if forced is None else forced[i], depth)
        yield seen


def _watch_layer(
    hooks: ExitStack,
    layer: nn.Module,
    i: int,
    tokens: int,
    seen: list[Seen | None],
    forced: torch.Tensor | None,
    depth: int,
) -> None:
    events: list[Event] = []
    read: list[torch.Tensor] = []

    def keep(part: str, given: bool) -> Callable[[Any], None]:
        def look(value: Any) -> None:
            if (state := _state(value, tokens)) is not None:
                events.append(Event(part, given, state))

        return look

    def begin(_: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        events.clear()
        states = arguments[0] if arguments else named["hidden_states"]
        if forced is not None and states.shape[-1] == forced.shape[-1] and states.numel() == forced.numel():
            states = forced.to(states).view(states.shape)
            arguments, named = (
                ((states, *arguments[1:]), named) if arguments else (arguments, named | {"hidden_states": states})
            )
        if (state := _state(states, tokens)) is not None:
            read[:] = [state]
        return arguments, named

    def end(_: nn.Module, __: Any, output: Any) -> None:
        gave = _state(output, tokens)
        if read and gave is not None and gave.shape == read[0].shape:
            seen[i] = Seen(read[0], gave, list(events))

    handles = [layer.register_forward_pre_hook(begin, with_kwargs=True), layer.register_forward_hook(end)]
    for name, part in layer.named_modules():
        if name and name.count(".") < depth:
            reads, gives = keep(name, False), keep(name, True)
            handles.append(
                part.register_forward_pre_hook(
                    lambda _, given, named, look=reads: look(first_tensor(given, named)), with_kwargs=True
                )
            )
            handles.append(part.register_forward_hook(lambda _, __, output, look=gives: look(output)))
    for handle in handles:
        hooks.callback(handle.remove)


def _state(value: Any, tokens: int) -> torch.Tensor | None:
    """A copy in fp32 of states (1, tokens, hidden) or (tokens, hidden), which layers may overwrite later."""
    value = value[0] if isinstance(value, tuple) and value else value
    if not isinstance(value, torch.Tensor) or not value.is_floating_point() or value.ndim < 2:
        return None
    if value.numel() != tokens * value.shape[-1]:
        return None
    return value.detach().reshape(tokens, -1).to("cpu", torch.float32, copy=True)


# --- packed as alone ---------------------------------------------------------------------------------------------


def _difference(model: Model, pieces: list[Piece], own: list[Seen]) -> str:
    """Where and by how much packed.forward differs from what is known: empty where it does not.

    Each layer reads the states that it read in the model's own forward, so that differences do not add up.
    """
    tokens = sum(len(piece.ids) for piece in pieces)
    with _watching(model, tokens, [layer.read for layer in own]) as watched:
        packed.forward(model, pieces)
    with _watching(model, tokens, None) as unforced:
        packed.forward(model, pieces)
    if _share(_complete(model, unforced)[0].read, own[0].read, own[0].read) > _local(model):
        return "the embedding of tokens and positions differs"
    for i, (found, known) in enumerate(zip(_complete(model, watched), own, strict=True)):
        share = _share(found.gave, known.gave, known.gave - known.read)
        if share > _local(model):
            return f"layer {i}: what {_part(found, known, _local(model))} adds differs by {share:.1%}"
    return ""


def _share(found: torch.Tensor, known: torch.Tensor, of: torch.Tensor) -> float:
    """The largest difference of a token's states, as a share of the usual length of `of`."""
    return float((found - known).norm(dim=-1).max() / of.norm(dim=-1).median().clamp(min=1e-30))


def _part(found: Seen, known: Seen, limit: float) -> str:
    """The first part of the layer that gives something else, if what its parts give is known."""
    ours, theirs = ({event.part: event.state for event in each.events if event.given} for each in (found, known))
    for part, state in theirs.items():
        same = part in ours and "." not in part and ours[part].shape == state.shape
        if same and _share(ours[part], state, state) > limit:
            return part
    return "it"


def _local(model: Model) -> float:
    quantised = getattr(model.network, "is_quantized", False)
    return _LOCAL_QUANTISED if quantised else _LOCAL.get(model.network.dtype, _LOCAL_HALF)


def _rope(config: Any) -> str | None:
    """A type of rotary positions for which a text's angles depend on the texts beside it, if the model has one."""
    given = getattr(config, "rope_parameters", None) or {}
    several = [given, *(each for each in given.values() if isinstance(each, dict))]
    return next((each["rope_type"] for each in several if each.get("rope_type") in _ROPES), None)


# --- attention ---------------------------------------------------------------------------------------------------


def _calls(model: Model, ids: _Ids) -> dict[int, int]:
    """The heads of each layer that attends, once each and over the columns that the model's own mask allows."""
    calls: list[packed.Call] = []
    layers: list[int] = []
    with ExitStack() as hooks:
        for i, module in enumerate(model.layers):

            def end(*_: Any, i: int = i) -> None:
                layers.extend([i] * (len(calls) - len(layers)))

            hooks.callback(module.register_forward_hook(end).remove)
        packed.forward(model, [Piece(ids.context)], calls=calls)
    if not calls:
        raise BadInput(f"model {model.name}: no layer lets its attention be watched")
    for call, layer in zip(calls, layers, strict=True):
        if call.layer != layer or layers.count(layer) > 1:
            raise BadInput(f"model {model.name}: layer {layer} does not attend once, or does so as another layer")
        if call.unknown:
            raise BadInput(f"model {model.name}: layer {layer} makes an attention mask of its own, which is not known")
        if (column := _other_mask(call, model.network.config.get_text_config())) is not None:
            raise BadInput(
                f"model {model.name}: layer {layer}: its attention mask at token {column} is neither causal, nor of a"
                " window or chunk that its configuration tells"
            )
    return {call.layer: call.heads for call in calls}


def _other_mask(call: packed.Call, config: Any) -> int | None:
    """A token of a long text that looks elsewhere than packed.py lets it, if there is one and the model says."""
    if call.mask is None:
        return None
    spans = [span for span in (call.rules.window, call.rules.chunk) if span]
    longest = int(getattr(config, "max_position_embeddings", 0) or 1 << 15)
    rows = {0, 1, 7, longest - 1} | {span + more for span in spans for more in (-1, 0, 1, span + 3)}
    for row in sorted(row for row in rows if 0 <= row < min(longest, 1 << 17)):
        columns = torch.arange(row + 1)
        zero = torch.zeros((), dtype=torch.long)
        own = call.mask(zero, zero, torch.tensor(row), columns)
        if not torch.equal(own.expand(row + 1), call.rules.allowed(1, row + 1, torch.device("cpu"))[0]):
            return row
    return None


# --- the lens ----------------------------------------------------------------------------------------------------


def _scale(model: Model, last: torch.Tensor, logits: torch.Tensor) -> float:
    """The factor between the model's logits (tokens, vocabulary) and those read from its last state."""
    own = logits.float()
    states = last.to(model.device, model.network.dtype)
    ours = model.read(states).float().to(own.device)
    if ours.shape != own.shape:
        raise BadInput(
            f"model {model.name}: its logits are {own.shape[-1]} a token, its output head's {ours.shape[-1]}"
        )
    limit = _LOGITS.get(model.network.dtype, _LOGITS_HALF)
    gaps = []
    for scale in (1.0, ratio(own, ours)):
        gaps.append(float((own - scale * ours).norm() / own.norm().clamp(min=1e-30)))
        if gaps[-1] <= limit and scale > 0:
            return scale
    raise BadInput(
        f"model {model.name}: its last state, read through final norm and output head, differs from its logits by"
        f" {min(gaps):.1%}"
    )
