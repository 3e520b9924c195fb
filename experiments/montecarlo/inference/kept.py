"""Decoded images kept on this machine, so that a sweep over encoders, in whatever processes, decodes each once."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import PIL
from filelock import FileLock, Timeout
from PIL import Image, features

from experiments.montecarlo.inference import decoding, images
from experiments.montecarlo.inference.decoding import Decoded
from experiments.montecarlo.inference.images import Item
from harness.running import cache

_MOST_BYTES = 4 * 2**30  # of one data set, and of all together
_FREE = 0.1  # of the disk's free space, what a data set may take
_PIXELS, _INDEX = "pixels", "index.json"
_NAME = 64  # characters of a data set's key
_CODECS = ("jpg", "jpg_2000", "zlib", "libtiff", "webp", "avif", "libjpeg_turbo", "zlib_ng")


@dataclass(frozen=True)
class Opened:
    """What an image file comes to: RGB, a thumbnail and notes."""

    image: Image.Image
    thumbnail: bytes
    notes: tuple[str, ...]

    @classmethod
    def of(cls, decoded: Decoded) -> Opened:
        """Decode a thumbnail's worth as well."""
        return cls(decoded.image, decoded.thumbnail, decoded.notes)


class Kept:
    """The images of a data set that an earlier run has decoded, by name; those that did not fit are not there."""

    def __init__(self, folder: Path) -> None:
        self._index: Mapping[str, Any] = json.loads((folder / _INDEX).read_bytes())
        self._file = folder / _PIXELS
        if self._file.stat().st_size != sum(h * w * 3 + small for _, h, w, small, _ in self._index.values()):
            raise ValueError(f"{folder}: cut off")

    def get(self, item: Item) -> Opened | None:
        """The image as it was decoded, bit for bit."""
        if (entry := self._index.get(item.name)) is None:
            return None
        start, height, width, small, notes = entry
        with self._file.open("rb") as stream:  # not mapped, for that would count as the process's memory
            stream.seek(start)
            pixels, thumbnail = stream.read(height * width * 3), stream.read(small)
        return Opened(Image.frombytes("RGB", (width, height), pixels), thumbnail, tuple(notes))


class Keeping:
    """A data set on its way into the cache, as much of it as there is room for; it is there when all is."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._index = folder, dict[str, Any]()
        _clean(folder)
        self._room = min(_MOST_BYTES, _FREE * shutil.disk_usage(folder.parent).free)
        self._partial = folder.with_name(f".{folder.name}")
        self._partial.mkdir()
        self._stream = (self._partial / _PIXELS).open("wb", buffering=0)
        self._start = 0

    def add(self, item: Item, opened: Opened) -> None:
        """Keep one image, where there is room."""
        content = opened.image.tobytes() + opened.thumbnail
        if self._start + len(content) > self._room:
            return
        try:
            self._stream.write(content)
        except OSError:  # the disk is full, and what has been kept stays
            self._room = 0
            self._stream.truncate(self._start)
            return
        width, height = opened.image.size
        self._index[item.name] = (self._start, height, width, len(opened.thumbnail), opened.notes)
        self._start += len(content)

    def finish(self) -> None:
        """Put it in its place, and let go of what was kept longest ago where all is more than may be."""
        (self._partial / _INDEX).write_text(json.dumps(self._index))
        self._partial.replace(self._folder)
        total = 0
        kept = [(path.stat().st_mtime, path) for path in self._folder.parent.iterdir() if len(path.name) == _NAME]
        for _, path in sorted(kept, reverse=True):
            total += sum(each.stat().st_size for each in path.iterdir())
            if total > _MOST_BYTES:
                shutil.rmtree(path, ignore_errors=True)

    def close(self) -> None:
        """Leave nothing half done behind."""
        self._stream.close()
        shutil.rmtree(self._partial, ignore_errors=True)


@contextmanager
def found(items: Sequence[Item]) -> Iterator[Kept | Keeping | None]:
    """What is kept of these images by their content, or else where to keep them; None where a cache cannot be written.

    Who comes while another decodes the same waits for that.
    """
    folder = cache.folder() / "decoded" / _key(items)
    with ExitStack() as stack:
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context(FileLock(folder.with_suffix(".lock")))
            before = _kept(folder)
            keeping = None if before else stack.enter_context(closing(Keeping(folder)))
        except OSError:
            yield None
            return
        if keeping is None:
            lock.release()
            yield before
            return
        yield keeping
        with suppress(OSError):  # another run decodes it again
            keeping.finish()


def _kept(folder: Path) -> Kept | None:
    try:
        return Kept(folder)
    except (OSError, ValueError):  # not there, or damaged
        shutil.rmtree(folder, ignore_errors=True)
        return None


def _clean(folder: Path) -> None:
    """Remove what killed runs have left half done: a partial folder whose lock nobody holds, and this one's own."""
    for partial in folder.parent.glob("." + "?" * _NAME):
        with ExitStack() as stack:
            if (name := partial.name.removeprefix(".")) != folder.name:
                try:
                    stack.enter_context(FileLock(folder.with_name(f"{name}.lock"), timeout=0))
                except Timeout:
                    continue
            shutil.rmtree(partial, ignore_errors=True)


def _key(items: Sequence[Item]) -> str:
    """Digest of contents and of what decodes them."""
    codecs = [PIL.__version__, str(decoding.HEIF), *(str(features.version(name)) for name in _CODECS)]
    made_of = [images.digest(list(items)), Path(decoding.__file__).read_text(), *codecs]
    return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()
