"""Greedy answers of a language model, batched by length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from experiments.models import thinking
from experiments.models.language import LanguageModel
from experiments.models.thinking import Said

_TAIL = 24  # tokens at a prompt's end, among which a mark that opens a block of thinking would stand


class Generated(NamedTuple):
    """What a model has said to each prompt, and how many tokens were useful and padding."""

    said: list[Said]
    useful: int
    padding: int


def by_length(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Batches of indices, the longest first: what runs out of memory does so at once."""
    order = np.argsort(-np.asarray(lengths), kind="stable").tolist()
    return [order[start : start + size] for start in range(0, len(order), size)]


def prepare(model: LanguageModel) -> None:
    """Give a model that `language.load` has made for packed rows the attention that generation needs."""
    model.network.set_attn_implementation("sdpa")


@torch.no_grad()  # not inference_mode, inside which generate returns nothing
def answer(model: LanguageModel, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> Generated:
    """Continue each prompt (token ids) greedily; an answer without an end after `max_new_tokens` is cut."""
    tokenizer, network = model.tokenizer, model.network
    end = network.generation_config.eos_token_id
    ends = end if isinstance(end, list) else [end]
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else ends[0]
    width = max(map(len, prompts))
    ids = torch.full((len(prompts), width), pad, device=model.device)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.as_tensor(prompt, device=model.device)
        mask[row, width - len(prompt) :] = 1
    generated = network.generate(
        input_ids=ids, attention_mask=mask, max_new_tokens=max_new_tokens, do_sample=False, pad_token_id=pad
    )
    new = generated[:, width:]
    useful = int(mask.sum()) + int((new != pad).sum())  # what comes after an answer's end is padding as well
    said = [_said(tokenizer, prompt, row, ends) for prompt, row in zip(prompts, new.tolist(), strict=True)]
    return Generated(said, useful, generated.numel() - useful)


def _said(tokenizer: Any, prompt: Sequence[int], new: Sequence[int], ends: Sequence[int]) -> Said:
    """What some new tokens say; marks of thinking may be special tokens, which a plain text would lack."""
    stop = next((place for place, token in enumerate(new) if token in ends), None)
    finish = "length" if stop is None else "stop"
    kept = new[:stop]
    marked = thinking.opening(tokenizer.decode(prompt[-_TAIL:])) + tokenizer.decode(kept)
    parted = thinking.part(marked)
    if parted.whole and not parted.thinking and parted.answer == marked.strip():
        return Said(tokenizer.decode(kept, skip_special_tokens=True).strip(), finish, cut=stop is None)
    text = parted.answer
    for special in tokenizer.all_special_tokens:
        text = text.replace(special, "")
    thought = len(tokenizer(parted.thinking, add_special_tokens=False)["input_ids"])
    return Said(text.strip(), finish, stop is None or not parted.whole, thought)
