"""Addresses of endpoints, as settings have them: where they may hold a secret, they are refused and shown without it.

An address is a parameter, a tag, part of a cache key and of a report; a key in it would stand in all of them.
"""

from __future__ import annotations

import re
from typing import Annotated
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator

from experiments.models.keys import masked
from harness.stage import Shown

_EXAMPLE = "http://localhost:8000/v1"
_CALLS = ("/chat/completions", "/completions", "/embeddings", "/responses")  # what a client puts behind a base address
_VERSION = re.compile(r"/v\d+\w*(/|$)")
_KEY = re.compile(r"^[A-Za-z]{2,8}[-_](?:\w+[-_])*(?=\w*\d)(?=\w*[A-Za-z])[A-Za-z0-9]{16,}$")  # sk-…, hf_…, gsk_…
_MIXED = re.compile(
    r"^(?=.*\d)(?=.*[a-z])(?=.*[A-Z])[\w.-]{24,}$"
)  # AIza…, sk-proj-…, a JWT; names of deployments pass

_NAMED = re.compile(r"(?i)key|token|secret|pass|auth|sig")  # what keys are called in a query


def require(address: str) -> str:
    """The base address of an endpoint, without spaces and a slash at its end; ValueError says what it must be."""
    address = address.strip()
    try:
        parts = urlsplit(address)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise ValueError(f"an address; it reads like {_EXAMPLE}") from None
    if parts.scheme not in {"http", "https"} or not host or any(sign.isspace() for sign in address):
        raise ValueError(f"an address; it reads like {_EXAMPLE}")
    if "@" in parts.netloc or _secret(parts):
        raise ValueError(
            f"an address without user, password or key, as it would be logged: {without_secrets(address)}, and the key"
            " in RIGSWEEP_API_KEY (where it has been typed to `mlflow run -P`, MLflow has logged it: delete that run"
            " and change the key)"
        )
    if parts.query or parts.fragment or "?" in address or "#" in address:
        raise ValueError(f"a base address, without what begins with ? or #: {without_secrets(address)}")
    for call in _CALLS:
        if parts.path.rstrip("/").endswith(call):
            base = address.rstrip("/").removesuffix(call)
            raise ValueError(f"the base address alone, to which {call} is added: {base}")
    return address.rstrip("/")


def without_secrets(address: str) -> str:
    """An address as it may be shown: neither user nor password, nothing behind ? or #, keys in its path masked."""
    scheme, mark, rest = address.strip().partition("://")
    if not mark:
        scheme, rest = "", scheme
    before, _, rest = rest.rpartition("@")
    if "?" in before or "#" in before:  # who knows where what is secret ends
        return f"{scheme}{mark}***"
    path = re.split(r"[?#]", rest, maxsplit=1)[0].split("/")
    return masked(f"{scheme}{mark}{'/'.join('***' if _is_key(part) else part for part in path)}")


def hint(address: str) -> str:
    """What an address may lack, as a clause ("": nothing that is known)."""
    if _VERSION.search(urlsplit(address).path):
        return ""
    return f"; does the address end in /v1? endpoint = {without_secrets(address)}/v1"


def _secret(parts: SplitResult) -> bool:
    return any(map(_is_key, parts.path.split("/"))) or bool(_NAMED.search(f"{parts.query}&{parts.fragment}"))


def _is_key(part: str) -> bool:
    """Whether part of a path is the key of the environment, or reads like one: `sk-` and many letters and digits."""
    return bool(part) and (masked(part) != part or any(pattern.match(part) for pattern in (_KEY, _MIXED)))


Address = Annotated[str | None, AfterValidator(lambda typed: typed and require(typed)), Shown(without_secrets)]
