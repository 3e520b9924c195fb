"""What counts as the same answer, as no answer, and as one sentence."""

# ruff: noqa: RUF001 - scripts are what is tested
from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.rag.inference.abstention import abstains
from experiments.rag.inference.corpus import Lemmas
from experiments.rag.inference.lexical import support
from experiments.rag.inference.matching import ambiguous, correct, denies_accepted
from experiments.rag.inference.retrieve import bm25
from experiments.rag.inference.text import normalise, sentences


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


@given(st.lists(st.sampled_from("bcd"), min_size=1), st.lists(st.sampled_from("bcd"), min_size=1))
def test_a_part_is_contained_as_a_text_within_a_text(words: list[str], part: list[str]) -> None:
    assert correct(" ".join(words), [[" ".join(part)]]) == ("".join(part) in "".join(words))


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
        "Then 3.5 km on.",
        "nothing",
    ]
    assert sentences("No end") == ["No end"]


def test_a_sentence_holds_a_word() -> None:
    assert sentences("It is Paris. \U0001f60a") == ["It is Paris. \U0001f60a"]
    assert sentences("Hello. ... Yes.") == ["Hello.", "... Yes."]
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


@pytest.mark.parametrize(
    ("answer", "accepted"),
    [
        ("He is 16 years old.", "16-year-old"),
        ("It is 6.213 km.", "6.213 km long"),
        ("It was founded on May 12, 1990.", "1990"),
        ("He was born on 12 May 1990.", "May 1990"),
        ("It happened on 4 July 1776.", "July 4"),
        ("1990-05-12", "1990"),
        ("The U.S. won.", "US"),
        ("About 50% of it", "50 percent"),
        ("One hundred people came.", "100"),
        ("Some 2 million people", "2,000,000"),
        ("It cost $5.", "5 dollars"),
        ("No, they are not.", "no"),
        ("法国的首都是巴黎。", "巴黎"),
        ("東京です", "東京"),
        ("서울은 한국의 수도입니다", "서울"),
        ("राजधानी दिल्ली है", "दिल्ली"),
        ("It is written in C++.", "C++"),
        ("It cost 5 dollars", "5"),
        ("It cost EUR 5", "5 euros"),
        ("£3.5m", "3.5 million pounds"),
        ("€1.5 billion", "1,500,000,000 euros"),
        ("5 kilometres", "5 km"),
        ("5km away", "5 km"),
        ("The US won", "U.S."),
        ("World War 2", "World War II"),
        ("World War II", "World War 2"),
        ("Lyon rather than Paris", "Lyon"),
        ("Instead of Paris, it was Lyon", "Lyon"),
        ("Not only Paris but also Lyon", "Paris"),
        ("It was not until 1990", "1990"),
        ("Paris is not the capital; Lyon is", "Lyon"),
        ("Lyon, and not Paris", "Lyon"),
        ("Lyon (not Paris)", "Lyon"),
        ("I am not sure, but Paris", "Paris"),
        ("not guilty", "not guilty"),
        ("Yes", "yes"),
        ("Yes, they are", "yes"),
        ("The answer is no.", "no"),
        ("Nope", "no"),
        ("1,234", "1234"),
        ("1 234 567", "1234567"),
        ("1.234.567", "1234567"),
        ("five", "5"),
        ("one hundred and five", "105"),
        ("a hundred", "100"),
        ("½", "1/2"),
        ("12.05.1990", "12 May 1990"),
        ("25/12/1990", "December 25, 1990"),
        ("5/12/1990", "1990"),
        ("5 May", "May"),
        ("12 May 1990", "May"),
        ("Sept. 11, 2001", "11 September 2001"),
        ("le 12 mai 1990", "12 May 1990"),
        ("1990年5月12日", "12 May 1990"),
        ("1990年", "1990"),
        ("1990년 5월", "May 1990"),
        ("F#", "F#"),
        ("AT&T", "AT and T"),
        ("A+", "A+"),
        ("5%", "5"),
        ("10°C", "10 degrees Celsius"),
        ("١٩٩٠", "1990"),
        ("１９９０", "1990"),
        ("서울에서", "서울"),
        ("القاهرة هي", "القاهرة"),
        ("في القاهرة", "قاهرة"),
        ("بالقاهرة", "القاهرة"),
        ("東京ではなく大阪です", "大阪"),
        ("不是巴黎，而是里昂", "里昂"),
        ("กรุงเทพมหานคร", "กรุงเทพ"),
        ("서울이 아니라 부산입니다", "부산"),
        ("Zoë Müller", "Zoe Muller"),
        ("JRR Tolkien", "J. R. R. Tolkien"),
        ("J.R.R. Tolkien", "J. R. R. Tolkien"),
        ("Ph.D.", "PhD"),
        ("the third", "3rd"),
        ("$2m", "2 million dollars"),
        ("50 per cent", "50%"),
        ("16-year old", "16 years old"),
        ("aged 16", "16"),
        ("Paris", "the Paris"),
        ("St. Louis", "St Louis"),
        ("24 hours", "24 hour"),
        ("It wasn't in Paris, it was in Lyon", "Lyon"),
        ("It was founded in 1990, not 1991", "1990"),
        ("Mumbai isn't; Delhi is", "Delhi"),
        ("No, it is Paris", "Paris"),
        ("He couldn't visit Rome because of Paris", "Paris"),
        ("Dr. No", "Dr. No"),
        ("Never Let Me Go", "Never Let Me Go"),
        ("1990-05-12T10:00", "1990"),
        ("44 BC", "44 B.C."),
        ("at 5 p.m.", "5 pm"),
        ("5pm", "5 p.m."),
        ("1.0", "1"),
        ("0.5", "½"),
        ("4th of July", "July 4"),
        ("the Fourth of July", "July 4"),
        ("twenty-five million", "25,000,000"),
        ("2,5 km", "2.5 km"),
        ("May the Force", "May"),
        ("12 may", "May"),
        ("i live in the us", "US"),
    ],
)
def test_a_coarser_way_is_met_by_the_same_or_a_finer_value_in_any_spelling(answer: str, accepted: str) -> None:
    assert correct(answer, [[accepted]])


