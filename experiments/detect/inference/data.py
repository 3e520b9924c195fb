"""What the detect stage reads: RAGTruth as it is published, or one's own rows.

Every fault raises BadInput with one line: file, line number, what is wrong and what is allowed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from experiments.detect.inference.formats import READ, rows
from experiments.detect.inference.rows import Label, Own, Response, Source, first_fault, label_fault, misspelt
from experiments.redeep.sample import Sample, Spans
from harness.stage import BadInput

FORMATS = f"a RAGTruth folder, or {READ}, with id, prompt, response and optionally labels, group, task, split"
RAGTRUTH_FILES = ("response.jsonl", "source_info.jsonl")
_FIRST = 5  # faults that are told one by one
_NAMED = 60  # characters of a column's name that are told


class Data(NamedTuple):
    """Samples, how many rows were read and left out, the names of columns not used, and the first faults told."""

    samples: list[Sample]
    counts: dict[str, int]
    unknown_columns: list[str]
    faults: list[str]


def read(
    path: Path,
    *,
    generator: str | None = None,
    split: str | None = None,
    task: str | None = None,
    prompt_chars: int | None = None,
    limit: int | None = None,
    skip_bad: bool = False,
) -> Data:
    """Return the first `limit` samples of a RAGTruth folder or a file of one's own that pass the filters, and counts.

    Counts: read = skipped + filtered_out + beyond_limit + kept; skipped are the faulty rows that `skip_bad` leaves out,
    which otherwise raise BadInput.  Of the kept, prompts_cut lost text to `prompt_chars`, unlabelled have no labels and
    quality_not_good are responses that RAGTruth calls truncated or wrongly refused.  Those stay in, as in ReDeEP's
    published features, and so do labels marked `implicit_true`, which ReDeEP counts as hallucinations.
    """
    if not path.exists():
        raise BadInput(f"{path}: no such file or folder; allowed: {FORMATS}")
    seen = _Seen()
    lines = list(_ragtruth(path, seen) if path.is_dir() else _own(path, seen))
    filters = {"generator": generator, "split": split, "task": task}
    wanted = {name: value for name, value in filters.items() if value is not None}
    # Texts and spans are checked here: a flaw in a row that the filters leave out must not stop the others.
    matching = [line for line in lines if all(getattr(line.sample, name) == value for name, value in wanted.items())]
    sound = [line for line in matching if seen.is_sound(line)]
    if seen.faults and not (skip_bad and lines):
        raise BadInput(seen.told() + ("" if skip_bad else " (skip_bad=true leaves out such rows)"))
    if not lines:
        raise BadInput(f"{path}: holds no samples; allowed: {FORMATS}")
    if not matching:
        raise BadInput(f"{path}: {_none_matching(lines, wanted)}")
    if not sound:
        raise BadInput(seen.told())
    whole = sound[:limit]
    samples = [replace(line.sample, prompt=line.sample.prompt[:prompt_chars]) for line in whole]
    counts = {
        "read": len(lines) + seen.unread,
        "skipped": seen.unread + len(matching) - len(sound),
        "filtered_out": len(lines) - len(matching),
        "beyond_limit": len(sound) - len(whole),
        "kept": len(samples),
        "prompts_cut": sum(line.sample != sample for line, sample in zip(whole, samples, strict=True)),
        "unlabelled": sum(sample.spans is None for sample in samples),
        "unknown_columns": len(seen.unknown),
        "quality_not_good": sum(not line.good for line in whole),
    }
    return Data(
        samples,
        counts,
        sorted(name[:_NAMED] for name in seen.unknown),
        [f"{each.file.name}, {each}" for each in seen.faults[:_FIRST]],
    )


class _Fault(NamedTuple):
    file: Path
    place: str
    what: str

    def __str__(self) -> str:
        return f"{self.place}: {self.what}"


class _Line(NamedTuple):
    file: Path
    place: str
    sample: Sample
    labels: tuple[Label, ...] | None
    good: bool


@dataclass
class _Seen:
    """What is wrong with the rows of a data set, and which of their columns are not used."""

    faults: list[_Fault] = field(default_factory=list)
    unknown: set[str] = field(default_factory=set)
    unread: int = 0  # responses that are no samples, for a fault

    def told(self) -> str:
        """One line on all faults."""
        first = [f"{each.file}, {each}" for each in self.faults[:_FIRST]]
        if len(self.faults) == 1:
            return first[0]
        few = "" if len(first) == len(self.faults) else f", the first {len(first)}"
        return f"{len(self.faults)} faults{few}: {' | '.join(first)}"

    def is_sound(self, line: _Line) -> bool:
        """Whether texts and labels of a row are as they must be; if not, it is kept in mind why."""
        sample = line.sample
        faults = [f"the {name} of id {sample.id!r} is empty; allowed: any text" for name in _empty(sample)]
        faults += [
            f"id {sample.id!r}: {fault}" for each in line.labels or () if (fault := label_fault(sample.response, each))
        ]
        self.faults += [_Fault(line.file, line.place, fault) for fault in faults[:1]]
        return not faults


def _empty(sample: Sample) -> list[str]:
    return [name for name in ("prompt", "response") if not getattr(sample, name).strip()]


def _own(path: Path, seen: _Seen) -> Iterator[_Line]:
    for place, row in _by_id(path, Own, "id", seen).values():
        group = row.id if row.group is None else row.group
        sample = Sample(row.id, row.prompt, row.response, _spans(row.labels), group, row.task, row.split)
        yield _Line(path, place, sample, row.labels, good=True)


def _ragtruth(folder: Path, seen: _Seen) -> Iterator[_Line]:
    absent = [name for name in RAGTRUTH_FILES if not (folder / name).is_file()]
    if absent:
        raise BadInput(f"{folder}: has no {' and no '.join(absent)}; allowed: {FORMATS}")
    responses, sources = (folder / name for name in RAGTRUTH_FILES)
    known = _by_id(sources, Source, "source_id", seen)
    seen.unread, sound = 0, not seen.faults  # none of these rows is a response
    for place, row in _by_id(responses, Response, "id", seen).values():
        if row.source_id not in known:
            seen.unread += 1
            if sound:  # or it may be that of a row whose fault is told
                fault = f"response {row.id!r} has source_id {row.source_id!r}; allowed: those of {sources}"
                seen.faults.append(_Fault(responses, place, fault))
            continue
        source = known[row.source_id][1]
        origin = (row.source_id, source.task_type, row.split, row.model)
        sample = Sample(row.id, source.prompt, row.response, _spans(row.labels), *origin)
        yield _Line(responses, place, sample, row.labels, good=row.quality == "good")
    seen.unknown.clear()  # what RAGTruth has besides is known


def _spans(labels: tuple[Label, ...] | None) -> Spans | None:
    return None if labels is None else tuple(sorted({(start, end) for start, end, _ in labels}))


M = TypeVar("M", bound=BaseModel)


def _by_id(path: Path, model: type[M], key: str, seen: _Seen) -> dict[str, tuple[str, M]]:
    found: dict[str, tuple[str, M]] = {}
    for row in rows(path, model.model_fields, json=("labels",)):
        checked = row.fault or _checked(row.json, model, seen)
        if not isinstance(checked, str) and (name := getattr(checked, key)) in found:
            checked = f"{key} {name!r} is taken by {found[name][0]}; allowed: each {key} once"
        if isinstance(checked, str):
            seen.faults.append(_Fault(path, row.place, checked))
            seen.unread += 1
        else:
            found[name] = (row.place, checked)
    return found


def _checked(json: bytes, model: type[M], seen: _Seen) -> M | str:
    """A row, or what is wrong with it."""
    try:
        names = from_json(json)
    except ValueError:
        names = None  # which the model tells better
    names = names.keys() if isinstance(names, dict) else ()
    if fault := misspelt(names, model):
        return fault
    seen.unknown.update(names - model.model_fields.keys() if names else ())
    try:
        return model.model_validate_json(json.decode())
    except UnicodeDecodeError as error:
        return f"byte {error.start + 1} is not UTF-8; allowed: text saved as UTF-8"
    except ValidationError as error:
        needed = [name for name, column in model.model_fields.items() if column.is_required()]
        fault = first_fault(error).replace(" at line 1 column", " at column")
        return f"{fault}; needed are {', '.join(needed)}"


def _none_matching(lines: list[_Line], wanted: dict[str, str]) -> str:
    asked = " and ".join(f"{name}={value!r}" for name, value in wanted.items())
    exist = {name: sorted({getattr(line.sample, name) for line in lines} - {None}) for name in wanted}
    some = "; ".join(f"{name}: {', '.join(map(repr, values[:12])) or 'none'}" for name, values in exist.items())
    return f"no sample has {asked}; values that exist: {some}"
