"""What counts as the same answer, as no answer, and as one sentence."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.rag.inference.lexical import support
from experiments.rag.inference.text import abstains, contains, correct, normalise, sentences


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("The Beatles", "beatles"),
        ("Zoë Müller", "Zoe Muller"),
        ("1,000,000", "1000000"),
        ("3.0", "three"),
        ("3.50", "3.5"),
        ("\u22125 degrees", "-5 degrees"),
        ("forty-two", "42"),
        ("the 19th century", "19 century"),
        ("third", "3"),
        ("10 June 2010", "June 10th, 2010"),
        ("10th of Jun 2010", "2010-06-10"),
        ("\ufb01ve", "5"),  # a ligature
        ("O\u2019Neill", "O'Neill"),
    ],
)
def test_two_spellings_of_one_answer_are_equal(one: str, other: str) -> None:
    assert normalise(one) == normalise(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [("1900", "19"), ("10 June 2010", "10 July 2010"), ("3.5", "35"), ("twenty", "2"), ("-5", "5"), ("10", "1")],
)
def test_two_answers_stay_two(one: str, other: str) -> None:
    assert normalise(one) != normalise(other)


def test_an_answer_is_right_when_each_part_is_stated_in_an_accepted_way() -> None:
    accepted = [["Delhi", "New Delhi"], ["1,200"]]
    assert correct("It is in New Delhi, and has 1200 rooms.", accepted)
    assert not correct("It is in Delhi.", accepted)
    assert not correct("It is in Delhi and has 12000 rooms.", accepted)


def test_an_article_counts_where_it_is_the_whole_answer() -> None:
    assert correct("The blood type is A.", [["A"]])
    assert not correct("The blood type is B.", [["A"]])
    assert not correct("It is -5 degrees.", [["5"]])
    assert support("A", ["Blood type A."])["lexical_tokens_min"] == 1


@given(st.lists(st.sampled_from("abc")), st.lists(st.sampled_from("abc")))
def test_a_part_is_contained_as_a_text_within_a_text(words: list[str], part: list[str]) -> None:
    assert contains(words, part) == (bool(part) and "".join(part) in "".join(words))


@pytest.mark.parametrize(
    "answer",
    [
        "",
        " . ",
        "\U0001f60a",
        "I don't know.",
        "I do not know",
        "I'm sorry, but I can't tell. I'm not sure.",
        "I do not have enough information to answer.",
        "The context does not say.",
        "The context doesn\u2019t mention the capital.",
        "It isn't mentioned in the passages.",
        "There is no information about it.",
        "Unfortunately, I don't have that information.",
        "I am unable to answer.",
        "The answer is not in the given context.",
        "This is not mentioned.",
        "Unknown.",
    ],
)
def test_an_answer_that_says_nothing_abstains(answer: str) -> None:
    assert abstains(answer)


@pytest.mark.parametrize(
    "answer",
    [
        "No.",
        "He is unknown to history.",
        "Paris",
        "They know that it is Paris.",
        "He is not known for films but for music; he was born in Paris.",
        "Ada was born in London. Her height is not stated.",
        "I'm not sure, but it is Paris.",
    ],
)
def test_an_answer_that_says_something_does_not_abstain(answer: str) -> None:
    assert not abstains(answer)


def test_sentences_end_where_they_end() -> None:
    text = 'Dr. Smith (b. 1 May 1900) lived in St. Ives. He said: "No." Then 3.5 km on. nothing'
    assert sentences(text) == [
        "Dr. Smith (b. 1 May 1900) lived in St. Ives.",
        'He said: "No."',
        "Then 3.5 km on. nothing",
    ]
    assert sentences("No end") == ["No end"]


def test_a_sentence_holds_a_word() -> None:
    assert sentences("It is Paris. \U0001f60a") == ["It is Paris."]
    assert sentences("Hello. ... Yes.") == ["Hello.", "Yes."]
    assert sentences("\U0001f60a !") == []
    assert support("Hello. ... Yes.", ["Yes, hello."])["lexical_tokens_min"] == 1


def test_support_is_the_share_of_words_and_of_names_in_the_best_passage() -> None:
    """Worst sentence and mean; words scattered over passages do not add up; inflections count as one word."""
    passages = ["Mina plays the flute.", "Ferrets are kept by Kuba in Oslo."]
    found = support("Mina played flutes. Kuba keeps dogs in Oslo.", passages)
    assert found["lexical_tokens_min"] == pytest.approx(2 / 4)  # kuba and oslo of kuba, keeps, dogs, oslo
    assert found["lexical_tokens_mean"] == pytest.approx((1 + 2 / 4) / 2)
    assert found["lexical_entities_min"] == found["lexical_entities_mean"] == 1
    assert support("Mina met Oslo.", passages)["lexical_tokens_min"] == pytest.approx(1 / 3)
