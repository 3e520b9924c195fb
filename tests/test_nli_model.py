"""The built-in cross-encoder is what its recipe says, and its pairs are labelled by construction."""

from __future__ import annotations

import json
import random

import torch
from hypothesis import given
from hypothesis import strategies as st

from experiments.models import train_nli, train_reference, world
from experiments.models.train_nli import FOLDER, LABELS, Recipe, draw_pair

RECORD = json.loads((FOLDER / "recipe.json").read_text())


@given(st.integers(0, 10**6), st.integers(1, 8))
def test_the_label_of_a_pair_follows_from_its_texts(seed: int, sentences: int) -> None:
    premise, hypothesis, label = draw_pair(random.Random(seed), sentences)
    ((_, verdict),) = world.judge(f"Context: {premise} Request: x", hypothesis)
    assert (
        verdict == {"entailment": "supported", "contradiction": "contradicted", "neutral": "unsupported"}[LABELS[label]]
    )
    assert len(world.sentence_spans(premise)) == sentences


def test_the_weights_are_those_of_the_recipe_and_small() -> None:
    for name, digest in RECORD["sha256"].items():
        assert train_reference.digest(FOLDER / name) == digest
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 3e6
    assert {name: RECORD["recipe"][name] for name in vars(Recipe())} == vars(Recipe())


def test_it_judges_fresh_pairs_as_recorded() -> None:
    torch.set_num_threads(1)
    found = train_nli.accuracies(*train_nli.load(FOLDER), Recipe(), 500)
    assert found == RECORD["accuracies"]
    assert min(found.values()) > 0.95


def test_training_repeats_and_begins_with_the_language_model() -> None:
    tokenizer, recipe = train_nli.build_tokenizer(), Recipe(steps=2, pairs_per_step=8)
    first, second = (train_nli.train(recipe, tokenizer)[0].state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    begun = train_nli.build_model().state_dict()
    assert any(not torch.equal(first[name], begun[name]) for name in first)
