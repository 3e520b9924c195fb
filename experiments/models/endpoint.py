"""Any OpenAI-compatible endpoint: so many requests at once, retried within bounds, never asked the same thing twice.

The API key comes from the environment (RIGSWEEP_API_KEY, else OPENAI_API_KEY) and goes into one header of a request;
it is cut out of whatever an endpoint says in return.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2

from experiments.models.thinking import Said
from harness.running import cache
from harness.stage import BadInput, one_line

if TYPE_CHECKING:
    from openai import AsyncOpenAI

_PASSING = frozenset({408, 409, 425, 429})  # and all from 500: worth another attempt
_PAUSE = 0.5  # seconds before the second attempt; doubled before each further one
_LONGEST_PAUSE = 60.0
_KEYS = ("RIGSWEEP_API_KEY", "OPENAI_API_KEY")
_NO_COMPLETION = "a reply that is no completion"


class Failed(Exception):
    """An endpoint did not serve a request; the text is one line that holds no key."""


def api_key() -> str:
    """The key of the environment; endpoints at home need none.  BadInput where no header can hold it."""
    for name in _KEYS:
        if key := os.environ.get(name, "").strip():
            if not (key.isascii() and key.isprintable()):
                raise BadInput(f"{name}: holds characters that a header cannot; printable ASCII is allowed")
            return key
    return "none"


def _masked(text: str) -> str:
    """A text without any key, written as it is, escaped, or as it stands in JSON."""
    found = [os.environ.get(name, "") for name in _KEYS]
    found += [key.strip() for key in found]
    forms = {form for key in found for form in (key, repr(key)[1:-1], json.dumps(key)[1:-1])}
    for form in sorted(forms, key=len, reverse=True):
        text = text.replace(form, "***") if len(form) > 4 else text
    return text


def reason(error: BaseException) -> str:
    """What went wrong at the bottom of it, on one line, without the key: `Connection error.` alone says nothing."""
    below: BaseException | None = error
    while below is not None and not isinstance(below, httpx2.TransportError):
        below = below.__cause__ or below.__context__
    error = below or error
    text = one_line(error) or type(error).__name__
    return _masked(text)[:300]


@dataclass
class Tally:
    """What was asked in a run, by name, and how many replies were there before it: they cost it nothing."""

    asked: set[str] = field(default_factory=set)
    kept_before: int = 0


def client(
    address: str, *, in_flight: int, request_timeout: float, retries: int, tally: Tally | None = None
) -> AsyncOpenAI:
    """A client of the endpoint for one event loop; every retry and the bound on requests are the transport's."""
    from openai import AsyncOpenAI

    for name in ("instructor", "openai", "httpx2"):  # they print failed requests with what came back, key or not
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if not address.startswith(("http://", "https://")):
        raise BadInput(f"endpoint {address}: no address; it reads like http://localhost:8000/v1")
    transport = Transport(httpx2.AsyncHTTPTransport(), in_flight, request_timeout, retries, tally)
    return AsyncOpenAI(
        base_url=address,
        api_key=api_key(),
        max_retries=0,
        http_client=httpx2.AsyncClient(transport=transport, timeout=request_timeout),
    )


