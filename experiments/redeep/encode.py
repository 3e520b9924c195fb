"""A sample as the model sees it: token ids, and which tokens each span of prompt and response covers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from experiments.models import chat
from experiments.models.language import Reader
from experiments.redeep.sample import Sample, Spans
from experiments.sentences import sentence_ranges
from harness.stage import BadInput


@dataclass(frozen=True)
class Span:
    """A piece of prompt or response: its text, its tokens [start, end) in the ids, 1 if it touches a hallucination.

    `characters` are those [start, end) of the prompt or response that it is.  The label is -1 where those of the
    response are not known, and 0 in a prompt.
    """

    text: str
    start: int
    end: int
    label: int
    characters: tuple[int, int]


@dataclass(frozen=True)
class Encoded:
    """Token ids (t,) of prompt and response, in one piece; `tokens` are the response's, each a span of its own.

    `dated`: its chat template asked for today's date; `thinking`: it leaves the response inside a chain of thought.
    """

    sample: Sample
    ids: NDArray[np.int64]
    prompt_tokens: int
    prompt: list[Span]
    response: list[Span]
    tokens: list[Span]
    cut: bool
    dated: bool = False
    thinking: bool = False

    @property
    def prompt_key(self) -> bytes:
        """Equal for two samples when all tokens before their responses are."""
        return self.ids[: self.prompt_tokens].tobytes()

    @property
    def key(self) -> tuple[bytes, str, str]:
        """Equal for two samples when all but their labels is, and so what is read of them."""
        return self.ids.tobytes(), self.sample.prompt, self.sample.response


def encode(
    sample: Sample,
    model: Reader,
    *,
    chat_template: bool,
    max_length: int | None,
    span_chars: int,
    told: chat.Told = chat.AS_IT_IS,
) -> Encoded:
    """Tokenise prompt and response together; a prompt too long for the window is cut at its end.

    Response tokens are those that reach beyond the prompt's last character.
    """
    window = min(max_length or model.window, model.window)
    prompt, cut = sample.prompt, False
    while True:
        (text, dated), prompt_at = _render(sample, prompt, model, chat_template, told)
        coding = model.tokenizer(
            text + sample.response, return_offsets_mapping=True, add_special_tokens=text is prompt, verbose=False
        )
        ids, offsets = np.asarray(coding["input_ids"]), np.asarray(coding["offset_mapping"]).reshape(-1, 2)
        first = _first_response_token(sample, offsets, len(text))
        if len(ids) <= window:
            break
        prompt, cut = _shorten(sample, prompt, offsets[:first, 0] - prompt_at, len(ids), window), True
    of_prompt = _covered(offsets[:first], prompt_at, prompt_at + len(prompt))
    if not model.tokenizer.decode(ids[of_prompt], skip_special_tokens=True).strip():
        left = " (of what the window leaves of it)" if cut else ""
        raise BadInput(f"sample {sample.id}: its prompt{left} holds no token besides blank, padding and special ones")
    pieces = sentences(sample.response, span_chars)
    return Encoded(
        sample=sample,
        ids=ids,
        prompt_tokens=first,
        prompt=_spans(prompt, sentences(prompt, span_chars), offsets[:first], prompt_at, ()),
        response=_spans(sample.response, pieces, offsets, len(text), sample.spans),
        tokens=list(_tokens(sample, offsets, first, len(text))),
        cut=cut,
        dated=dated,
        thinking=text is not prompt and chat.thinks(text[prompt_at + len(prompt.rstrip()) :], sample.response),
    )


def sentences(text: str, span_chars: int) -> list[tuple[int, int]]:
    """Character ranges of the sentences of `text`, neighbours joined while they fit into `span_chars`."""
    ranges: list[tuple[int, int]] = []
    for start, end in sentence_ranges(text):
        if ranges and end - ranges[-1][0] <= span_chars:
            ranges[-1] = (ranges[-1][0], end)
        else:
            ranges.append((start, end))
    return ranges


def _render(
    sample: Sample, prompt: str, model: Reader, chat_template: bool, told: chat.Told
) -> tuple[chat.Rendered, int]:
    """All that stands before the response, and where in it the prompt begins."""
    if not (chat_template and model.tokenizer.chat_template):
        chat.require_template(model, told)
        return chat.Rendered(prompt, dated=False), 0
    where = f"sample {sample.id}"
    rendered = chat.render(model, [{"role": "user", "content": prompt}], told, where)
    end = len(rendered.text) - chat.behind(model, told, where)
    if (at := rendered.text.rfind(prompt.strip(), 0, end)) < 0:  # the last: what comes before may be the same words
        raise BadInput(
            f"sample {sample.id}: the chat template of {model.name} rewrites the prompt; chat_template=false"
        )
    return rendered, at - (len(prompt) - len(prompt.lstrip()))


def _first_response_token(sample: Sample, offsets: NDArray[np.int64], at: int) -> int:
    behind = np.flatnonzero(offsets[:, 1] > at)
    if not len(behind):
        raise BadInput(f"sample {sample.id}: its response holds no token")
    return int(behind[0])


def _shorten(sample: Sample, prompt: str, starts: NDArray[np.int64], length: int, window: int) -> str:
    """The prompt without its last tokens, so many as exceed the window."""
    inside = starts[(starts > 0) & (starts < len(prompt))]
    excess = length - window
    if excess >= len(inside):
        raise BadInput(
            f"sample {sample.id}: {length - len(inside)} tokens of response and template leave no room for a prompt"
            f" in a window of {window} tokens; shorten the response or take a model with a larger window"
        )
    return prompt[: int(inside[-excess])]


def _covered(offsets: NDArray[np.int64], start: int, end: int) -> NDArray[np.int64]:
    return np.flatnonzero((offsets[:, 0] < end) & (offsets[:, 1] > start))


def _spans(
    text: str, pieces: list[tuple[int, int]], offsets: NDArray[np.int64], at: int, marked: Spans | None
) -> list[Span]:
    """The pieces of `text`, which begins at `at`; one without a token of its own is left out."""
    covered = [(piece, _covered(offsets, at + piece[0], at + piece[1])) for piece in pieces]
    return [
        Span(text[slice(*piece)], int(tokens[0]), int(tokens[-1]) + 1, _touches(piece, marked), piece)
        for piece, tokens in covered
        if len(tokens)
    ]


def _tokens(sample: Sample, offsets: NDArray[np.int64], first: int, at: int) -> Iterator[Span]:
    """The tokens of a response that begins at `at`; a character of several tokens is the text of their first."""
    told = at
    for i, (start, end) in enumerate(offsets.tolist()[first:], first):
        if end > at:  # unlike a special token that the tokenizer appends
            label = _touches((start - at, end - at), sample.spans)
            characters = told - at, end - at
            yield Span(sample.response[slice(*characters)], i, i + 1, label, characters)
            told = end


def _touches(piece: tuple[int, int], marked: Spans | None) -> int:
    return -1 if marked is None else int(any(start < piece[1] and end > piece[0] for start, end in marked))
