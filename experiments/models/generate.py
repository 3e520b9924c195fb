"""Greedy answers of a language model, batched by length."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from experiments.models.language import LanguageModel


def by_length(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Batches of indices, the longest first: what runs out of memory does so at once."""
    order = np.argsort(-np.asarray(lengths), kind="stable").tolist()
    return [order[start : start + size] for start in range(0, len(order), size)]


def prepare(model: LanguageModel) -> None:
    """Give a model that `language.load` has made for packed rows the attention that generation needs."""
    model.network.set_attn_implementation("sdpa")


@torch.no_grad()  # not inference_mode, inside which generate returns nothing
def answer(model: LanguageModel, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> tuple[list[str], int, int]:
    """Continue each prompt (token ids) greedily; the texts, and how many tokens were useful and padding."""
    tokenizer, network = model.tokenizer, model.network
    end = network.generation_config.eos_token_id
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else end[0] if isinstance(end, list) else end
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
    texts = [text.strip() for text in tokenizer.batch_decode(new, skip_special_tokens=True)]
    useful = int(mask.sum()) + int((new != pad).sum())  # what comes after an answer's end is padding as well
    return texts, useful, generated.numel() - useful
