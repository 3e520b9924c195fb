"""Sentence embeddings for ECS at chunk level."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from experiments.models.language import LanguageModel
from harness.stage import BadInput

Vectors = NDArray[np.float32]
Embed = Callable[[list[str]], Vectors]


def embedder(name: str, model: LanguageModel) -> Embed:
    """A function from texts to (texts, dimensions) vectors of length 1; each distinct text is computed once."""
    compute = _own_states(model) if name == "model" else _sentence_transformer(name)
    known: dict[str, Vectors] = {}

    def embed(texts: list[str]) -> Vectors:
        if fresh := list(dict.fromkeys(text for text in texts if text not in known)):
            known.update(zip(fresh, compute(fresh), strict=True))
        return np.stack([known[text] for text in texts])

    return embed


def _own_states(model: LanguageModel) -> Embed:
    """Mean of the language model's own last states over a text's tokens: needs no download."""

    @torch.no_grad()
    def embed(texts: list[str]) -> Vectors:
        rows = [model.tokenizer(text).input_ids for text in texts]
        ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for i, row in enumerate(rows):  # padded on the right, where causal attention cannot see it
            ids[i, : len(row)] = torch.as_tensor(row)
            mask[i, : len(row)] = 1
        ids, mask = ids.to(model.device), mask.to(model.device)
        states = model.network.get_decoder()(ids, attention_mask=mask, use_cache=False).last_hidden_state.float()
        means = (states * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)
        unit: Vectors = torch.nn.functional.normalize(means, dim=-1).cpu().numpy()
        return unit

    return embed


def _sentence_transformer(name: str) -> Embed:
    from sentence_transformers import SentenceTransformer  # half a minute of imports that only this choice needs

    try:
        encoder = SentenceTransformer(name)
    except (OSError, ValueError) as error:
        raise BadInput(f"embedder = {name}: cannot be loaded as a sentence-transformers model: {error}") from error

    def embed(texts: list[str]) -> Vectors:
        vectors: Vectors = encoder.encode(texts, normalize_embeddings=True, show_progress_bar=False)
        return vectors

    return embed
