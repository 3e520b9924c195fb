"""Can the model read at all?  Its loss on the prompts, beside that of a model that knows their words but no order."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from experiments.models import packed
from experiments.models.language import LanguageModel
from experiments.redeep.encode import Encoded
from harness.progress import counted

_PROMPTS, _TOKENS = 8, 128  # read at most, and of each
_FEWEST = 200  # tokens below which chance decides


def reads(model: LanguageModel, samples: Sequence[Encoded]) -> dict[str, Any]:
    """Mean loss of the prompts' tokens (nats) by the model and by unigrams; empty where there are too few to tell.

    Weights converted badly, or none at all, leave a model no better than unigrams; a rotary base that is wrong only
    shows in texts longer than those read here.
    """
    distinct = {sample.prompt_key: _begun(sample) for sample in samples}
    prompts = list(distinct.values())
    prompts = prompts[:: -(-len(prompts) // _PROMPTS)]
    if len(prompts) < 2 or sum(len(ids) - first for ids, first in prompts) < _FEWEST:
        return {}
    own = [_losses(model, *prompt) for prompt in counted(prompts, "read some prompts", "prompts")]
    theirs = _unigram_losses([ids[first:] for ids, first in prompts], model.network.config.get_text_config().vocab_size)
    return {"tokens": len(theirs), "loss": float(np.concatenate(own).mean()), "unigram_loss": float(theirs.mean())}


def _begun(sample: Encoded) -> tuple[np.ndarray[Any, Any], int]:
    """The token ids up to where enough of the prompt is read, and the first that is the prompt's and can be told."""
    first = max(1, sample.prompt[0].start if sample.prompt else 1)
    last = min(sample.prompt[-1].end if sample.prompt else 1, first + _TOKENS)
    return sample.ids[:last], first


@torch.inference_mode()
def _losses(model: LanguageModel, ids: np.ndarray[Any, Any], first: int) -> np.ndarray[Any, Any]:
    with model.residuals(slice(first - 1, len(ids) - 1)) as (_, after):
        packed.forward(model, [packed.Piece(ids)])
    told = model.lens(after[-1][0]).float().log_softmax(-1).cpu().numpy()
    return np.asarray(-told[np.arange(len(told)), ids[first:]])


def _unigram_losses(prompts: Sequence[np.ndarray[Any, Any]], vocabulary: int) -> np.ndarray[Any, Any]:
    """The loss of each token by its frequency in the other prompts; what is new there is smoothed by Witten and Bell.

    Of n tokens d of which are different, a known one has its count / (n + d), all new ones d / (n + d) together (1991).
    """
    total = Counter(int(token) for ids in prompts for token in ids)
    found = []
    for ids in prompts:
        others = total - Counter(ids.tolist())
        count, different = others.total(), len(others)
        new = different / max(1, vocabulary - different)
        found += [-math.log((others[token] or new) / (count + different)) for token in ids.tolist()]
    return np.asarray(found)
