"""ReDeEP's two scores at the least cost: the numbers of baseline.py, which stays the oracle.

What is saved, in order of gain: the lens reads response rows only; responses to one prompt share its keys and values;
attention maps are never kept, each layer's rows are reduced as soon as they are known; the divergence takes one pass
over cache-sized pieces; ECS has no loop over tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from experiments.models import packed
from experiments.models.language import LanguageModel
from experiments.redeep.embed import Embed
from experiments.redeep.encode import Encoded, Span
from harness.stage import BadInput

Head = tuple[int, int]  # layer, head
TOP_SHARE = 0.1  # of the prompt's tokens, the most attended ones whose states ECS compares with at token level
_PIECE = 1 << 18  # logits reduced at once: four such pieces stay in a core's cache
_LENS = 1 << 24  # logits that each half of the lens buffer may hold: 64 MB in fp32
_TIE = 1e-6  # what decides a choice by less may decide it otherwise in another batch or on another machine
_REREAD = 0.2  # of the tokens computed, the most that may be a prompt read again because its responses are too many


class Features(NamedTuple):
    """What is read of one response: ECS (items, heads), PKS (items, layers), choices of ECS that were nearly ties."""

    ecs: NDArray[np.float64]
    pks: NDArray[np.float64]
    ties: int


def batches(samples: Iterable[Encoded], batch_tokens: int) -> Iterator[list[Encoded]]:
    """Samples, those with one prompt standing together, in batches of about `batch_tokens` tokens to compute.

    A prompt and its responses stay in one batch, in which the prompt is computed once; only where they are more than
    `batch_tokens`, and five times the prompt, is the prompt read again for the rest of them.  Equal samples, standing
    together too, are never parted.
    """
    batch: list[Encoded] = []
    total = 0
    for group in _by_prompt(samples, batch_tokens):
        size = computed_tokens(group)
        if batch and total + size > batch_tokens:
            yield batch
            batch, total = [], 0
        batch += group
        total += size
    if batch:
        yield batch


def computed_tokens(samples: list[Encoded]) -> int:
    """How many tokens go through the model for these samples, each prompt and each response to it once."""
    prompts = {sample.prompt_key: sample.prompt_tokens - 1 for sample in samples}
    return sum(prompts.values()) + sum({sample.key: len(sample.tokens) for sample in samples}.values())


def _by_prompt(samples: Iterable[Encoded], batch_tokens: int) -> Iterator[list[Encoded]]:
    group: list[Encoded] = []
    for sample in samples:
        limit = max(batch_tokens, sample.prompt_tokens / _REREAD)
        more = not group or sample.key != group[-1].key  # one that is the same again costs nothing where its like is
        if group and more and (sample.prompt_key != group[0].prompt_key or computed_tokens([*group, sample]) > limit):
            yield group
            group = []
        group.append(sample)
    if group:
        yield group


def extractor(
    model: LanguageModel, heads: list[Head], level: str, pks: str, embed: Embed | None
) -> Callable[[list[Encoded]], list[Features]]:
    """A function that computes several responses together, equal prompts once: the features of each.

    Without `embed`, spans have their vectors from the states of this very pass.  Where texts may not share a row, they
    are computed one after the other, each with its prompt.
    """
    packable = model.proof.road == "packed"
    lens = _Lens(model)
    beyond = int(level == "chunk" and embed is None)

    def extract(samples: list[Encoded]) -> list[Features]:
        if packable:
            return together(samples)
        return [features for sample in samples for features in together([sample])]

    @torch.inference_mode()
    def together(samples: list[Encoded]) -> list[Features]:
        _require_embedded(model, samples)
        pieces, at = _pieces(samples, beyond)
        watch = _Watch({i: _Attended(sample, level) for i, sample in zip(at, samples, strict=True)}, heads)
        slices = packed.Layout(pieces, model.attention).slices
        rows = torch.cat([torch.arange(slices[i].start, slices[i].stop - beyond) for i in at])
        with model.residuals(rows) as (before, after):
            last = packed.forward(model, pieces, watch)
        afterwards, beforehand = ([each[0].to(model.device) for each in states] for states in (after, before))
        divergence = lens.divergence(afterwards, beforehand, pks)
        by_response = np.split(divergence, np.cumsum([len(sample.tokens) for sample in samples])[:-1])
        passed = [(watch.seen[i], last[pieces[i].after or 0], last[i]) for i in at]
        if level == "token":
            ecs = [_ecs_of_tokens(*each) for each in passed]
        else:
            vectors = [_means(*each) for each in passed] if embed is None else _embedded(samples, embed)
            ecs = [_ecs_of_spans(watch.seen[i], own) for i, own in zip(at, vectors, strict=True)]
        return [
            Features(found, _pool(own, sample, level, pks, lens.vocabulary), watch.seen[i].ties)
            for i, sample, found, own in zip(at, samples, ecs, by_response, strict=True)
        ]

    return extract


def _require_embedded(model: LanguageModel, samples: list[Encoded]) -> None:
    """Refuse token ids that the model has no embedding for: on a GPU they would end the process."""
    known = model.network.get_input_embeddings().weight.shape[0]
    for sample in samples:
        if (highest := int(sample.ids.max())) >= known:
            raise BadInput(
                f"sample {sample.sample.id}: token {highest} of model {model.name}'s tokenizer lies beyond the {known}"
                " that its weights embed"
            )


def _pieces(samples: list[Encoded], beyond: int) -> tuple[list[packed.Piece], list[int]]:
    """Each distinct prompt, directly before the responses to it, and which piece each sample's response is.

    Row i predicts response token i: each response begins with the prompt's last token, and its own last is not read,
    unless its state is wanted as well: then one row `beyond` these is.
    """
    pieces: list[packed.Piece] = []
    prompts: dict[bytes, int] = {}
    at = []
    for sample in samples:
        if sample.prompt_key not in prompts:
            prompts[sample.prompt_key] = len(pieces)
            pieces.append(packed.Piece(sample.ids[: sample.prompt_tokens - 1]))
        at.append(len(pieces))
        rows = sample.ids[sample.prompt_tokens - 1 :][: len(sample.tokens) + beyond]
        pieces.append(packed.Piece(rows, prompts[sample.prompt_key]))
    return pieces, at


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


class _Watch:
    """Hands the scores of the chosen heads to the response that they belong to."""

    def __init__(self, seen: dict[int, _Attended], heads: list[Head]) -> None:
        self.seen = seen
        self._heads = {layer: [h for at, h in heads if at == layer] for layer in dict(heads)}

    def heads(self, layer: int) -> list[int]:
        return self._heads.get(layer, [])

    def see(self, layer: int, piece: int, scores: torch.Tensor) -> None:
        self.seen[piece].reduce(scores)


class _Attended:
    """What the heads attend to in one response: of a layer's rows only the argmax span, or the top tokens, is kept."""

    def __init__(self, sample: Encoded, level: str) -> None:
        self.sample, self._level = sample, level
        self._found: list[torch.Tensor] = []  # (heads of a layer, spans or rows, chosen), by layer
        self._ties: list[torch.Tensor] = []
        self._of_response = _indicator(sample.response, sample.prompt_tokens, len(sample.tokens))
        self._of_prompt = _indicator(sample.prompt, 0, sample.prompt_tokens)
        self._top = max(1, int(TOP_SHARE * sample.prompt_tokens))

    def reduce(self, scores: torch.Tensor) -> None:
        """Take in one layer's scores (heads, rows, columns), those of the prompt first; they are not kept."""
        prompt, scores = self.sample.prompt_tokens, scores[:, : len(self.sample.tokens)]
        if self._level == "token":
            chosen, ties = _top(scores[..., :prompt], self._top)
        else:
            weights = functional.softmax(scores, dim=-1)[..., :prompt]
            masses = self._of_response.to(weights.device) @ weights @ self._of_prompt.mT.to(weights.device)
            chosen, ties = _top(masses, 1)
        self._found.append(chosen.int())  # half the memory until the last states are known
        self._ties.append(ties)

    @property
    def found(self) -> list[torch.Tensor]:
        """What each layer's heads chose."""
        return [each.to(self._found[-1].device) for each in self._found]

    @property
    def ties(self) -> int:
        """How many choices another came within 1e-6 of, in attention (chunk level) or in its logit (token level)."""
        return sum(int(each) for each in self._ties)


