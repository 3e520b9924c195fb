"""Folders as BEIR has them: a corpus, queries, and which passages are relevant to which query.

Thakur, Reimers, Rueckle, Srivastava and Gurevych (2021), BEIR: A heterogeneous benchmark for zero-shot evaluation of
information retrieval models.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from experiments.rag.inference.lines import lines, rows
from harness.stage import BadInput, some

_CORPUS, _QUERIES, _QRELS = "corpus.jsonl", "queries.jsonl", "qrels"
_SPLIT = "test.tsv"  # what is read where there are several
SHAPE = (
    f"{_CORPUS}: _id, title, text; {_QUERIES}: _id, text, and accepted answers in metadata.answers if there are any;"
    f" {_QRELS}/*.tsv: query-id, corpus-id, score"
)
_ALLOWED = f"allowed: {SHAPE}"


class _Line(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


def _or_nothing(value: Any) -> Any:
    return "" if value is None else value


class _Passage(_Line):
    id: str = Field(alias="_id", min_length=1)
    title: Annotated[str, BeforeValidator(_or_nothing)] = ""
    text: Annotated[str, BeforeValidator(_or_nothing)] = ""


class _Metadata(_Line):
    answer: str | tuple[str, ...] = ()
    answers: str | tuple[str, ...] = ()


def _known(value: Any) -> Any:
    return value if isinstance(value, dict) else {}


class Query(_Line):
    """A query, and the answers accepted to it, if the data hold any."""

    id: str = Field(alias="_id", min_length=1)
    text: str = Field(min_length=1)
    metadata: Annotated[_Metadata, BeforeValidator(_known)] = _Metadata()

    @property
    def accepted(self) -> tuple[str, ...]:
        """Every way to answer it."""
        ways = (self.metadata.answer, self.metadata.answers)
        return tuple(way for each in ways for way in ((each,) if isinstance(each, str) else each))


@dataclass(frozen=True)
class Judged:
    """Passages by id; queries that have relevant ones, each with its place in the file; and which those are."""

    passages: dict[str, str]
    queries: list[tuple[str, Query]]
    relevant: dict[str, set[str]]
    told: tuple[str, ...]


def is_folder(folder: Path) -> bool:
    """Whether a folder is meant to be one of BEIR."""
    return any((folder / f"{name}{packed}").is_file() for name in (_CORPUS, _QUERIES) for packed in ("", ".gz"))


def files(folder: Path) -> list[Path]:
    """What is read of a folder: corpus, queries, and the judgements of the test split, or of the only one."""
    for name in (_CORPUS, _QUERIES):
        if not (folder / name).is_file() and (folder / f"{name}.gz").is_file():
            raise BadInput(f"dataset {folder}: {name}.gz is packed, and is read unpacked only: gunzip it")
    splits = sorted((folder / _QRELS).glob("*.tsv"))
    chosen = [path for path in splits if path.name == _SPLIT] or splits
    if len(chosen) != 1:
        fault = f"holds {some(path.name for path in splits)}, of which none is {_SPLIT}" if splits else "holds no *.tsv"
        raise BadInput(f"dataset {folder}: {_QRELS} {fault}; a {_SPLIT}, or one file alone, is needed")
    return [folder / _CORPUS, folder / _QUERIES, chosen[0]]


def read(folder: Path) -> Judged:
    """Read and check a folder, line by line; BadInput names file, line and fault."""
    corpus, queries, qrels = files(folder)
    passages, blank = _passages(corpus)
    asked: dict[str, tuple[str, Query]] = {}
    for place, query in rows(queries, Query, _ALLOWED):
        if query.id in asked:
            raise BadInput(f"{place}: query id '{query.id}' stands there twice; each needs one of its own")
        asked[query.id] = place, query
    relevant, lost = _relevant(qrels, asked, passages, blank)
    kept = [each for name, each in asked.items() if name in relevant]
    counted = (
        (len(asked) - len(kept), f"queries have no relevant passage in {_QRELS}/{qrels.name}, and are left out"),
        (len(blank), "passages have neither title nor text, and are left out"),
        (lost, "judgements are of such a passage, and are left out"),
    )
    told = [f"{number} {what}" for number, what in counted if number]
    others = [path.name for path in sorted(qrels.parent.glob("*.tsv")) if path != qrels]
    told += [f"{_QRELS}/{qrels.name} is read, and not {some(others)}"] if others else []
    return Judged(passages, kept, relevant, tuple(told))


def _passages(corpus: Path) -> tuple[dict[str, str], set[str]]:
    """Each passage's title and text, and the ids of those that have neither."""
    passages: dict[str, str] = {}
    blank: set[str] = set()
    for place, passage in rows(corpus, _Passage, _ALLOWED):
        if passage.id in passages or passage.id in blank:
            raise BadInput(f"{place}: passage id '{passage.id}' stands there twice; each needs one of its own")
        if text := f"{passage.title.strip()} {passage.text.strip()}".strip():
            passages[passage.id] = text
        else:
            blank.add(passage.id)
    return passages, blank


def _relevant(
    qrels: Path, queries: dict[str, Any], passages: dict[str, str], blank: set[str]
) -> tuple[dict[str, set[str]], int]:
    """The passages of a score above 0 by query, and how many more there would be that are blank."""
    relevant: dict[str, set[str]] = {}
    lost, first = 0, True
    for place, line in lines(qrels, _ALLOWED):
        fields = line.decode("utf-8", "replace").rstrip("\r\n").split("\t")
        head, first = first, False
        if len(fields) != 3:
            raise BadInput(f"{place}: {len(fields)} fields between tabs, not query-id, corpus-id, score; {_ALLOWED}")
        query, passage, score = (field.strip() for field in fields)
        if head and query not in queries and not score.lstrip("-").isdecimal():
            continue  # names of the columns
        try:
            wanted = int(score) > 0
        except ValueError:
            raise BadInput(f"{place}: score '{score[:40]}' is no whole number; {_ALLOWED}") from None
        if wanted and query not in queries:
            raise BadInput(f"{place}: query '{query[:80]}' is not in {_QUERIES}")
        if wanted and passage not in passages and passage not in blank:
            raise BadInput(f"{place}: passage '{passage[:80]}' is not in {_CORPUS}")
        if wanted and passage in blank:
            lost += 1
        elif wanted:
            relevant.setdefault(query, set()).add(passage)
    return relevant, lost
