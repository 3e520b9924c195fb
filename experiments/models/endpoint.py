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
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2

from harness import cache
from harness.stage import BadInput

if TYPE_CHECKING:
    from openai import AsyncOpenAI

_PASSING = frozenset({408, 409, 425, 429})  # and all from 500: worth another attempt
_PAUSE = 0.5  # seconds before the second attempt; doubled before each further one
_LONGEST_PAUSE = 60.0


class Failed(Exception):
    """An endpoint did not serve a request; the text is one line that holds no key."""


def api_key() -> str:
    """The key of the environment; endpoints at home need none."""
    return os.environ.get("RIGSWEEP_API_KEY") or os.environ.get("OPENAI_API_KEY") or "none"


def reason(error: BaseException) -> str:
    """What went wrong at the bottom of it, on one line, without the key: `Connection error.` alone says nothing."""
    below: BaseException | None = error
    while below is not None and not isinstance(below, httpx2.TransportError):
        below = below.__cause__ or below.__context__
    error = below or error
    text = " ".join(str(error).split()) or type(error).__name__
    return (text.replace(key, "***") if len(key := api_key()) > 4 else text)[:300]


def client(address: str, *, in_flight: int, request_timeout: float, retries: int) -> AsyncOpenAI:
    """A client of the endpoint for one event loop; every retry and the bound on requests are the transport's."""
    from openai import AsyncOpenAI

    for name in ("instructor", "openai", "httpx2"):  # they print failed requests with what came back, key or not
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if not address.startswith(("http://", "https://")):
        raise BadInput(f"endpoint {address}: no address; it reads like http://localhost:8000/v1")
    transport = Transport(httpx2.AsyncHTTPTransport(), in_flight, request_timeout, retries)
    return AsyncOpenAI(
        base_url=address,
        api_key=api_key(),
        max_retries=0,
        http_client=httpx2.AsyncClient(transport=transport, timeout=request_timeout),
    )


class Transport(httpx2.AsyncBaseTransport):
    """Keeps every sound reply on disk by address and question, and asks again only for what is not there."""

    def __init__(self, wire: httpx2.AsyncBaseTransport, in_flight: int, request_timeout: float, retries: int) -> None:
        self._wire, self._timeout, self._retries = wire, request_timeout, retries
        self._slots = asyncio.Semaphore(in_flight)
        self._folder = cache.folder() / "replies"

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """The kept reply, or the endpoint's; a request refused for good comes back as the endpoint answered it."""
        content = await request.aread()
        kept = self._folder / f"{hashlib.sha256(str(request.url).encode() + content).hexdigest()}.json"
        with suppress(OSError):
            return _reply(kept.read_bytes())
        async with self._slots:
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
                    if response.status_code == 200 and _sound(body, content):
                        _keep(kept, body)
                        return _reply(body)
                    if response.status_code not in _PASSING and 300 <= response.status_code < 500:
                        return httpx2.Response(response.status_code, content=body, request=request)
                    fault = "a reply that is no completion" if response.status_code < 300 else str(response.status_code)
                    wait = _retry_after(response)
                if attempt < self._retries:
                    await asyncio.sleep(min(max(pause, wait), _LONGEST_PAUSE))
                    pause *= 2
            raise httpx2.TransportError(f"{fault} at attempt {self._retries + 1} of {self._retries + 1}")

    async def aclose(self) -> None:
        """Close the connections."""
        await self._wire.aclose()


def _reply(body: bytes) -> httpx2.Response:
    return httpx2.Response(200, headers={"content-type": "application/json"}, content=body)


def _sound(body: bytes, request: bytes) -> bool:
    """Whether a reply has what a completion or an embedding must have, and where JSON was asked for an object in it.

    What stands in that object, and a refusal, is the caller's to judge.
    """
    try:
        found = json.loads(body)
        if not isinstance(found, dict) or not (found.get("choices") or found.get("data")):
            return False
        if "response_format" in json.loads(request) and not (message := found["choices"][0]["message"]).get("refusal"):
            text = message["content"]
            json.loads(text[text.index("{") : text.rindex("}") + 1])  # it may stand between fences
    except (ValueError, LookupError, TypeError, AttributeError):
        return False
    return True


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


async def complete(to: AsyncOpenAI, model: str, messages: Sequence[dict[str, str]], max_tokens: int) -> str:
    """The answer of a chat model at temperature 0; Failed where the endpoint gives none or its model refuses."""
    from openai import OpenAIError

    try:
        sent: Any = list(messages)
        found = await to.chat.completions.create(model=model, messages=sent, max_tokens=max_tokens, temperature=0)
    except OpenAIError as error:
        raise Failed(reason(error)) from None
    choice = found.choices[0]
    if choice.finish_reason == "content_filter" or choice.message.refusal or choice.message.content is None:
        raise Failed(f"the model refused: {reason(ValueError(choice.message.refusal or choice.finish_reason))}")
    return choice.message.content
