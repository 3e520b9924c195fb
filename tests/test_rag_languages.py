"""`rag` through an endpoint on texts whose words are dates, or that have no spaces: retrieved, and labelled right."""

# ruff: noqa: RUF001 - scripts are what is tested
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from experiments.rag import RAG
from harness.running import hardware, run
from harness.running.settings import resolve
from tests.loopback import Endpoint, completion, serve
from tests.tiny import write_jsonl

MONTHS = "January February March April May June July August September October November December".split()
CAPITALS = dict(
    zip(
        "维兰国 卡斯提亚 达尔莫 埃斯特拉 法兰 戈尔马 赫斯提亚 伊贝拉 诺兰 奥斯塔 奎因 萨里亚".split(),
        "阿尔东 布里姆 科尔沃 敦霍尔 埃尔加 芬威克 加洛 哈诺 利莫 米尔顿 帕尔玛 罗森".split(),
        strict=True,
    )
)
# Of each question its passage, what is asked, what is accepted, an answer that is right and one that is not.
TOLD: dict[str, list[tuple[str, str, str, str, str]]] = {
    "dates": [
        (
            f"The bridge of Town{i} opened to traffic on {month} {i + 3}, {1800 + 13 * i}, after four years of work.",
            f"In which year did the bridge of Town{i} open?",
            str(1800 + 13 * i),
            f"It opened on {month} {i + 3}, {1800 + 13 * i}.",
            f"It opened on {month} {i + 3}, {1801 + 13 * i}.",
        )
        for i, month in enumerate(MONTHS)
    ],
    "chinese": [
        (
            f"{capital}是{country}的首都，也是该国最大的城市。",
            f"{country}的首都是哪里？",
            capital,
            f"{country}的首都是{capital}。",
            f"{country}的首都是石门。",
        )
        for country, capital in CAPITALS.items()
    ],
}


@pytest.mark.parametrize("language", TOLD)
def test_half_of_the_answers_are_right_and_their_passages_are_retrieved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, language: str
) -> None:
    monkeypatch.setenv("RIGSWEEP_CACHE", str(tmp_path / "cache"))
    told = TOLD[language]
    write_jsonl(tmp_path / "passages.jsonl", [{"id": f"p{i}", "text": each[0]} for i, each in enumerate(told)])
    asked = [
        {"id": f"q{i:02d}", "question": each[1], "answers": [each[2]], "relevant": [f"p{i}"]}
        for i, each in enumerate(told)
    ]
    write_jsonl(tmp_path / "questions.jsonl", asked)

    def answer(request: dict[str, Any]) -> Any:
        text = json.loads(json.dumps(request))["messages"][-1]["content"].rpartition("Question:")[2]
        (number,) = [i for i, each in enumerate(told) if each[1] in text]
        return completion(told[number][3 + number % 2])

    with serve(Endpoint(answer=answer)) as server:
        given = {"dataset": str(tmp_path), "endpoint": server.address, "model": "m", "tier": "retrieved", "k": "3"}
        found = run.execute(resolve(RAG, given | {"folds": "2"}, hardware.load_profiles()))
    frame, metrics = found.records.frame.sort_values("item"), found.report.metrics
    assert frame["label"].tolist() == [0, 1] * 6
    assert metrics["recall_at_k"] == metrics["mrr"] == 1
    assert metrics["auc/lexical"] == 1 if language == "chinese" else metrics["auc/lexical"] > 0.5
    assert "nothing_in_common" not in {finding.code for finding in found.audit.findings}
