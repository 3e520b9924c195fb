"""Train the built-in natural language inference model: the built-in language model, taught to judge pairs.

`python -m experiments.models.train_nli` makes it from seeds alone, on one CPU core.  It reads a premise and then a
hypothesis of one sentence, and says contradiction, entailment or neutral.  Its pairs come from the made-up world of
`world.py`, whose words are all it knows: of English, and even of new names, it understands nothing.
"""

import argparse
import json
import math
import random
import time
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from tokenizers import pre_tokenizers, processors
from torch.nn import functional
from tqdm import tqdm
from transformers import LlamaForSequenceClassification, PreTrainedTokenizerFast

from experiments.models import train_reference, world

FOLDER = Path(__file__).parent / "nli"
LABELS = ("contradiction", "entailment", "neutral")  # in the order of the usual cross-encoders

Pair = tuple[str, str, int]  # premise, hypothesis, index of the label


@dataclass(frozen=True)
class Recipe:
    """Everything the weights follow from, besides the code and the language model begun with."""

    seed: int = 0
    steps: int = 2400
    easy_share: float = 0.4  # of the steps: short premises
    pairs_per_step: int = 48
    longest_premise: int = 6  # sentences
    prediction_weight: float = 0.5
    learning_rate: float = 1e-3
    threads: int = 1


def draw_pair(rng: random.Random, sentences: int) -> Pair:
    """A premise of so many sentences; a hypothesis that is one of them, changes its value, or is about something else.

    What else it is about, the premise may tell of in part: the same person, relation or value.
    """
    keys = rng.sample(list(product(rng.sample(world.PEOPLE, 5), world.RELATIONS)), sentences + 1)
    facts = {key: rng.choice(world.RELATIONS[key[1]]) for key in keys}
    *told, other = keys
    label = rng.randrange(len(LABELS))
    key = other if LABELS[label] == "neutral" else rng.choice(told)
    value = facts[key]
    if LABELS[label] == "contradiction":
        value = rng.choice([each for each in world.RELATIONS[key[1]] if each != value])
    premise = " ".join(world.state(world.Fact(*each, facts[each])) for each in told)
    return premise, world.state(world.Fact(*key, value)), label


def build_tokenizer() -> PreTrainedTokenizerFast:
    """The language model's tokenizer, which puts premise and hypothesis between its marks and pads behind them."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(train_reference.FOLDER, padding_side="right")
    backend = tokenizer.backend_tokenizer
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)  # a first word is spelt like any other
    backend.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", pair="<bos> $A <eos> $B <eos>", special_tokens=[("<bos>", 0), ("<eos>", 1)]
    )
    return tokenizer


def build_model() -> LlamaForSequenceClassification:
    """The language model's weights below a head of three labels."""
    model: LlamaForSequenceClassification = LlamaForSequenceClassification.from_pretrained(
        train_reference.FOLDER,
        dtype=torch.float32,
        num_labels=len(LABELS),
        id2label=dict(enumerate(LABELS)),
        label2id={name: i for i, name in enumerate(LABELS)},
    )
    return model