class Transport(httpx2.AsyncBaseTransport):
    """Keeps every sound reply on disk by address and question, and asks again only for what is not there."""

    def __init__(
        self,
        wire: httpx2.AsyncBaseTransport,
        in_flight: int,
        request_timeout: float,
        retries: int,
        tally: Tally | None = None,
    ) -> None:
        self._wire, self._timeout, self._retries = wire, request_timeout, retries
        self._slots = asyncio.Semaphore(in_flight)
        self._folder, self._tally = cache.folder() / "replies", tally or Tally()
        self._under_way: dict[str, asyncio.Task[tuple[int, bytes]]] = {}

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """The kept reply, or the endpoint's; a request refused for good comes back as the endpoint answered it."""
        content = await request.aread()
        name = hashlib.sha256(str(request.url).encode() + content).hexdigest()
        if (body := self._find(name, content)) is not None:
            return _reply(200, body)
        if name not in self._under_way:
            self._under_way[name] = asyncio.create_task(self._ask(name, request, content))
            self._under_way[name].add_done_callback(lambda _: self._under_way.pop(name))
        return _reply(*await asyncio.shield(self._under_way[name]))  # for whoever else waits for the same

    def _find(self, name: str, content: bytes) -> bytes | None:
        """A reply that is there already, be it of this run or of one before."""
        with suppress(OSError):
            body = self._path(name).read_bytes()
            if not _fault(body, content):
                self._tally.kept_before += name not in self._tally.asked
                return body
        return None

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.json"

    async def _ask(self, name: str, request: httpx2.Request, content: bytes) -> tuple[int, bytes]:
        """Status and body of the endpoint's reply, kept if it is sound."""
        async with self._slots:
            if (found := self._find(name, content)) is not None:  # another process has asked meanwhile
                return 200, found
            self._tally.asked.add(name)
            pause = _PAUSE
            for attempt in range(self._retries + 1):
                fault, wait = "", 0.0
                try:
                    async with asyncio.timeout(self._timeout):
                        response = await self._wire.handle_async_request(request)
                        body = await httpx2.Response(
                            response.status_code, headers=response.headers, stream=response.stream
                        ).aread()
                except TimeoutError:
                    fault = f"no reply within {self._timeout:g} s"
                except httpx2.TransportError as error:
                    fault = f"{type(error).__name__}: {reason(error)}"
                else:
                    if response.status_code not in _PASSING and 300 <= response.status_code < 500:
                        return response.status_code, _masked(body.decode(errors="replace")).encode()
                    fault = _fault(body, content) if response.status_code < 300 else str(response.status_code)
                    if not fault:
                        body = _masked(json.dumps(json.loads(body))).encode()  # written anew: a key cannot hide escaped
                        _keep(self._path(name), body)
                        return 200, body
                    wait = _retry_after(response)
                if attempt < self._retries:
                    await asyncio.sleep(min(max(pause, wait), _LONGEST_PAUSE))
                    pause *= 2
            raise httpx2.TransportError(f"{fault} at attempt {self._retries + 1} of {self._retries + 1}")

    async def aclose(self) -> None:
        """Close the connections."""
        await self._wire.aclose()


def _reply(status: int, body: bytes) -> httpx2.Response:
    return httpx2.Response(status, headers={"content-type": "application/json"}, content=body)


def _fault(body: bytes, request: bytes) -> str:
    """Why a reply is not what was asked for ("": it is): embeddings, or text, with an object in it for JSON.

    What stands in that object is the caller's to judge.
    """
    try:
        reply, asked = json.loads(body), json.loads(request)
        if "messages" not in asked:
            forms = (list, str) if asked.get("encoding_format") == "base64" else (list,)  # not all servers know base64
            vectors = [each["embedding"] for each in reply["data"]]
            return "" if vectors and all(isinstance(each, forms) for each in vectors) else _NO_COMPLETION
        choice = reply["choices"][0]
        message = choice["message"]
        if message.get("refusal") or choice.get("finish_reason") == "content_filter":
            return f"the model refused: {reason(ValueError(message.get('refusal') or choice['finish_reason']))}"
        text = message["content"]
        if not isinstance(text, str):
            return _NO_COMPLETION
        if "response_format" in asked:
            json.loads(text[text.index("{") : text.rindex("}") + 1])  # it may stand between fences
    except (ValueError, LookupError, TypeError, AttributeError):
        return _NO_COMPLETION
    return ""


def _keep(path: Path, body: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}.part")
        part.write_bytes(body)
        part.replace(path)
    except OSError as error:
        raise BadInput(f"cache {path.parent}: cannot be written: {error.strerror}") from error


def _retry_after(response: httpx2.Response) -> float:
    """Seconds that the endpoint asks to be left alone (0: it does not say so in seconds)."""
    try:
        return float(response.headers.get("retry-after", 0))
    except ValueError:
        return 0.0


async def complete(to: AsyncOpenAI, model: str, messages: Sequence[dict[str, str]], max_tokens: int) -> Said:
    """The answer of a chat model at temperature 0; Failed where the endpoint gives none or its model refuses."""
    try:
        sent: Any = list(messages)
        found = await to.chat.completions.create(model=model, messages=sent, max_tokens=max_tokens, temperature=0)
        return Said(str(found.choices[0].message.content).strip())  # text: the transport lets nothing else through
    except Exception as error:  # whatever openai makes of a bad reply
        raise Failed(reason(error)) from None
