"""Where trials are evaluated.  An engine has one function, `submit`, and whoever calls it writes nothing elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any, Protocol, TypeVar

from harness.progress import heard, tell
from harness.running.work import die_with_parent

T = TypeVar("T")


class Engine(Protocol):
    """Runs functions, here or elsewhere."""

    def submit(self, function: Callable[..., T], *arguments: Any) -> Future[T]:
        """Start `function`; its result, or what it raised, is in the future."""


class InProcess:
    """Evaluates at once, in this process: the fastest where scoring takes milliseconds."""

    def submit(self, function: Callable[..., T], *arguments: Any) -> Future[T]:
        """Call `function`, and wait for it."""
        future: Future[T] = Future()
        try:
            future.set_result(function(*arguments))
        except Exception as error:  # an interruption is not the trial's, and passes
            future.set_exception(error)
        return future


def in_fresh_process(function: Callable[..., T], *arguments: Any) -> T:
    """Call `function` where nothing was loaded before, so that its memory is its own, and may run out harmlessly.

    How far it has come is seen in this process, which alone draws.
    """
    with (
        heard() as teller,
        ProcessPoolExecutor(1, get_context("spawn"), initializer=_begin, initargs=(teller,)) as pool,
    ):
        return pool.submit(function, *arguments).result()


def _begin(teller: Connection) -> None:
    die_with_parent()
    tell(teller)
