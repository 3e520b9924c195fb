"""Records on this machine, keyed by what made them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from harness.running import code
from harness.running.records import read_records, write_records
from harness.stage import BadInput, Late, Params, Records, Stage


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
