"""What the model sees of a sample: one row of tokens, and which of them each span and each character fell into."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.models.language import LanguageModel, load
from experiments.redeep.encode import Encoded, Span, encode, sentences
from experiments.redeep.sample import Sample, Spans
from harness.stage import BadInput
from tests.tiny import TEXT, save_llama

PIECES = ["Merrin", " lies", ". ", "! ", "?", "\n", "\n\n", " ", "1971", "é", "e\u0301", "日本", "🙂", "👩‍🚀", "🇩🇪"]
PIECES += ["。", "J.", "\u3000", "(", "“", "”", "1."]
TEXTS = st.one_of(
    st.lists(st.sampled_from(PIECES), max_size=20).map("".join),
    st.text(st.characters(codec="utf-8"), max_size=30),
)
WRITTEN = TEXTS.filter(str.strip)  # data.read lets no blank prompt or response pass
TEMPLATE = "<s>[user] {{ messages[0].content | trim }} [/user]{{ '\n' }}"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    return load(str(save_llama(tmp_path_factory.mktemp("model"))), "fp32", "cpu")


@pytest.fixture(scope="module")
def with_tokenizer(model: LanguageModel) -> Callable[[Callable[[Any], Any]], LanguageModel]:
    """The same model with a tokenizer that was changed in place."""

    def changed(change: Callable[[Any], Any]) -> LanguageModel:
        tokenizer = copy.deepcopy(model.tokenizer)
        change(tokenizer)
        return LanguageModel("tiny", model.network, tokenizer)

    return changed


def sample(prompt: str, response: str, spans: Spans | None = ()) -> Sample:
    return Sample("r1", prompt, response, spans, "r1")


def encoded(model: LanguageModel, given: Sample, **options: Any) -> Encoded:
    return encode(given, model, **{"chat_template": True, "max_length": None, "span_chars": 0} | options)


def characters(model: LanguageModel, ids: Any, text: str) -> list[range]:
    """The characters of `text` that each token after <s> has a byte of: a byte-level token has a letter a byte."""
    of_byte = [i for i, character in enumerate(text) for _ in character.encode()]
    ranges, byte = [range(0)], 0
    for token in model.tokenizer.convert_ids_to_tokens(ids)[1:]:
        inside = of_byte[byte : byte + len(token)]
        byte += len(token)
        ranges.append(range(inside[0], inside[-1] + 1))
    assert byte == len(of_byte)
    return ranges


@st.composite
def labelled(draw: st.DrawFn) -> Sample:
    prompt, response = draw(WRITTEN), draw(WRITTEN)
    ends = st.lists(st.integers(0, len(response)), min_size=2, max_size=2, unique=True).map(sorted).map(tuple)
    return sample(prompt, response, tuple(sorted(draw(st.sets(ends, max_size=3)))))


@settings(deadline=None, max_examples=150)
@given(labelled(), st.sampled_from([0, 12, 1000]))
def test_tokens_spans_and_labels_line_up_with_characters(model: LanguageModel, given: Sample, span_chars: int) -> None:
    try:
        whole = encoded(model, given, span_chars=span_chars)
    except BadInput as fault:  # one token holds prompt and response
        assert "holds no token besides" in str(fault)  # noqa: PT017
        return
    at = len(given.prompt)
    covers = characters(model, whole.ids, given.prompt + given.response)
    hallucinated = {at + i for start, end in given.spans for i in range(start, end)}

    assert "".join(token.text for token in whole.tokens) == given.response
    assert [token.start for token in whole.tokens] == list(range(whole.prompt_tokens, len(whole.ids)))
    assert all(covers[i].stop <= at for i in range(whole.prompt_tokens))
    assert all(covers[token.start].stop > at for token in whole.tokens)
    assert all(token.label == bool(hallucinated & {*covers[token.start]}) for token in whole.tokens)
    ranges = sentences(given.response, span_chars)
    assert [span.text for span in whole.response] == [given.response[start:end] for start, end in ranges]
    for span, (start, end) in zip(whole.response, ranges, strict=True):
        assert set(range(at + start, at + end)) <= {c for token in covers[span.start : span.end] for c in token}
        assert all(set(range(at + start, at + end)) & {*covers[i]} for i in (span.start, span.end - 1))
        assert span.label == bool(hallucinated & {*range(at + start, at + end)})
    assert all(1 <= span.start < span.end <= whole.prompt_tokens for span in whole.prompt)


def test_a_prompt_without_template_is_joined_as_it_is(model: LanguageModel) -> None:
    whole = encoded(model, sample("Where is Merrin?\n", "In the north."))
    assert whole.ids.tolist() == model.tokenizer("Where is Merrin?\nIn the north.").input_ids
    assert model.tokenizer.decode(whole.ids[whole.prompt_tokens :]) == "In the north."


@pytest.mark.parametrize("prompt", ["Where is Merrin? Say it.", "  Where is Merrin? Say it.\n\n"])
def test_the_chat_template_goes_around_the_prompt_once(with_tokenizer: Any, prompt: str) -> None:
    model = with_tokenizer(lambda tokenizer: setattr(tokenizer, "chat_template", TEMPLATE))
    whole = encoded(model, sample(prompt, "In the north.", ((3, 6),)))
    assert model.tokenizer.decode(whole.ids) == "<s>[user] Where is Merrin? Say it. [/user]\nIn the north."
    assert model.tokenizer.decode(whole.ids[whole.prompt_tokens :]) == "In the north."
    assert [span.text.strip() for span in whole.prompt] == ["Where is Merrin?", "Say it."]
    assert model.tokenizer.decode(whole.ids[whole.prompt[1].start : whole.prompt[1].end]).strip() == "Say it."
    assert "".join(token.text for token in whole.tokens if token.label) == " the"
    plain = encoded(model, sample(prompt, "In the north."), chat_template=False)
    assert model.tokenizer.decode(plain.ids) == f"<s>{prompt}In the north."


def test_a_template_that_rewrites_the_prompt_is_refused(with_tokenizer: Any) -> None:
    shouting = "{{ messages[0].content | upper }}"
    model = with_tokenizer(lambda tokenizer: setattr(tokenizer, "chat_template", shouting))
    with pytest.raises(BadInput, match=r"sample r1: the chat template .* chat_template=false"):
        encoded(model, sample("Where?", "In the north."))


def test_a_token_that_the_tokenizer_appends_is_no_response_token(with_tokenizer: Any, model: LanguageModel) -> None:
    from tokenizers.processors import TemplateProcessing

    closing = TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)])
    closed = with_tokenizer(lambda tokenizer: setattr(tokenizer.backend_tokenizer, "post_processor", closing))
    given = sample("Where is Merrin?\n", "In the north.")
    whole = encoded(closed, given)
    assert whole.ids[-1] == closed.tokenizer.eos_token_id
    assert whole.tokens == encoded(model, given).tokens


@settings(deadline=None, max_examples=50)
@given(WRITTEN, st.integers(40, 80))
def test_a_prompt_longer_than_the_window_loses_its_end(model: LanguageModel, text: str, window: int) -> None:
    given = sample(TEXT + text + TEXT, "In the north.", ((0, 2),))
    whole, cut = encoded(model, given), encoded(model, given, max_length=window)
    assert (whole.cut, cut.cut) == (False, True)
    assert len(cut.ids) <= window < len(whole.ids)
    kept = model.tokenizer.decode(cut.ids[1 : cut.prompt_tokens])
    assert kept
    assert given.prompt.startswith(kept.rstrip("\ufffd"))
    assert [(token.text, token.label) for token in cut.tokens] == [(token.text, token.label) for token in whole.tokens]


def test_the_models_own_window_holds_even_when_more_is_asked_for(model: LanguageModel) -> None:
    assert len(encoded(model, sample(TEXT * 20, "Yes."), max_length=10_000).ids) <= model.window


@pytest.mark.parametrize(
    ("given", "options", "said"),
    [
        (sample("<pad><pad> <pad>", "Yes."), {}, "its prompt holds no token besides blank, padding and special ones"),
        (sample("\n" * 99 + TEXT, "Yes."), {"max_length": 16}, r"its prompt \(of what the window leaves of it\) holds"),
        (sample(TEXT, TEXT), {"max_length": 32}, "no room for a prompt in a window of 32 tokens; shorten"),
        (sample(" Mer", "rin"), {}, "its prompt holds no token"),
    ],
    ids=["padding only", "blank after the cut", "response beyond the window", "prompt inside the response's token"],
)
def test_a_sample_that_cannot_be_scored_is_named(
    model: LanguageModel, given: Sample, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(BadInput, match=f"^sample r1: .*{said}"):
        encoded(model, given, **options)


def test_a_prompt_span_whose_only_token_reaches_into_the_response_is_left_out(model: LanguageModel) -> None:
    whole = encoded(model, sample("Where? Mer", "rin."))
    assert [span.text for span in whole.prompt] == ["Where?"]
    assert whole.tokens[0] == Span("rin", whole.prompt_tokens, whole.prompt_tokens + 1, 0, (0, 3))


@settings(deadline=None)
@given(TEXTS, st.integers(0, 60))
def test_sentences_cover_all_text_that_is_not_blank_in_order(text: str, span_chars: int) -> None:
    ranges = sentences(text, span_chars)
    assert all(text[start:end].strip() for start, end in ranges)
    assert all(this[1] <= following[0] for this, following in pairwise(ranges))
    inside = {i for start, end in ranges for i in range(start, end)}
    assert all(character.isspace() for i, character in enumerate(text) if i not in inside)
    single = sentences(text, 0)
    assert {start for start, _ in ranges} <= {start for start, _ in single}
    assert all(end - start <= span_chars or (start, end) in single for start, end in ranges)
    for this, following in pairwise(ranges):  # joined as far as they fit, from the left
        first = next(piece for piece in single if piece[0] == following[0])
        assert first[1] - this[0] > span_chars


@pytest.mark.parametrize(
    ("text", "span_chars", "expected"),
    [
        ("One two. Three! Four?", 0, ["One two.", "Three!", "Four?"]),
        ("One two. Three! Four?", 14, ["One two.", "Three! Four?"]),
        ("One two. Three! Four?", 15, ["One two. Three!", "Four?"]),
        ("Title\n\nBody 3.5 m\nEnd", 0, ["Title", "Body 3.5 m", "End"]),
        (" \n ", 0, []),
        ("Mr. Tan left on Jan. 5. He paid 3.5 dollars.", 0, ["Mr. Tan left on Jan. 5.", "He paid 3.5 dollars."]),
        ("Ada lives in Rome.Bela is a nurse.", 0, ["Ada lives in Rome.", "Bela is a nurse."]),
        ("汉娜住在基多。卡尔住在利马。", 0, ["汉娜住在基多。", "卡尔住在利马。"]),
        ("彼女は医者です！本当？はい。", 0, ["彼女は医者です！", "本当？", "はい。"]),  # noqa: RUF001
        ("राम घर गया। वह सो गया।", 0, ["राम घर गया।", "वह सो गया।"]),
        ("هل تسكن في روما؟ نعم. هي طبيبة.", 0, ["هل تسكن في روما؟", "نعم.", "هي طبيبة."]),
        ("ฉันอยู่ในกรุงเทพ เขาเป็นหมอ 5 ปี", 0, ["ฉันอยู่ในกรุงเทพ", "เขาเป็นหมอ 5 ปี"]),
        ("ทำช้าๆ ได้", 0, ["ทำช้าๆ ได้"]),
        ("នេះជាប្រយោគ។ នេះទៀត។", 0, ["នេះជាប្រយោគ។", "នេះទៀត។"]),
        ("1. Ada lives in Rome.\n2. Bela is a nurse.", 0, ["1. Ada lives in Rome.", "2. Bela is a nurse."]),
        ("a. First thing. b. Second thing.", 0, ["a. First thing.", "b. Second thing."]),
        ("(b) One.\niv) Two.\n- Three\n• Four", 0, ["(b) One.", "iv) Two.", "- Three", "• Four"]),
        ("Step 2:\nOpen it.\n---\nShut it.", 0, ["Step 2:\nOpen it.", "---\nShut it."]),
        ("It is so. 🙂\n3.", 0, ["It is so. 🙂\n3."]),
        ("1.", 0, ["1."]),
        ("It is by J.\u3000Tan. Bo\u00a0left.\u3000Now", 0, ["It is by J.\u3000Tan.", "Bo\u00a0left.", "Now"]),
        ("He said “Go. I stay.” (Then he left. Alone.)", 0, ["He said “Go.", "I stay.”", "(Then he left.", "Alone.)"]),
        ("“你好。”他说。「好。」", 0, ["“你好。”", "他说。", "「好。」"]),
        ('"Really?" he said. "No," said I.', 0, ['"Really?" he said.', '"No," said I.']),
        ("Ada left.[1] Bela came.[2, 3] Why?", 0, ["Ada left.[1]", "Bela came.[2, 3]", "Why?"]),
    ],
)
def test_sentences_by_example(text: str, span_chars: int, expected: list[str]) -> None:
    assert [text[start:end] for start, end in sentences(text, span_chars)] == expected


def test_a_long_line_in_any_script_takes_no_time_and_has_the_sentences_of_a_short_one() -> None:
    text = "汉娜住在基多。「卡尔」住在利马。" * 3000
    before = time.process_time()
    assert len(sentences(text, 0)) == 6000
    assert time.process_time() - before < 5
    assert len(sentences("a" * 100_000, 0)) == 1


def test_where_the_labels_of_a_response_are_not_known_none_of_its_spans_and_tokens_has_one(
    model: LanguageModel,
) -> None:
    whole = encoded(model, sample("Where is Merrin?\n", "In the north. Now.", None))
    assert {span.label for span in (*whole.response, *whole.tokens)} == {-1}
    assert len(whole.response) == 2
    assert {span.label for span in whole.prompt} == {0}