@pytest.mark.parametrize(
    ("answer", "accepted"),
    [
        ("Cia Berg, not David Lee Roth.", "David Lee Roth"),
        ("First for Women is a woman's magazine, not Arthur's Magazine.", "Arthur's Magazine"),
        ("It is not Paris but Lyon.", "Paris"),
        ("It opened in 1990.", "May 12, 1990"),
        ("It was founded on May 12, 1991.", "1990"),
        ("Yes, there is no doubt about it.", "no"),
        ("法国的首都是里昂。", "巴黎"),
        ("राजधानी दल है", "दिल्ली"),
        ("It is written in C.", "C++"),
        ("It cost 5 euros", "5 dollars"),
        ("It cost 5", "5 dollars"),
        ("5 miles", "5 km"),
        ("It is 6.213 km wide", "6.213 km long"),
        ("He told us", "US"),
        ("in the USA", "US"),
        ("He never lived in Paris", "Paris"),
        ("It isn't Paris", "Paris"),
        ("Lyon rather than Paris", "Paris"),
        ("Instead of Paris, it was Lyon", "Paris"),
        ("Neither Paris nor Lyon", "Lyon"),
        ("It is no longer Paris", "Paris"),
        ("Paris is not the capital; Lyon is", "Paris"),
        ("Lyon (not Paris)", "Paris"),
        ("No one knows", "no"),
        ("Yes and no", "yes"),
        ("Both are magazines.", "yes"),
        ("minus five", "-5"),
        ("a dozen", "12"),
        ("3/4", "3"),
        ("10:30", "10"),
        ("5/12/1990", "12 May 1990"),
        ("May 1990", "12 May 1990"),
        ("on the 12th", "12 May"),
        ("1990s", "1990"),
        ("September 11", "September 11, 2001"),
        ("C#", "C"),
        ("blood type A+", "A"),
        ("A-", "A+"),
        ("-5", "5"),
        ("5", "5%"),
        ("서울시립", "서울"),
        ("東京ではなく大阪です", "東京"),
        ("不是巴黎，而是里昂", "巴黎"),
        ("ニューヨークです", "ヨーク"),
        ("Nicht Paris, sondern Lyon", "Paris"),
        ("Ce n'est pas Paris", "Paris"),
        ("서울이 아니라 부산입니다", "서울"),
        ("two-thirds", "2/3"),
        ("three", "third"),
        ("2m people", "2 million"),
        ("It was not founded in 1990", "1990"),
        ("100,000", "100"),
    ],
)
def test_a_finer_way_another_value_or_what_is_denied_is_not_met(answer: str, accepted: str) -> None:
    assert not correct(answer, [[accepted]])


