"""Many token sequences through one decoder at once, without padding; a sequence may continue another.

The sequences stand behind each other in one row, so every matrix product is as large as the batch and computes nothing
but tokens.  Only attention looks at them one by one: each sees itself and the sequence it continues, whose keys and
values are in the same row and are thus computed once however many continue it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.bias import causal_lower_right
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv
from transformers.masking_utils import eager_mask

from harness.stage import BadInput, one_line

PACKED = "packed"  # the attention implementation that a model must be loaded with


Columns = Callable[..., torch.Tensor]  # of batch, head, row and columns: which of these the row may look at


class Piece(NamedTuple):
    """Token ids of one sequence, and the index of the piece that it continues: one that continues none itself."""

    ids: NDArray[np.int64]
    after: int | None = None


class Watch(Protocol):
    """Sees attention as it is computed."""

    def heads(self, layer: int) -> list[int]:
        """The heads of a layer whose scores are wanted."""

    def see(self, layer: int, piece: int, scores: torch.Tensor) -> None:
        """Scores (heads, rows, columns) in fp32 before their softmax, of a piece that continues another.

        The last column may be of a sink, which no token is.
        """


class Model(Protocol):
    """A causal language model that was loaded with attention PACKED, and the kernel that it is to attend with."""

    @property
    def network(self) -> Any: ...
    @property
    def decoder(self) -> Any: ...
    @property
    def attention(self) -> str: ...
    @property
    def device(self) -> torch.device: ...


class Call(NamedTuple):
    """How a layer called attention, and which columns the model itself would have let a row look at."""

    layer: int
    heads: int
    rules: _Rules
    mask: Columns | None  # the model's own, where it has one made
    unknown: bool  # whether it makes a mask itself, of which nothing is known


def forward(
    model: Model, pieces: Sequence[Piece], watch: Watch | None = None, calls: list[Call] | None = None
) -> list[torch.Tensor]:
    """Run the decoder without its output head: last states (tokens, hidden) of each piece, behind the final norm.

    How attention was called is added to `calls`.
    """
    assert model.network.config._attn_implementation == PACKED, "any other attention would see across pieces"
    layout = Layout(pieces, model.attention, watch, calls)
    ids = torch.as_tensor(np.concatenate([piece.ids for piece in pieces]), device=model.device)
    positions = torch.as_tensor(layout.positions, device=model.device)
    with _running(layout):
        states = model.decoder(ids[None], position_ids=positions[None], use_cache=False).last_hidden_state[0]
    return [states[where] for where in layout.slices]


@contextmanager
def attending(model: Model) -> Iterator[None]:
    """Within it a model attends as `forward` needs it to, whatever attention it has besides, to generate by."""
    own = model.network.config._attn_implementation
    if own != PACKED:
        model.network.set_attn_implementation(PACKED)
    try:
        yield
    finally:
        if own != PACKED:
            model.network.set_attn_implementation(own)


def chunks(lengths: Sequence[int], tokens: int) -> Iterator[list[int]]:
    """Consecutive indices of `lengths` that sum to at most `tokens`; what is longer stands alone."""
    chunk: list[int] = []
    total = 0
    for i, length in enumerate(lengths):
        if chunk and total + length > tokens:
            yield chunk
            chunk, total = [], 0
        chunk.append(i)
        total += length
    if chunk:
        yield chunk


@dataclass(frozen=True)
class Layout:
    """Where each piece stands in the row, and how it is to attend."""

    pieces: Sequence[Piece]
    kernel: str
    watch: Watch | None = None
    calls: list[Call] | None = None
    masks: dict[int | None, tuple[torch.Tensor, Columns]] = field(default_factory=dict)  # kept with the calls

    @cached_property
    def slices(self) -> list[slice]:
        """The tokens of each piece in the row."""
        ends = np.cumsum([len(piece.ids) for piece in self.pieces]).tolist()
        return [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]

    @cached_property
    def positions(self) -> NDArray[np.int64]:
        """The position of each token of the row in its own text."""
        starts = [0 if piece.after is None else len(self.pieces[piece.after].ids) for piece in self.pieces]
        ranges = [start + np.arange(len(piece.ids)) for start, piece in zip(starts, self.pieces, strict=True)]
        return np.concatenate(ranges)

    @cached_property
    def alone(self) -> list[list[int]]:
        """The pieces that continue none, those of one length together: they attend in one call."""
        by_length: dict[int, list[int]] = {}
        for i, piece in enumerate(self.pieces):
            if piece.after is None and len(piece.ids):
                by_length.setdefault(len(piece.ids), []).append(i)
        return list(by_length.values())

    @cached_property
    def continuing(self) -> list[tuple[int, int]]:
        """Every piece that continues another, with that other."""
        return [(i, piece.after) for i, piece in enumerate(self.pieces) if piece.after is not None]


_layout: ContextVar[Layout | None] = ContextVar("layout", default=None)


@contextmanager
def _running(layout: Layout) -> Iterator[None]:
    token = _layout.set(layout)
    try:
        yield
    finally:
        _layout.reset(token)


def _attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of every piece of the row: query (1, heads, t, d) -> (1, t, heads, d)."""
    layout = _layout.get()
    assert layout is not None, "a packed model runs through packed.forward only"
    rules = _rules(layout.kernel, module, query, options)
    if layout.calls is not None:
        _, mask = layout.masks.get(_place(attention_mask), (None, None))
        unknown = attention_mask is not None and mask is None
        layout.calls.append(Call(int(module.layer_idx), query.shape[1], rules, mask, unknown))
    output = query.new_empty(query.shape[2], query.shape[1], value.shape[-1])
    for same in layout.alone:
        rows = [torch.cat([part[:, :, layout.slices[i]] for i in same]) for part in (query, key, value)]
        for i, found in zip(same, rules.attend(*rows), strict=True):
            output[layout.slices[i]] = found.transpose(0, 1)
    heads = layout.watch.heads(int(module.layer_idx)) if layout.watch else []
    for i, before in layout.continuing:
        own, context = layout.slices[i], layout.slices[before]
        q = query[:, :, own]
        if context.stop == own.start:
            k, v = (part[:, :, context.start : own.stop] for part in (key, value))
        else:
            k, v = (torch.cat([part[:, :, context], part[:, :, own]], dim=2) for part in (key, value))
        output[own] = rules.attend(q, k, v)[0].transpose(0, 1)
        if layout.watch and heads:
            chosen = torch.as_tensor(heads, device=q.device)
            scores = rules.scores(q[0, chosen], k[0, chosen // (q.shape[1] // k.shape[1])], chosen)
            layout.watch.see(int(module.layer_idx), i, scores)
    return output[None], None


def _rules(kernel: str, module: Any, query: torch.Tensor, options: dict[str, Any]) -> _Rules:
    """How a layer attends by what it calls attention with; only the configuration says which layers see chunks."""
    config = getattr(module, "config", None)
    kinds = getattr(config, "layer_types", None)
    chunked = kinds and kinds[int(module.layer_idx)] == "chunked_attention"
    return _Rules(
        kernel,
        options.get("scaling") or query.shape[-1] ** -0.5,
        options.get("sliding_window"),
        options.get("softcap"),
        config.attention_chunk_size if config is not None and chunked else None,
        options.get("s_aux"),
    )


class _Rules(NamedTuple):
    """How one layer attends: rows are the last columns, causal, over `window` columns or within a chunk of the text.

    A sink (heads,) takes part in the softmax like a column that has no value.
    """

    kernel: str
    scale: float
    window: int | None
    softcap: float | None
    chunk: int | None = None
    sinks: torch.Tensor | None = None

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """Query (n, heads, rows, d), key and value (n, key heads, columns, d): (n, heads, rows, d)."""
        groups = q.shape[1] // k.shape[1]
        k, v = repeat_kv(k, groups), repeat_kv(v, groups)
        rows, columns = q.shape[2], k.shape[2]
        if self.kernel == "eager" or self.softcap or self.sinks is not None:
            return functional.softmax(self.scores(q, k), dim=-1)[..., :columns].to(v.dtype) @ v
        plain = all(span is None or columns <= span for span in (self.window, self.chunk))
        mask: torch.Tensor | None = None
        if plain and rows < columns and q.is_cuda:
            mask = causal_lower_right(rows, columns)  # without a tensor, which the flash kernel of CUDA would refuse
        elif not plain or rows < columns:
            mask = self.allowed(rows, columns, q.device)
        if self.kernel != "flash":
            return functional.scaled_dot_product_attention(q, k, v, mask, is_causal=mask is None, scale=self.scale)
        try:
            with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
                return functional.scaled_dot_product_attention(q, k, v, mask, is_causal=mask is None, scale=self.scale)
        except RuntimeError as error:
            reason = one_line(error)
            raise BadInput(f"attention = flash: not for this device or model: {reason}; attention=auto") from error

    def scores(self, q: torch.Tensor, k: torch.Tensor, heads: torch.Tensor | slice = slice(None)) -> torch.Tensor:
        """Scores (…, heads, rows, columns) in fp32, minus infinity where a row may not look; a sink is a last column.

        `heads` says which of them all these are.
        """
        scores = (q * self.scale).float() @ k.float().mT
        if self.softcap:
            scores = self.softcap * torch.tanh(scores / self.softcap)
        scores.masked_fill_(~self.allowed(q.shape[-2], k.shape[-2], q.device), -torch.inf)
        if self.sinks is None:
            return scores
        sinks = self.sinks[heads].to(scores)[:, None, None].expand(*scores.shape[:-1], 1)
        return torch.cat([scores, sinks], dim=-1)

    def allowed(self, rows: int, columns: int, device: torch.device) -> torch.Tensor:
        """Which columns (columns,) each row (rows,) may look at."""
        causal = torch.ones(rows, columns, dtype=torch.bool, device=device).tril(columns - rows)
        if self.window is not None:
            causal = causal.triu(columns - rows - self.window + 1)
        if self.chunk is not None:
            chunk = torch.arange(columns, device=device) // self.chunk
            causal &= chunk[columns - rows :, None] == chunk
        return causal


def _mask(*given: Any, mask_function: Columns, **options: Any) -> torch.Tensor | None:
    """No mask, for the layout says who sees whom; only where calls are kept, the one that the model would have used."""
    layout = _layout.get()
    if layout is None or layout.calls is None:
        return None
    mask: torch.Tensor = eager_mask(*given, mask_function=mask_function, **options)
    layout.masks[_place(mask)] = mask, mask_function
    return mask


def _place(mask: torch.Tensor | None) -> int | None:
    """Where the numbers of a mask lie, which a slice of it shares."""
    return None if mask is None else mask.untyped_storage().data_ptr()


AttentionInterface.register(PACKED, _attention)
AttentionMaskInterface.register(PACKED, _mask)
