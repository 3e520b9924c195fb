"""Sentence embeddings for ECS at chunk level."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from experiments.models import packed
from experiments.models.language import LanguageModel
from harness.progress import working
from harness.stage import BadInput

Vectors = NDArray[np.float32]
Embed = Callable[[list[str]], Vectors]


def embedder(name: str, model: LanguageModel, batch_tokens: int, setting: str = "embedder") -> Embed:
    """A function from texts to (texts, dimensions) vectors of length 1; each distinct text is computed once."""
    compute = _own_states(model, batch_tokens) if name == "model" else _sentence_transformer(name, setting)

    def embed(texts: list[str]) -> Vectors:
        distinct = {text: i for i, text in enumerate(dict.fromkeys(texts))}
        return compute(list(distinct))[[distinct[text] for text in texts]]

    return embed


def _own_states(model: LanguageModel, batch_tokens: int) -> Embed:
    """Mean of the language model's own last states over a text's tokens: needs no download."""

    @torch.inference_mode()
    def embed(texts: list[str]) -> Vectors:
        pieces = [packed.Piece(np.asarray(model.tokenizer(text).input_ids, dtype=np.int64)) for text in texts]
        means: list[torch.Tensor] = []
        at_once = batch_tokens if model.proof.road == "packed" else 1
        for chunk in packed.chunks([len(piece.ids) for piece in pieces], at_once):
            states = packed.forward(model, [pieces[i] for i in chunk])
            means += [each.float().mean(dim=0) for each in states]
        unit: Vectors = functional.normalize(torch.stack(means), dim=-1).cpu().numpy()
        return unit

    return embed


def _sentence_transformer(name: str, setting: str) -> Embed:
    try:
        with working(f"load {name}"):
            from sentence_transformers import (
                SentenceTransformer,  # half a minute of imports that only this choice needs
            )

            encoder = SentenceTransformer(name)
    except (OSError, ValueError) as error:
        raise BadInput(f"{setting} = {name}: cannot be loaded as a sentence-transformers model: {error}") from error

    def embed(texts: list[str]) -> Vectors:
        vectors: Vectors = encoder.encode(texts, normalize_embeddings=True, show_progress_bar=False)
        return vectors

    return embed
