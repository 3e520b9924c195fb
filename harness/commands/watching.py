"""The bars that a person sees while a command works: in a terminal drawn in place, elsewhere a line now and then."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

from harness.progress import Work, watched

_PATIENCE = 1.0  # seconds that nobody minds; what takes longer is shown
# Where nothing can be drawn in place: before the first line of some work, and between two of them.
_FIRST_LINE, _NEXT_LINE = 2.0, 30.0
_WIDTH = 100  # columns, where no terminal has any
_LAYOUT = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{per_minute}, {remaining} left{postfix}]"


@contextmanager
def watching() -> Iterator[None]:
    """Show on stderr what takes longer than a second, for as long as it takes."""
    with watched(Display(sys.stderr).look):
        yield


class Display:
    """What is under way, as text: the bars, and of work whose length is not known that which is going on right now."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._in_place = stream.isatty()
        self._patience = _PATIENCE if self._in_place else _FIRST_LINE
        self._lock = threading.Lock()
        self._seen: dict[float, tuple[Work, float]] = {}  # by when it began: as last seen, and when a line was written
        self._drawn = 0

    def look(self, works: Sequence[Work]) -> None:
        """Show the work that has been under way for long enough, and leave a line of a bar that has ended."""
        with self._lock:
            now = time.monotonic()
            long = [work for work in works if now - work.began >= self._patience]
            shown = [work for work in long if work.total is not None or work is long[-1]]
            ended = [work for began, (work, _) in self._seen.items() if began not in {each.began for each in works}]
            if self._in_place:
                self._draw(shown, ended)
            else:
                self._write(shown, ended, now)
            for work in shown:
                work.shown = True
                self._seen[work.began] = work, self._seen.get(work.began, (work, now))[1]
            for work in ended:
                del self._seen[work.began]

    def _draw(self, shown: Sequence[Work], ended: Sequence[Work]) -> None:
        """Write over what was drawn before; what is below stays free for whatever else is printed."""
        if not (shown or self._drawn):
            return
        columns = shutil.get_terminal_size((_WIDTH, 24)).columns - 1
        inside = any(work.total is not None for work in shown)
        left = [] if inside else [work for work in ended if _full(work)]
        lines = [text(work, columns) for work in shown]
        above = "".join(f"{text(work, columns)}\n" for work in left)
        up = f"\x1b[{len(lines) - 1}A" if len(lines) > 1 else ""
        self._stream.write(f"\r\x1b[J{above}" + "\n".join(lines) + up + ("\r" if lines else ""))
        self._stream.flush()
        self._drawn = len(lines)

    def _write(self, shown: Sequence[Work], ended: Sequence[Work], now: float) -> None:
        """A line when work has begun to take long, then seldom, and of a bar one when it has ended."""
        for work in shown:
            last = self._seen.get(work.began, (work, None))[1]
            if last is None or now - last >= _NEXT_LINE:
                self._say(work)
                self._seen[work.began] = work, now
        for work in ended:
            if _full(work):
                self._say(work)

    def _say(self, work: Work) -> None:
        self._stream.write(f"{text(work, _WIDTH)}\n")
        self._stream.flush()


def _full(work: Work) -> bool:
    return work.total is not None and work.done >= work.total


def text(work: Work, columns: int) -> str:
    """One line: a bar that counts by the minute, as speed is reported; where there is no length, the time."""
    from tqdm import tqdm

    elapsed = time.monotonic() - work.began
    if work.total is None:
        return f"{work.what} … {tqdm.format_interval(elapsed)}"[:columns]
    by_now = work.done - work.initial
    shown: dict[str, Any] = {"per_minute": f"{60 * by_now / elapsed:.0f} {work.unit}/min"}
    shown |= {"postfix": work.note, "initial": work.initial, "unit": work.unit}
    return str(
        tqdm.format_meter(work.done, work.total, elapsed, ncols=columns, prefix=work.what, bar_format=_LAYOUT, **shown)
    )
