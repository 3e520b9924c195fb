"""What a chat template writes depends on settings alone: the date, the system's words and its options."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from experiments.detect import DETECT
from experiments.models import chat
from experiments.models.chat_settings import IsoDate, JsonObject
from experiments.models.language import Described, describe
from experiments.rag import RAG
from harness.running import hardware, run
from harness.running.settings import resolve
from harness.stage import BadInput
from tests import tiny

DATED = (Path(__file__).parent / "template_with_date.jinja").read_text()
IN_MACRO = (
    "{% macro head() %}{{ strftime_now('%d %b %Y') if strftime_now is defined else 'never' }}{% endmacro %}"
    "{{ head() }} {{ messages[-1].content }}"
)
ROLES = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
THINKING = (
    ROLES + "<assistant>{% if enable_thinking is defined and not enable_thinking %}<think></think>"
    "{% else %}<think>{% endif %}"
)
ASKED = [{"role": "user", "content": "Who?"}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_llama(tmp_path_factory.mktemp("model"))


@pytest.fixture
def templated(folder: Path) -> Any:
    """The tiny model's description with another chat template."""

    def with_template(template: Any) -> Described:
        described = describe(str(folder))
        described.tokenizer.chat_template = template
        return described

    return with_template


@pytest.mark.parametrize("template", [DATED, IN_MACRO], ids=["plain", "in a macro"])
def test_the_date_that_a_template_writes_is_the_settings(templated: Any, template: str) -> None:
    for date, written in (("2026-02-03", "03 Feb 2026"), ("1999-12-31", "31 Dec 1999")):
        text, dated = chat.render(templated(template), ASKED, chat.Told(date), "sample r1")
        assert (written in text, dated) == (True, True)
    assert chat.render(templated(ROLES), ASKED, chat.AS_IT_IS, "sample r1") == ("<user>Who?", False)


def test_the_templates_own_system_words_are_dated_too(templated: Any) -> None:
    template = "{{ messages[0].content if messages[0].role == 'system' else 'On ' ~ strftime_now('%Y') }}"
    assert chat.render(templated(template), ASKED, chat.Told("1999-12-31"), "sample r1") == ("On 1999", True)
    told = chat.Told("1999-12-31", system_prompt="Be brief.")
    assert chat.render(templated(template), ASKED, told, "sample r1") == ("Be brief.", False)


@pytest.mark.parametrize("template", ["{{ ['a', 'b'] | random }}", "{{ lipsum(1) }}"])
def test_a_template_that_draws_at_random_is_refused(templated: Any, template: str) -> None:
    with pytest.raises(BadInput, match=r"^sample r1: the chat template of .* it draws at random"):
        chat.render(templated(template), ASKED, chat.AS_IT_IS, "sample r1")


def test_a_clock_that_cannot_be_pinned_is_refused(monkeypatch: pytest.MonkeyPatch, templated: Any) -> None:
    """As it would be if transformers came to render with another environment than the one that it hands out."""
    compiled = chat._compiled(DATED)
    monkeypatch.setattr(chat, "_compiled", lambda _: SimpleNamespace(environment=compiled.environment))
    with pytest.raises(BadInput, match=r"^chat_template: .* cannot be pinned"):
        chat.render(templated(DATED), ASKED, chat.Told("1970-01-01"), "sample r1")


@pytest.mark.parametrize(
    "template",
    [
        "{% if messages[0].role != 'system' %}{{ raise_exception('System role\nrequired') }}{% endif %}",
        "{{ messages[0].content + 1 }}",
        "{% if %}",
        {"tool_use": ROLES},
    ],
    ids=["raises", "fails", "no template at all", "none by default"],
)
def test_a_template_that_fails_is_one_line_with_sample_and_model(templated: Any, template: Any, folder: Path) -> None:
    with pytest.raises(BadInput, match=rf"^sample r1: the chat template of {folder} refuses it: [^\n]*$"):
        chat.render(templated(template), ASKED, chat.AS_IT_IS, "sample r1")


