"""Images: which there are, in what order, and of what class."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from experiments.models import digits, files, idx
from experiments.montecarlo.inference import decoding
from experiments.montecarlo.inference.decoding import Decoded
from experiments.montecarlo.inference.params import BUILT_IN, BUILT_IN_TOLD
from harness.running import cache
from harness.stage import BadInput

_ALLOWED = (
    f"{BUILT_IN_TOLD}, a folder of images, a folder with one folder a class, IDX files, a .txt with a path a line (and"
    " a tab and a class)"
)
_NO_CLASS = frozenset({"__MACOSX"})  # what an archiver adds; hidden folders are none either

T = TypeVar("T")


@dataclass(frozen=True)
class Item:
    """One image file, or the image at a `place` of an IDX file.

    `name` is its path within what was given, and what its masks depend on.
    """

    name: str
    path: Path
    label: str | None = None
    place: int | None = None

    def decode(self) -> Decoded:
        """The image; Unreadable or whatever Pillow raises where it is none."""
        if self.place is None:
            return decoding.decode(self.path)
        return Decoded(Image.fromarray(idx.images(self.path)[self.place]).convert("RGB"), ())


def find(given: str, keep: int | None = None) -> list[Item]:
    """The images of a folder, a tree of one folder a class, IDX files, a list (in its order) or a built-in set."""
    if given in BUILT_IN:
        items = evenly(_in_folder(_digits(), given), BUILT_IN[given])
    else:
        items = _at(Path(given).expanduser(), given)
    if not items:
        kinds = ", ".join(sorted(decoding.suffixes()))
        raise BadInput(f"images = {given}: there is no image (by its ending, {kinds}, or content); allowed: {_ALLOWED}")
    ((name, count),) = Counter(item.name for item in items).most_common(1)
    if count > 1:
        raise BadInput(f"images = {given}: {name} stands there twice; allowed: each image once")
    return items if keep is None else evenly(items, keep)


def evenly(items: list[T], count: int) -> list[T]:
    """So many of the items, spread over all; all, where there are no more."""
    if count >= len(items):
        return items
    return [items[i] for i in np.linspace(0, len(items) - 1, count).round().astype(int)] if count else []


def digest(items: list[Item]) -> str:
    """SHA-256 over names, classes and contents; a file that may not be read counts by its name."""
    named: dict[Path, list[str]] = {}
    for item in items:
        named.setdefault(item.path, []).append(f"{item.name}\t{item.label}")
    closed = {path: names for path, names in named.items() if not _readable(path)}
    found = files.digest(("\n".join(names), path) for path, names in named.items() if path not in closed)
    said = [found, *(name for names in closed.values() for name in names)]
    return hashlib.sha256("\n".join(said).encode()).hexdigest() if closed else found


def classes(items: list[Item]) -> list[str]:
    """The classes that occur, sorted."""
    return sorted({item.label for item in items if item.label is not None})


def _at(path: Path, given: str) -> list[Item]:
    mode = _mode(path)
    if mode and (arrays := idx.found(path)):
        return _in_arrays(arrays, path, given)
    if stat.S_ISREG(mode) and path.suffix.lower() == ".txt":
        return _listed(path)
    if stat.S_ISDIR(mode):
        return _in_folder(path, given)
    raise BadInput(f"images = {given}: no such folder, IDX or .txt file; allowed: {_ALLOWED}")


def _in_arrays(arrays: list[Path], path: Path, given: str) -> list[Item]:
    """The images of IDX files, which have labels all or none, and no other image beside them."""
    endings = decoding.suffixes()
    others = (each for each in _walk(path, given) if each.suffix.lower() in endings) if path.is_dir() else iter(())
    if other := next(others, None):
        raise BadInput(
            f"images = {given}: IDX files ({arrays[0].name}) and images ({_printable(other.relative_to(path))}) lie"
            " side by side; allowed: either, or the path of one IDX file"
        )
    lacking = [each.name for each in arrays if idx.labels(each) is None]
    if lacking and len(lacking) < len(arrays):
        raise BadInput(
            f"images = {given}: there are no labels beside {', '.join(lacking)}, but beside the others; allowed: for"
            " all or none, or the path of one IDX file"
        )
    return [item for array in arrays for item in _in_array(array)]


def _in_array(path: Path) -> list[Item]:
    """The images of an IDX file, and their labels, which are numbers, where these lie beside it."""
    labels, part = idx.labels(path), idx.part(path)
    count = len(idx.images(path))
    return [Item(f"{part}/{i:05d}", path, None if labels is None else str(labels[i]), i) for i in range(count)]


def _in_folder(folder: Path, given: str) -> list[Item]:
    """Images in folders of their own have the folder's name for a class, unless others lie beside the folders.

    What lies beside them and only may be one, a text that begins like a PBM or the folder's icon, is left out.
    """
    endings = decoding.suffixes()
    paths = sorted(path for path in _walk(folder, given) if path.suffix.lower() in endings or decoding.is_image(path))
    surely = [path for path in paths if path.suffix.lower() in endings - {".ico"}]
    if surely and all(path.parent != folder for path in surely):
        paths = [path for path in paths if path.parent != folder]
    names = [_printable(path.relative_to(folder)) for path in paths]
    tree = all("/" in name for name in names)
    labels = [name.partition("/")[0].replace("_", " ") if tree else None for name in names]
    return [Item(name, path, label) for name, path, label in zip(names, paths, labels, strict=True)]


def _walk(folder: Path, given: str) -> Iterator[Path]:
    """Every file, hidden ones and those in hidden folders aside, links followed; a link whose target is gone as well.

    A folder met twice would count its images twice, and without end where a link leads back to where it came from.
    """

    def refuse(error: OSError) -> None:
        raise BadInput(f"images = {given}: {error.filename}: cannot be read: {error.strerror}")

    met: dict[tuple[int, int], str] = {}
    for parent, folders, found in os.walk(folder, onerror=refuse, followlinks=True):
        state, here = Path(parent).stat(), _printable(Path(parent).relative_to(folder))
        if first := met.get((state.st_dev, state.st_ino)):
            raise BadInput(
                f"images = {given}: a link makes {here} the same folder as {first}; allowed: each image once"
            )
        met[state.st_dev, state.st_ino] = here
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in _NO_CLASS)
        paths = (Path(parent, name) for name in found if not name.startswith("."))
        yield from (
            path for path in paths if _mode(path) == 0 or stat.S_ISREG(_mode(path))
        )  # no pipe, which would block


def _listed(path: Path) -> list[Item]:
    """One path a line, relative to the list; after a tab its class, which all lines have or none."""
    items = []
    try:
        content = path.read_bytes()
        wide = content.startswith((b"\xff\xfe", b"\xfe\xff"))
        lines = content.decode("utf-16" if wide else "utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"images = {path}: cannot be read: {error}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        name, _, label = (part.strip() for part in line.partition("\t"))
        found = path.parent / name
        if not stat.S_ISREG(_mode(found)):
            raise BadInput(f"images = {path}, line {number}: {name}: no such file")
        items.append(Item(name, found, label.replace("_", " ").strip() or label or None))
    if len({item.label is None for item in items}) > 1:
        raise BadInput(f"images = {path}: some lines have a class and some have none; allowed: all or none")
    return items


def _printable(path: Path) -> str:
    """A path as text in one line, bytes that are no UTF-8 and control characters written out."""
    text = os.fsencode(path.as_posix()).decode(errors="backslashreplace")
    return re.sub(r"[\x00-\x1f\x7f\x85\u2028\u2029]", lambda found: ascii(found[0])[1:-1], text)


def _mode(path: Path) -> int:
    """What a path is, in the bits of `stat`; 0 where nothing is, such as the target of a link."""
    try:
        return path.stat().st_mode
    except (OSError, ValueError):
        return 0


def _readable(path: Path) -> bool:
    try:
        with path.open("rb"):
            return True
    except OSError:
        return False


def _digits() -> Path:
    """The digits that the built-in encoder has not been trained on, as image files, written when first needed."""
    folder = cache.folder() / "digits"
    digits.write(folder)
    return folder