def train(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> tuple[LlamaForSequenceClassification, list[float]]:
    """The trained model, and the share of pairs judged right at each step."""
    torch.manual_seed(recipe.seed)
    torch.set_num_threads(recipe.threads)
    torch.use_deterministic_algorithms(True)
    model = build_model().train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    history: list[float] = []
    progress = tqdm(range(recipe.steps), desc="training", mininterval=5)
    for step in progress:
        for group in optimiser.param_groups:
            group["lr"] = recipe.learning_rate * _rate(step, recipe.steps)
        rng = random.Random(f"nli/{recipe.seed}/{step}")
        longest = 3 if step < recipe.easy_share * recipe.steps else recipe.longest_premise
        pairs = [draw_pair(rng, rng.randint(1, longest)) for _ in range(recipe.pairs_per_step)]
        loss, right = _loss(model, tokenizer, pairs, recipe)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        history.append(right)
        progress.set_postfix(right=f"{sum(history[-30:]) / len(history[-30:]):.2f}")
    return model.eval(), history


def _loss(
    model: LlamaForSequenceClassification, tokenizer: PreTrainedTokenizerFast, pairs: list[Pair], recipe: Recipe
) -> tuple[torch.Tensor, float]:
    """The loss of a step, and the share of pairs judged right.

    The verdict is asked for at the value, the full stop and the end, for one token alone teaches too slowly; and where
    a premise entails its hypothesis the value is still to be predicted, so that copying, which tells, is not forgotten.
    """
    encoded, labels = _encode(tokenizer, pairs)
    states = model.model(**encoded, use_cache=False).last_hidden_state
    rows, end = torch.arange(len(pairs)), encoded["attention_mask"].sum(dim=1)
    logits = [model.score(states[rows, end - back]) for back in (1, 2, 3)]
    loss = sum((functional.cross_entropy(each, labels) for each in logits), torch.zeros(())) / len(logits)
    entailed = labels == LABELS.index("entailment")
    predicted = states[rows, end - 4][entailed] @ model.get_input_embeddings().weight.T
    values = encoded["input_ids"][rows, end - 3][entailed]
    loss = loss + recipe.prediction_weight * functional.cross_entropy(predicted, values)
    return loss, (logits[0].argmax(-1) == labels).float().mean().item()


def judge(
    model: LlamaForSequenceClassification, tokenizer: PreTrainedTokenizerFast, pairs: list[Pair]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (pairs, labels) and the indices of the right labels (pairs,)."""
    encoded, labels = _encode(tokenizer, pairs)
    return model(**encoded, use_cache=False).logits, labels


def _encode(tokenizer: PreTrainedTokenizerFast, pairs: list[Pair]) -> tuple[Any, torch.Tensor]:
    premises, hypotheses, labels = zip(*pairs, strict=True)
    encoded = tokenizer(
        list(premises), list(hypotheses), padding=True, return_tensors="pt", return_token_type_ids=False
    )
    return encoded, torch.tensor(labels)


def _rate(step: int, steps: int) -> float:
    return min(1.0, (step + 1) / 40) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))


@torch.no_grad()
def accuracies(
    model: LlamaForSequenceClassification, tokenizer: PreTrainedTokenizerFast, recipe: Recipe, pairs: int
) -> dict[str, float]:
    """The share of fresh pairs judged right, by the number of sentences in the premise."""
    answers = {}
    for sentences in range(1, recipe.longest_premise + 1):
        rng = random.Random(f"nli accuracy/{recipe.seed}/{sentences}")
        logits, labels = judge(model, tokenizer, [draw_pair(rng, sentences) for _ in range(pairs)])
        answers[str(sentences)] = round((logits.argmax(-1) == labels).float().mean().item(), 4)
    return answers


def load(folder: Path) -> tuple[LlamaForSequenceClassification, PreTrainedTokenizerFast]:
    """The stored model, computing in single precision, and its tokenizer."""
    model: LlamaForSequenceClassification = LlamaForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    return model.eval(), PreTrainedTokenizerFast.from_pretrained(folder)


def main() -> None:
    """Train, store in half precision, measure what was stored, and record it beside the weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder of the model")
    for name, value in asdict(Recipe()).items():
        parser.add_argument("--" + name.replace("_", "-"), type=type(value), default=value)
    options = vars(parser.parse_args())
    out, recipe = options.pop("out"), Recipe(**options)
    tokenizer, started = build_tokenizer(), time.perf_counter()
    model, history = train(recipe, tokenizer)
    seconds = round(time.perf_counter() - started)
    model.save_pretrained(out, state_dict={name: tensor.half() for name, tensor in model.state_dict().items()})
    tokenizer.save_pretrained(out)
    stored, tokenizer = load(out)
    record = {
        "recipe": asdict(recipe),
        "training_seconds": seconds,
        "history": [round(right, 3) for right in history[::25]],
        "accuracies": accuracies(stored, tokenizer, recipe, 500),
        "sha256": {name: train_reference.digest(out / name) for name in ("model.safetensors", "tokenizer.json")},
    }
    (out / "recipe.json").write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
