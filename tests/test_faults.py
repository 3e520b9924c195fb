"""What has been published with a fault, and the same made by hand, is caught on the way from records to findings.

Every fault stands beside sound data of the same kind on which its finding keeps silent.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from experiments.detect import DETECT
from experiments.detect.scoring.params import DetectScore
from experiments.detect.scoring.released import read_released
from harness.running.audit import audit
from harness.stage import Audited, Finding, Metric, Records, Report, Stage

RNG = np.random.default_rng(1)
N = 240


def audited(
    frame: pd.DataFrame, origin: dict[str, Any] | None = None, stage: Stage[Any, Any] = DETECT, **settings: Any
) -> tuple[Report, dict[str, Finding]]:
    """The report on these records, and the findings by code."""
    records, params = Records(frame, None, {"counts": {}} | (origin or {})), DetectScore(**settings)
    report = stage.score(records, params)
    return report, {finding.code: finding for finding in audit(Audited(stage, records, report, params)).findings}


def responses(**columns: Any) -> pd.DataFrame:
    """Responses of one span each whose ECS and PKS follow the label."""
    label = np.arange(N) % 2
    frame = pd.DataFrame({"group": [f"r{i}" for i in range(N)], "source": [f"s{i}" for i in range(N)], "item": 0})
    frame = frame.assign(
        label=label, length=RNG.integers(20, 60, N), task=["QA" if i % 4 < 2 else "Sum" for i in range(N)]
    )
    noise = RNG.normal(0, 0.1, (2, N))
    return frame.assign(ecs_0_0=0.5 - 0.15 * label + noise[0], pks_0=0.3 + 0.1 * label + 0.5 * noise[1]).assign(
        **columns
    )


def confounded_by_task() -> pd.DataFrame:
    """One task has nine hallucinations in ten, the other one in ten, and the features tell the tasks apart only."""
    frame = responses()
    hard = frame["task"] == "QA"
    label = (RNG.random(N) < np.where(hard, 0.9, 0.1)).astype(int)
    return frame.assign(
        label=label, ecs_0_0=0.5 - 0.3 * hard + RNG.normal(0, 0.1, N), pks_0=0.3 + RNG.normal(0, 0.05, N)
    )


def confounded_by_length() -> pd.DataFrame:
    """Longer responses are hallucinated more often, and the features grow with length."""
    frame = responses(length=RNG.integers(20, 400, N))
    label = (RNG.random(N) < frame["length"] / 420).astype(int)
    return frame.assign(
        label=label, ecs_0_0=0.6 - frame["length"] / 1000 + RNG.normal(0, 0.02, N), pks_0=0.3 + RNG.normal(0, 0.05, N)
    )


def noise_to_choose_from() -> pd.DataFrame:
    """Many columns that carry nothing, the best of which looks good where it was chosen."""
    return responses(**{f"ecs_{i}_0": RNG.normal(0, 0.1, N) for i in range(60)}, pks_0=RNG.normal(0.3, 0.05, N))


CHECKED = {"responses": 4, "batch": {"ecs_max": 0.0, "pks_max": 0.0}}


@pytest.mark.parametrize(
    ("code", "faulty", "sound"),
    [
        ("headline_undefined", {"frame": responses(label=0)}, {}),
        ("polarity_inverted", {"frame": responses(label=1 - np.arange(N) % 2)}, {}),
        ("confounded", {"frame": confounded_by_task()}, {}),
        ("trivial_baseline", {"frame": confounded_by_task()}, {}),
        ("trivial_baseline", {"frame": confounded_by_length()}, {}),
        ("in_sample", {"frame": noise_to_choose_from(), "protocol": "published"}, {"frame": noise_to_choose_from()}),
        ("feature_constant", {"frame": responses(pks_1=0.25)}, {"frame": responses(pks_1=RNG.normal(0.3, 0.1, N))}),
        ("ecs_uninformative", {"frame": responses(ecs_0_0=RNG.normal(0.3, 0.1, N))}, {}),
        (
            "batch_changes_features",
            {"origin": {"checked": CHECKED | {"batch": {"ecs_max": 0.02, "pks_max": 0.0}}}},
            {"origin": {"checked": CHECKED}},
        ),
        ("inputs_truncated", {"origin": {"counts": {"answers_cut": 3}}}, {"origin": {"counts": {"answers_cut": 0}}}),
        ("inputs_truncated", {"origin": {"counts": {"cut_to_window": 1}}}, {"origin": {"counts": {"cut": 1}}}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_fault_is_found_and_only_where_it_is(code: str, faulty: dict[str, Any], sound: dict[str, Any]) -> None:
    report, found = audited(**({"frame": responses()} | faulty))
    assert code in found
    if code == "headline_undefined":
        assert "auc" not in report.metrics  # never 0.0
        assert "labels are 0" in report.undefined["auc"]
    _, quiet = audited(**({"frame": responses()} | sound))
    assert code not in quiet


def test_what_is_chosen_on_the_test_set_looks_better_than_it_is() -> None:
    report, found = audited(noise_to_choose_from(), protocol="published", top_n=1, m=0)
    assert report.metrics["auc"] > report.metrics["auc_out_of_fold"] + 0.02
    assert "auc_out_of_fold" in found["in_sample"].message


def test_groups_too_small_to_tell_are_not_called_confounded() -> None:
    inside = {f"auc_in_task/{task}": 0.72 for task in ("talk", "faq_low")}
    inside |= {f"{name}_{end}": value for name in inside for end, value in (("low", 0.48), ("high", 0.9))}
    whole = {"auc": 0.8, "auc_low": 0.75, "auc_high": 0.85}
    lower = {name: value - 0.2 for name, value in inside.items()}
    for metrics, doubted in ((whole | inside, False), (whole | lower, True)):
        audited = Audited(DETECT, Records(responses(), None, {}), Report(metrics), DetectScore())
        assert ("confounded" not in audit(audited).passed) == doubted


def test_every_finding_says_what_to_do() -> None:
    frames: list[Callable[[], pd.DataFrame]] = [confounded_by_task, confounded_by_length, noise_to_choose_from]
    worst = {"counts": {"errors": 90, "skipped": 1, "answers_cut": 1, "kept": 100}}
    said = [
        finding.message for frame in frames for finding in audited(frame(), worst, protocol="published")[1].values()
    ]
    assert len(said) > 15
    assert [message for message in said if ";" not in message] == []


# --- failures ------------------------------------------------------------------------------------------------------

RUBRIC = ("faithfulness", "fact_recall", "consistency", "hallucination")
JUDGED = replace(
    DETECT,
    checks=tuple,
    score=lambda *_: Report({"auc": 0.8}),
    feature_ranges=lambda _: dict.fromkeys(RUBRIC, (1.0, 10.0)),
)


@pytest.fixture
def judgements(real_data: Path) -> dict[str, pd.DataFrame]:
    """Rubric scores of three evaluations, and in column `error` what became of those that the judge failed on."""
    found = json.loads((real_data / "adapters" / "judgements.json").read_text())
    frames = {name: pd.DataFrame(each["judgements"]) for name, each in found.items()}
    return {name: f.assign(error=np.where(f.pop("judge_error"), "judge error", "")) for name, f in frames.items()}


def test_judge_failures_that_were_counted_as_zeros_are_found(judgements: dict[str, pd.DataFrame]) -> None:
    half = judgements["half_judge_errors"]
    as_published = half.fillna(dict.fromkeys(RUBRIC, 0))
    assert 10 * as_published[list(RUBRIC)].mean().mean() == pytest.approx(21.0, abs=0.2)  # as was published
    _, found = audited(as_published, stage=JUDGED)
    assert found["failures_scored"].level == "fail"
    assert (
        "10 rows that failed have values in faithfulness, fact_recall, consistency and 1 more (0 on"
        in found["failures_scored"].message
    )
    assert "feature_out_of_range" in found
    _, found = audited(half, stage=JUDGED)
    assert {code: finding.level for code, finding in found.items() if code != "cost_unknown"} == {"failures": "fail"}
    assert "10 of 20 rows (50%) failed" in found["failures"].message
    _, found = audited(judgements["complete"], stage=JUDGED)
    assert list(found) == ["cost_unknown"]


def test_a_failure_of_one_kind_of_feature_is_no_failure_of_the_others() -> None:
    stage = replace(JUDGED, feature_ranges=lambda _: {"nli_m": (0.0, 1.0), "ragas_f": (0.0, 1.0)})
    scores = np.linspace(0, 1, 50)
    error = ["timeout" if i < 2 else "" for i in range(50)]
    frame = pd.DataFrame({"nli_min": scores, "ragas_faithfulness": scores, "error_ragas": error})
    assert "failures_scored" in audited(frame, stage=stage)[1]
    missing = frame.assign(ragas_faithfulness=np.where(frame["error_ragas"] == "", scores, np.nan))
    found = audited(missing, stage=stage)[1]
    assert "failures_scored" not in found
    assert (found["failures"].level, "2 of 50 rows (4%) failed (error_ragas)" in found["failures"].message) == (
        "warn",
        True,
    )


def test_empty_contexts_that_got_a_score_are_found() -> None:
    stage = replace(JUDGED, feature_ranges=lambda _: {"nli_": (0.0, 1.0)})
    passages = np.arange(50) % 5
    frame = pd.DataFrame({"nli_min": np.where(passages == 0, 0.5, np.linspace(0, 0.99, 50)), "evidence": passages})
    found = audited(frame, stage=stage)[1]["empty_scored"]
    assert found.level == "fail"
    assert "10 rows with nothing to judge by have values in nli_min (0.5 on average" in found.message
    assert "empty_scored" not in audited(frame.assign(evidence=passages + 1), stage=stage)[1]
    left_out = frame.assign(
        nli_min=frame["nli_min"].where(passages > 0), error=np.where(passages == 0, "empty context", "")
    )
    assert {"empty_scored", "failures_scored"}.isdisjoint(audited(left_out, stage=stage)[1])


# --- released results ----------------------------------------------------------------------------------------------


def test_the_pks_column_that_is_all_noise_is_found(real_data: Path) -> None:
    released = read_released(real_data / "redeep" / "llama2_7b_4bit_chunk.json")
    found = audited(released.frame, released.origin, top_n=3, top_k=4)[1]
    assert {"feature_out_of_range", "pks_uninformative"} <= found.keys()
    assert "ecs_uninformative" not in found


def test_reliability_gates_give_the_published_status(real_data: Path) -> None:
    metrics = (
        Metric("spearman", "", "maximize", "median over pairs of trials", usable=0.8, failed=0.6),
        Metric("snr", "", "maximize", "signal over noise", usable=2, failed=1),
        Metric("icc", "", "maximize", "agreement of trials", usable=0.75),
    )
    summary = json.loads((real_data / "montecarlo" / "siglip2_b16" / "exp0_summary.json").read_text())
    seen = set()
    for cell in (cell for norms in summary["results"].values() for cell in norms.values()):
        report = Report({"spearman": cell["pairwise_spearman_median"], "snr": cell["snr"], "icc": cell["icc"]})
        stage = replace(JUDGED, metrics=metrics, score=lambda *_, report=report: report)
        codes = {code for code in audited(pd.DataFrame({"faithfulness": [1.0, 2.0]}), stage=stage)[1] if "gate" in code}
        status = "failed" if "gate_failed" in codes else "marginal" if codes else "usable"
        assert status == cell["status"]
        seen.add(status)
    assert seen == {"failed", "marginal", "usable"}