def _top(values: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Where the `count` largest of each row (…, n) are, in no order, and in how many rows the next one comes near."""
    if values.shape[-1] <= count:
        return values.topk(count, sorted=False).indices, torch.zeros((), device=values.device)
    best = values.topk(count + 1, sorted=False)  # and the next, which an order would cost half as much again to tell
    least = best.values.argmin(dim=-1, keepdim=True)
    next_best = best.values.gather(-1, least)
    ties = (best.values.scatter(-1, least, torch.inf).amin(dim=-1, keepdim=True) - next_best < _TIE).sum()
    return best.indices.scatter(-1, least, best.indices[..., -1:])[..., :-1], ties


def _indicator(spans: list[Span], start: int, length: int) -> torch.Tensor:
    """(spans, length) matrix that holds 1 where a token, counted from `start`, belongs to a span."""
    matrix = torch.zeros(len(spans), length)
    for i, span in enumerate(spans):
        matrix[i, span.start - start : span.end - start] = 1
    return matrix


def _embedded(samples: list[Encoded], embed: Embed) -> list[NDArray[np.float64]]:
    """Vectors (spans, dimensions) of length 1 of each sample's spans, those of its prompt first, from their texts."""
    texts = [[span.text for span in (*sample.prompt, *sample.response)] for sample in samples]
    vectors = embed([text for own_texts in texts for text in own_texts]).astype(np.float64)
    return np.split(vectors, np.cumsum([len(own_texts) for own_texts in texts])[:-1])


def _means(seen: _Attended, states: torch.Tensor, last: torch.Tensor) -> NDArray[np.float64]:
    """The same from the states of the pass: the mean over each span's own tokens, as they stand in their context."""
    of_token = torch.cat([states, last]).float()  # a response's rows begin with the prompt's last token
    spans = (*seen.sample.prompt, *seen.sample.response)
    means = torch.stack([of_token[span.start : span.end].mean(dim=0) for span in spans])
    return functional.normalize(means, dim=-1).cpu().double().numpy()


def _ecs_of_spans(seen: _Attended, vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cosine of each response span with the prompt span that each head attends to most: (spans, heads)."""
    prompt, response = np.split(vectors, [len(seen.sample.prompt)])
    attended = torch.cat(seen.found)[..., 0].mT.long().cpu().numpy()
    return np.asarray(np.take_along_axis(response @ prompt.T, attended, axis=1))


def _ecs_of_tokens(seen: _Attended, states: torch.Tensor, last: torch.Tensor) -> NDArray[np.float64]:
    """Cosine of each row's state and the mean of the chosen prompt states."""
    prompt = torch.cat([states, last[:1]]).float()
    own = last.float()
    columns = []
    for chosen in seen.found:
        means = functional.embedding_bag(chosen.flatten(end_dim=1).to(prompt.device), prompt, mode="mean")
        columns.append(functional.cosine_similarity(means.view(*chosen.shape[:2], -1), own, dim=-1))
    return torch.cat(columns).mT.cpu().double().numpy()


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
        reduce = _compiled_divergence if self._model.compiled else _divergence
        pieces = []
        pairs = list(zip(torch.cat(after).split(self._rows), torch.cat(before).split(self._rows), strict=True))
        for pair in pairs:
            logits = self._model.lens(torch.cat(pair), out=self._buffer[: 2 * len(pair[0])]).float()
            p, q = logits.chunk(2)
            step = max(1, _PIECE // self.vocabulary) if p.device.type == "cpu" else len(p)
            pieces += [reduce(p[i : i + step], q[i : i + step], pks) for i in range(0, len(p), step)]
        return torch.cat(pieces).view(len(after), -1).mT.cpu().double().numpy()


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


_compiled_divergence = torch.compile(_divergence, dynamic=True)
