"""Endpoints differ: in what they take, in how they put an answer, in how much they bear.  None is silently misread."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.models import endpoint, manners, replies
from experiments.models.pace import Pace, Turn
from experiments.models.thinking import Said
from tests.loopback import Endpoint, completion, refusing, serve


@pytest.fixture(autouse=True)
def _own_replies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RIGSWEEP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(endpoint, "_PAUSE", 0.01)


@pytest.fixture
def server() -> Iterator[Endpoint]:
    with serve(
        Endpoint(answer=lambda request: completion("reply to " + request["messages"][-1]["content"]))
    ) as running:
        yield running


def ask(
    address: str,
    *questions: str,
    retries: int = 2,
    timeout: float = 5.0,
    in_flight: int = 4,
    tally: endpoint.Tally | None = None,
) -> list[Any]:
    """What each question is answered, or why it is not."""

    async def all_of_them() -> list[Any]:
        async with endpoint.client(
            address, in_flight=in_flight, request_timeout=timeout, retries=retries, tally=tally
        ) as client:

            async def one(question: str) -> Any:
                try:
                    return await endpoint.complete(client, "m", [{"role": "user", "content": question}], 9)
                except endpoint.Failed as failed:
                    return str(failed)

            return list(await asyncio.gather(*map(one, questions)))

    return asyncio.run(all_of_them())


# ---- what a reply says ----


def usage(reasoning: int) -> dict[str, Any]:
    return {"completion_tokens": 50, "completion_tokens_details": {"reasoning_tokens": reasoning}}


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (completion("Lyon."), Said("Lyon.", "stop")),
        (completion("Lyon is a", "length"), Said("Lyon is a", "length", cut=True)),
        (completion("Lyon.", None), Said("Lyon.", "")),
        (completion(None), Said("", "stop")),
        (completion(""), Said("", "stop")),
        (completion(None, "length", reasoning_content="12345678"), Said("", "length", True, 2, True)),
        (completion("<think>Paris?</think>\nLyon."), Said("Lyon.", "stop", False, 2, True)),
        (completion("<think>Paris?</think>\nLyon.", usage=usage(7)), Said("Lyon.", "stop", False, 7)),
        (completion("<think>Paris?", usage=usage(7)), Said("", "stop", True, 7)),
        (completion("Lyon.", usage=usage(7)), Said("Lyon.", "stop", False, 7)),  # thought, but not told what
        (completion("Lyon.", usage=usage(0)), Said("Lyon.", "stop")),
        (completion("Lyon.", reasoning_content="Paris?"), Said("Lyon.", "stop", False, 2, True)),
        (completion("Lyon.", reasoning="Paris?", usage=usage(0)), Said("Lyon.", "stop", False, 2, True)),
        (completion([{"type": "text", "text": "Ly"}, {"type": "text", "text": "on."}]), Said("Lyon.", "stop")),
        (
            completion([{"type": "thinking", "thinking": [{"type": "text", "text": "Paris?"}]}, {"text": "Lyon."}]),
            Said("Lyon.", "stop", False, 2, True),
        ),
        (completion([]), Said("", "stop")),
    ],
)
def test_an_answer_is_told_from_thinking_and_a_cut_or_empty_one_is_no_fault(
    server: Endpoint, reply: Any, said: Said
) -> None:
    server.answer = lambda _: reply
    assert ask(server.address, "a") == ask(server.address, "a") == [said]
    assert len(server.requests) == 1


def test_a_judge_that_thinks_is_read_behind_its_thinking(server: Endpoint) -> None:
    """The braces of what was thought are none of the object that was asked for."""
    server.answer = lambda _: completion('<think>{"verdict": 0} or not?</think>{"verdict": 1}')

    async def one() -> Any:
        async with endpoint.client(server.address, in_flight=1, request_timeout=5, retries=0) as client:
            return await client.chat.completions.create(
                model="m", messages=[{"role": "user", "content": "a"}], response_format={"type": "json_object"}
            )

    assert asyncio.run(one()).choices[0].message.content == '{"verdict": 1}'


def test_a_judge_that_meets_its_limit_says_so(server: Endpoint) -> None:
    server.answer = lambda _: completion('{"statements": ["a', "length")

    async def one() -> Any:
        async with endpoint.client(server.address, in_flight=1, request_timeout=5, retries=0) as client:
            return await client.chat.completions.create(
                model="m",
                messages=[{"role": "user", "content": "a"}],
                response_format={"type": "json_object"},
                max_tokens=7,
            )

    with pytest.raises(Exception) as caught:  # noqa: PT011 - whatever openai makes of it
        asyncio.run(one())
    assert "cut off at its limit of 7 tokens" in endpoint.reason(caught.value)


# ---- what an endpoint takes ----


@pytest.mark.parametrize("names", [("max_tokens",), ("temperature",), ("max_tokens", "temperature")])
def test_what_an_endpoint_refuses_is_put_otherwise_found_out_once_and_told(
    server: Endpoint, names: tuple[str, ...]
) -> None:
    server.answer, tally = refusing(*names), endpoint.Tally()
    questions = [f"q{i}" for i in range(6)]
    found = ask(server.address, *questions, tally=tally)
    assert [said.text for said in found] == [f"reply to {name}" for name in questions]
    assert len(server.requests) == len(questions) + len(names)
    last = server.requests[-1]
    assert last.get("max_completion_tokens" if "max_tokens" in names else "max_tokens") == 9
    assert ("temperature" in last) == ("temperature" not in names)
    assert tally.counts()["without_temperature"] == 6 * ("temperature" in names)
    assert tally.counts()["max_tokens_renamed"] == 6 * ("max_tokens" in names)
    again, asked = endpoint.Tally(), len(server.requests)
    assert ask(server.address, *questions, tally=again) == found  # kept as they were asked, and found so
    assert len(server.requests) == asked
    assert again.counts() | {"replies_kept_before": 0} == tally.counts()


def test_a_reply_is_kept_by_what_was_sent(server: Endpoint) -> None:
    """What an endpoint answers without a temperature is no reply to who has asked for it at 0, nor the reverse."""
    server.answer = refusing("temperature")
    ask(server.address, "a")
    (kept,) = Path(endpoint.cache.folder(), "replies").iterdir()
    server.answer = refusing()
    ask(server.address, "b")
    assert len(server.requests) == 3
    ask(server.address, "a", "b")
    assert len(server.requests) == 3
    kept.unlink()
    ask(server.address, "a")
    assert "temperature" in server.requests[-1]


@pytest.mark.parametrize("told", [b'{"error": {"message": "no such model"}}', b"max_tokens is too large: 9", b""])
def test_another_refusal_is_one_at_once(server: Endpoint, told: bytes) -> None:
    server.answer = lambda _: (400, {}, told)
    (found,) = ask(server.address, "a")
    assert told.decode() in found or "400" in found
    assert len(server.requests) == 1


def test_what_is_refused_under_either_name_is_refused(server: Endpoint) -> None:
    server.answer = refusing("max_tokens", "max_completion_tokens")
    assert "max_completion_tokens" in ask(server.address, "a")[0]
    assert len(server.requests) == 2


# ---- where it lies ----

PAGE = (200, {"Content-Type": "text/html"}, b"<!doctype html><title>Welcome</title>")


@pytest.mark.parametrize("reply", [PAGE, (404, {}, b'{"detail": "Not Found"}'), (404, {}, b"404 page not found")])
def test_an_address_without_its_version_gets_that_hint_at_once(server: Endpoint, reply: Any) -> None:
    server.answer = lambda _: reply
    base = server.address.removesuffix("/v1")
    assert f"does the address end in /v1? endpoint = {base}/v1" in ask(base, "a")[0]
    assert "does the address" not in ask(server.address, "b")[0]
    assert len(server.requests) == 2


def test_a_redirect_is_named_without_what_it_may_hold(server: Endpoint) -> None:
    to = "https://ann:secret@elsewhere/v1/chat/completions?token=secret"
    server.answer = lambda _: (307, {"Location": to}, b"")
    (found,) = ask(server.address, "a")
    assert found == f"{server.address} redirects (307) to https://elsewhere/v1; name that as the endpoint"
    assert len(server.requests) == 1


def test_a_reply_without_end_is_left_unread(server: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "_LARGEST", 2**20)
    server.answer = lambda _: completion("x" * 2**21)
    assert ask(server.address, "a") == ["a reply of more than 1 MiB"]
    assert len(server.requests) == 1


# ---- what it bears ----


@pytest.mark.parametrize("latency", [0.05, 0.15], ids=["each in time", "each late"])
def test_a_server_that_computes_one_answer_after_the_other_gives_all_of_them(latency: float) -> None:
    """Asked four at once with a time-out of 0.1 s, each would be given up and asked again before its turn comes."""
    with serve(Endpoint(answer=lambda _: completion("yes"), latency=latency, slots=1)) as slow:
        tally = endpoint.Tally()
        found = ask(slow.address, *map(str, range(8)), timeout=0.1, in_flight=4, retries=3, tally=tally)
        assert found == [Said("yes", "stop")] * 8
        assert len(slow.requests) == 8  # nothing was asked twice
        assert tally.counts()["replies_late"] > 0 or latency < 0.1
        (pace,) = tally.paces.values()
        assert pace.note.startswith(f"first reply took {pace.first:.1f} s, ")


def test_a_request_that_was_lost_is_asked_again_beside_the_others(server: Endpoint) -> None:
    lost = ["q1"]

    def answer(request: dict[str, Any]) -> Any:
        question = request["messages"][-1]["content"]
        if question in lost:
            lost.remove(question)
            time.sleep(2)
        return completion(f"reply to {question}")

    server.answer = answer
    began = time.monotonic()
    found = ask(server.address, *(f"q{i}" for i in range(6)), timeout=0.2)
    assert [said.text for said in found] == [f"reply to q{i}" for i in range(6)]
    assert time.monotonic() - began < 1.5


def test_a_server_that_never_answers_is_waited_for_once(server: Endpoint) -> None:
    server.latency = 3
    began = time.monotonic()
    found = ask(server.address, *map(str, range(50)), timeout=0.1, retries=1)
    assert time.monotonic() - began < 1
    assert found[0].startswith("no reply within 0.2 s, 2 times request_timeout")
    assert "and nothing else either" in found[-1]


def test_a_server_that_is_busy_gets_fewer_requests(server: Endpoint) -> None:
    faults = [(429, {}, b"{}")] * 4
    server.answer = lambda _: faults.pop() if faults and len(server.requests) > 10 else completion("yes")
    tally = endpoint.Tally()
    found = ask(server.address, *map(str, range(30)), in_flight=16, tally=tally)
    assert found == [Said("yes", "stop")] * 30
    (pace,) = tally.paces.values()
    assert pace.halvings > 0
    assert pace.window < 16


@given(st.lists(st.sampled_from(["answered", "late"]), max_size=60), st.integers(1, 32))
def test_the_window_stays_within_its_bounds_and_grows_by_one_a_window(events: list[str], most: int) -> None:
    pace = Pace(most, 1.0)
    for number, event in enumerate(events, 1):
        before, turn = pace.window, Turn(pace, number, pace.halvings, time.monotonic())
        if event == "late":
            turn.too_much()
            turn.too_much()  # once for all of a window
            assert pace.window == max(1.0, before / 2)
        else:
            first = pace.first is None
            turn.answered()
            assert first or pace.window == min(most, before + 1 / before)
        assert 1 <= pace.window <= most


# ---- what was paid for is kept ----

SCRIPT = """
import asyncio, sys
from experiments.models import endpoint, manners, replies

