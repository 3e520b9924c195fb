"""Rows of an inference under way, on disk as they come."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from harness.measuring.cost import Reading
from harness.running import cache
from harness.stage import BadInput

_NOTE = b"rigsweep"


@contextmanager
def open_journal(name: str | None, *, fresh: bool) -> Iterator[Journal]:
    """The journal of the records kept under a key, for one process at a time; it outlives a kill, not a success.

    `fresh` drops what an earlier process has left there.  Without a name nothing outlives this process.
    """
    if name is None:
        with tempfile.TemporaryDirectory(prefix="rigsweep-") as scratch:
            yield Journal(Path(scratch))
        return
    place = cache.folder() / f"{name}.journal"
    busy = "these records are being inferred by another run; wait for it, or run with cache=off"
    with cache.lock(place.with_suffix(".lock"), busy):
        if fresh:
            shutil.rmtree(place, ignore_errors=True)
        yield Journal(place)
        shutil.rmtree(place)


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
            note = json.loads(pa.ipc.open_file(pa.memory_map(str(path))).schema.metadata[_NOTE])
            Reading(**note["reading"])
            return note
        except (pa.ArrowException, OSError, KeyError, ValueError, TypeError):
            path.unlink()  # not a whole part, or another version's: its units are computed again
            return None
