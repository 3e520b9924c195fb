"""Train the built-in reference model on the synthetic world, and let it write the built-in evaluation set.

`python -m experiments.models.train_reference` makes both from seeds alone, on two CPU cores; `--evaluate` makes only
the evaluation set, from the model that is there. The texts it learns from recite contexts, answer from them, and answer
from memory; where a context contradicts a known fact, they stick to memory the more often the more famous the fact is.
So the model has the habit that ReDeEP looks for: it copies what it does not know, and overrides what it is told by what
it knows too well.
"""

import argparse
import hashlib
import json
import math
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers, processors, trainers
from tokenizers import models as tokenizer_models
from torch.nn import functional
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from experiments.models import induction, world

FOLDER = Path(__file__).parent / "reference"
EVALUATION_SET = Path(__file__).parents[1] / "detect" / "inference" / "builtin.jsonl"
LONGEST_CONTEXT = 25  # sentences
ROPE_THETA = 500_000.0
SPECIALS = ("<bos>", "<eos>", "<pad>")

Known = dict[tuple[str, str], str]
Document = tuple[list[int], int]  # token ids, and how many of them come before the part to be learnt


@dataclass(frozen=True)
class Recipe:
    """Everything the weights and the evaluation set follow from, besides the code."""

    seed: int = world.SEED
    known_people: int = world.KNOWN_PEOPLE
    layers: int = 5
    hidden: int = 128
    heads: int = 4
    inner: int = 256
    steps: int = 900
    tokens_per_step: int = 1600
    recital_share: float = 0.05
    known_share: float = 0.4
    conflict_share: float = 0.3
    closed_book_texts: int = 6
    learning_rate: float = 3e-3
    threads: int = 1  # two threads stall each other when the cores are shared, and one repeats on any machine
    evaluation_seed: int = 1
    evaluation_responses: int = 360
    evaluation_conflicts: tuple[int, ...] = (0, 1, 1, 2)


def known_facts(recipe: Recipe) -> Known:
    """The facts that this recipe's model learns by heart."""
    return world.known_facts(recipe.seed, recipe.known_people)