async def main(address):
    async with endpoint.client(address, in_flight=4, request_timeout=5, retries=2) as client:
        async def one(i):
            await endpoint.complete(client, "m", [{"role": "user", "content": str(i)}], 9)
            print(i, flush=True)
        await asyncio.gather(*map(one, range(12)))

asyncio.run(main(sys.argv[1]))
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_replies_that_came_before_a_kill_are_not_asked_for_again(server: Endpoint, how: signal.Signals) -> None:
    server.latency = 0.05
    words = [sys.executable, "-c", SCRIPT, server.address]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stderr
        came = {process.stdout.readline().strip() for _ in range(3)}
        process.send_signal(how)
        told = process.stderr.read()
    assert "never retrieved" not in told
    assert "Task" not in told
    asked = len(server.requests)
    assert len(ask(server.address, *map(str, range(12)))) == 12
    again = {json.loads(json.dumps(request))["messages"][-1]["content"] for request in server.requests[asked:]}
    assert not came & again


@pytest.mark.parametrize(
    ("error", "part"),
    [
        ({"message": "maximum context length is only 100 tokens; your messages and max_tokens need 164"}, ""),
        ({"message": "max_tokens is too large", "param": "max_tokens"}, ""),
        ({"message": "Unsupported parameter: 'max_tokens'", "param": "max_tokens"}, "max_tokens"),
        ({"message": "use max_completion_tokens instead"}, "max_tokens"),
        ({"message": "Only the default (1) value is supported.", "param": "temperature"}, "temperature"),
        ({"message": "extra fields not permitted: temperature"}, "temperature"),
    ],
)
def test_a_part_is_refused_only_where_it_is_unwelcome_not_where_it_is_too_large(
    error: dict[str, str], part: str
) -> None:
    """One prompt that is too long must not take the limit from all that follow."""
    asked = json.dumps({"messages": [], "max_tokens": 64, "temperature": 0}).encode()
    assert manners.refused(json.dumps({"error": error}).encode(), asked) == ({part} if part else set())


@pytest.mark.parametrize(
    ("finish", "cut"), [("length", True), ("MAX_TOKENS", True), ("model_length", True), ("stop", False)]
)
def test_an_answer_is_cut_however_the_server_calls_its_limit(finish: str, cut: bool) -> None:
    usage = {"completion_tokens_details": {"reasoning_tokens": -3}}
    _, _, body = completion("It is so", finish, usage=usage, thinking="Is it?")
    said = replies.read(body, b'{"messages": []}').said
    assert said is not None
    assert (said.cut, said.text, said.thought > 0) == (cut, "It is so", True)


def test_a_reply_that_ended_for_an_error_is_none() -> None:
    _, _, body = completion("It is", "error")
    with pytest.raises(replies.Unsound, match="broke the reply off"):
        replies.read(body, b'{"messages": []}')
