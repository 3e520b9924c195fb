"""An endpoint that is down, slow, rate-limited, talks nonsense or refuses: retried within bounds, paid for once."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from experiments.models import endpoint
from experiments.rag.inference import judge
from experiments.rag.inference.params import RagInfer
from experiments.rag.inference.reading import Answer
from harness.stage import BadInput
from tests.loopback import Endpoint, completion, serve
from tests.loopback import judge as as_judge

CANARY = "sk-canary-7c1f2e9d"
ANSWER = Answer("Is it so?", "This is true. That is false.", ("a true passage", "another one"))


@pytest.fixture(autouse=True)
def _own_replies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RIGSWEEP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("RIGSWEEP_API_KEY", CANARY)
    monkeypatch.setattr(endpoint, "_PAUSE", 0.01)


@pytest.fixture
def server() -> Iterator[Endpoint]:
    with serve(Endpoint()) as running:
        yield running


def ask(address: str, *questions: str, retries: int = 2, timeout: float = 5.0, in_flight: int = 4) -> list[str]:
    """What comes back for each question, or why nothing does."""

    async def all_of_them() -> list[str]:
        async with endpoint.client(address, in_flight=in_flight, request_timeout=timeout, retries=retries) as client:

            async def one(question: str) -> str:
                try:
                    return (await endpoint.complete(client, "m", [{"role": "user", "content": question}], 9)).text
                except endpoint.Failed as failed:
                    return f"failed: {failed}"

            return list(await asyncio.gather(*map(one, questions)))

    return asyncio.run(all_of_them())


def echo(request: dict[str, Any]) -> Any:
    return completion("reply to " + request["messages"][-1]["content"])


def after(faults: int, fault: Any, then: Callable[[dict[str, Any]], Any] = echo) -> Callable[[dict[str, Any]], Any]:
    """A fault so many times, then an answer."""
    left = [fault] * faults
    return lambda request: left.pop() if left else then(request)


FAULTS = {
    "busy": (503, {}, b"busy"),
    "rate limit": (429, {"Retry-After": "0.05"}, b"{}"),
    "malformed JSON": (200, {}, b'{"choices": ['),
    "no completion": (200, {}, b"{}"),
    "a completion of old": (200, {}, b'{"choices": [{"text": "hi"}]}'),
    "no message": (200, {}, b'{"choices": [{"message": null}]}'),
    "a content that is none": (200, {}, b'{"choices": [{"message": {"content": 7}}]}'),
    "a choice that is none": (200, {}, b'{"choices": ["x"]}'),
    "numbers for a chat": (200, {}, b'{"data": [1]}'),
    "refusal": completion(None, refusal="I will not"),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_passing_fault_is_retried_and_one_that_stays_is_a_failure(server: Endpoint, fault: Any) -> None:
    server.answer = after(2, fault)
    assert ask(server.address, "a") == ["reply to a"]
    assert len(server.requests) == 3
    server.answer = after(99, fault)
    (found,) = ask(server.address, "b")
    assert found.startswith("failed: ")
    assert "attempt 3 of 3" in found
    assert len(server.requests) == 6


def test_a_rate_limit_is_waited_out_as_long_as_it_asks(server: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr(endpoint.asyncio, "sleep", sleep)
    server.answer = after(1, (429, {"Retry-After": "7"}, b"{}"))
    assert ask(server.address, "a") == ["reply to a"]
    assert waited == [endpoint._PAUSE, pytest.approx(7.0, abs=0.1)]  # the latter before anything is asked
    server.answer = after(1, (429, {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}, b"{}"))
    ask(server.address, "b")
    assert waited[2:] == [endpoint._PAUSE]


def test_an_endpoint_that_is_down_or_slow_is_named(server: Endpoint) -> None:
    server.latency = 0.5
    assert "no reply within 0.1 s" in ask(server.address, "a", timeout=0.1, retries=0)[0]
    assert "ConnectError" in ask("http://127.0.0.1:9/v1", "a", retries=1)[0]


def test_a_lasting_error_is_a_failure_at_once(server: Endpoint) -> None:
    server.answer = lambda _: (400, {}, b'{"error": {"message": "no such model"}}')
    assert "no such model" in ask(server.address, "b")[0]
    assert len(server.requests) == 1


def test_a_refusal_is_told_and_not_kept(server: Endpoint) -> None:
    filtered = completion("")[2].replace(b'"stop"', b'"content_filter"')
    for number, (refusal, why) in enumerate(
        [(completion(None, refusal="I will not"), "I will not"), ((200, {}, filtered), "content_filter")]
    ):
        server.answer = lambda _, refusal=refusal: refusal  # type: ignore[misc]
        assert ask(server.address, str(number)) == [f"failed: the model refused: {why} at attempt 3 of 3"]
        server.answer = echo
        assert ask(server.address, str(number)) == [f"reply to {number}"]


@pytest.mark.parametrize("embedding", [1, None, {}])
def test_an_embedding_is_a_list(server: Endpoint, embedding: Any) -> None:
    body = json.dumps({"data": [{"embedding": embedding}]}).encode()
    server.answer = lambda request: (200, {}, body) if "input" in request else as_judge(request)
    (found,) = judge.judged(params(server, judge_embedder="e", retries=0), [ANSWER])
    assert isinstance(found, str)
    assert "no completion" in found


def test_what_has_been_paid_for_is_not_asked_again(server: Endpoint) -> None:
    server.answer = lambda request: (500, {}, b"") if "c" in request["messages"][-1]["content"] else echo(request)
    first = ask(server.address, "a", "b", "c", retries=0)
    server.answer = echo
    assert ask(server.address, "a", "b", "c") == [*first[:2], "reply to c"]
    asked = [request["messages"][-1]["content"] for request in server.requests]
    assert sorted(asked) == ["a", "b", "c", "c"]


def test_what_is_asked_twice_at_once_is_asked_once(server: Endpoint) -> None:
    server.answer, server.latency = echo, 0.05
    assert ask(server.address, "a", "b", "a", "a") == [f"reply to {name}" for name in "abaa"]
    assert len(server.requests) == 2
    server.answer = lambda _: (500, {}, b"")
    assert len(set(ask(server.address, "c", "c", retries=0))) == 1
    assert len(server.requests) == 3


def test_a_kept_file_that_is_no_sound_reply_is_asked_for_again(server: Endpoint, tmp_path: Path) -> None:
    server.answer = echo
    ask(server.address, "a")
    (kept,) = (tmp_path / "cache" / "replies").iterdir()
    kept.write_bytes(FAULTS["no message"][2])
    assert ask(server.address, "a") == ["reply to a"]
    assert len(server.requests) == 2


def test_no_more_requests_are_in_flight_than_allowed(server: Endpoint) -> None:
    server.answer, server.latency = echo, 0.05
    found = ask(server.address, *(f"q{i}" for i in range(20)), in_flight=4)
    assert found == [f"reply to q{i}" for i in range(20)]
    assert 2 <= server.most_at_once <= 4


def test_an_address_that_is_none_is_refused() -> None:
    with pytest.raises(BadInput, match="must be an address; it reads like http"):
        ask("localhost:80", "a")


# ---- RAGAS through it ----


def params(server: Endpoint, **settings: Any) -> RagInfer:
    return RagInfer.model_validate({"judge_endpoint": server.address, "retries": 1, "nli": "builtin"} | settings)


def test_ragas_gives_the_shares_that_its_judge_decides(server: Endpoint) -> None:
    """One of two statements is supported, and of two passages the first is useful: average precision 1."""
    (found,) = judge.judged(params(server, judge_embedder="e"), [ANSWER])
    assert isinstance(found, dict)
    assert found["ragas_faithfulness"] == 0.5
    assert found["ragas_precision"] == pytest.approx(1.0)
    assert found["ragas_relevancy"] == pytest.approx(1 / 5**0.5)  # the cosine of (1, 0) and (1, 2)
    (second,) = judge.judged(params(server), [ANSWER])
    assert set(second) == {"ragas_faithfulness", "ragas_precision"}
    assert len(server.requests) == 7  # two for faithfulness, one a passage, a question back and two embeddings


def test_a_metric_that_is_undefined_leaves_the_others(server: Endpoint) -> None:
    def answer(request: dict[str, Any]) -> Any:
        found = as_judge(request)
        return found if b"verdict" in found[2] else completion('{"statements": []}')

    server.answer = answer
    (found,) = judge.judged(params(server), [ANSWER])
    assert isinstance(found, dict)
    assert math.isnan(found["ragas_faithfulness"])
    assert found["ragas_precision"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    "fault",
    [*FAULTS.values(), completion("I'd rather not say"), completion('{"statements": ')],
    ids=[*FAULTS, "no JSON inside", "half a JSON inside"],
)
def test_a_score_that_cannot_be_had_is_a_reason_and_the_others_stay(server: Endpoint, fault: Any) -> None:
    def answer(request: dict[str, Any]) -> Any:
        return fault if "Unlucky" in json.dumps(request) else as_judge(request)

    server.answer = answer
    unlucky = Answer("Unlucky?", "Unlucky is true.", ("Unlucky",))
    found = judge.judged(params(server), [ANSWER, unlucky, ANSWER])
    assert isinstance(found[0], dict)
    assert found[0] == found[2]
    assert isinstance(found[1], str)
    assert "\n" not in found[1]
    of_unlucky = [request for request in server.requests if "Unlucky" in json.dumps(request)]
    assert len(of_unlucky) <= 2 * (1 + 1)  # two metrics, each asked again once


@pytest.mark.parametrize("nonsense", [completion("I'd rather not say"), completion('{"statements": ')])
def test_a_reply_that_is_not_what_was_asked_for_is_not_kept(server: Endpoint, nonsense: Any) -> None:
    server.answer = lambda _: nonsense
    (first,) = judge.judged(params(server, retries=0), [ANSWER])
    assert isinstance(first, str)
    server.answer = as_judge
    (again,) = judge.judged(params(server, retries=0), [ANSWER])
    assert isinstance(again, dict)


def test_the_key_is_in_a_header_and_nowhere_else(
    server: Endpoint, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    told = f'{{"error": {{"message": "Incorrect API key provided: {CANARY}"}}}}'.encode()
    server.answer = lambda _: (401, {}, told)
    (refused,) = ask(server.address, "a")
    (unscored,) = judge.judged(params(server), [ANSWER])
    server.answer = echo
    ask(server.address, "b")
    assert set(server.keys) == {f"Bearer {CANARY}"}
    assert "Incorrect API key provided: ***" in refused
    kept = [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert kept
    for place in (refused, unscored, *kept, caplog.text, *capsys.readouterr(), repr(params(server))):
        assert CANARY not in str(place)


def test_a_reply_that_repeats_the_key_is_masked_before_it_is_kept(server: Endpoint, tmp_path: Path) -> None:
    escaped = "".join(f"\\u{ord(letter):04x}" for letter in CANARY).encode()
    server.answer = lambda _: (200, {}, completion(f"{CANARY} or MARK")[2].replace(b"MARK", escaped))
    assert ask(server.address, "a") == ask(server.address, "a") == ["*** or ***"]
    (kept,) = (tmp_path / "cache" / "replies").iterdir()
    assert CANARY not in str(json.loads(kept.read_text()))


def test_a_key_is_read_without_the_end_of_its_line(server: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RIGSWEEP_API_KEY", f"{CANARY}\n")
    server.answer = echo
    assert ask(server.address, "a") == ["reply to a"]
    assert set(server.keys) == {f"Bearer {CANARY}"}
    assert CANARY not in endpoint.reason(ValueError(f"Illegal header value {f'Bearer {CANARY}'!r}"))


@pytest.mark.parametrize("odd", ["\n", "\x07", "\u00e9"])
def test_a_key_that_no_header_holds_is_refused_unquoted(monkeypatch: pytest.MonkeyPatch, odd: str) -> None:
    key = f"canary{odd}123456"
    monkeypatch.setenv("RIGSWEEP_API_KEY", key)
    with pytest.raises(BadInput, match="RIGSWEEP_API_KEY: holds characters that a header cannot") as caught:
        ask("http://127.0.0.1:9/v1", "a")
    assert "canary" not in str(caught.value)
    assert "canary" not in endpoint.reason(ValueError(f"Illegal header value {key!r}"))


def test_no_exception_carries_the_key(server: Endpoint) -> None:
    server.answer = lambda _: (403, {}, f"your key {CANARY} is not welcome".encode())

    async def one() -> None:
        async with endpoint.client(server.address, in_flight=1, request_timeout=5, retries=0) as client:
            await endpoint.complete(client, "m", [{"role": "user", "content": "a"}], 9)

    with pytest.raises(endpoint.Failed) as caught:
        asyncio.run(one())
    assert CANARY not in "".join(traceback.format_exception(caught.value))
