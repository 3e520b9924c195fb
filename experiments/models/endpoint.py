"""Any OpenAI-compatible endpoint: as many requests at once as it bears, never asked the same thing twice.

The API key comes from the environment (RIGSWEEP_API_KEY, else OPENAI_API_KEY) and goes into one header of a request;
it is cut out of whatever an endpoint says in return.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
from collections.abc import Sequence, Set
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import httpx2

from experiments.models import address as addresses
from experiments.models import manners, replies
from experiments.models.keys import api_key, masked, told
from experiments.models.pace import Pace, Turn
from experiments.models.replies import Reply, Unsound
from experiments.models.thinking import Said
from harness.progress import working
from harness.running import cache
from harness.stage import BadInput

if TYPE_CHECKING:
    from openai import AsyncOpenAI

_PASSING = frozenset({408, 409, 425, 429})  # and all from 500: worth another attempt
_BUSY = frozenset({429, 503, 529})
_PAUSE = 0.5  # seconds before the second attempt; doubled before each further one
_LONGEST_PAUSE = 60.0
_LARGEST = 16 * 2**20  # bytes of a reply


class Failed(Exception):
    """An endpoint did not serve a request; the text is one line that holds no key."""


class _Lasting(httpx2.TransportError):
    """What no further attempt would mend."""


class _Late(httpx2.TransportError):
    """There is no reply yet, and there was no more time to wait for it."""


def reason(error: BaseException) -> str:
    """What went wrong at the bottom of it, on one line, without the key: `Connection error.` alone says nothing."""
    below: BaseException | None = error
    while below is not None and not isinstance(below, httpx2.TransportError):
        below = below.__cause__ or below.__context__
    return told(below or error)


@dataclass
class Tally:
    """What was asked in a run, by name, and how many replies were there before it: they cost it nothing.

    `unlike` counts replies to requests that had to be put otherwise, by what the endpoint has refused; `paces` are of
    the endpoints, `refused` what each of their models refuses.
    """

    asked: set[str] = field(default_factory=set)
    kept_before: int = 0
    unlike: dict[str, int] = field(default_factory=dict)
    paces: dict[str, Pace] = field(default_factory=dict)
    refused: dict[tuple[str, str], set[str]] = field(default_factory=dict)

    def counts(self) -> dict[str, int]:
        """How many replies were there before, were late, and answer without a temperature of 0 or by another limit."""
        return {
            "replies_kept_before": self.kept_before,
            "replies_late": sum(pace.late for pace in self.paces.values()),
            "without_temperature": self.unlike.get("temperature", 0),
            "max_tokens_renamed": self.unlike.get("max_tokens", 0),
        }

    @property
    def note(self) -> str:
        """What to tell of the endpoints beside a bar."""
        return "; ".join(filter(None, (pace.note for pace in self.paces.values())))


def client(
    address: str, *, in_flight: int, request_timeout: float, retries: int, tally: Tally | None = None
) -> AsyncOpenAI:
    """A client of the endpoint for one event loop; every retry and the bound on requests are the transport's."""
    from openai import AsyncOpenAI

    for name in ("instructor", "openai", "httpx2"):  # they print failed requests with what came back, key or not
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        address = addresses.require(address)
    except ValueError as error:
        raise BadInput(f"endpoint {addresses.without_secrets(address)}: must be {error}") from None
    tally = tally or Tally()
    pace = tally.paces.setdefault(address, Pace(in_flight, request_timeout))
    wire = httpx2.AsyncHTTPTransport(limits=httpx2.Limits(max_connections=None))
    return AsyncOpenAI(
        base_url=address,
        api_key=api_key(),
        max_retries=0,
        http_client=httpx2.AsyncClient(transport=Transport(wire, address, pace, retries, tally), timeout=None),
    )


class _Answer(NamedTuple):
    """What a server has sent."""

    status: int
    headers: httpx2.Headers
    body: bytes


