"""The NLI detector: is each sentence of an answer entailed by one of its passages?"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import product

from experiments.models import cross_encoder
from experiments.models.cross_encoder import CrossEncoder, Pair
from experiments.rag.inference.reading import Answer, Read, Readings, Setup
from experiments.rag.inference.text import sentences
from harness.progress import working


def load(setup: Setup) -> Read | None:
    """Read by the cross-encoder that the settings name, if any."""
    if setup.params.nli == "off":
        return None
    model = cross_encoder.load(setup.params.nli, setup.device, label=setup.params.nli_label, alone=setup.alone)
    setup.decided["nli_label"] = model.label
    return partial(read, model, setup.params.nli_batch)


def read(model: CrossEncoder, batch: int, answers: Sequence[Answer]) -> list[Readings]:
    """How surely an answer's sentences are entailed: minimum and mean over them, each by its best passage.

    All pairs are judged together, those of one length beside each other, and each different pair once; `nli_cut` says
    how many passages had to be cut to the model's window.
    """
    own = [list(product(answer.passages, sentences(answer.text))) for answer in answers]
    pairs = list(dict.fromkeys(pair for own_pairs in own for pair in own_pairs))
    ids, segments, cut = model.encode(pairs)
    entailed: dict[Pair, float] = {}
    with working("compare with passages", len(pairs), "pairs") as advance:
        for chosen in model.batches(ids, batch):
            found = model.entails([ids[i] for i in chosen], [segments[i] for i in chosen])
            entailed |= zip([pairs[i] for i in chosen], found, strict=True)
            advance(len(chosen))
    rows: list[Readings] = []
    for own_pairs in own:
        best: dict[str, float] = {}
        for passage, sentence in own_pairs:
            best[sentence] = max(best.get(sentence, 0.0), entailed[passage, sentence])
        values = list(best.values())
        shortened = float(sum(pair in cut for pair in own_pairs))
        rows.append({"nli_min": min(values), "nli_mean": sum(values) / len(values), "nli_cut": shortened})
    return rows
