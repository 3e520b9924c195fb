"""Questions with passages to answer them from, or answers with their labels: JSONL, HaluEval, or the built-in world."""

from __future__ import annotations

import hashlib
import json
import random
import re
from dataclasses import dataclass, field, replace
from itertools import chain, product
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from experiments.models import world
from experiments.rag.inference import beir
from experiments.rag.inference.lines import rows
from experiments.rag.inference.text import sentences, words
from harness.stage import BadInput

_GLUED = re.compile(r"(?<=[a-z0-9)][.!?])(?=[A-Z])")  # HaluEval leaves out the space between two paragraphs
_PASSAGES, _QUESTIONS = "passages.jsonl", "questions.jsonl"
_ALLOWED = (
    f"allowed: `builtin`; a folder of {_PASSAGES} (id, text) and {_QUESTIONS} (id, question, answers, relevant); one of"
    f" BEIR ({beir.SHAPE});"
    " a JSONL of knowledge, question, right_answer, hallucinated_answer"
)


@dataclass(frozen=True)
class Question:
    """What is asked; for each part of it the answers accepted, if known; the ids of the passages that help."""

    id: str
    text: str
    accepted: tuple[tuple[str, ...], ...]
    relevant: frozenset[str] = frozenset()
    given: tuple[tuple[str, int], ...] = ()  # answers that the data bring along, 1: hallucinated
    knowledge: tuple[str, ...] = ()  # what those are to be held against


@dataclass(frozen=True)
class Dataset:
    """Questions, and the passages (id to text) in which their answers are looked for; none where answers are given.

    `told` is what a reader of the result should know of how the data were read, a clause each.
    """

    questions: list[Question]
    passages: dict[str, str] = field(default_factory=dict)
    told: tuple[str, ...] = ()

    @property
    def answerable(self) -> bool:
        """Whether the data say of any answer that it would be right."""
        return any(question.accepted for question in self.questions)