@pytest.mark.parametrize(
    "answer",
    [
        "None of the passages answer this.",
        "The provided passages do not discuss the capital.",
        "The context doesn't include this.",
        "There is insufficient information.",
        "Cannot be determined from the context.",
        "The answer is not available.",
        "N/A",
        "Based on the provided context, I am unable to answer the question.",
        "我不知道。",
        "Je ne sais pas.",
        "No lo sé.",
        "わかりません。",
        "모르겠습니다.",
        "Ich weiß es nicht.",
        "Я не знаю.",
        "لا أعرف.",
        "मुझे नहीं पता।",
        "ไม่ทราบ",
    ],
)
def test_an_answer_abstains_in_the_words_and_language_it_is_given(answer: str) -> None:
    assert abstains(answer)


@pytest.mark.parametrize(
    "answer",
    [
        "The committee could not determine the cause.",
        "Paris is not available for this event; Lyon hosts it.",
        "Nobody knows him better than Ada.",
        "我不知道他的名字，但首都是巴黎。",
    ],
)
def test_what_sounds_like_an_abstention_and_says_something_is_none(answer: str) -> None:
    assert not abstains(answer)


@given(st.dates(), st.booleans(), st.booleans())
def test_a_date_meets_each_of_its_coarser_forms_and_none_meets_it(day: Any, month: bool, number: bool) -> None:
    finer = f"{day.year:04d}-{day.month:02d}-{day.day:02d}" if number else f"{day:%B} {day.day}, {day.year:04d}"
    coarser = f"{day:%B} {day.year:04d}" if month else f"{day:%B} {day.day}"
    assert correct(f"It was on {finer}.", [[coarser]])
    assert not correct(f"It was on {coarser}.", [[finer]])


@given(st.integers(0, 10**12))
def test_a_number_is_one_with_and_without_its_thousands_marked(number: int) -> None:
    assert correct(f"There are {number:,} of them.", [[str(number)]])
    assert not correct(f"There are {number:,} of them.", [[str(number + 1)]])


def test_a_question_about_what_is_not_so_is_answered_by_a_denial() -> None:
    assert correct("Paris is not a river.", [["Paris"]], "Which is not a river?")
    assert not correct("Paris is not a river.", [["Paris"]], "Which is a river?")


@pytest.mark.parametrize(
    ("question", "accepted", "why"),
    [
        ("Is it so?", "no", "yes or no"),
        ("Which is older, Paris or Lyon?", "Lyon", "in the question"),
        ("How many?", "15", "very short"),
        ("In which year?", "1990", ""),
        ("法国的首都是哪里？", "巴黎", ""),
    ],
)
def test_a_label_is_ambiguous_where_the_accepted_answer_says_little(question: str, accepted: str, why: str) -> None:
    assert ambiguous(question, [[accepted]]) == why


@pytest.mark.parametrize("mark", ['"{}"', "\u201c{}\u201d", '"{}".'])
def test_what_is_quoted_as_a_whole_is_read_as_it_is(mark: str) -> None:
    assert not abstains(mark.format("Heaven Beside You"))
    assert not abstains(mark.format("1990"))
    assert abstains(mark.format("I don't know"))


@pytest.mark.parametrize(
    "text",
    [
        "1" * 20_000,
        "1,234" + ",567" * 5_000,
        "a." * 5_000,
        "isn't " * 4_000,
        "not " * 40_000,
        "\u4e0d\u662f" * 30_000,
        "one and " * 4_000,
        "ו" * 20_000,
    ],
)
def test_reading_takes_time_in_proportion_to_length(text: str) -> None:
    began = time.process_time()
    correct(text, [["a b"]])
    abstains(text)
    assert time.process_time() - began < 5  # far below what a quadratic reading takes


