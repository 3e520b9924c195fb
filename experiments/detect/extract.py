"""ReDeEP's two scores at the least cost: the numbers of baseline.py, which stays the oracle.

What is saved, in order of gain: the lens reads response rows only; responses to one prompt share its keys and values;
attention maps are never kept, each layer's rows are reduced as soon as they are known; the divergence takes one pass
over cache-sized pieces; ECS has no loop over tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from experiments.detect.baseline import TOP_SHARE, Head
from experiments.detect.embed import Embed
from experiments.detect.encode import Encoded, Span
from experiments.models.language import LanguageModel

ATTENTION = "watched_sdpa"  # the attention implementation that a model must be loaded with
_PIECE = 1 << 18  # logits reduced at once: four such pieces stay in a core's cache
_LENS = 1 << 24  # logits that each half of the lens buffer may hold: 64 MB in fp32

Features = tuple[NDArray[np.float64], NDArray[np.float64]]  # ECS (items, heads), PKS (items, layers)
PADDING = 0.05  # the most of a batch's tokens that may be padding
_watchers: ContextVar[list[_Attended]] = ContextVar("watchers", default=[])  # noqa: B039 - never changed in place


@torch.inference_mode()
def extract(
    model: LanguageModel,
    samples: list[Encoded],
    heads: list[Head],
    level: str,
    pks: str,
    embed: Embed,
    batch_tokens: int = 1,
) -> list[Features]:
    """ECS (items, heads) and PKS (items, layers) of each of several responses to one and the same prompt.

    Responses of nearly equal length are computed together, up to `batch_tokens` tokens at once.
    """
    prompt = samples[0].ids[: samples[0].prompt_tokens]
    cache = DynamicCache()
    states = _read(model, [prompt[:-1]], cache)[0]
    lens = _Lens(model)
    results = {}
    for batch in batches([len(sample.tokens) for sample in samples], batch_tokens):
        chosen = [samples[i] for i in batch]
        # Row i predicts response token i, so the prompt's last token is read again and the response's last is not.
        rows = [sample.ids[len(prompt) - 1 : -1] for sample in chosen]
        seen = [_Attended(sample, heads, level) for sample in chosen]
        cache.batch_repeat_interleave(len(batch))
        with model.residuals() as (before, after), _watching(seen):
            last = _read(model, rows, cache)
        cache.crop(-max(map(len, rows)))
        cache.batch_select_indices(torch.zeros(1, dtype=torch.long, device=model.device))
        for b, (i, sample) in enumerate(zip(batch, chosen, strict=True)):
            length = len(rows[b])
            divergence = lens.divergence([s[b, :length] for s in after], [s[b, :length] for s in before], pks)
            ecs = (
                _ecs_of_spans(seen[b], sample, embed)
                if level == "chunk"
                else _ecs_of_tokens(seen[b], states, last[b, :length])
            )
            results[i] = ecs, _pool(divergence, sample, level, pks, lens.vocabulary)
    return [results[i] for i in range(len(samples))]


def batches(lengths: list[int], batch_tokens: int) -> list[list[int]]:
    """Indices of `lengths`, longest first, in batches of at most `batch_tokens` tokens of which 5 % are padding.

    What is longer than `batch_tokens` is a batch of its own.
    """
    done: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if done:
            computed = lengths[done[-1][0]] * (len(done[-1]) + 1)
            useful = sum(lengths[j] for j in done[-1]) + lengths[i]
            if computed <= batch_tokens and useful >= (1 - PADDING) * computed:
                done[-1].append(i)
                continue
        done.append([i])
    return done


def _read(model: LanguageModel, rows: list[NDArray[np.int64]], cache: DynamicCache) -> torch.Tensor:
    """Run the decoder, without its output head, over the next tokens of each row: last states (rows, t, hidden).

    Shorter rows are padded on the right, where causal attention keeps the padding from everything before it.
    """
    tokens = np.zeros((len(rows), max(map(len, rows))), dtype=np.int64)
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = row
    if not tokens.size:
        return torch.empty(*tokens.shape, model.network.config.get_text_config().hidden_size, device=model.device)
    ids = torch.as_tensor(tokens, device=model.device)
    states: torch.Tensor = model.network.get_decoder()(ids, past_key_values=cache, use_cache=True).last_hidden_state
    return states


def _pool(
    divergence: NDArray[np.float64], sample: Encoded, level: str, pks: str, vocabulary: int
) -> NDArray[np.float64]:
    """Row divergences (rows, layers) to items: mean of a span's rows, or as published their sum, or 1e6 / V of one."""
    if level == "token":
        return divergence * (1e6 / vocabulary) if pks == "published" else divergence
    at = sample.prompt_tokens
    spans = [divergence[span.start - at : span.end - at] for span in sample.response]
    return np.stack([rows.sum(axis=0) if pks == "published" else rows.mean(axis=0) for rows in spans])