def test_system_prompt_and_options_reach_the_template(templated: Any) -> None:
    told = chat.Told(system_prompt="Be brief.", options='{"enable_thinking": false}')
    text, _ = chat.render(templated(THINKING), ASKED, told, "sample r1")
    assert text == "<system>Be brief.<user>Who?<assistant><think></think>"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ('{"enable_thinkin": true}', "reads no option enable_thinkin; did you mean enable_thinking?"),
        ('{"messages": []}', "reads no option messages"),
        ('{"tokenize": true}', "reads no option tokenize"),
    ],
)
def test_an_option_that_the_template_does_not_read_is_refused(templated: Any, options: str, said: str) -> None:
    with pytest.raises(BadInput, match=f"^template_options: .*{said}"):
        chat.render(templated(THINKING), ASKED, chat.Told(options=options), "sample r1")


@pytest.mark.parametrize(
    ("tail", "response", "inside"),
    [
        ("<assistant><think>\n", "Yes.", True),
        ("<assistant><think>\n", "Hm.</think>Yes.", False),
        ("<assistant><think></think>", "Yes.", False),
        ("<think></think><think>", "Yes.", True),
        ("<|start|>assistant<|channel|>analysis<|message|>", "Yes.", True),
        ("<|start|>assistant<|channel|>final<|message|>", "Yes.", False),
        ("<assistant>", "<think>Hm.", False),
    ],
)
def test_what_is_inside_an_open_chain_of_thought(tail: str, response: str, inside: bool) -> None:
    assert chat.thinks(tail, response) == inside


def test_equal_settings_are_equal_texts_and_others_are_refused() -> None:
    options, date = TypeAdapter(JsonObject), TypeAdapter(IsoDate)
    assert options.validate_python('{"b":1, "a":2}') == options.validate_python('{"a": 2, "b": 1}')
    for adapter, wrong in ((options, "[1]"), (options, "{"), (date, "2026-02-30"), (date, "today")):
        with pytest.raises(ValidationError, match=r"a (date|JSON object) such as"):
            adapter.validate_python(wrong)


# --- through the stages ------------------------------------------------------------------------------------------


@pytest.fixture
def detect(folder: Path, tmp_path: Path) -> Any:
    """Run `detect` with a template and settings; what it comes to."""
    data = tiny.write_jsonl(tmp_path / "data.jsonl", tiny.samples(4))

    def execute(template: str, **given: str) -> run.Result:
        (folder / "chat_template.jinja").write_text(template)
        fixed = {"model": str(folder), "dataset": str(data), "folds": "2"}
        return run.execute(resolve(DETECT, fixed | given, hardware.load_profiles()))

    yield execute
    (folder / "chat_template.jinja").unlink(missing_ok=True)


def told(result: run.Result, code: str) -> list[str]:
    return [finding.message for finding in result.audit.findings if finding.code == code]


def test_records_follow_the_date_that_is_set_and_the_audit_says_so(detect: Any) -> None:
    first, same, other = (detect(DATED, **given) for given in ({}, {}, {"template_date": "1999-12-31"}))
    assert (same.replayed, other.replayed) == (True, False)
    assert not other.records.frame.equals(first.records.frame)
    assert "in 4 prompts and was told 2024-07-26" in told(first, "template_asks_for_date")[0]
    assert told(detect(ROLES), "template_asks_for_date") == []


def test_answers_inside_an_open_chain_of_thought_are_a_finding(detect: Any) -> None:
    (message,) = told(detect(THINKING), "answers_inside_thinking")
    assert message.startswith("4 of 4 responses follow a chat template that opens a chain of thought")
    ended = detect(THINKING, template_options=json.dumps({"enable_thinking": False}))
    assert told(ended, "answers_inside_thinking") == []


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"system_prompt": "Be brief."}, "system_prompt = Be brief.: no chat template"),
        ({"template_options": '{"enable_thinking": true}'}, "template_options = .*: no chat template"),
    ],
)
def test_a_model_that_uses_no_template_can_be_told_nothing(detect: Any, given: dict[str, str], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        detect(ROLES, chat_template="false", **given)


def test_the_date_of_prompts_that_are_answered_is_pinned_too(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text(DATED)
    try:
        given = {"model": str(folder), "limit": "4", "max_new_tokens": "1", "k": "1", "tier": "high", "folds": "2"}
        result = run.execute(resolve(RAG, given | {"template_date": "1999-12-31"}, hardware.load_profiles()))
    finally:
        (folder / "chat_template.jinja").unlink()
    (message,) = told(result, "template_asks_for_date")
    assert "in 4 prompts and was told 1999-12-31" in message
