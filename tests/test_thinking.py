"""What a model thinks before it answers is no part of its answer, in whichever marks it stands."""

from __future__ import annotations

import timeit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.models import thinking
from experiments.models.thinking import Parted, opening, part

MARKS = [
    ("<think>", "</think>"),
    ("<THINK>", "</THINK>"),
    ("<thinking>", "</thinking>"),
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),
    ("◁think▷", "◁/think▷"),
    ("[THINK]", "[/THINK]"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|channel>thought\n", "<channel|>"),
    ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
    ("analysis", "assistantfinal"),  # the same without its special tokens
]


@pytest.mark.parametrize(("begin", "end"), MARKS)
def test_what_is_thought_is_cut_off_and_where_it_does_not_end_nothing_is_left(begin: str, end: str) -> None:
    thought = "Paris or Lyon? I think Paris."
    assert part(f"{begin}{thought}{end}\n\nLyon.") == Parted(thought, "Lyon.")
    assert part(f"\n{begin}{thought}") == Parted(thought, "", whole=False)


@pytest.mark.parametrize(("begin", "end"), MARKS[:-1])
def test_a_reply_that_goes_on_with_what_the_prompt_has_opened_is_thinking_too(begin: str, end: str) -> None:
    opened = opening(f"<|user|>Who?<|assistant|>{begin}\n")
    assert part(f"{opened}Paris?{end}Lyon.") == Parted("Paris?", "Lyon.")
    assert part(f"{opened}Paris?") == Parted("Paris?", "", whole=False)


@pytest.mark.parametrize(
    "prompt", ["", "<|im_start|>assistant\n", "<think>\n\n</think>\n\n", "What is a <b>", "1 < 2 ["]
)
def test_a_prompt_that_opens_nothing_leaves_a_reply_as_it_is(prompt: str) -> None:
    assert opening(prompt) == ""


@pytest.mark.parametrize(
    "reply",
    [
        "Is it Paris?\n</think>\n\nLyon.",
        "Is it Paris?</think>Lyon.",
        "Is it Paris? </think> Lyon.",
        "Is it Paris?\n◁/think▷Lyon.",
        "Is it Paris?[/THINK]Lyon.",
    ],
)
def test_thinking_whose_beginning_stood_in_the_prompt_ends_at_its_mark(reply: str) -> None:
    assert part(reply) == Parted("Is it Paris?", "Lyon.")


@pytest.mark.parametrize(
    "answer",
    [
        "Models write <think> before and </think> after it.",
        "`<think>` is a mark.",
        "Close it with `</think>`.",
        'The mark "</think>" ends it.',
        "In such a text, </think> ends it (</think>).",
        "Lyon, <think>or so</think> I believe.",
        "analysis of the passages gives Lyon.",
        "I think, therefore [I am].",
        "a < b and b > c",
    ],
)
def test_an_answer_about_marks_is_an_answer(answer: str) -> None:
    assert part(answer) == Parted("", answer)


def test_thinking_several_times_and_a_wrapped_answer() -> None:
    assert part("<think>a</think>\n<think>b</think>Lyon") == Parted("a\nb", "Lyon")
    assert part("<think></think>\n\nLyon") == Parted("", "Lyon")
    assert part("<think>a</think><answer>Lyon</answer>") == Parted("a", "Lyon")
    assert part("<thinking>about <think> and </think></thinking>Lyon").answer == "Lyon"
    assert part("<answer>Lyon</answer>") == Parted("", "<answer>Lyon</answer>")


@given(st.text())
def test_a_text_without_marks_is_left_alone(text: str) -> None:
    plain = text.translate(dict.fromkeys(map(ord, "<>[]◁▷")))
    if not plain.strip().startswith(("analysis", "assistant")):
        assert part(plain) == Parted("", plain.strip())


@pytest.mark.parametrize("hostile", ["the mark `</think>` ", "x{}</think>", "<think> </think"])
def test_what_a_text_takes_to_be_parted_grows_as_it_does(hostile: str) -> None:
    """Sixteen megabytes of a reply are read: a square of that would never end."""

    def seconds(times: int) -> float:
        text = hostile.format(" " * 20 * times) if "{}" in hostile else hostile * times
        return min(timeit.repeat(lambda: thinking.part(text), number=1, repeat=3))

    assert seconds(16_000) < 40 * seconds(1_000) + 0.05


def test_words_that_a_channel_is_called_by_may_begin_an_answer() -> None:
    for answer in ("analysis-by-synthesis is the method", "analysis/paralysis"):
        assert thinking.part(answer) == ("", answer, True)
