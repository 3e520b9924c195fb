"""The bars that a person sees while a command works: in a terminal drawn in place, elsewhere a line now and then."""

from __future__ import annotations

import math
import shutil
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

from harness.progress import Work, watched

_PATIENCE = 1.0  # seconds that nobody minds; after them is shown what goes on, be it that it has begun just now
# Where nothing can be drawn in place: how long some work goes on before its first line, and between two of them.
_FIRST_LINE, _NEXT_LINE = 2.0, 30.0
_WIDTH = 100  # columns, where no terminal has any
_LAYOUT = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}, {per_minute}, {remaining} left{postfix}]"


@contextmanager
def watching() -> Iterator[None]:
    """Show on stderr what takes longer than a second, for as long as it takes."""
    show = InPlace(sys.stderr) if sys.stderr.isatty() else Lines(sys.stderr)
    with watched(show.look):
        yield


class InPlace:
    """The bars, and of work whose length is not known what goes on right now, drawn over what was drawn before."""

    def __init__(self, terminal: TextIO) -> None:
        self._terminal = terminal
        self._lock = threading.Lock()
        self._shown: list[Work] = []
        self._last = time.monotonic()  # when anything was to be seen

    def look(self, works: Sequence[Work]) -> None:
        """Draw what is under way; a bar that has ended stays above, unless it was within another."""
        with self._lock:
            now = time.monotonic()
            shown = telling(works, now, _PATIENCE)
            if not shown and (self._shown or now - self._last >= _PATIENCE):
                shown = list(works[-1:])  # one short piece of work after the other is silence as well
            if not (shown or self._shown):
                return
            within = any(work.total is not None for work in shown)
            left = [] if within else [work for work in ended(self._shown, works) if full(work)]
            columns = shutil.get_terminal_size((_WIDTH, 24)).columns - 1
            lines = [text(work, columns) for work in [*left, *shown]]
            up = f"\x1b[{len(shown) - 1}A" if len(shown) > 1 else ""
            self._terminal.write("\r\x1b[J" + "\n".join(lines) + ("\n" if left and not shown else f"{up}\r"))
            self._terminal.flush()
            self._shown, self._last = mark(shown), now


class Lines:
    """A line when work has begun to take long, seldom ones while it goes on, and one when a bar is full."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._shown: list[Work] = []
        self._written: dict[float, float] = {}  # when a line was, by when its work began

    def look(self, works: Sequence[Work]) -> None:
        """Write what is due."""
        with self._lock:
            now = time.monotonic()
            shown = telling(works, now, _FIRST_LINE)
            due = [work for work in shown if now - self._written.get(work.began, -math.inf) >= _NEXT_LINE]
            for work in [*filter(full, ended(self._shown, works)), *due]:
                self._stream.write(f"{text(work, _WIDTH)}\n")
                self._stream.flush()
            self._written |= dict.fromkeys((work.began for work in due), now)
            self._shown = mark(shown)


def telling(works: Sequence[Work], now: float, patience: float) -> list[Work]:
    """Of work that takes long the bars, and the innermost."""
    long = [work for work in works if now - work.began >= patience]
    return [work for work in long if work.total is not None or work is long[-1]]


def ended(before: Sequence[Work], works: Sequence[Work]) -> list[Work]:
    """What was under way before; of another process there are new copies at each look."""
    still = {work.began for work in works}
    return [work for work in before if work.began not in still]


def mark(works: list[Work]) -> list[Work]:
    """The same, which will say when they end."""
    for work in works:
        work.shown = True
    return works


def full(work: Work) -> bool:
    """Whether a bar is at its end."""
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