class _Line(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Passage(_Line):
    id: str = Field(min_length=1)
    text: str = Field(min_length=1)


class _Question(_Line):
    id: str = Field(min_length=1)
    question: str = Field(min_length=1)
    answers: tuple[str, ...] | tuple[tuple[str, ...], ...] = Field(min_length=1)
    relevant: tuple[str, ...] = Field(min_length=1)


class _Labelled(_Line):
    knowledge: str = Field(min_length=1)
    question: str = Field(min_length=1)
    right_answer: str = Field(min_length=1)
    hallucinated_answer: str = Field(min_length=1)


def read(dataset: str, limit: int | None = None) -> Dataset:
    """Read and check a data set; BadInput names file, line and fault."""
    path = Path(dataset).expanduser()
    if dataset == "builtin":
        content = builtin()
    elif path.is_dir():
        content = _beir(path) if beir.is_folder(path) else _own(path)
    elif path.is_file():
        content = _halueval(path)
    else:
        raise BadInput(f"dataset {dataset}: no such file or folder; {_ALLOWED}")
    if not content.questions:
        raise BadInput(f"dataset {dataset}: holds no question; {_ALLOWED}")
    return replace(content, questions=content.questions[:limit])


def digest(dataset: str) -> str:
    """SHA-256 of a data set's files; the built-in one follows from the code."""
    if dataset == "builtin":
        world = builtin()
        asked = [(each.id, each.text, each.accepted, sorted(each.relevant)) for each in world.questions]
        return hashlib.sha256(json.dumps([asked, world.passages]).encode()).hexdigest()
    path, total = Path(dataset).expanduser(), hashlib.sha256()
    files = [path]
    if path.is_dir():
        files = beir.files(path) if beir.is_folder(path) else [path / _PASSAGES, path / _QUESTIONS]
    for file in files:
        if not file.is_file():
            raise BadInput(f"dataset {dataset}: no such file or folder: {file.name}; {_ALLOWED}")
        total.update(file.read_bytes())
    return total.hexdigest()


def _own(folder: Path) -> Dataset:
    passages: dict[str, str] = {}
    for place, passage in rows(folder / _PASSAGES, _Passage, _ALLOWED):
        if passage.id in passages:
            raise BadInput(f"{place}: passage id '{passage.id}' stands there twice; each needs one of its own")
        passages[passage.id] = passage.text
    questions: dict[str, Question] = {}
    for place, row in rows(folder / _QUESTIONS, _Question, _ALLOWED):
        if row.id in questions:
            raise BadInput(f"{place}: question id '{row.id}' stands there twice; each needs one of its own")
        if missing := [name for name in row.relevant if name not in passages]:
            raise BadInput(f"{place}: relevant passage '{missing[0]}' is not in {_PASSAGES}")
        accepted = tuple((part,) if isinstance(part, str) else part for part in row.answers)
        if isinstance(row.answers[0], str):
            accepted = (tuple(str(way) for way in row.answers),)  # one part, accepted in several ways
        for way in chain(*accepted):
            _require_word(place, "answers", way)
        questions[row.id] = Question(row.id, row.question, accepted, frozenset(row.relevant))
    return Dataset(list(questions.values()), passages)


def _beir(folder: Path) -> Dataset:
    judged = beir.read(folder)
    asked = []
    for place, query in judged.queries:
        for way in query.accepted:
            _require_word(place, "metadata.answers", way)
        parts = (query.accepted,) if query.accepted else ()
        asked.append(Question(query.id, query.text, parts, frozenset(judged.relevant[query.id])))
    return Dataset(asked, judged.passages, judged.told)


def _halueval(path: Path) -> Dataset:
    questions = []
    for number, (place, row) in enumerate(rows(path, _Labelled, _ALLOWED)):
        _require_word(place, "knowledge", row.knowledge)
        _require_word(place, "right_answer", row.right_answer)
        given = ((row.right_answer, 0), (row.hallucinated_answer, 1))
        knowledge = tuple(sentences(_GLUED.sub(" ", row.knowledge)))
        questions.append(
            Question(f"{number:05d}", row.question.strip(), ((row.right_answer,),), given=given, knowledge=knowledge)
        )
    return Dataset(questions)


def _require_word(place: str, name: str, text: str) -> None:
    if not words(text):
        raise BadInput(f"{place}: {name}: '{text}' holds no word, so that nothing can be compared with it; {_ALLOWED}")


# --- the built-in world ------------------------------------------------------------------------------------------

_SEED = "rag/0"
_TELLINGS = 8  # passages that tell each fact
_BELIEVED = 0.7  # share of the facts known by heart that the passages confirm; they contradict the others


def builtin(questions: int = 300) -> Dataset:
    """Every fact about 240 people, told in 5,760 passages of two sentences, and questions about up to four of them.

    A third of what is asked is about people whose facts the built-in model knows by heart, some of them outdated.
    """
    rng, known = random.Random(_SEED), world.known_facts(world.SEED, world.KNOWN_PEOPLE)
    facts = {key: _truth(rng, key, known) for key in product(world.PEOPLE, world.RELATIONS)}
    told: list[list[tuple[str, str]]] = []
    for _ in range(_TELLINGS):
        keys = rng.sample(list(facts), len(facts))
        told += [keys[i : i + 2] for i in range(0, len(keys), 2)]
    passages = {
        f"p{i:04d}": " ".join(world.state(world.Fact(*key, facts[key])) for key in keys) for i, keys in enumerate(told)
    }
    telling: dict[tuple[str, str], list[str]] = {}
    for name, keys in zip(passages, told, strict=True):
        for key in keys:
            telling.setdefault(key, []).append(name)
    famous = world.known_people(known)
    strangers = [who for who in world.PEOPLE if who not in set(famous)]
    asked = []
    for number in range(questions):
        people = [rng.choice(famous if rng.random() < 1 / 3 else strangers) for _ in range(rng.randint(2, 4))]
        keys = [(who, rng.choice(list(world.RELATIONS))) for who in dict.fromkeys(people)]
        accepted = tuple((world.state(world.Fact(*key, facts[key])),) for key in keys)
        relevant = frozenset(name for key in keys for name in telling[key])
        asked.append(Question(f"q{number:03d}", world.questions(keys), accepted, relevant))
    return Dataset(asked, passages)


def _truth(rng: random.Random, key: tuple[str, str], known: dict[tuple[str, str], str]) -> str:
    if key in known and rng.random() < _BELIEVED:
        return known[key]
    return rng.choice([value for value in world.RELATIONS[key[1]] if value != known.get(key)])