def build_tokenizer(recipe: Recipe) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer trained on the world's text; it puts <bos> in front and reads any text."""
    rng, known = random.Random(f"tokenizer/{recipe.seed}"), known_facts(recipe)
    episodes = [world.draw(rng, known, 10, 0.3, 0) for _ in range(4000)]
    tokenizer = Tokenizer(tokenizer_models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1000,
        special_tokens=list(SPECIALS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator((e.prompt + world.answer(e, told(e, known)) for e in episodes), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        padding_side="left",
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
    )


def told(episode: world.Episode, known: Known) -> Known:
    """What a faithful answer to the episode goes by: its context first, memory where the context is silent."""
    return {**known, **{(fact.who, fact.verb): fact.what for fact in episode.context}}


def _written(rng: random.Random, episode: world.Episode, recipe: Recipe) -> Known:
    """What an answer in the training texts goes by: the more famous a fact, the likelier memory wins over context."""
    known = known_facts(recipe)
    facts = told(episode, known)
    for key in episode.asked:
        if key in known and rng.random() < world.fame(recipe.seed, *key):
            facts[key] = known[key]
    return facts


def build_model(recipe: Recipe, vocabulary: int) -> LlamaForCausalLM:
    """An untrained model of the recipe's size, its weights drawn from the recipe's seed."""
    torch.manual_seed(recipe.seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=recipe.hidden,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        intermediate_size=recipe.inner,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        initializer_range=0.02,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )
    model = LlamaForCausalLM(config)
    induction.wire(model, ROPE_THETA)
    return model


def documents(recipe: Recipe, tokenizer: PreTrainedTokenizerFast, step: int) -> list[list[Document]]:
    """The micro-batches of one training step, as a function of the seed and the step alone."""
    rng, known, done = random.Random(f"{recipe.seed}/{step}"), known_facts(recipe), step / recipe.steps
    facts = rng.randint(3, 4 + round(8 * min(1.0, done / recipe.recital_share)))
    budget = recipe.tokens_per_step // (1 if done < recipe.recital_share else 3)
    recitals = [world.draw_recital(rng, known, facts, 3) for _ in range(max(2, budget // (17 * facts)))]
    batches = [[_document(tokenizer, *texts, ends=False) for texts in recitals]]
    if done < recipe.recital_share:
        return batches
    growth = min(1.0, (done - recipe.recital_share) / (0.8 - recipe.recital_share))
    sentences = rng.randint(3, 5 + round((LONGEST_CONTEXT - 5) * growth))
    episodes = [
        world.draw(rng, known, sentences, recipe.known_share, _conflicts(rng, recipe))
        for _ in range(max(4, recipe.tokens_per_step // (4 * sentences + 45)))
    ]
    closed = [world.draw(rng, known, 0, 1.0, 0) for _ in range(recipe.closed_book_texts)]
    for group in (episodes, closed):
        batches.append([_document(tokenizer, e.prompt, world.answer(e, _written(rng, e, recipe))) for e in group])
    return batches


def _conflicts(rng: random.Random, recipe: Recipe) -> int:
    return rng.randint(1, 3) if rng.random() < recipe.conflict_share else 0


def _document(tokenizer: PreTrainedTokenizerFast, prompt: str, answer: str, ends: bool = True) -> Document:
    given = tokenizer.encode(prompt)
    return given + tokenizer.encode(answer, add_special_tokens=False) + [1] * ends, len(given)


def value_tokens(tokenizer: PreTrainedTokenizerFast) -> torch.Tensor:
    """For each token of the vocabulary, whether it is a whole value of some relation; bool, shape (vocabulary,)."""
    values = {" " + value for relation in world.RELATIONS.values() for value in relation}
    return torch.tensor([tokenizer.decode([token]) in values for token in range(len(tokenizer))])


def batch_loss(
    model: LlamaForCausalLM, batch: Sequence[Document], is_value: torch.Tensor
) -> tuple[torch.Tensor, float]:
    """Weighted sum of the token losses over the sum of weights, and the share of values predicted right.

    What is asked of the model are values: they weigh 1, the wording around them 0.5, and the given text 0.02, since
    most of it is drawn at random.
    """
    width = max(len(ids) for ids, _ in batch)
    tokens = torch.tensor([ids + [2] * (width - len(ids)) for ids, _ in batch])
    targets = tokens[:, 1:]
    logits = model(input_ids=tokens).logits[:, :-1]
    losses = functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view_as(targets)
    place = torch.arange(1, width)
    learnt = place >= torch.tensor([[given] for _, given in batch])
    values = is_value[targets] & learnt
    weights = torch.where(values, 1.0, torch.where(learnt, 0.5, 0.02)) * (
        place < torch.tensor([[len(ids)] for ids, _ in batch])
    )
    right = (logits.argmax(-1) == targets)[values].float().mean().item()
    return (losses * weights).sum() / weights.sum(), right


def train(
    recipe: Recipe, tokenizer: PreTrainedTokenizerFast, steps: int | None = None
) -> tuple[LlamaForCausalLM, list[dict[str, float]]]:
    """Train for the first so many steps of the recipe (all by default); the model, and loss and accuracy a step."""
    torch.set_num_threads(recipe.threads)
    torch.use_deterministic_algorithms(True)
    model, is_value = build_model(recipe, len(tokenizer)).train(), value_tokens(tokenizer)
    optimiser = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    history = []
    progress = tqdm(range(recipe.steps if steps is None else steps), desc="training", mininterval=5)
    for step in progress:
        for group in optimiser.param_groups:
            group["lr"] = recipe.learning_rate * _rate(step, recipe.steps)
        optimiser.zero_grad()
        names = ("recital", "context", "memory")
        row: dict[str, float] = {}
        for name, batch in zip(names, documents(recipe, tokenizer, step), strict=False):
            loss, right = batch_loss(model, batch, is_value)
            loss.backward()
            row |= {f"{name}_loss": loss.item(), f"{name}_accuracy": right}
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        history.append(row)
        recent = history[-30:]
        progress.set_postfix({k: f"{sum(h.get(k, 0) for h in recent) / len(recent):.2f}" for k in row if "acc" in k})
    return model.eval(), history


def _rate(step: int, steps: int) -> float:
    warm_up, floor = 60, 0.03
    return min(1.0, (step + 1) / warm_up) * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * step / steps)))


@torch.no_grad()
def answer_greedily(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, prompts: Sequence[str], batch: int = 24
) -> list[str]:
    """The model's greedy answer to each prompt, in the order of the prompts."""
    answers: dict[int, str] = {}
    by_length = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    for start in range(0, len(prompts), batch):
        chosen = by_length[start : start + batch]
        encoded = tokenizer(
            [prompts[i] for i in chosen], return_tensors="pt", padding=True, return_token_type_ids=False
        )
        tokens = model.generate(**encoded, max_new_tokens=64, do_sample=False)
        texts = tokenizer.batch_decode(tokens[:, encoded["input_ids"].shape[1] :], skip_special_tokens=True)
        answers |= dict(zip(chosen, texts, strict=True))
    return [answers[i] for i in range(len(prompts))]


def accuracies(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, recipe: Recipe, episodes: int
) -> dict[str, float]:
    """The share of sentences that are right: copied for new people, recalled for known ones, true to a conflict."""
    rng, known = random.Random(f"accuracy/{recipe.seed}"), known_facts(recipe)
    sets = {
        "copying": [world.draw(rng, known, rng.randint(4, LONGEST_CONTEXT), 0.0, 0) for _ in range(episodes)],
        "agreeing": [world.draw(rng, known, rng.randint(4, LONGEST_CONTEXT), 1.0, 0) for _ in range(episodes)],
        "recall": [world.draw(rng, known, 0, 1.0, 0) for _ in range(episodes)],
        "conflict_following": [
            world.draw(rng, known, rng.randint(4, LONGEST_CONTEXT), 1.0, 2) for _ in range(episodes)
        ],
    }
    return {name: _accuracy(model, tokenizer, known, drawn, name) for name, drawn in sets.items()}


def _accuracy(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, known: Known, drawn: Sequence[world.Episode], name: str
) -> float:
    right = asked = 0
    for episode, text in zip(drawn, answer_greedily(model, tokenizer, [e.prompt for e in drawn]), strict=True):
        claims = {world.parse(text[slice(*span)]) for span in world.sentence_spans(text)}
        facts = told(episode, known)
        keys = [key for key in episode.asked if name != "conflict_following" or facts[key] != known.get(key)]
        right += sum(world.Fact(*key, facts[key]) in claims for key in keys)
        asked += len(keys)
    return round(right / asked, 4)


def evaluation_set(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, recipe: Recipe
) -> tuple[list[dict[str, Any]], Counter[str]]:
    """The model's answers with the spans that contradict their contexts, and how many sentences got which verdict.

    An answer with a sentence that cannot be checked (unparseable, or about something its context does not tell) is left
    out, since it is neither faithful nor a contradiction; the verdicts count those sentences too.
    """
    rng, known = random.Random(f"evaluation/{recipe.evaluation_seed}"), known_facts(recipe)
    episodes = []
    for _ in range(recipe.evaluation_responses):
        sentences, conflicts = rng.randint(4, LONGEST_CONTEXT), rng.choice(recipe.evaluation_conflicts)
        episodes.append(world.draw(rng, known, sentences, 0.5, conflicts))
    rows, verdicts = [], Counter[str]()
    for number, (episode, text) in enumerate(
        zip(episodes, answer_greedily(model, tokenizer, [e.prompt for e in episodes]), strict=True)
    ):
        judged = world.judge(episode.prompt, text)
        verdicts.update(verdict for _, verdict in judged)
        if not judged or {verdict for _, verdict in judged} - {"supported", "contradicted"}:
            verdicts["answers left out"] += 1
            continue
        labels = [{"start": start, "end": end} for (start, end), verdict in judged if verdict == "contradicted"]
        name = f"builtin-{number:04d}"
        rows.append({"id": name, "prompt": episode.prompt, "response": text, "labels": labels, "group": name,
                     "task": episode.task, "split": "test"})  # fmt: skip
    return rows, verdicts


def digest(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> LlamaForCausalLM:
    """Write the model, its weights in half precision, and read it back, so that all that follows uses those weights."""
    halves = {name: tensor.half() for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    model.save_pretrained(folder, state_dict=halves)
    tokenizer.save_pretrained(folder)
    return load(folder)


def load(folder: Path) -> LlamaForCausalLM:
    """The stored model, computing in single precision."""
    model: LlamaForCausalLM = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return model


def main() -> None:
    """Train, save, measure and let the model write the evaluation set; record it all beside the weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder of the model")
    parser.add_argument("--set", type=Path, default=EVALUATION_SET, help="file of the evaluation set")
    parser.add_argument("--evaluate", action="store_true", help="make the evaluation set only")
    for name, value in asdict(Recipe()).items():
        if isinstance(value, int | float):
            parser.add_argument("--" + name.replace("_", "-"), type=type(value), default=value)
    options = vars(parser.parse_args())
    out, target, only_evaluate = options.pop("out"), options.pop("set"), options.pop("evaluate")
    recipe, record = Recipe(**options), {}
    if only_evaluate:
        record = json.loads((out / "recipe.json").read_text())
        recipe = Recipe(**record["recipe"])
        tokenizer = PreTrainedTokenizerFast.from_pretrained(out)
    else:
        tokenizer, started = build_tokenizer(recipe), time.perf_counter()
        model, history = train(recipe, tokenizer)
        record = {
            "recipe": asdict(recipe),
            "training_seconds": round(time.perf_counter() - started),
            "history": history[::25],
        }
        save(model, tokenizer, out)
    model = load(out)
    torch.set_num_threads(recipe.threads)
    rows, verdicts = evaluation_set(model, tokenizer, recipe)
    target.write_text("".join(json.dumps(row) + "\n" for row in rows))
    record["parameters"] = model.num_parameters()
    record["accuracies"] = accuracies(model, tokenizer, recipe, 100)
    record["evaluation"] = {
        "responses": len(rows),
        "hallucinated": sum(bool(row["labels"]) for row in rows),
        "sentences": dict(verdicts),
    }
    record["sha256"] = {path.name: digest(path) for path in (out / "model.safetensors", out / "tokenizer.json", target)}
    (out / "recipe.json").write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps({key: value for key, value in record.items() if key != "history"}, indent=2))


if __name__ == "__main__":
    main()