# --- ECS ---------------------------------------------------------------------------------------------------------


class _Attended:
    """What the chosen heads attend to: of each layer's rows only the argmax span, or the top tokens, is kept."""

    def __init__(self, sample: Encoded, heads: list[Head], level: str) -> None:
        self.heads = {layer: [h for at, h in heads if at == layer] for layer in dict(heads)}
        self.prompt, self.rows, self.level = sample.prompt_tokens, len(sample.tokens), level
        self.found: list[torch.Tensor] = []  # (heads of a layer, spans) or (heads of a layer, rows, top), by layer
        self._of_response = _indicator(sample.response, self.prompt, self.rows)
        self._of_prompt = _indicator(sample.prompt, 0, self.prompt)
        self._top = max(1, int(TOP_SHARE * self.prompt))

    def watch(self, layer: int, query: torch.Tensor, key: torch.Tensor, allowed: torch.Tensor) -> None:
        """Reduce one layer: scaled queries (heads, rows, d), keys (key heads, columns, d), allowed (rows, columns)."""
        if layer not in self.heads:
            return
        chosen = torch.as_tensor(self.heads[layer], device=query.device)
        keys = key[chosen // (len(query) // len(key))].float()
        scores = (query[chosen].float() @ keys.mT).masked_fill_(~allowed, -torch.inf)
        if self.level == "token":
            self.found.append(scores[..., : self.prompt].topk(self._top, sorted=False).indices)
            return
        weights = functional.softmax(scores, dim=-1)[..., : self.prompt]
        masses = self._of_response.to(weights.device) @ weights @ self._of_prompt.mT.to(weights.device)
        self.found.append(masses.argmax(dim=-1))


def _indicator(spans: list[Span], start: int, length: int) -> torch.Tensor:
    """(spans, length) matrix that holds 1 where a token, counted from `start`, belongs to a span."""
    matrix = torch.zeros(len(spans), length)
    for i, span in enumerate(spans):
        matrix[i, span.start - start : span.end - start] = 1
    return matrix


def _ecs_of_spans(seen: _Attended, sample: Encoded, embed: Embed) -> NDArray[np.float64]:
    vectors = embed([span.text for span in (*sample.prompt, *sample.response)]).astype(np.float64)
    prompt, response = vectors[: len(sample.prompt)], vectors[len(sample.prompt) :]
    attended = torch.cat(seen.found).mT.cpu().numpy()  # (spans, heads)
    return np.asarray(np.take_along_axis(response @ prompt.T, attended, axis=1))


def _ecs_of_tokens(seen: _Attended, states: torch.Tensor, last: torch.Tensor) -> NDArray[np.float64]:
    """Cosine of each row's state and the mean of the chosen prompt states, as one matrix product a layer."""
    prompt = torch.cat([states, last[:1]]).float()
    own = last.float()
    columns = []
    for chosen in seen.found:
        weights = torch.zeros(*chosen.shape[:2], len(prompt), device=prompt.device)
        means = weights.scatter_(-1, chosen, 1 / chosen.shape[-1]) @ prompt
        columns.append(functional.cosine_similarity(means, own, dim=-1))
    return torch.cat(columns).mT.double().cpu().numpy()


# --- PKS ---------------------------------------------------------------------------------------------------------


class _Lens:
    """Reads residual states through final norm and output head into one buffer that is used again and again.

    Fresh memory costs a tenth of the time, and wide products run nearer the machine's rate than narrow ones: the rows
    of all layers are therefore read in blocks as large as the buffer.
    """

    def __init__(self, model: LanguageModel) -> None:
        self._model = model
        weight = model.network.get_output_embeddings().weight
        self.vocabulary = len(weight)
        self._rows = max(16, _LENS // self.vocabulary)
        self._buffer = torch.empty(2 * self._rows, self.vocabulary, dtype=model.network.dtype, device=model.device)

    def divergence(self, after: list[torch.Tensor], before: list[torch.Tensor], pks: str) -> NDArray[np.float64]:
        """Divergence of what states after and before an FFN are read as, layers of (rows, hidden): (rows, layers)."""
        pieces = []
        pairs = list(zip(torch.cat(after).split(self._rows), torch.cat(before).split(self._rows), strict=True))
        for pair in pairs:
            logits = self._model.lens(torch.cat(pair), out=self._buffer[: 2 * len(pair[0])]).float()
            p, q = logits.chunk(2)
            step = max(1, _PIECE // self.vocabulary) if p.device.type == "cpu" else len(p)
            pieces += [_divergence(p[i : i + step], q[i : i + step], pks) for i in range(0, len(p), step)]
        return torch.cat(pieces).view(len(after), -1).mT.double().cpu().numpy()


def _divergence(p: torch.Tensor, q: torch.Tensor, pks: str) -> torch.Tensor:
    """JSD, or the published variant, of rows of logits (n, vocabulary), which are overwritten: (n,).

    Published: sum M (log M - (log P + log Q) / 2), which is the sum of M log cosh((log P - log Q) / 2).
    """
    for logits in (p, q):
        logits -= logits.logsumexp(dim=-1, keepdim=True)
    m = p.exp().add_(q.exp())
    log_m = m.clamp(min=torch.finfo(m.dtype).tiny).log_().sub_(float(np.log(2)))
    if pks == "published":
        return log_m.sub_(p.add_(q).mul_(0.5)).mul_(m).sum(dim=-1).mul_(0.5)
    both = p.exp().mul_(p.sub(log_m)).add_(q.exp().mul_(q.sub_(log_m)))
    return both.sum(dim=-1).mul_(0.5).clamp_(min=0)


# --- watching attention as it is computed ------------------------------------------------------------------------


def _attention(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, **options: Any
) -> tuple[torch.Tensor, None]:
    """Scaled dot-product attention that shows queries and keys, positions applied, to those who watch."""
    scale = options.get("scaling") or query.shape[-1] ** -0.5
    for b, watcher in enumerate(_watchers.get()):
        rows = watcher.rows
        columns = key.shape[2] - query.shape[2] + rows
        if mask is None:  # transformers leaves out a mask that is plainly causal
            allowed = torch.ones(rows, columns, dtype=torch.bool, device=key.device).tril(columns - rows)
        else:
            allowed = mask[min(b, len(mask) - 1), 0, :rows, :columns]
        watcher.watch(int(module.layer_idx), query[b, :, :rows] * scale, key[b, :, :columns], allowed)
    output: tuple[torch.Tensor, None] = sdpa_attention_forward(module, query, key, value, mask, **options)
    return output


AttentionInterface.register(ATTENTION, _attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)


@contextmanager
def _watching(watchers: list[_Attended]) -> Iterator[None]:
    token = _watchers.set(watchers)
    try:
        yield
    finally:
        _watchers.reset(token)
