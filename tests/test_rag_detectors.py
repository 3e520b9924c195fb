"""A detector of `rag` is one value: all that reads, scores, draws, audits and offers detectors follows from it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from types import ModuleType
from typing import Any
from unittest.mock import patch

import cloudpickle
import pytest

import experiments
from experiments.rag import RAG, detectors
from experiments.rag.detectors import DETECTORS, Detector
from harness.commands.arguments import describe
from harness.running import cache, code, hardware, run
from harness.running.audit import audit
from harness.running.settings import resolve
from harness.stage import Audited, BadInput, Late, Records, Stage
from tests.test_rag_score import frame


def load(setup: Any) -> Any:
    """Read how short an answer is, and how often: the shorter, the better supported."""
    return lambda answers: [{"brevity_least": 1 / (1 + len(answer.text)), "brevity_cut": 1.0} for answer in answers]


BREVITY = Detector(
    "brevity",
    {"brevity_least": (0.0, 1.0)},
    colour="#123456",
    reads=Late(__name__, "load"),
    scores=lambda frame, params: 1 - frame["brevity_least"] if "brevity_least" in frame else None,
    faster="limit",
)


@pytest.fixture
def extended() -> Iterator[Stage[Any, Any]]:
    """`rag` as it is with one more detector, and nothing else declared."""
    own = _loaded()
    with patch.object(detectors, "DETECTORS", (*DETECTORS, BREVITY)), patch.object(experiments, "rag", experiments.rag):
        for name in own:
            del sys.modules[name]
        yield import_module("experiments.rag").RAG
        for name in _loaded():
            del sys.modules[name]
        sys.modules.update(own)


def _loaded() -> dict[str, ModuleType]:
    """The modules of `rag`, but for the one that declares detectors."""
    mine = {name: module for name, module in sys.modules.items() if name.startswith("experiments.rag")}
    return {name: module for name, module in mine.items() if name != detectors.__name__}


def test_a_detector_added_as_one_value_is_read_scored_drawn_audited_and_offered(extended: Stage[Any, Any]) -> None:
    given = {"limit": "8", "folds": "2", "cache": "off", "detector": "brevity"}
    result = run.execute(resolve(extended, given, hardware.load_profiles()))
    metrics = result.report.metrics
    assert result.records.frame["brevity_least"].between(0, 1).all()
    assert result.records.origin["counts"]["cut_to_window"] == 24
    assert metrics["auc"] == metrics["auc/brevity"]
    assert {"auc/brevity/low", "agreement/lexical+brevity", "seconds_per_1000/brevity"} <= result.metrics().keys()
    lines = result.report.figures["roc"]().axes[0].lines
    assert "#123456" in [line.get_color() for line in lines]
    assert "brevity_least" not in result.report.tables["answers"]
    assert describe(extended.score_params.model_fields["detector"])[0].endswith("|redeep|brevity")
    remedies = list(extended.remedies(result.plan.settings, metrics | {"seconds_per_1000/brevity": 1e9}))
    assert "limit" in {remedy.setting for remedy in remedies if remedy.goal == "speed"}


def test_the_audit_looks_at_a_new_detector(extended: Stage[Any, Any]) -> None:
    rows = frame()
    rows["brevity_least"] = 0.2 + 0.5 * rows["label"]  # its support goes with hallucination
    rows.loc[0, "brevity_least"] = 1.5
    records = Records(rows, None, {"counts": {}})
    params = extended.score_params()
    found = {
        each.code: each.message
        for each in audit(Audited(extended, records, extended.score(records, params), params)).findings
    }
    assert "auc/brevity" in found["detector_inverted"]
    assert "brevity_least" in found["feature_out_of_range"]


def test_records_made_before_a_detector_still_score(extended: Stage[Any, Any]) -> None:
    records = Records(frame(), None, {"counts": {}})
    before, after = RAG.score(records, RAG.score_params()), extended.score(records, extended.score_params())
    assert before.metrics == after.metrics
    one = Records(frame().filter(regex="^(?!lexical|string)"), None, {"counts": {}})
    assert RAG.score(one, RAG.score_params(detector="nli")).metrics["auc"] == before.metrics["auc/nli"]


def test_another_set_of_detectors_is_another_key_and_their_colours_are_in_none(extended: Stage[Any, Any]) -> None:
    def key(stage: Stage[Any, Any]) -> str:
        return cache.key(stage, RAG.infer_params(), {}, 0, {})

    assert key(extended) != key(RAG) == key(replace(RAG))
    assert detectors.__name__ not in code.sources(f"{RAG.package}.inference")


def test_a_stage_with_its_detectors_can_be_sent_to_another_process() -> None:
    again = cloudpickle.loads(cloudpickle.dumps(RAG))
    assert again.infer.keywords == RAG.infer.keywords  # type: ignore[attr-defined]


@pytest.mark.parametrize("detector", DETECTORS, ids=lambda detector: detector.name)
def test_all_that_a_detector_reads_bears_its_name(detector: Detector) -> None:
    assert all(column.startswith(f"{detector.name}_") for column in detector.ranges)
    assert detector.reads.module in code.sources(f"{RAG.package}.inference")
    assert detector.faster is None or detector.faster in RAG.infer_params.model_fields
    empty = frame().filter(regex=f"^(?!{detector.name})")
    assert detector.scores(empty, RAG.score_params()) is None


def test_a_detector_that_there_is_not_is_refused_by_the_names_of_all() -> None:
    with pytest.raises(
        BadInput, match=r"detector = none .*: must be 'fused', 'lexical', 'nli', 'similarity', 'string'"
    ):
        resolve(RAG, {"detector": "none"}, hardware.load_profiles())
