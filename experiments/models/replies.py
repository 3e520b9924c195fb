"""What a server's reply says: the answer, what was thought before it, why it ended; or why it is no reply."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from experiments.models import thinking
from experiments.models.keys import told
from experiments.models.thinking import Said

NO_COMPLETION = "a reply that is no completion"
_LIMITS = {"length", "max_tokens", "model_length"}  # why an answer ended in its midst, as servers call it
_REASONS = ("reasoning_content", "reasoning", "thinking", "reasoning_details")  # where servers put what was thought
_THINKS = ("think", "reason")  # what a part of a message is called that is no part of the answer


class Reply(NamedTuple):
    """A sound reply: what it says (None: embeddings), and its body as clients read it, with the answer alone."""

    said: Said | None
    body: bytes


class Unsound(ValueError):
    """A reply is not what was asked for; the text is one line that says why, without a key."""


def read(body: bytes, request: bytes) -> Reply:
    """Read a body: embeddings, or text, with an object in it where JSON was asked for; else Unsound.

    An answer that is empty or null is one all the same.  What stands in a JSON object is the caller's to judge.
    """
    try:
        reply, asked = json.loads(body), json.loads(request)
        if "messages" not in asked:
            forms = (list, str) if asked.get("encoding_format") == "base64" else (list,)  # not all servers know base64
            vectors = [each["embedding"] for each in reply["data"]]
            if not vectors or not all(isinstance(each, forms) for each in vectors):
                raise Unsound(NO_COMPLETION)
            return Reply(None, body)
        choice = reply["choices"][0]
        message, finish = choice["message"], choice.get("finish_reason") or ""
        answer, thought, refusal = _parts(message)
        if str(finish).lower() == "error":
            raise Unsound("the endpoint broke the reply off for an error of its own")
        if refusal or finish == "content_filter":
            raise Unsound(f"the model refused: {told(refusal or finish)}")
        said = _said(answer, thought, str(finish), reply.get("usage"))
        if "response_format" in asked or "tools" in asked:
            _require_object(said, message, asked)
        message["content"], reply["said"] = said.text, said._asdict()
    except (LookupError, TypeError, AttributeError, RecursionError) as error:
        raise Unsound(NO_COMPLETION) from error
    except ValueError as error:
        raise error if isinstance(error, Unsound) else Unsound(NO_COMPLETION) from error
    return Reply(said, json.dumps(reply).encode())


def _parts(message: dict[str, Any]) -> tuple[str, str, str]:
    """Answer, thinking and refusal of a message, whose content is a text, a list of parts, or null."""
    content = message["content"] if "content" in message or "tool_calls" not in message else None
    answer: list[str] = []
    thought: list[str] = []
    refusal = [str(message.get("refusal") or "")]
    for part in content if isinstance(content, list) else [{"type": "text", "text": content or ""}]:
        kind = str(part.get("type", "text")) if isinstance(part, dict) else "text"
        text = _text(part)
        (thought if any(word in kind for word in _THINKS) else refusal if kind == "refusal" else answer).append(text)
    if content is not None and not isinstance(content, str | list):
        raise Unsound(NO_COMPLETION)
    thought.append(next((_text(message[name]) for name in _REASONS if message.get(name)), ""))
    return "".join(answer), "\n".join(filter(None, thought)), " ".join(filter(None, refusal))


def _text(part: Any) -> str:
    """The text of a part, under whatever name it stands there."""
    if isinstance(part, list):
        return "".join(map(_text, part))
    if isinstance(part, dict):
        return "".join(
            _text(part[name]) for name in ("text", "thinking", "reasoning", "refusal", "content") if part.get(name)
        )
    return part if isinstance(part, str) else ""


def _said(answer: str, thought: str, finish: str, usage: Any) -> Said:
    """An answer without what was thought; its tokens as the server tells them, or else by characters."""
    parted = thinking.part(answer)
    thought = "\n".join(filter(None, (thought, parted.thinking)))
    details = (usage or {}).get("completion_tokens_details") or {}
    tokens = details.get("reasoning_tokens")
    cut = finish.lower() in _LIMITS or not parted.whole
    if isinstance(tokens, int) and tokens >= 0 and (tokens > 0 or not thought):
        return Said(parted.answer, finish, cut, tokens)
    return Said(parted.answer, finish, cut, thinking.estimated_tokens(thought), bool(thought))


def _require_object(said: Said, message: dict[str, Any], asked: dict[str, Any]) -> None:
    """Unsound where a reply lacks the JSON object that was asked for; it may stand between fences."""
    if "tools" in asked and message.get("tool_calls"):
        return
    try:
        json.loads(said.text[said.text.index("{") : said.text.rindex("}") + 1])
    except ValueError:
        if said.cut:
            limit = asked.get("max_completion_tokens", asked.get("max_tokens"))
            raise Unsound(f"a reply that was cut off at its limit of {limit} tokens") from None
        raise Unsound(NO_COMPLETION) from None
