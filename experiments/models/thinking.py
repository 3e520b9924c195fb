"""What a model has thought before it answers, and the answer itself: told apart by the marks that models write.

Only what stands at the head of a text is thinking: an answer may be about such marks.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_NAME = r"(?:think(?:ing)?|thoughts?|reason(?:ing)?|reflection|analysis|scratchpad)"
# What opens a block of thinking, and what ends it, in which the same name stands.
_BLOCKS = (
    (rf"<((?:\w+:)?{_NAME})>", r"</{}>"),
    (r"\[(think)\]", r"\[/{}\]"),
    (r"◁(think)▷", r"◁/{}▷"),
    (rf"<\|(?:start|begin)_(?:of_)?({_NAME})\|>", r"<\|end_(?:of_)?{}\|>"),
    (r"<\|channel>(thought)", r"<channel\|>"),
)
_BEGINNINGS = tuple((re.compile(rf"\s*{begin}", re.IGNORECASE), end) for begin, end in _BLOCKS)
_ANY_BEGINNING = re.compile("|".join(f"(?:{begin})" for begin, _ in _BLOCKS), re.IGNORECASE)
_BEFORE = 64  # characters before a mark that tell whether it is only spoken of
_ANY_END = re.compile("|".join(end.format(rf"(?:\w+:)?{_NAME}") for _, end in _BLOCKS), re.IGNORECASE)
# Channels as gpt-oss writes them, and what is left of them where special tokens are dropped.
_CHANNEL = "<|channel|>analysis<|message|>"
_CHANNELS = re.compile(r"\s*(?:<\|start\|>\w*\s*)?<\|channel\|>")
_MESSAGE = re.compile(
    r"<\|channel\|>\s*(?P<name>\w+)[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>(?P<text>.*?)"
    r"(?=<\|(?:end|return|call|start|channel)\|>|\Z)",
    re.DOTALL,
)
_BARE_CHANNELS = re.compile(
    r"\s*(?:assistant)?analysis(?=[^\sa-z.,:;/\-])(?P<thinking>.*?)(?:assistant\s*final(?P<text>.*)|\Z)", re.DOTALL
)
_ANSWER = re.compile(
    r"\s*(?:<(answer|response)>|<\|(?:start|begin)_(?:of_)?(?:solution|response)\|>)(?P<text>.*?)"
    r"(?:</\1>|<\|end_(?:of_)?(?:solution|response)\|>|\Z)\s*\Z",
    re.DOTALL | re.IGNORECASE,
)
_CHARACTERS_A_TOKEN = 4  # of English, where no tokenizer is there to count


class Parted(NamedTuple):
    """A text as what was thought and what was answered; `whole` is false where the thinking does not end."""

    thinking: str
    answer: str
    whole: bool = True


class Said(NamedTuple):
    """What a model has said: its answer without thinking, and why it ended ("": that is not told).

    `cut` answers ended in their midst, at a limit or inside their thinking.  `thought` is how many tokens of thinking
    there were, `estimated` where they were counted by characters.
    """

    text: str
    finish: str = ""
    cut: bool = False
    thought: int = 0
    estimated: bool = False


def opening(prompt: str) -> str:
    """The mark by which the end of a prompt has opened a block of thinking ("": by none), for a reply to go on in."""
    tail = prompt[-64:].rstrip()
    if tail.endswith((_CHANNEL, "<|channel|>analysis")):
        return _CHANNEL
    at = max(tail.rfind(bracket) for bracket in "<[◁")
    return tail[at:] if at >= 0 and _beginning(tail[at:])[0] == len(tail) - at else ""


def part(text: str) -> Parted:
    """Part a text; one that begins in the midst of thinking is known by a mark that ends it."""
    if _CHANNELS.match(text):
        messages = [(found["name"], found["text"].strip()) for found in _MESSAGE.finditer(text)]
        thinking = "\n".join(said for name, said in messages if name != "final")
        answers = [said for name, said in messages if name == "final"]
        return Parted(thinking, "\n".join(answers), bool(answers))
    if bare := _BARE_CHANNELS.match(text):
        return Parted(bare["thinking"].strip(), (bare["text"] or "").strip(), bare["text"] is not None)
    thoughts: list[str] = []
    while True:
        begin, end = _beginning(text)
        ended = end.search(text, begin) if end else _lone_end(text)
        if end and not ended:
            return Parted("\n".join([*thoughts, text[begin:].strip()]), "", whole=False)
        if not ended:
            break
        thoughts.append(text[begin : ended.start()].strip())
        text = text[ended.end() :]
    if thoughts and (wrapped := _ANSWER.match(text)):
        text = wrapped["text"]
    return Parted("\n".join(filter(None, thoughts)), text.strip())


def estimated_tokens(thinking: str) -> int:
    """About how many tokens a text has, where no tokenizer is there to count them."""
    return -(-len(thinking) // _CHARACTERS_A_TOKEN)


def _beginning(text: str) -> tuple[int, re.Pattern[str] | None]:
    """Where a block of thinking that a text begins with has its first word, and what ends it (None: there is none)."""
    for begin, end in _BEGINNINGS:
        if found := begin.match(text):
            return found.end(), re.compile(end.format(re.escape(found[1])), re.IGNORECASE)
    return 0, None


def _lone_end(text: str) -> re.Match[str] | None:
    """The mark that ends thinking whose beginning stood in the prompt; one that is only spoken of does not.

    It follows what was thought, at once, on a line of its own or after a sentence; in quotes, or between two words of
    a sentence, it is spoken of, and so it is after a mark that begins thinking.
    """
    begun = _ANY_BEGINNING.search(text)
    for found in _ANY_END.finditer(text):
        if begun and begun.start() < found.start():
            return None
        before, after = text[max(0, found.start() - _BEFORE) : found.start()], text[found.end() : found.end() + 1]
        last = before.rstrip(" \t")[-1:]
        quoted = before[-1:] == "`" or (before[-1:] in {'"', "'", "\u201c"} and after not in {"", "\n"})
        spoken = before[-1:] in {" ", "\t", "("} and (last.isalnum() or last in {",", "("})
        if not quoted and not spoken:
            return found
    return None
