"""Chat templates, whose every input is a setting: not the clock, not chance."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any, NamedTuple, NoReturn

import jinja2
from jinja2 import meta
from transformers.utils import chat_template_utils

from experiments.models.chat_settings import TEMPLATE_DATE
from experiments.models.language import Reader
from harness.stage import BadInput, one_line, suggest

_WORDS = "what the user says in rigsweep's probe"
_PROBE = "{{ strftime_now('%Y-%m-%d') }}"
# A chain of thought that stands open at a prompt's end: what opens it, what ends it.
_THINKING = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|channel|>analysis", "<|end|>"),
)


class Told(NamedTuple):
    """What a chat template is told besides the messages: today's date (ISO), the system's words, more (JSON object)."""

    date: str = TEMPLATE_DATE
    system_prompt: str | None = None
    options: str | None = None


AS_IT_IS = Told()


class Rendered(NamedTuple):
    """What a chat template has made of messages, and whether it asked for today's date."""

    text: str
    dated: bool


def render(model: Reader, messages: Sequence[Mapping[str, str]], told: Told, where: str) -> Rendered:
    """Put messages through the model's chat template, up to where the answer begins.

    BadInput begins with `where`, for a template that refuses, draws at random, or does not read an option.
    """
    chat = [*([{"role": "system", "content": told.system_prompt}] if told.system_prompt is not None else []), *messages]
    options = json.loads(told.options or "{}")
    tokenizer = model.tokenizer
    try:
        template = tokenizer.get_chat_template()
        environment = _compiled(template).environment
        _require_read(model, environment, template, options)
        _prove(told.date)
        asked = _pin(environment, told.date)
        text: str = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True, **options)
    except (jinja2.TemplateError, ValueError, TypeError) as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput(
            f"{where}: the chat template of {model.name} refuses it: {one_line(error)}; chat_template=false, or"
            " another system_prompt where the template wants one or none"
        ) from error
    return Rendered(text, bool(asked))


def behind(model: Reader, told: Told, where: str) -> int:
    """How many characters a chat template writes behind what a user says, up to where the answer begins."""
    text = render(model, [{"role": "user", "content": _WORDS}], told, where).text
    return len(text.rpartition(_WORDS)[2]) if _WORDS in text else 0


def require_template(model: Reader, told: Told) -> None:
    """BadInput where no template is there to be told something."""
    for name, value in (("system_prompt", told.system_prompt), ("template_options", told.options)):
        if value is not None:
            raise BadInput(f"{name} = {value}: no chat template of {model.name} is used that could be told; leave it")


def thinks(tail: str, response: str) -> bool:
    """Whether what stands before a response leaves it inside a chain of thought that it does not end itself."""
    return any(tail.rfind(begin) > tail.rfind(end) and end not in response for begin, end in _THINKING)


def _compiled(template: str) -> Any:
    return chat_template_utils._compile_jinja_template(template)


@cache
def _prove(date: str) -> None:
    """That transformers renders with the environment that is pinned, on a template that writes nothing but a date."""
    _pin(_compiled(_PROBE).environment, date)
    rendered, _ = chat_template_utils.render_jinja_template([[]], chat_template=_PROBE)
    if rendered != [date]:
        raise BadInput("chat_template: this version of transformers takes a date that cannot be pinned; false")


def _pin(environment: Any, date: str) -> list[str]:
    """Give a template's environment this date for today's, and no chance; what is returned grows as it asks for it.

    A function passed to apply_chat_template reaches the template as a text, hence the environment, which transformers
    keeps for each template.
    """
    asked: list[str] = []
    day = datetime.fromisoformat(date)

    def strftime_now(form: str) -> str:
        asked.append(form)
        return day.strftime(form)

    environment.globals |= {"strftime_now": strftime_now, "lipsum": _no_chance}
    environment.filters["random"] = _no_chance
    return asked


def _no_chance(*_: Any, **__: Any) -> NoReturn:
    raise jinja2.TemplateError("it draws at random, and no two renderings would be alike")


def _require_read(model: Reader, environment: Any, template: str, options: Mapping[str, Any]) -> None:
    """BadInput for an option that the template never reads, which would change nothing."""
    if not options:
        return
    own = {"messages", *environment.globals, *inspect.signature(model.tokenizer.apply_chat_template).parameters}
    read = sorted(meta.find_undeclared_variables(environment.parse(template)) - own)
    if unread := [name for name in options if name not in read]:
        known = suggest(unread[0], read) if read else "it reads none"
        raise BadInput(f"template_options: the chat template of {model.name} reads no option {unread[0]}; {known}")
