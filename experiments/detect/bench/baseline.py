"""ReDeEP's two scores by the simplest road: the oracle that any faster extractor must agree with.

Eager attention with every map kept, the logit lens at every position and layer, a loop over spans and tokens.
The row that describes response token i is the position that predicts it, prompt length - 1 + i.
Sun et al., "ReDeEP: Detecting Hallucination in Retrieval-Augmented Generation via Mechanistic
Interpretability", ICLR 2025.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from experiments.models.language import LanguageModel
from experiments.redeep.embed import Embed, Vectors
from experiments.redeep.encode import Encoded, Span
from experiments.redeep.extract import TOP_SHARE, Head


@dataclass(frozen=True)
class Passed:
    """One forward pass over t tokens: attention maps (heads, t, t) by layer and residual states (t, hidden)."""

    attention: dict[int, torch.Tensor]
    before_ffn: list[torch.Tensor]
    after_ffn: list[torch.Tensor]
    last: torch.Tensor  # (t, hidden), behind the final norm


def extract(
    model: LanguageModel, sample: Encoded, heads: list[Head], level: str, pks: str, embed: Embed
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """ECS (items, heads) and PKS (items, layers) of each response span (level `chunk`) or token (`token`)."""
    passed = _forward(model, sample)
    items = sample.response if level == "chunk" else sample.tokens
    ecs = _ecs_of_spans(passed, sample, heads, embed) if level == "chunk" else _ecs_of_tokens(passed, sample, heads)
    divergence = jsd if pks == "jsd" else published_sum if level == "chunk" else published_mean
    scores = []
    for states in zip(passed.after_ffn, passed.before_ffn, strict=True):
        with torch.no_grad():
            after, before = (model.lens(state) for state in states)  # every position, as published
        scores.append([divergence(after[_rows(item)], before[_rows(item)]) for item in items])
    return ecs, np.asarray(scores, dtype=np.float64).T


def jsd(p_logits: torch.Tensor, q_logits: torch.Tensor) -> float:
    """Jensen-Shannon divergence in nats of two (n, vocabulary) sets of logits, meaned over n; 0 to ln 2.

    (KL(P || M) + KL(Q || M)) / 2 with M = (P + Q) / 2 and KL(P || M) = sum P (log P - log M).
    """
    log_p, log_q = (functional.log_softmax(logits.float(), dim=-1) for logits in (p_logits, q_logits))
    log_m = torch.logaddexp(log_p, log_q) - np.log(2)
    both = [(log_x.exp() * (log_x - log_m)).sum(dim=-1) for log_x in (log_p, log_q)]
    return float(((both[0] + both[1]) / 2).clamp(min=0).mean())  # rounding can leave -1e-9


def published_sum(p_logits: torch.Tensor, q_logits: torch.Tensor) -> float:
    """The released chunk-level figure: (KL(M || P) + KL(M || Q)) / 2, summed over the n rows; unbounded."""
    return float(_published(p_logits, q_logits).sum())


def published_mean(p_logits: torch.Tensor, q_logits: torch.Tensor) -> float:
    """The released token-level figure: the same divergence of one row, over the vocabulary's size, times 1e6."""
    return float(1e6 * _published(p_logits, q_logits).mean() / p_logits.shape[-1])


def _published(p_logits: torch.Tensor, q_logits: torch.Tensor) -> torch.Tensor:
    p, q = (functional.softmax(logits.float(), dim=-1) for logits in (p_logits, q_logits))
    m = (p + q) / 2
    divergences = [
        functional.kl_div(functional.log_softmax(logits.float(), dim=-1), m, reduction="none").sum(dim=-1)
        for logits in (p_logits, q_logits)
    ]
    return (divergences[0] + divergences[1]) / 2


def _rows(item: Span) -> slice:
    return slice(item.start - 1, item.end - 1)


def _ecs_of_spans(passed: Passed, sample: Encoded, heads: list[Head], embed: Embed) -> NDArray[np.float64]:
    """Cosine between each response span and the prompt span on which a head puts the most attention mass."""
    vectors = embed([span.text for span in (*sample.prompt, *sample.response)])
    prompt, response = vectors[: len(sample.prompt)], vectors[len(sample.prompt) :]
    scores = np.empty((len(sample.response), len(heads)))
    for i, span in enumerate(sample.response):
        for j, (layer, head) in enumerate(heads):
            rows = passed.attention[layer][head, _rows(span)]
            masses = [float(rows[:, source.start : source.end].sum()) for source in sample.prompt]
            scores[i, j] = prompt[int(np.argmax(masses))] @ response[i]
    return scores


def _ecs_of_tokens(passed: Passed, sample: Encoded, heads: list[Head]) -> NDArray[np.float64]:
    """Cosine between each response token's state and the mean state of the prompt tokens a head attends to most."""
    count = max(1, int(TOP_SHARE * sample.prompt_tokens))
    scores = np.empty((len(sample.tokens), len(heads)))
    for i, token in enumerate(sample.tokens):
        row = token.start - 1
        for j, (layer, head) in enumerate(heads):
            attended = passed.attention[layer][head, row, : sample.prompt_tokens].argsort(descending=True)[:count]
            mean = passed.last[attended].mean(dim=0)
            scores[i, j] = float(functional.cosine_similarity(mean, passed.last[row], dim=0))
    return scores


@torch.no_grad()
def _forward(model: LanguageModel, sample: Encoded) -> Passed:
    ids = torch.as_tensor(sample.ids, device=model.device)[None]
    with model.residuals() as (before, after):
        output = model.network(ids, output_attentions=True, output_hidden_states=True, use_cache=False)
    maps = [attention[0].float() for attention in output.attentions if attention is not None]
    return Passed(
        attention=dict(zip(sorted(model.proof.heads), maps, strict=True)),
        before_ffn=[states[0] for states in before],
        after_ffn=[states[0] for states in after],
        last=output.hidden_states[-1][0].float(),
    )


def embedder(model: LanguageModel) -> Embed:
    """Mean of the language model's own last states over a text's tokens, length 1; all texts in one padded batch."""

    @torch.no_grad()
    def embed(texts: list[str]) -> Vectors:
        rows = [model.tokenizer(text).input_ids for text in texts]
        ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for i, row in enumerate(rows):  # padded on the right, where causal attention cannot see it
            ids[i, : len(row)] = torch.as_tensor(row)
            mask[i, : len(row)] = 1
        ids, mask = ids.to(model.device), mask.to(model.device)
        states = model.decoder(ids, attention_mask=mask, use_cache=False).last_hidden_state.float()
        means = (states * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)
        unit: Vectors = functional.normalize(means, dim=-1).cpu().numpy()
        return unit

    return embed