class Transport(httpx2.AsyncBaseTransport):
    """Keeps every sound reply on disk by address and question, and asks again only for what is not there.

    What is late is waited for: a server that computes one answer after the other would lose with a request what it has
    computed, and begin anew.  It is asked a second time beside that where a later one was answered before it.
    """

    def __init__(self, wire: httpx2.AsyncBaseTransport, address: str, pace: Pace, retries: int, tally: Tally) -> None:
        self._wire, self._address, self._pace, self._retries, self._tally = wire, address, pace, retries, tally
        pace.dead = ""  # by now it may answer
        self._folder = cache.folder() / "replies"
        self._under_way: dict[str, asyncio.Task[tuple[int, bytes]]] = {}

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """The kept reply, or the endpoint's; a request refused for good comes back as the endpoint answered it."""
        content = await request.aread()
        name = _name(request, content)
        if name not in self._under_way:
            task = asyncio.create_task(self._ask(request, content))
            self._under_way[name] = task
            task.add_done_callback(lambda task: task.cancelled() or task.exception())  # nobody may wait for it any more
            task.add_done_callback(lambda _: self._under_way.pop(name))
        status, body = await asyncio.shield(self._under_way[name])  # for whoever else waits for the same
        return httpx2.Response(status, headers={"content-type": "application/json"}, content=body)

    async def _ask(self, request: httpx2.Request, content: bytes) -> tuple[int, bytes]:
        """Status and body of the reply to a request, put as the endpoint takes it."""
        model = str(json.loads(content).get("model"))
        refused = self._tally.refused.setdefault((self._address, model), set())
        for known in (refused, set(), *manners.ways(content)):  # however it had to be put when it was asked
            if (reply := self._find(_name(request, manners.put(content, known)), content)) is not None:
                return 200, self._counted(reply, known)
        pause = _PAUSE
        spent = 0  # of the attempts: those that failed, and those in whose time nothing has come
        while True:
            fault = ""
            async with self._pace.turn() as turn:
                sent = manners.put(content, refused)  # as is known by now
                name = _name(request, sent)
                if (found := self._find(name, content)) is not None:  # another process has asked meanwhile
                    return 200, self._counted(found, refused)
                if self._pace.dead:
                    raise _Lasting(self._pace.dead)
                self._tally.asked.add(name)
                try:
                    with (
                        working(f"wait for a first reply of {self._address}")
                        if self._pace.first is None
                        else nullcontext()
                    ):
                        answer, spent = await self._answer(request, sent, turn, spent)
                    if answer.status < 300:
                        turn.answered()
                        reply = self._sound(answer, content)
                        _keep(self._folder / f"{name}.json", masked(json.dumps(json.loads(answer.body))).encode())
                        return 200, self._counted(reply, refused)
                    if answer.status in _BUSY:
                        turn.too_much()
                    if answer.status not in _PASSING and answer.status < 500:
                        more = refused | manners.refused(answer.body, sent)
                        if manners.put(content, more) != sent:
                            refused |= more
                            continue
                        return self._refusal(answer)
                    fault = str(answer.status)
                    turn.leave_alone(min(_retry_after(answer), _LONGEST_PAUSE))
                except _Late as late:
                    turn.given_up(str(late))
                    raise
                except _Lasting:
                    raise
                except Unsound as unsound:
                    fault = str(unsound)
                except httpx2.TransportError as error:
                    fault = f"{type(error).__name__}: {reason(error)}"
                    turn.failed()
            spent += 1
            if spent > self._retries:
                raise httpx2.TransportError(f"{fault} at attempt {spent} of {self._retries + 1}")
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _waiting(self) -> AbstractContextManager[object]:
        """Say that the first reply is waited for, which may take long."""
        where = addresses.without_secrets(self._address)
        return working(f"wait for a first reply of {where}") if self._pace.first is None else nullcontext()

    async def _answer(self, request: httpx2.Request, sent: bytes, turn: Turn, spent: int) -> tuple[_Answer, int]:
        """What the server sends, and the attempts spent by then: each time that it is late is one."""
        copies = {asyncio.create_task(self._send(request, sent))}
        waited = 0.0
        try:
            while True:
                period = self._pace.period
                done, copies = await asyncio.wait(copies, timeout=period, return_when=asyncio.FIRST_COMPLETED)
                if done and (not copies or any(task.exception() is None for task in done)):
                    return min(done, key=lambda task: task.exception() is not None).result(), spent
                if done:
                    continue
                self._pace.late += not waited
                waited += period
                turn.too_much()
                if spent >= self._retries:
                    often = f", {waited / self._pace.patience:.0f} times request_timeout" if waited > period else ""
                    raise _Late(f"no reply within {waited:g} s{often}")
                spent += 1
                if len(copies) == 1 and (turn.overtaken() or spent == self._retries > 1):
                    copies.add(asyncio.create_task(self._send(request, sent)))
        finally:
            for task in copies:
                task.cancel()
            await asyncio.gather(*copies, return_exceptions=True)

    async def _send(self, request: httpx2.Request, content: bytes) -> _Answer:
        """Send a request once; a reply is read as far as one may be long."""
        headers = [(name, value) for name, value in request.headers.multi_items() if name.lower() != "content-length"]
        limits = {"connect": self._pace.patience, "read": None, "write": None, "pool": None}
        anew = httpx2.Request(
            request.method, request.url, headers=headers, content=content, extensions={"timeout": limits}
        )
        raw = await self._wire.handle_async_request(anew)
        response = httpx2.Response(raw.status_code, headers=raw.headers, stream=raw.stream)
        body = bytearray()
        try:
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > _LARGEST:
                    raise _Lasting(f"a reply of more than {_LARGEST // 2**20} MiB")
        finally:
            await response.aclose()
        return _Answer(raw.status_code, raw.headers, bytes(body))

    def _sound(self, answer: _Answer, content: bytes) -> Reply:
        """A reply that is what was asked for; a page for people comes from an address that is none of an API."""
        try:
            return replies.read(masked(json.dumps(json.loads(answer.body))).encode(), content)
        except (Unsound, ValueError, RecursionError) as error:
            if "html" in answer.headers.get("content-type", "") or answer.body.lstrip()[:1] == b"<":
                where = addresses.without_secrets(self._address)
                raise _Lasting(f"{where} sends a web page, no completion{addresses.hint(where)}") from None
            raise error if isinstance(error, Unsound) else Unsound(replies.NO_COMPLETION) from None

    def _refusal(self, answer: _Answer) -> tuple[int, bytes]:
        """What the endpoint says to a request that it refuses for good; where it lies elsewhere, that is named."""
        where = addresses.without_secrets(self._address)
        if 300 <= answer.status < 400:
            to = addresses.without_secrets(answer.headers.get("location", "nowhere")).removesuffix("/chat/completions")
            raise _Lasting(f"{where} redirects ({answer.status}) to {to}; name that as the endpoint")
        text = masked(answer.body.decode(errors="replace"))
        if answer.status in {404, 405} and (hint := addresses.hint(self._address)):
            raise _Lasting(f"{answer.status} at {where}: {text[:100]}{hint}")
        return answer.status, text.encode()

    def _find(self, name: str, content: bytes) -> Reply | None:
        """A reply that is there already, be it of this run or of one before."""
        with suppress(OSError, Unsound):
            reply = replies.read((self._folder / f"{name}.json").read_bytes(), content)
            self._tally.kept_before += name not in self._tally.asked
            return reply
        return None

    def _counted(self, reply: Reply, refused: Set[str]) -> bytes:
        """The body of a reply, which counts as one to what the endpoint takes."""
        for name in refused:
            self._tally.unlike[name] = self._tally.unlike.get(name, 0) + 1
        return reply.body

    async def aclose(self) -> None:
        """Give up what is under way, and close the connections."""
        tasks = [*self._under_way.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._wire.aclose()


def _name(request: httpx2.Request, content: bytes) -> str:
    return hashlib.sha256(str(request.url).encode() + content).hexdigest()


def _keep(path: Path, body: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}.part")
        part.write_bytes(body)
        part.replace(path)
    except OSError as error:
        raise BadInput(f"cache {path.parent}: cannot be written: {error.strerror}") from error


def _retry_after(answer: _Answer) -> float:
    """Seconds that the endpoint asks to be left alone (0: it does not say so in seconds)."""
    try:
        return float(answer.headers.get("retry-after", 0))
    except ValueError:
        return 0.0


async def complete(to: AsyncOpenAI, model: str, messages: Sequence[dict[str, str]], max_tokens: int) -> Said:
    """What a chat model says at temperature 0; Failed where the endpoint gives no reply or its model refuses."""
    try:
        sent: Any = list(messages)
        found = await to.chat.completions.create(model=model, messages=sent, max_tokens=max_tokens, temperature=0)
        return Said(**(found.model_extra or {})["said"])  # which the transport has read
    except Exception as error:  # whatever openai makes of a bad reply
        raise Failed(reason(error)) from None
