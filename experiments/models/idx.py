"""Images and labels as MNIST and its likes keep them: IDX files, gzipped or not, found by their standard names."""

from __future__ import annotations

import gzip
import re
import struct
import zlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from harness.stage import BadInput

_NAME = re.compile(r"(?P<part>.*?)[-_.]?images[-.]idx3[-.]ubyte(\.gz)?")
_IMAGES, _LABELS = 0x0803, 0x0801  # unsigned bytes of three dimensions, and of one
_MOST_BYTES = 2**30
_MOST_SIDE = 4096


def found(path: Path) -> list[Path]:
    """The files of images that a path is or that lie in it, sorted; none where there are none by their names."""
    among = sorted(path.iterdir()) if path.is_dir() else [path]
    files = [each for each in among if _NAME.fullmatch(each.name) and each.is_file()]
    plain = {each.name.removesuffix(".gz"): each for each in reversed(files)}  # of both, the one unpacked already
    return sorted(plain.values())


def part(path: Path) -> str:
    """Which part of a data set a file of images is by its name: train, t10k."""
    match = _NAME.fullmatch(path.name)
    return (match and match["part"]) or "images"


def images(path: Path) -> NDArray[np.uint8]:
    """Images (n, height, width), read once; BadInput where the file is not what its header says."""
    state = path.stat()
    return _images(path, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=2)
def _images(path: Path, *_state: int) -> NDArray[np.uint8]:
    count, height, width = (content := _Content(path, _IMAGES, 3)).shape
    if not 1 <= min(height, width) <= max(height, width) <= _MOST_SIDE:
        raise BadInput(f"images = {path}: its header says {height} x {width} pixels; allowed: 1 to {_MOST_SIDE} a side")
    return content.values.reshape(count, height, width)


def labels(path: Path) -> NDArray[np.uint8] | None:
    """The labels (n,) of a file of images, or None where there is no such file beside it."""
    name = path.name.replace("images", "labels").replace("idx3", "idx1").removesuffix(".gz")
    beside = [path.with_name(each) for each in (name, f"{name}.gz")]
    there = next((each for each in beside if each.is_file()), None)
    if there is None:
        return None
    values = _Content(there, _LABELS, 1).values
    if len(values) != len(images(path)):
        raise BadInput(f"images = {path}: holds {len(images(path))} images, and {there.name} {len(values)} labels")
    return values


class Readable(Protocol):
    """What bytes are read from."""

    def read(self, size: int, /) -> bytes:
        """So many bytes, or those there are."""
        ...


class _Content:
    """What an IDX file holds, of a size that its header says and that is bounded before it is read."""

    shape: Sequence[int]
    values: NDArray[np.uint8]

    def __init__(self, path: Path, magic: int, dimensions: int) -> None:
        try:
            with path.open("rb") as raw:
                packed = raw.read(2) == b"\x1f\x8b"
                raw.seek(0)
                with gzip.open(raw) if packed else raw as stream:
                    self._read(path, stream, magic, dimensions)
        except (OSError, EOFError, zlib.error) as error:
            raise BadInput(f"images = {path}: cannot be read: {error}") from error

    def _read(self, path: Path, stream: Readable, magic: int, dimensions: int) -> None:
        header = stream.read(4 * (1 + dimensions))
        if len(header) < 4 * (1 + dimensions) or struct.unpack(">I", header[:4])[0] != magic:
            raise BadInput(f"images = {path}: no IDX file of bytes in {dimensions} dimensions (0x{magic:08x} at first)")
        self.shape = struct.unpack(f">{dimensions}I", header[4:])
        size = int(np.prod([int(each) for each in self.shape], dtype=object))
        told = " x ".join(map(str, self.shape))
        if size > _MOST_BYTES:
            raise BadInput(f"images = {path}: its header says {told} bytes; at most {_MOST_BYTES:,} are read")
        content = stream.read(size + 1)
        if len(content) != size:
            more = "more" if len(content) > size else f"only {len(content)}"
            raise BadInput(f"images = {path}: its header says {told} bytes, and there are {more}")
        self.values = np.frombuffer(content, np.uint8)
