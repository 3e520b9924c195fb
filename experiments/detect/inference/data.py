"""What the detect stage reads: RAGTruth as it is published, or one's own JSONL.

Every fault raises BadInput with one line: file, line number, what is wrong and what is allowed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, NamedTuple, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, ValidationInfo
from pydantic_core import PydanticCustomError

from harness.stage import BadInput, suggest

FORMATS = "a RAGTruth folder, or JSONL with id, prompt, response, labels and optionally group, task, split"
RAGTRUTH_FILES = ("response.jsonl", "source_info.jsonl")
Spans = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Sample:
    """One response to one prompt; `spans` are its hallucinated characters [start, end), sorted and distinct.

    A label of 1 for the response as a whole is one span over all of it.  Folds must keep a `group` together.
    """

    id: str
    prompt: str
    response: str
    spans: Spans
    group: str
    task: str | None = None
    split: str | None = None
    generator: str | None = None


def read(
    path: Path,
    *,
    generator: str | None = None,
    split: str | None = None,
    task: str | None = None,
    prompt_chars: int | None = None,
    limit: int | None = None,
) -> tuple[list[Sample], dict[str, int]]:
    """Return the first `limit` samples of a RAGTruth folder or an own JSONL file that pass the filters, and counts.

    Counts: read = filtered_out + beyond_limit + kept; of the kept, prompts_cut lost text to `prompt_chars` and
    quality_not_good are responses that RAGTruth calls truncated or wrongly refused.  Those stay in, as in ReDeEP's
    published features, and so do labels marked `implicit_true`, which ReDeEP counts as hallucinations.
    """
    if not path.exists():
        raise BadInput(f"{path}: no such file or folder; allowed: {FORMATS}")
    rows = list(_ragtruth(path) if path.is_dir() else _own(path))
    if not rows:
        raise BadInput(f"{path}: holds no samples; allowed: {FORMATS}")
    matching = _matching(path, rows, {"generator": generator, "split": split, "task": task})
    # Texts and spans are checked here: a flaw in a row that the filters leave out must not stop the others.
    for row in matching:
        _check(row)
    whole = matching[:limit]
    samples = [replace(row.sample, prompt=row.sample.prompt[:prompt_chars]) for row in whole]
    return samples, {
        "read": len(rows),
        "filtered_out": len(rows) - len(matching),
        "beyond_limit": len(matching) - len(whole),
        "kept": len(samples),
        "prompts_cut": sum(row.sample != sample for row, sample in zip(whole, samples, strict=True)),
        "quality_not_good": sum(not row.good for row in whole),
    }


def read_bytes(path: Path) -> bytes:
    """Return the content of a file; BadInput when it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror}); allowed: a readable file") from error


def first_fault(error: ValidationError, model: type[BaseModel]) -> str:
    """Return one line on the fault to mend first: a misspelt column before the missing one that it causes."""
    faults = error.errors(include_url=False)
    fault = next((each for each in faults if each["type"] == "extra_forbidden"), faults[0])
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in fault["loc"]).lstrip(".")
    if fault["type"] == "extra_forbidden":
        return f"unknown column {place!r}; {suggest(place, model.model_fields)}"
    if fault["type"] == "missing":
        return f"column {place!r} is missing"
    if fault["type"] == "json_invalid":
        return f"not JSON ({fault['ctx']['error']})"
    got = repr(fault["input"])
    said = fault["msg"].replace("Input should", "should")
    return f"{repr(place) if place else 'this'} {said}, got {got if len(got) <= 60 else got[:60] + '…'}"


class _Line(NamedTuple):
    where: str
    sample: Sample
    good: bool


class Strict(BaseModel):
    """A row of input whose values must have their type already."""

    model_config = ConfigDict(strict=True)


def _as_spans(labels: object, info: ValidationInfo) -> tuple[object, ...]:
    if isinstance(labels, int | float) and labels in (0, 1):
        return ((0, len(info.data.get("response", ""))),) if labels else ()
    pairs = [_as_pair(label) for label in labels] if isinstance(labels, list) else [None]
    if None in pairs:
        raise PydanticCustomError("labels", 'should be 0, 1 or a list of spans, [start, end] or {"start": …, "end": …}')
    return tuple(pairs)


def _as_pair(label: object) -> tuple[object, ...] | None:
    ends = [label.get("start"), label.get("end")] if isinstance(label, dict) else label
    return tuple(ends) if isinstance(ends, list) and len(ends) == 2 and None not in ends else None


