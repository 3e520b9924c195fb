"""What the program is at and how far it has come, for whoever watches.

As with logging, code says what it does wherever that may take long, and a command decides whether anyone sees it: in a
worker process nobody does, and saying it takes a few microseconds.  It is told in one direction only; nothing that is
computed depends on it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

T = TypeVar("T")
SECONDS = 0.5  # between two looks


@dataclass(eq=False)
class Work:
    """Something under way: how many of `total` units (None: its length is not known) are done, `initial` before it.

    `began` is of the clock `time.monotonic`, which the processes of a machine have in common.  Whoever has `shown` it
    is told at once when it ends.
    """

    what: str
    total: int | None = None
    unit: str = "samples"
    initial: int = 0
    done: int = 0
    note: str = ""
    shown: bool = False
    began: float = field(default_factory=time.monotonic)

    def advance(self, count: int, note: str = "", *, found: int = 0) -> None:
        """Say that so many more are done, some of which were only `found` done, which is no speed of this work.

        The note is shown beside the bar.
        """
        self.done += count
        self.initial += found
        self.note = note


_open: list[Work] = []  # in the order in which they were begun
_elsewhere: dict[int, list[Work]] = {}  # what processes say that work for this one, by which of them it is
_look: Callable[[list[Work]], object] | None = None


@contextmanager
def working(
    what: str, total: int | None = None, unit: str = "samples", initial: int = 0
) -> Iterator[Callable[..., None]]:
    """Say what is done meanwhile; the function given says how many more `unit`s of `total` are."""
    work = Work(what, total, unit, initial, initial)
    _open.append(work)
    try:
        yield work.advance
    finally:
        if _look and work.shown:
            _look(under_way())  # how far it has come
        _open.remove(work)
        if _look and work.shown:
            _look(under_way())


def counted(items: Iterable[T], what: str, unit: str, total: int | None = None) -> Iterator[T]:
    """The items, counted as they are dealt with."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    with working(what, total, unit) as advance:
        for item in items:
            yield item
            advance(1)


def under_way() -> list[Work]:
    """All work that is open, here first, the innermost last."""
    return [*_open, *(work for works in [*_elsewhere.values()] for work in works)]


@contextmanager
def watched(look: Callable[[list[Work]], object]) -> Iterator[None]:
    """Have `look` see what is under way every half second, and at once when something ends that it has shown."""
    global _look
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(SECONDS):
            look(under_way())

    thread = threading.Thread(target=watch, daemon=True)
    _look = look
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        _look = None
        look([])


@contextmanager
def heard() -> Iterator[Connection]:
    """What is under way in another process that is given this connection and calls `tell` is under way here as well."""
    from multiprocessing import Pipe

    receiver, sender = Pipe(duplex=False)
    key, stop = id(receiver), threading.Event()

    def hear() -> None:
        with suppress(EOFError, OSError):  # the process has ended
            while not stop.is_set():  # not only then: a process of its own may have the other end as well
                if receiver.poll(SECONDS / 5):
                    _elsewhere[key] = receiver.recv()

    thread = threading.Thread(target=hear, daemon=True)
    thread.start()
    try:
        yield sender
    finally:
        stop.set()
        sender.close()
        thread.join()
        receiver.close()
        _elsewhere.pop(key, None)


def tell(sender: Connection) -> None:
    """Tell the process that has started this one, from now on, what is under way here."""

    def keep_telling() -> None:
        with suppress(OSError):  # nobody hears any more
            while True:
                sender.send(under_way())
                time.sleep(SECONDS)

    threading.Thread(target=keep_telling, daemon=True).start()
