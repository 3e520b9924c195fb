"""Images: which there are, and what is in them, whatever their format."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image, ImageFilter

from experiments.models import digits, files
from experiments.montecarlo.inference.params import BUILT_IN, BUILT_IN_TOLD
from harness.running import cache
from harness.stage import BadInput

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})
_ALLOWED = (
    f"{BUILT_IN_TOLD}, a folder of images, a folder with one folder a class, a .txt with a path a line (and a tab and a"
    " class)"
)
_BLUR = 0.05  # of the shorter side: the blur's standard deviation
_DOWNSAMPLE = 8
_THUMBNAIL = 64  # pixels of its longer side

T = TypeVar("T")


@dataclass(frozen=True)
class Item:
    """One image file; `name` is its path within what was given, and what its masks depend on."""

    name: str
    path: Path
    label: str | None = None


def find(given: str, keep: int | None = None) -> list[Item]:
    """The images of a folder, a tree of one folder a class, a list (in its order) or a built-in set."""
    if given in BUILT_IN:
        items = evenly(_in_folder(_digits()), BUILT_IN[given])
    elif (path := Path(given).expanduser()).is_file() and path.suffix == ".txt":
        items = _listed(path)
    elif path.is_dir():
        items = _in_folder(path)
    else:
        raise BadInput(f"images = {given}: no such folder or .txt file; allowed: {_ALLOWED}")
    if not items:
        raise BadInput(f"images = {given}: there is no image ({', '.join(sorted(SUFFIXES))}); allowed: {_ALLOWED}")
    return items if keep is None else evenly(items, keep)


def evenly(items: list[T], count: int) -> list[T]:
    """So many of the items, spread over all; all, where there are no more."""
    if count >= len(items):
        return items
    return [items[i] for i in np.linspace(0, len(items) - 1, count).round().astype(int)] if count else []


def digest(items: list[Item]) -> str:
    """SHA-256 over names, classes and contents."""
    return files.digest((f"{item.name}\t{item.label}", item.path) for item in items)


def classes(items: list[Item]) -> list[str]:
    """The classes that occur, sorted."""
    return sorted({item.label for item in items if item.label is not None})


def _in_folder(folder: Path) -> list[Item]:
    """Images in folders of their own have the folder's name for a class, unless others lie beside the folders."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    names = [path.relative_to(folder).as_posix() for path in paths]
    tree = all("/" in name for name in names)
    labels = [name.partition("/")[0].replace("_", " ") if tree else None for name in names]
    return [Item(name, path, label) for name, path, label in zip(names, paths, labels, strict=True)]


def _listed(path: Path) -> list[Item]:
    """One path a line, relative to the list; after a tab its class, which all lines have or none."""
    items = []
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"images = {path}: cannot be read: {error}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        name, _, label = (part.strip() for part in line.partition("\t"))
        found = path.parent / name
        if not found.is_file():
            raise BadInput(f"images = {path}, line {number}: {name}: no such file")
        items.append(Item(name, found, label or None))
    if len({item.label is None for item in items}) > 1:
        raise BadInput(f"images = {path}: some lines have a class and some have none; allowed: all or none")
    names = [item.name for item in items]
    if twice := next((name for name in names if names.count(name) > 1), None) if len(set(names)) < len(names) else None:
        raise BadInput(f"images = {path}: {twice} stands there twice; allowed: each image once")
    return items


def _digits() -> Path:
    """The digits that the built-in encoder has not been trained on, as image files, written when first needed."""
    folder = cache.folder() / "digits"
    digits.write(folder)
    return folder


# --- what is in them -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Decoded:
    """An image as RGB with what had to be done to it: `animated`, `sixteen_bit`."""

    image: Image.Image
    notes: tuple[str, ...]

    @property
    def thumbnail(self) -> bytes:
        """A small JPEG to look at."""
        small, stream = self.image.copy(), io.BytesIO()
        small.thumbnail((_THUMBNAIL, _THUMBNAIL))
        small.save(stream, "JPEG", quality=85)
        return stream.getvalue()


def decode(path: Path) -> Decoded:
    """Read one file: the first frame, three channels of eight bits; raises whatever Pillow does."""
    notes = []
    with Image.open(path) as opened:
        if getattr(opened, "n_frames", 1) > 1:
            notes.append("animated")
        opened.load()
        image: Image.Image = opened
        if opened.mode.startswith("I") or opened.mode == "F":
            notes.append("sixteen_bit")
            image = _upper_eight_bits(opened)
        return Decoded(image.convert("RGB"), tuple(notes))


def _upper_eight_bits(image: Image.Image) -> Image.Image:
    """Pillow would clip greys of 16 bits at 255 instead of scaling them."""
    values: Any = np.asarray(image, dtype=np.float64)
    peak = values.max(initial=0)
    if image.mode.startswith("I;16") or peak > 255:
        values = values / 256
    elif image.mode == "F" and peak <= 1:
        values = values * 255
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))


def blurred(image: Image.Image) -> Image.Image:
    """Gaussian blur in proportion to the image's size."""
    return image.filter(ImageFilter.GaussianBlur(_BLUR * min(image.size)))


def downsampled(image: Image.Image) -> Image.Image:
    """An eighth of the width and height, and back."""
    small = (max(1, image.width // _DOWNSAMPLE), max(1, image.height // _DOWNSAMPLE))
    return image.resize(small, Image.Resampling.BOX).resize(image.size, Image.Resampling.BICUBIC)
