"""Records on disk, keyed by what made them and carrying what they cost."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from filelock import FileLock, Timeout

from harness.measuring import measure
from harness.measuring.measure import Cost, Reading
from harness.stage import BadInput, Params, Records, Stage

_NOTE = b"rigsweep"


def folder() -> Path:
    """Where records are kept: RIGSWEEP_CACHE, else the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    return Path(os.environ.get("RIGSWEEP_CACHE", f"{base}/rigsweep")).expanduser()


def key(
    stage: Stage[Any, Any], infer: Params, inputs: Mapping[str, str], seed: int, surroundings: Mapping[str, str]
) -> str:
    """Digest of all that decides the records of a stage: settings, input contents, seed, code and surroundings."""
    made_of = {
        "stage": stage.name,
        "infer": infer.model_dump(),
        "inputs": dict(inputs),
        "seed": seed,
        "code": code_digest(stage),
        "surroundings": dict(surroundings),
    }
    return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()


def code_digest(stage: Stage[Any, Any], *, scoring: bool = False) -> str:
    """SHA-256 over the sources that make records: the stage's inference, shared models, measurement.

    With `scoring` it covers all that decides a score as well.
    """
    package = Path(inspect.getfile(stage.infer)).parent
    folders = [package / "inference", package.parent / "models", *([package / "scoring"] if scoring else [])]
    sources = [path for folder in folders for path in folder.glob("*.py")]
    sources.append(Path(measure.__file__))
    sources += package.parent.glob("*.py") if scoring else []
    total = hashlib.sha256()
    for path in sorted(sources):
        total.update(path.name.encode() + path.read_bytes())
    return total.hexdigest()


def find(name: str) -> Records | None:
    """The records kept under a key, or None; an unreadable file is as good as none, for it can be made again."""
    path = folder() / f"{name}.parquet"
    try:
        return read(path) if path.is_file() else None
    except BadInput:
        return None


def keep(name: str, records: Records) -> None:
    """Keep records under a key."""
    write(records, folder() / f"{name}.parquet")


def remember(name: str, find: Callable[[], int]) -> int:
    """A number found once on this machine, such as a batch size that fits into its memory."""
    path = folder() / "remembered" / f"{name}.json"
    try:
        return int(json.loads(path.read_bytes()))
    except (OSError, ValueError):
        found = find()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found))
    except OSError as error:
        raise BadInput(f"cache {path}: cannot be written: {error.strerror}") from error
    return found


@contextmanager
def journal(name: str | None, *, fresh: bool) -> Iterator[Journal]:
    """The journal of the records kept under a key, for one process at a time; it outlives a kill, not a success.

    `fresh` drops what an earlier process has left there.  Without a name nothing outlives this process.
    """
    if name is None:
        with tempfile.TemporaryDirectory(prefix="rigsweep-") as scratch:
            yield Journal(Path(scratch))
        return
    place = folder() / f"{name}.journal"
    busy = "these records are being inferred by another run; wait for it, or run with cache=off"
    with lock(place.with_suffix(".lock"), busy):
        if fresh:
            shutil.rmtree(place, ignore_errors=True)
        yield Journal(place)
        shutil.rmtree(place)


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


class Journal:
    """Rows of an inference under way, on disk as they come, so that memory stays bounded and a kill loses one batch."""

    def __init__(self, place: Path) -> None:
        self._place = place
        place.mkdir(parents=True, exist_ok=True)
        parts = sorted(place.glob("*.arrow"))
        self._next = int(parts[-1].stem) + 1 if parts else 0
        self._notes = [note for path in parts if (note := self._note(path))]
        self.done = {unit for note in self._notes for unit in note["done"]}

    def keep(self, frame: pd.DataFrame, done: Sequence[str], counts: Mapping[str, int], reading: Reading) -> None:
        """Keep the rows of some units of work, what was counted on the way, and what they cost."""
        note = {"done": list(done), "counts": dict(counts), "reading": asdict(reading)}
        table = pa.Table.from_pandas(frame, preserve_index=False)
        table = table.replace_schema_metadata({**(table.schema.metadata or {}), _NOTE: json.dumps(note)})
        path = self._place / f"{self._next:08d}.arrow"
        try:
            with pa.OSFile(f"{path}.part", "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
                writer.write_table(table)
            Path(f"{path}.part").rename(path)
        except OSError as error:
            raise BadInput(f"cache {path}: cannot be written: {error}; what came before it is kept") from error
        self._next += 1
        self._notes.append(note)
        self.done.update(done)

    def frame(self) -> pd.DataFrame:
        """All rows kept, in the order in which they came."""
        tables = [pa.ipc.open_file(pa.memory_map(str(path))).read_all() for path in sorted(self._place.glob("*.arrow"))]
        return pa.concat_tables(tables, promote_options="permissive").to_pandas() if tables else pd.DataFrame()

    def counts(self) -> dict[str, int]:
        """Sums of what was counted."""
        total: Counter[str] = Counter()
        for note in self._notes:
            total.update(note["counts"])
        return dict(total)

    def readings(self) -> list[Reading]:
        """What each keep has cost."""
        return [Reading(**note["reading"]) for note in self._notes]

    def _note(self, path: Path) -> Any:
        try:
            return json.loads(pa.ipc.open_file(pa.memory_map(str(path))).schema.metadata[_NOTE])
        except (pa.ArrowException, OSError, KeyError, ValueError):
            path.unlink()  # not a whole part: its units are computed again
            return None


def write(records: Records, path: Path) -> None:
    """Write one parquet file that holds the rows, their cost and their origin; all of it or nothing."""
    frame = records.frame.copy(deep=False)
    frame.attrs = {"cost": asdict(records.cost) if records.cost else None, "origin": records.origin}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".writing-") as scratch:
            frame.to_parquet(Path(scratch) / path.name)
            (Path(scratch) / path.name).replace(path)
    except OSError as error:
        raise BadInput(f"records {path}: cannot be written: {error.strerror}") from error


def read(path: Path) -> Records:
    """Read what `write` wrote; BadInput where it is something else."""
    try:
        frame = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise BadInput(f"records {path}: cannot be read as parquet: {str(error).splitlines()[0]}") from error
    attrs, frame.attrs = frame.attrs, {}
    try:
        cost = Cost(**attrs["cost"]) if attrs.get("cost") else None
    except TypeError as error:
        raise BadInput(f"records {path}: written by another version of rigsweep; infer them again") from error
    return Records(frame, cost, attrs.get("origin", {"counts": {}}))
