"""What the classes of images are called in captions, where the names of folders do not say it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from harness.stage import BadInput, some

Names = Mapping[str, Sequence[str]]  # of each class, what it may be called, the commonest first
_WORDNET = re.compile(r"n\d{8}")  # a synset's number, as ImageNet's folders are named
_NUMBERED = re.compile(r"(\d+|n\d{8})\s*[\s.,:;)=|]")  # how a name begins that has a number of its own
_MOST_BYTES = 2**26
_ALLOWED = (
    'a JSON object {"folder": "name" or ["name", ...]}, a JSON list of names (or one a line) in the order of numbered'
    " classes, or lines `folder name, name`"
)

T = TypeVar("T")


def names(given: str | None, classes: Sequence[str], images: str, *, numbered: bool = False) -> Names:
    """What each of the classes is called: its own name, or what the file says; BadInput where it lacks one.

    Those of `numbered` images, as of IDX files, have no name of their own, and nor have WordNet's numbers.
    """
    if given is None:
        if codes := [name for name in classes if numbered or _WORDNET.fullmatch(name)]:
            raise BadInput(
                f"images = {images}: the classes are numbers, {some(codes)}, that make no caption; set classes to a"
                f" file that says what they are called: {_ALLOWED}"
            )
        return {name: [name] for name in classes}
    if not classes:
        raise BadInput(f"classes = {given}: the images have no classes to be called so; leave it unset")
    found = _read(Path(given).expanduser(), classes)
    if lacking := [name for name in classes if not found.get(name)]:
        raise BadInput(
            f"classes = {given}: says nothing of {some(lacking)}; allowed: a name for each class of {images}"
        )
    return {name: found[name] for name in classes}


def digest(given: str) -> str:
    """SHA-256 of the file's content."""
    return hashlib.sha256(_content(Path(given).expanduser()).encode()).hexdigest()


def shown(called: Names) -> list[str]:
    """One name for each class, in order: its first, with the class itself where two are called alike."""
    firsts = [each[0] for each in called.values()]
    return [
        first if firsts.count(first) == 1 else f"{first} ({name})" for name, first in zip(called, firsts, strict=True)
    ]


def _content(path: Path) -> str:
    if not path.is_file():
        raise BadInput(f"classes = {path}: no such file; allowed: {_ALLOWED}")
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise BadInput(f"classes = {path}: more than {_MOST_BYTES:,} bytes; allowed: {_ALLOWED}")
        return path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"classes = {path}: cannot be read: {error}; allowed: {_ALLOWED}") from error


def _read(path: Path, classes: Sequence[str]) -> dict[str, list[str]]:
    text = _content(path)
    if path.suffix.lower() == ".json" or text.lstrip().startswith(("{", "[")):
        return _from_json(path, text, classes)
    lines = [line.strip() for line in text.split("\n") if line.strip() and not line.lstrip().startswith("#")]
    parted = [re.split(r"\t|\s+", line, maxsplit=1) for line in lines]
    if {_folder(first) for first, *_ in parted} >= set(classes):
        _require_once(path, [_folder(first) for first, *_ in parted])
        return {_folder(first): _several(_without_number(first, *rest)) for first, *rest in parted}
    if all("\t" in line for line in lines):
        return {
            _folder(first): _several(_without_number(first, *rest))
            for first, *rest in (line.split("\t", 1) for line in lines)
        }
    if all(name.isdecimal() for name in classes):
        return {name: [line] for name, line in _in_order(path, lines, classes).items()}
    return {_folder(first): _several(_without_number(first, *rest)) for first, *rest in parted}


def _in_order(path: Path, given: Sequence[T], classes: Sequence[str]) -> dict[str, T]:
    """Names of numbered classes by place; BadInput where they have numbers themselves or may begin at 0 or at 1."""
    if given and all(isinstance(each, str) and _NUMBERED.match(each) for each in given):
        raise BadInput(
            f"classes = {path}: each name begins with a number ({given[0]}), and these are not the classes"
            f" {some(classes)}; allowed: names alone, in the order of classes from 0, or lines `class name`"
        )
    numbers, first = {int(name) for name in classes}, 0
    if 0 not in numbers:
        first = 1
        if numbers != set(range(1, len(given) + 1)):
            raise BadInput(
                f"classes = {path}: the classes {some(classes)} lack 0, so that {len(given)} names in order may begin"
                " at 0 or at 1; allowed: lines `class name`"
            )
    return {name: given[int(name) - first] for name in classes if int(name) - first < len(given)}


def _without_number(folder: str, text: str = "") -> str:
    """What stands behind a folder; behind WordNet's number without the number of the class, and no `_` for blanks."""
    return re.sub(r"^\d+\s+", "", text).replace("_", " ") if _WORDNET.fullmatch(folder.strip()) else text


def _from_json(path: Path, text: str, classes: Sequence[str]) -> dict[str, list[str]]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        _require_once(path, [name for name, _ in pairs])
        return dict(pairs)

    try:
        content = json.loads(text, object_pairs_hook=once)
    except BadInput:
        raise
    except (ValueError, RecursionError) as error:
        raise BadInput(f"classes = {path}: no JSON: {error}; allowed: {_ALLOWED}") from error
    if isinstance(content, list):
        numbered = all(name.isdecimal() for name in classes)
        content = _in_order(path, content, classes) if numbered else {}
    if not isinstance(content, dict):
        raise BadInput(f"classes = {path}: allowed: {_ALLOWED}")
    found = {}
    for key, value in content.items():
        several = value if isinstance(value, list) else [value]
        if not several or not all(isinstance(each, str) and each.strip() for each in several):
            raise BadInput(f"classes = {path}: {key}: must be text or a list of texts that say something")
        if (
            key.isdigit() and len(several) == 2 and _WORDNET.fullmatch(several[0])
        ):  # Keras's index: number: [folder, name]
            key, several = several[0], [several[1].replace("_", " ")]
        found[_folder(key)] = [each.strip() for each in several]
    return found


def _require_once(path: Path, keys: list[str]) -> None:
    if len(set(keys)) < len(keys):
        raise BadInput(f"classes = {path}: {next(key for key in keys if keys.count(key) > 1)} stands there twice")


def _folder(name: str) -> str:
    """A class as the images' folders are read."""
    return name.strip().replace("_", " ")


def _several(text: str = "") -> list[str]:
    """Names between commas or tabs."""
    return [each.strip() for each in re.split(r"[,\t]", text) if each.strip()]
