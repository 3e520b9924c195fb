"""Natural language inference by any cross-encoder: how surely a premise entails a hypothesis."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification

from experiments.models import devices, files, language
from experiments.models.generate import by_length
from harness.stage import BadInput

Pair = tuple[str, str]  # premise, hypothesis
# How labels are called that say the opposite of support, or that there is none.
_DENIES = re.compile(
    r"contradict|hallucinat|neutral|refut|^(not|non|no|un|in)(?=[ _-]|support|entail|consist|faith|fact)"
)


@dataclass(frozen=True)
class CrossEncoder:
    """A sequence classifier in evaluation mode that reads two texts at once; `entailment` is the index of `label`.

    Where `separate`, each logit is a probability of its own (a sigmoid), as is the only one of a regression head.
    """

    name: str
    network: Any
    tokenizer: Any
    entailment: int
    window: int
    label: str
    separate: bool

    def encode(self, pairs: Sequence[Pair]) -> tuple[list[list[int]], list[list[int]], set[Pair]]:
        """Token ids and segments of each pair, and the pairs whose premise was cut; a hypothesis never is."""
        if not pairs:
            return [], [], set()
        free = self.tokenizer([pair[0] for pair in pairs], [pair[1] for pair in pairs], return_token_type_ids=True)
        ids, segments, cut = free["input_ids"], free["token_type_ids"], set()
        for i in (i for i, row in enumerate(ids) if len(row) > self.window):
            try:
                short = self.tokenizer(
                    *pairs[i], truncation="only_first", max_length=self.window, return_token_type_ids=True
                )
                too_long = len(short["input_ids"]) > self.window
            except Exception:  # the tokenizer's own type: no premise is left to cut
                too_long = True
            if too_long:
                raise BadInput(f"nli = {self.name}: a sentence is longer than its window of {self.window} tokens")
            ids[i], segments[i] = short["input_ids"], short["token_type_ids"]
            cut.add(pairs[i])
        return ids, segments, cut

    def batches(self, ids: Sequence[Sequence[int]], size: int) -> list[list[int]]:
        """Indices of pairs to be judged together: of about one length, so that little is padding."""
        return by_length([len(row) for row in ids], size)

    @torch.no_grad()
    def entails(self, ids: Sequence[Sequence[int]], segments: Sequence[Sequence[int]]) -> list[float]:
        """The probability of entailment of each encoded pair."""
        width, device = max(map(len, ids)), next(self.network.parameters()).device
        batch = {
            "input_ids": torch.tensor([[*row, *[self._pad] * (width - len(row))] for row in ids], device=device),
            "attention_mask": torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in ids], device=device),
        }
        if getattr(self.network.config, "type_vocab_size", 0) > 1:
            batch["token_type_ids"] = torch.tensor(
                [[*row, *[0] * (width - len(row))] for row in segments], device=device
            )
        logits = self.network(**batch).logits.float()
        shares = logits.sigmoid() if self.separate else logits.softmax(dim=-1)
        return [float(p) for p in shares[:, self.entailment]]

    @property
    def _pad(self) -> int:
        return int(self.tokenizer.pad_token_id or 0)


def load(name: str, device: str, *, label: str | None = None, alone: bool = True) -> CrossEncoder:
    """Load a classifier that has a label for support; BadInput where it cannot be or has none.

    `label` names it, or is its index; None: the only one whose name begins with "entail".
    One that is not `alone` leaves the number of threads to the model that it works beside.
    """
    described = language.describe(files.nli(name))
    folder, in_it = files.as_named(files.locate_model(files.nli(name)))
    with language.readable(name):
        network, loaded = AutoModelForSequenceClassification.from_pretrained(
            folder, **in_it, dtype=torch.float32, output_loading_info=True, local_files_only=True
        )
    if missing := sorted(loaded["missing_keys"]):
        raise BadInput(f"nli = {name}: its weights lack {missing[0]}: it is no classifier")
    labels = {int(i): str(each) for i, each in network.config.id2label.items()}
    support = _support(name, label, labels)
    kind = getattr(network.config, "problem_type", None)
    if kind == "regression" and len(labels) > 1:
        raise BadInput(f"nli = {name}: a regression of {len(labels)} values has no probability; a classifier is needed")
    separate = len(labels) == 1 or kind == "multi_label_classification"
    if alone:
        devices.spare_threads(network, device)
    network.config.pad_token_id = described.tokenizer.pad_token_id or 0
    window = min(described.window, getattr(described.tokenizer, "model_max_length", described.window))
    return CrossEncoder(
        name, network.eval().to(device), described.tokenizer, support, int(window), labels[support], separate
    )


def _support(name: str, label: str | None, labels: Mapping[int, str]) -> int:
    """The index of the label that means support, by what the user calls it or else by its name."""
    listed = ", ".join(labels.values())
    if label is None:
        found = [i for i, each in labels.items() if _plain(each).startswith("entail")]
        if len(found) != 1:
            raise BadInput(
                f"nli = {name}: no one label is named entailment; name in nli_label which of {listed} means support"
            )
        return found[0]
    found = [i for i, each in labels.items() if _plain(each) == _plain(label)]
    found = found or [i for i in labels if str(i) == label.strip()]
    if len(found) != 1:
        raise BadInput(
            f"nli_label = {label}: {name} has {'no' if not found else 'more than one'} such label; it has {listed}"
        )
    if _DENIES.search(_plain(labels[found[0]])):
        raise BadInput(f"nli_label = {label}: {labels[found[0]]} does not mean support; {name} has {listed}")
    return found[0]


def _plain(label: str) -> str:
    return label.strip().casefold().replace(" ", "_").replace("-", "_")
