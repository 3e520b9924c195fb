"""Records on this machine, keyed by what made them."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from zipfile import BadZipFile

from filelock import FileLock, Timeout

from harness.running import code
from harness.running.records import read_records, write_records
from harness.stage import BadInput, Late, Params, Records, Stage

if TYPE_CHECKING:
    from numpy.typing import NDArray

T = TypeVar("T")
_MOST_BYTES = 4 * 2**30  # of all arrays of one kind


def folder() -> Path:
    """Where records are kept: RIGSWEEP_CACHE, else the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    return Path(os.environ.get("RIGSWEEP_CACHE", f"{base}/rigsweep")).expanduser()


def key(
    stage: Stage[Any, Any], infer: Params, inputs: Mapping[str, str], seed: int, surroundings: Mapping[str, str]
) -> str:
    """Digest of all that decides the records of a stage: settings, input contents, seed, code and surroundings.

    What the stage gives its inference by keyword, such as detectors to read with, counts as well.
    """
    made_of = {
        "stage": stage.name,
        "infer": infer.canonical(),
        "inputs": dict(inputs),
        "seed": seed,
        "code": code.digest(f"{stage.package}.inference"),
        "given": _given(stage),
        "surroundings": dict(surroundings),
    }
    return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()


def _given(stage: Stage[Any, Any]) -> dict[str, Any]:
    """What the stage gives its inference by keyword, as plain values; TypeError for what has none."""
    given: dict[str, Mapping[str, Any]] = getattr(stage.infer, "keywords", {})
    for keyword, functions in given.items():
        if not isinstance(functions, Mapping) or not all(isinstance(late, Late) for late in functions.values()):
            raise TypeError(f"{stage.name}: infer: {keyword} must be a mapping of names to functions that are Late")
    return {keyword: {name: vars(late) for name, late in functions.items()} for keyword, functions in given.items()}


def find(name: str) -> Records | None:
    """The records kept under a key, or None; a file that is unreadable, or another version's, can be made again."""
    path = folder() / f"{name}.parquet"
    try:
        records = read_records(path) if path.is_file() else None
    except BadInput:
        return None
    return records if records and records.cost else None


def keep(name: str, records: Records) -> None:
    """Keep records under a key."""
    write_records(records, folder() / f"{name}.parquet")


def remember(name: str, measure: Callable[[], int]) -> int:
    """A number found once on this machine, such as a batch size that fits into its memory."""
    path = folder() / "remembered" / f"{name}.json"
    try:
        return int(json.loads(path.read_bytes()))
    except (OSError, ValueError):
        number = measure()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(number))
    except OSError as error:
        raise BadInput(f"cache {path}: cannot be written: {error.strerror}") from error
    return number


@contextmanager
def lock(path: Path, busy: str) -> Iterator[None]:
    """Hold a lock that dies with this process; BadInput says `busy` when another one holds it."""
    held = FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        held.acquire(timeout=0)
    except Timeout:
        raise BadInput(busy) from None
    except OSError as error:
        raise BadInput(f"{path.parent}: cannot be written: {error.strerror}") from error
    try:
        yield
    finally:
        held.release()


def arrays(
    kind: str,
    content: str,
    modules: Sequence[str],
    make: Callable[[], Mapping[str, NDArray[Any]]],
    read: Callable[[Mapping[str, NDArray[Any]]], T],
    damaged: list[str],
) -> T:
    """What `read` makes of some arrays, kept by their kind, the content they are of, and the code that makes them.

    The code is that of `modules` and all that they import, libraries included by version.  A file that is damaged, or
    of which `read` raises ValueError or KeyError, is made again, and its path told in `damaged`.  Nothing is kept where
    the cache cannot be written to, and what was used longest ago is let go.
    """
    import numpy as np

    made_of = [content, code.digest(*modules), code.libraries(*modules), sys.version]
    path = folder() / kind / f"{hashlib.sha256(json.dumps(made_of).encode()).hexdigest()}.npz"
    if path.is_file():
        try:
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as kept:
                found = read({name: kept[name] for name in kept.files})
            os.utime(path)
        except (OSError, ValueError, KeyError, EOFError, BadZipFile):
            damaged.append(str(path))
        else:
            return found
    made = make()
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".writing-") as scratch:
            np.savez(Path(scratch) / path.name, allow_pickle=False, **made)
            (Path(scratch) / path.name).replace(path)
        _let_go(path.parent)
    return read(made)


def _let_go(place: Path) -> None:
    """Remove what was used longest ago where all files of a folder are more than may be."""
    total = 0
    for path in sorted(place.glob("*.npz"), key=lambda path: path.stat().st_mtime, reverse=True):
        total += path.stat().st_size
        if total > _MOST_BYTES:
            path.unlink(missing_ok=True)