@given(st.text(max_size=200), st.text(max_size=20))
def test_any_text_is_read(answer: str, way: str) -> None:
    assert correct(answer, [[way]], answer) in (True, False)
    assert abstains(answer) in (True, False)


@pytest.mark.parametrize(
    ("passages", "question"),
    [
        (["阿尔东是维兰国的首都。", "布里姆是卡斯提亚的首都。"], "卡斯提亚的首都是哪里？"),
        (["東京は日本の首都です。", "大阪は大きい町です。"], "大阪はどんな町ですか"),
        (["กรุงเทพเป็นเมืองหลวง", "เชียงใหม่อยู่ทางเหนือ"], "เชียงใหม่อยู่ที่ไหน"),
        (["दिल्ली राजधानी है", "मुंबई समुद्र पर है"], "मुंबई कहाँ है"),
        (["القاهرة عاصمة مصر", "بغداد عاصمة العراق"], "ما هي عاصمة عراق؟"),
        (["서울은 한국의 수도입니다", "부산은 항구입니다"], "부산에 무엇이 있습니까"),
    ],
)
def test_words_are_found_and_overlap_in_every_script(passages: list[str], question: str) -> None:
    (scores,) = bm25(Lemmas.of(passages), Lemmas.of([question]), 1.5, 0.75)
    assert scores[1] > scores[0]
    assert support(passages[1], passages)["lexical_tokens_min"] == 1
    assert 0 < support(question, passages)["lexical_tokens_min"] < 1


@pytest.mark.parametrize(
    ("answer", "way", "right"),
    [
        ("Yes\n\nExplanation: Smith is one.", "yes", True),
        ("No\n\nSmith is not.", "no", True),
        ("Answer: Yes\nSmith is", "yes", True),
        ("No. 5", "no", False),
        ("It is not Paris\nIt is Lyon", "Lyon", True),
        ("- not Paris\n- Lyon", "Paris", False),
        ("The player who was not drafted is Kurt Warner.", "Kurt Warner", True),
        ("Obama was not a senator when he won in 2008.", "2008", True),
        ("不在上海而在北京", "北京", True),
        ("不在上海而在北京", "上海", False),
        ("World War I", "World War 1", True),
        ("Henry V", "Henry the Fifth", True),
        ("Yesterday I went", "1", False),
        ("10:00 PM", "10 pm", True),
        ("It is minus 5 degrees", "-5", True),
        ("12 hours", "12 hrs", True),
    ],
)
def test_where_a_denial_ends_and_how_names_are_counted(answer: str, way: str, right: bool) -> None:
    assert correct(answer, [[way]], "Which is it?") is right


@pytest.mark.parametrize(
    ("answer", "nothing"),
    [
        ("Based on the given context, it is not possible to determine the year.", True),
        ("From the context, it is unclear who did it.", True),
        ("The information given is not enough to answer.", True),
        ("The cause is unknown.", True),
        ("There's no mention of it.", True),
        ("根据上下文，无法确定答案", True),
        ("No se menciona en el texto.", True),
        ("I am not sure, maybe Paris.", False),
        ("Paris, I don't know why.", False),
        ("He is not mentioned in the Bible.", False),
        ("The film 'I Don't Know How She Does It' was released in 2011.", False),
        ("The information was not provided by Deep Throat.", False),
        ("It is impossible to overstate his fame.", False),
    ],
)
def test_who_does_not_know_says_nothing_else(answer: str, nothing: bool) -> None:
    assert abstains(answer) is nothing


def test_an_answer_that_is_right_but_for_a_denial_is_told_apart() -> None:
    """How far a denial reaches cannot always be told: such a label rests on little, and can be left out."""
    assert denies_accepted("The novel is Never Let Me Go by Kazuo Ishiguro", [["Kazuo Ishiguro"]])
    assert not denies_accepted("It is Lyon", [["Paris"]])
    assert not denies_accepted("It is Paris", [["Paris"]])
