"""The lexical detector: how much of what an answer says stands, word for word, in the passages it was given."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.rag.inference.reading import Answer, Read, Readings, Setup
from experiments.rag.inference.text import content_words, entities, lemma, sentences, words


def load(setup: Setup) -> Read:
    """It needs nothing to read with."""
    return read


def read(answers: Sequence[Answer]) -> list[Readings]:
    """What `support` says of each answer."""
    return [support(answer.text, answer.passages) for answer in answers]


def support(answer: str, passages: Sequence[str]) -> dict[str, float]:
    """Share of an answer's words, and of its names and numbers, that its passages hold: least and mean over sentences.

    Each sentence is held against its best passage, so that words from here and there do not add up to support.  A
    sentence without names or numbers is judged by its words.
    """
    held = [{lemma(word) for word in words(passage)} for passage in passages]
    tokens, names = [], []
    for sentence in sentences(answer):
        telling, named = content_words(sentence), entities(sentence)
        by_words = max((_share(telling, every) for every in held), default=0.0)
        tokens.append(by_words)
        lemmas = [lemma(word) for word in named]
        names.append(max((_share(lemmas, every) for every in held), default=0.0) if named else by_words)
    return {
        "lexical_tokens_min": min(tokens),
        "lexical_tokens_mean": sum(tokens) / len(tokens),
        "lexical_entities_min": min(names),
        "lexical_entities_mean": sum(names) / len(names),
    }


def _share(lemmas: Sequence[str], held: set[str]) -> float:
    return sum(each in held for each in lemmas) / len(lemmas)
