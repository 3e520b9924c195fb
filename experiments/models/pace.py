"""How many requests an endpoint can bear at once: found as TCP finds it, by additive increase, multiplicative decrease.

The first request goes alone; from how long it took follows with how many one may go on.  From then on each window of
replies adds one request, and a reply that is late, or a server that says it is busy, halves them (Chiu and Jain 1989).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass(eq=False)
class Pace:
    """What is known of one endpoint in a run; `most` requests at once are allowed, and a reply has `patience` seconds.

    `first` is how long the first reply took, `late` how many were not there in time.
    """

    most: int
    patience: float
    window: float = 1.0
    first: float | None = None
    late: int = 0
    slowest: float = 0.0
    halvings: int = 0
    sent: int = 0
    newest: int = 0  # of those that were answered, the one that was sent last
    quiet_until: float = 0.0
    dead: str = ""  # why nothing more is asked: nothing at all has come for as long as a request may wait
    busy: int = 0
    last: float = 0.0  # when the last reply came
    _waiting: list[asyncio.Future[None]] = field(default_factory=list)

    @property
    def note(self) -> str:
        """What to tell of it beside a bar."""
        if self.first is None:
            return ""
        late = f", {self.late} late" if self.late else ""
        return f"first reply took {self.first:.1f} s, {max(1, int(self.window))} at once{late}"

    @property
    def period(self) -> float:
        """Seconds after which a reply is late: as given, or longer where replies are known to take longer."""
        return max(self.patience, 1.5 * self.slowest)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[Turn]:
        """Wait until one more request may go."""
        while self.busy >= max(1, int(self.window)):
            free = asyncio.get_running_loop().create_future()
            self._waiting.append(free)
            try:
                await free
            except asyncio.CancelledError:
                self._wake()  # somebody else, if it was this one's turn
                raise
            finally:
                if free in self._waiting:
                    self._waiting.remove(free)
        self.busy += 1
        try:
            if (left := self.quiet_until - time.monotonic()) > 0:
                await asyncio.sleep(left)
            self.sent += 1
            yield Turn(self, self.sent, self.halvings, time.monotonic())
        finally:
            self.busy -= 1
            self._wake()

    def _wake(self) -> None:
        """Let as many go on as may."""
        for free in self._waiting[: max(0, max(1, int(self.window)) - self.busy)]:
            self._waiting.remove(free)
            if not free.done():
                free.set_result(None)


@dataclass
class Turn:
    """One request under way: its number, and how often the window had been halved when it was sent."""

    pace: Pace
    number: int
    halvings: int
    began: float

    def answered(self) -> None:
        """A reply has come."""
        pace, seconds = self.pace, time.monotonic() - self.began
        pace.dead, pace.last = "", time.monotonic()
        pace.slowest, pace.newest = max(pace.slowest, seconds), max(pace.newest, self.number)
        if pace.first is None:
            pace.first = seconds
            pace.window = max(1.0, min(pace.most, pace.patience / (2 * max(seconds, 1e-9))))
        elif self.halvings == pace.halvings:  # one that was sent before says nothing of the window since
            pace.window = min(float(pace.most), pace.window + 1 / pace.window)
        pace._wake()

    def leave_alone(self, seconds: float) -> None:
        """The server wants no request for so long."""
        self.pace.quiet_until = max(self.pace.quiet_until, time.monotonic() + seconds)

    def too_much(self) -> None:
        """It is late, or the server is busy: go on with half as many, once for all that are under way."""
        pace = self.pace
        if self.halvings == pace.halvings:
            pace.halvings += 1
            pace.window = max(1.0, pace.window / 2)

    def failed(self) -> None:
        """There was no connection, which says nothing of how many the endpoint bears."""
        if self.pace.first is None:
            self.pace.window = float(self.pace.most)
            self.pace._wake()

    def given_up(self, fault: str) -> None:
        """It was waited for as long as allowed; where nothing else has come meanwhile either, nothing will."""
        if self.pace.newest < self.number and self.began >= self.pace.last:
            self.pace.dead = f"{fault}, and nothing else either"

    def overtaken(self) -> bool:
        """Whether one that was sent later has been answered: then this one may be lost, not only be queued."""
        return self.pace.newest > self.number
