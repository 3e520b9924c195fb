"""`rag` through an endpoint: what is no answer is none, the bar moves with every answer, and nothing is paid twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from experiments.models import endpoint
from experiments.rag import RAG
from experiments.rag.inference import data
from harness.progress import Work
from harness.running import hardware, run
from harness.running.settings import resolve
from tests.loopback import Endpoint, completion, refusing, serve


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RIGSWEEP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(endpoint, "_PAUSE", 0.01)


@pytest.fixture
def server() -> Iterator[Endpoint]:
    with serve(Endpoint()) as running:
        yield running


def settings(server: Endpoint, **more: Any) -> dict[str, str]:
    common = {"endpoint": server.address, "model": "m", "tier": "high", "folds": 2, "k": 3, "retries": 0}
    return {name: str(value) for name, value in {**common, **more}.items()}


def execute(given: dict[str, str]) -> run.Result:
    return run.execute(resolve(RAG, given, hardware.load_profiles()))


def test_what_is_no_answer_has_no_label_and_is_not_judged(server: Endpoint) -> None:
    dataset = data.builtin(7)

    def answer(request: dict[str, Any]) -> Any:
        text = request["messages"][-1]["content"]
        (number,) = [i for i, question in enumerate(dataset.questions) if question.text in text]
        right = " ".join(way for (way,) in dataset.questions[number].accepted)
        return [
            completion(right),
            completion(f"<think>{right}</think>No, it is wrong."),
            completion(f"<think>{right}"),
            completion(right, "length"),
            completion(None),
            completion("I don't know."),
            completion(f"<think>No idea.</think>{right}", usage={"completion_tokens_details": {"reasoning_tokens": 9}}),
        ][number]

    server.answer = answer
    found = execute(settings(server, limit=7))
    frame = found.records.frame
    assert list(frame["verdict"]) == ["faithful", "hallucinated", "cut", "cut", "empty", "abstained", "faithful"]
    assert list(frame["label"]) == [0, 1, -1, -1, -1, 0, 0]
    assert list(frame["finish_reason"]) == ["stop", "stop", "stop", "length", "stop", "stop", "stop"]
    assert frame["nli_min"].notna().tolist() == [True, True, False, False, False, False, True]
    assert not frame["answer"].str.contains("think").any()
    metrics = found.report.metrics
    assert (metrics["answers_cut"], metrics["answers_empty"]) == (pytest.approx(2 / 7), pytest.approx(1 / 7))
    assert (metrics["prevalence"], metrics["abstained"]) == (pytest.approx(1 / 3), pytest.approx(1 / 4))
    assert metrics["thinking_tokens"] == pytest.approx(frame["thinking_tokens"].mean())
    assert frame["thinking_tokens"].iloc[-1] == 9
    codes = {finding.code for finding in found.audit.findings}
    assert {"answers_cut", "answers_empty", "thinking_estimated"} <= codes


def test_an_endpoint_without_a_temperature_is_a_finding(server: Endpoint) -> None:
    server.answer = refusing("temperature", "max_tokens")
    found = execute(settings(server, limit=4))
    assert found.records.origin["counts"]["max_tokens_renamed"] == 4
    (told,) = [finding.message for finding in found.audit.findings if finding.code == "answers_drawn"]
    assert told.startswith("4 replies came without temperature = 0")


@pytest.mark.parametrize("judge", [False, True])
def test_the_bar_moves_with_every_answer(server: Endpoint, told: list[Work], judge: bool) -> None:
    """All eight are kept together, and are seen to come one by one."""
    seen: set[float] = set()
    judged = server.answer

    def answer(request: dict[str, Any]) -> Any:
        seen.update(work.done for work in told if work.what == "rag")
        return judged(request) if "response_format" in request or "verdict" in str(request) else completion("It is so.")

    server.answer = answer
    more = {"judge_endpoint": server.address} if judge else {}
    execute(settings(server, limit=8, in_flight=1, **more))
    assert len(seen & set(range(8))) >= 4  # a judge is asked about several at a time
    (bar,) = [work for work in told if work.what == "rag"]
    assert bar.done == bar.total == 8


SCRIPT = """
import sys
from experiments.rag import RAG
from harness.running import hardware, run
from harness.running.settings import resolve
run.execute(resolve(RAG, dict(word.split("=", 1) for word in sys.argv[1:]), hardware.load_profiles()))
"""


def test_a_run_that_is_stopped_amid_its_answers_asks_for_none_of_them_again(server: Endpoint, tmp_path: Path) -> None:
    server.answer, server.latency = (lambda _: completion("It is so.")), 0.05
    given = settings(server, limit=12, in_flight=2)
    words = [sys.executable, "-c", SCRIPT, *(f"{name}={value}" for name, value in given.items())]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=os.environ) as process:
        while len(server.requests) < 6:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        assert process.stderr
        assert "never retrieved" not in process.stderr.read()
    kept = len([*(tmp_path / "cache" / "replies").glob("*.json")])
    assert 3 <= kept < 12
    asked = len(server.requests)
    found = execute(given)
    assert len(server.requests) == asked + 12 - kept
    assert found.records.origin["counts"]["replies_kept_before"] == kept
    assert len(found.records.frame) == 12


def test_replies_that_were_there_before_are_no_speed(server: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    server.answer = lambda request: completion("It is so.")
    execute(settings(server, limit=4))
    asked, paid = len(server.requests), dict[str, int]()
    advance = Work.advance

    def counting(work: Work, count: int, note: str = "", *, found: int = 0) -> None:
        paid[work.what] = paid.get(work.what, 0) + count - found
        advance(work, count, note, found=found)

    monkeypatch.setattr(Work, "advance", counting)
    execute(settings(server, limit=6, cache="refresh"))
    assert len(server.requests) - asked == 2
    assert (paid["ask"], paid["rag"]) == (2, 2)
