"""A trace of what torch does, for a viewer."""

from __future__ import annotations

import gzip
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TRACED = 8  # batches that a profile covers: more make a file that no viewer opens


class Profiler:
    """torch's profiler around the first batches."""

    def __init__(self) -> None:
        from torch.profiler import profile

        self._profile = profile()
        self._batches = 0
        self._trace: bytes | None = None

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Trace a batch, if it is one of the first."""
        if self._batches == 0:
            self._profile.start()
        yield
        self._batches += 1
        if self._batches == TRACED:
            self._profile.stop()

    def trace(self) -> bytes | None:
        """The trace as gzipped JSON; None where there was no batch."""
        if self._batches == 0 or self._trace:
            return self._trace
        if self._batches < TRACED:
            self._profile.stop()
        self._batches = TRACED
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "trace.json"
            self._profile.export_chrome_trace(str(file))
            self._trace = gzip.compress(file.read_bytes())
        return self._trace