Id = Annotated[str, Field(min_length=1), BeforeValidator(lambda value: str(value) if type(value) is int else value)]
_Spans = Annotated[Spans, BeforeValidator(_as_spans), AfterValidator(lambda spans: tuple(sorted(set(spans))))]


class _Own(Strict, extra="forbid"):
    id: Id
    prompt: str
    response: str
    labels: _Spans  # after `response`, whose length a label of 1 needs
    group: Id | None = None
    task: str | None = None
    split: str | None = None


class _Response(Strict):
    id: Id
    source_id: Id
    model: str
    response: str
    labels: _Spans
    split: str
    quality: str


class _Source(Strict):
    source_id: Id
    task_type: str
    prompt: str


def _own(path: Path) -> Iterator[_Line]:
    for where, own in _by_id(path, _Own, "id").values():
        group = own.id if own.group is None else own.group
        sample = Sample(own.id, own.prompt, own.response, own.labels, group, own.task, own.split)
        yield _Line(where, sample, good=True)


def _ragtruth(folder: Path) -> Iterator[_Line]:
    absent = [name for name in RAGTRUTH_FILES if not (folder / name).is_file()]
    if absent:
        raise BadInput(f"{folder}: has no {' and no '.join(absent)}; allowed: {FORMATS}")
    responses, sources = (folder / name for name in RAGTRUTH_FILES)
    known = _by_id(sources, _Source, "source_id")
    for where, row in _by_id(responses, _Response, "id").values():
        if row.source_id not in known:
            raise BadInput(f"{where}: response {row.id!r} has source_id {row.source_id!r}; allowed: those of {sources}")
        source = known[row.source_id][1]
        texts, origin = (source.prompt, row.response), (row.source_id, source.task_type, row.split, row.model)
        yield _Line(where, Sample(row.id, *texts, row.labels, *origin), good=row.quality == "good")


M = TypeVar("M", bound=BaseModel)


def _by_id(path: Path, model: type[M], key: str) -> dict[str, tuple[str, M]]:
    rows: dict[str, tuple[str, M]] = {}
    for where, row in _lines(path, model):
        name = getattr(row, key)
        if name in rows:
            raise BadInput(f"{where}: {key} {name!r} is taken by {rows[name][0]}; allowed: each {key} once")
        rows[name] = (where, row)
    return rows


def _lines(path: Path, model: type[M]) -> Iterator[tuple[str, M]]:
    needed = [name for name, column in model.model_fields.items() if column.is_required()]
    # Split on "\n" alone: str.splitlines also breaks at characters that JSON strings may hold unescaped.
    for number, line in enumerate(read_bytes(path).split(b"\n"), start=1):
        where = f"{path}, line {number}"
        try:
            if text := line.decode("utf-8-sig").strip():
                yield where, model.model_validate_json(text)
        except UnicodeDecodeError as error:
            raise BadInput(f"{where}: byte {error.start + 1} is not UTF-8; allowed: text saved as UTF-8") from error
        except ValidationError as error:
            fault = first_fault(error, model).replace(" at line 1 column", " at column")
            raise BadInput(f"{where}: {fault}; a line is a JSON object with {', '.join(needed)}") from error


def _matching(path: Path, rows: list[_Line], filters: dict[str, str | None]) -> list[_Line]:
    wanted = {name: value for name, value in filters.items() if value is not None}
    matching = [row for row in rows if all(getattr(row.sample, name) == value for name, value in wanted.items())]
    if not matching:
        asked = " and ".join(f"{name}={value!r}" for name, value in wanted.items())
        exist = {name: sorted({getattr(row.sample, name) for row in rows} - {None}) for name in wanted}
        some = "; ".join(f"{name}: {', '.join(map(repr, values[:12])) or 'none'}" for name, values in exist.items())
        raise BadInput(f"{path}: no sample has {asked}; values that exist: {some}")
    return matching


def _check(row: _Line) -> None:
    sample = row.sample
    for name, text in (("prompt", sample.prompt), ("response", sample.response)):
        if not text.strip():
            raise BadInput(f"{row.where}: the {name} of id {sample.id!r} is empty; allowed: any text")
    size = len(sample.response)
    for start, end in sample.spans:
        if not 0 <= start < end <= size:
            fault = f"label [{start}, {end}] of id {sample.id!r} is outside its response or empty"
            raise BadInput(f"{row.where}: {fault}; allowed: 0 <= start < end <= {size}")
