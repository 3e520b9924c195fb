"""Which label of a cross-encoder means support, and what its logits then say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pytest

from experiments.models import cross_encoder
from harness.stage import BadInput
from tests import tiny

LOGITS = (0.3, -1.2, 2.0)  # of every pair, by index of label
NLI = ("contradiction", "entailment", "neutral")
LABELS = ("LABEL_0", "LABEL_1")
HHEM = ("hallucinated", "consistent")


def save(folder: Path, labels: Sequence[str], problem: str | None = None) -> str:
    """A BERT whose logits are those above, whatever it reads."""
    tiny.save_llama(folder)
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    for file in folder.glob("*.safetensors"):
        file.unlink()
    config = BertConfig(
        vocab_size=512,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        id2label=dict(enumerate(labels)),
        label2id={label: i for i, label in enumerate(labels)},
        problem_type=problem,
    )
    model = BertForSequenceClassification(config)
    with torch.no_grad():
        model.classifier.weight.zero_()
        model.classifier.bias.copy_(torch.tensor(LOGITS[: len(labels)]))
    model.save_pretrained(folder)
    return str(folder)


def support(name: str, label: str | None = None) -> float:
    model = cross_encoder.load(name, "cpu", label=label)
    ids, segments, _ = model.encode([("Merrin lies in the north.", "Merrin lies north.")])
    return model.entails(ids, segments)[0]


def softmax(index: int, of: int) -> float:
    return math.exp(LOGITS[index]) / sum(map(math.exp, LOGITS[:of]))


def sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))


@pytest.mark.parametrize(
    ("labels", "label", "index"),
    [
        (NLI, None, 1),
        (("Entailment", "NOT_ENTAILMENT"), None, 0),
        (LABELS, "LABEL_1", 1),
        (LABELS, "label_0", 0),
        (LABELS, "1", 1),
        (HHEM, "consistent", 1),
        (("1", "0"), "1", 0),  # a name goes before an index
        (("Fully Supported", "refuted"), "fully supported", 0),
    ],
)
def test_support_is_the_share_of_the_label_that_means_it(
    tmp_path: Path, labels: Sequence[str], label: str | None, index: int
) -> None:
    assert support(save(tmp_path, labels), label) == pytest.approx(softmax(index, len(labels)), abs=1e-5)


@pytest.mark.parametrize("problem", [None, "regression"])
def test_one_logit_is_a_sigmoid(tmp_path: Path, problem: str | None) -> None:
    assert support(save(tmp_path, ["LABEL_0"], problem), "LABEL_0") == pytest.approx(sigmoid(LOGITS[0]), abs=1e-5)


def test_labels_that_do_not_exclude_each_other_are_sigmoids(tmp_path: Path) -> None:
    name = save(tmp_path, NLI, "multi_label_classification")
    assert support(name) == pytest.approx(sigmoid(LOGITS[1]), abs=1e-5)


@pytest.mark.parametrize(
    ("labels", "label", "message"),
    [
        (LABELS, None, "name in nli_label which of LABEL_0, LABEL_1 means support"),
        (["LABEL_0"], None, "name in nli_label which of LABEL_0 means support"),
        (HHEM, None, "name in nli_label which of hallucinated, consistent means support"),
        (LABELS, "entailment", "no such label; it has LABEL_0, LABEL_1"),
        (LABELS, "2", "no such label"),
        (LABELS, "", "no such label"),
        (HHEM, "hallucinated", "hallucinated does not mean support"),
        (HHEM, "0", "hallucinated does not mean support"),
        (NLI, "neutral", "neutral does not mean support"),
        (("consistent", "inconsistent"), "inconsistent", "does not mean support"),
        (("supported", "Not Supported"), "not_supported", "does not mean support"),
        (("yes", "YES"), "yes", "more than one such label"),
    ],
)
def test_a_label_that_does_not_mean_support_is_refused(
    tmp_path: Path, labels: Sequence[str], label: str | None, message: str
) -> None:
    name = save(tmp_path, labels)
    with pytest.raises(BadInput, match=message):
        cross_encoder.load(name, "cpu", label=label)
