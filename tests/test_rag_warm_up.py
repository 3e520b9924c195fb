"""Imports and first calls are warm-up: no part of a first run is billed for what only its first answer pays for."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from experiments.rag.inference.infer import infer
from experiments.rag.inference.params import RagInfer
from experiments.rag.inference.reading import MADE_UP, Answer, Asks, Readings, warm_up
from harness.measuring.clock import Clock
from harness.running.journal import open_journal
from harness.stage import Context, Records

SLOW = 0.5


class Stub:
    """A detector that takes its time over its first answer, as one does that imports its libraries then."""

    def __init__(self) -> None:
        self.seen: list[Answer] = []

    def __call__(self, answers: Sequence[Answer]) -> list[Readings]:
        if not self.seen:
            time.sleep(SLOW)
        self.seen += answers
        return [{"string_rouge": 0.5} for _ in answers]


def records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **readers: Any) -> Records:
    monkeypatch.setenv("RIGSWEEP_CACHE", str(tmp_path / "cache"))
    params = RagInfer(limit=2, k=2, tier="high", max_new_tokens=4)
    with open_journal(None, fresh=False) as journal:
        return infer(params, Context("cpu", "cpu", 0, Clock(), journal), readers=readers)


def test_no_part_holds_what_only_the_first_answer_pays_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stub = Stub()
    found = records(tmp_path, monkeypatch, string=lambda setup: stub)
    assert found.cost is not None
    assert found.cost.part_seconds["string"] < SLOW / 2
    assert found.cost.part_seconds["detectors"] < SLOW / 2
    assert found.cost.warmup_seconds > SLOW
    assert stub.seen[0] == MADE_UP
    assert MADE_UP not in stub.seen[1:]
    assert len(found.frame) == 2  # the made-up answer has no row


def test_what_may_be_paid_for_is_not_asked_for_a_made_up_answer() -> None:
    asked: list[Sequence[Answer]] = []

    def read(answers: Sequence[Answer]) -> list[Readings]:
        asked.append(answers)
        return []

    warm_up([Asks(read)])
    assert asked == [[]]
