"""Each rule of the audit fires on data that have the fault and keeps silent on data that have not."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from experiments.detect import DETECT
from experiments.detect.scoring.params import DetectScore
from harness.measuring.clock import Clock
from harness.measuring.cost import Cost
from harness.running.audit import Audit, audit, muted_codes
from harness.running.checks import BESIDE_CHECKS, CHECKS
from harness.stage import Audited, BadInput, Finding, Metric, Records, Report

METRICS = (
    Metric("auc", "", "maximize", "headline", chance=0.5),
    Metric("f1", "", "maximize", "at the threshold"),
    Metric("auc_length", "", "none", "length alone", baseline_of="auc"),
    Metric("f1_prior", "", "none", "always yes", baseline_of="f1"),
)
STAGE = replace(DETECT, metrics=METRICS, checks=tuple, feature_ranges=lambda records: {"ecs_": (-1.0, 1.0)})
SOUND = {"auc": 0.8, "auc_low": 0.75, "auc_high": 0.85, "f1": 0.7, "auc_length": 0.6, "f1_prior": 0.6}
COST = Cost.of([Clock().lap()], "bench", "cpu")


def records(counts: dict[str, int] | None = None, cost: Any = COST, **columns: Any) -> Records:
    features = {"ecs_0_0": np.linspace(-1, 1, 10), "ecs_0_1": np.linspace(0, 1, 10)} | columns
    return Records(pd.DataFrame(features), cost, {"counts": {"kept": 10} if counts is None else counts})


def findings(
    seen: Records,
    metrics: dict[str, float] = SOUND,
    undefined: dict[str, str] | None = None,
    replayed: bool = False,
    influence: dict[str, Any] | None = None,
) -> dict[str, Finding]:
    report = Report(metrics, undefined or {}, influence or {})
    audited = Audited(STAGE, seen, report, DetectScore(), replayed)
    return {finding.code: finding for finding in audit(audited).findings}


def test_a_sound_result_has_no_finding_and_the_verdict_ok() -> None:
    assert findings(records()) == {}
    assert Audit().verdict == "ok"


@pytest.mark.parametrize(
    ("changed", "code", "level", "said"),
    [
        ({"auc": 0.3, "auc_low": 0.2, "auc_high": 0.4, "auc_length": 0.1}, "polarity_inverted", "fail", "0.400"),
        ({"auc": 0.6, "auc_length": 0.6, "auc_low": 0.55, "auc_high": 0.65}, "trivial_baseline", "warn", "auc_length"),
        ({"f1_prior": 0.9}, "trivial_baseline", "warn", "f1 0.700 does not beat f1_prior 0.900"),
        ({"auc": 0.55, "auc_low": 0.47, "auc_high": 0.62, "auc_length": 0.1}, "chance_in_interval", "warn", "chance"),
        ({"auc": 0.6, "auc_length": 0.1, "auc_p": 0.2}, "chance_in_interval", "warn", "(p 0.2)"),
        ({"auc": 0.3, "auc_length": 0.1, "auc_p": 0.01}, "polarity_inverted", "fail", "p 0.01"),
        ({"auc_low": 0.65, "auc_high": 0.9}, "interval_wide", "warn", "0.25 wide"),
    ],
)
def test_metrics_that_cannot_be_believed_are_found(changed: dict[str, float], code: str, level: str, said: str) -> None:
    found = findings(records(), SOUND | changed)
    assert list(found) == [code]
    assert found[code].level == level
    assert said in found[code].message


def test_noise_that_lies_below_chance_with_its_interval_is_doubted_and_does_not_fail() -> None:
    noise = {"auc": 0.44, "auc_low": 0.39, "auc_high": 0.49, "auc_p": 0.12, "auc_length": 0.1}
    found = findings(records(), SOUND | noise)
    assert found["polarity_inverted"].level == "warn"
    assert "p 0.12" in found["polarity_inverted"].message


def test_a_baseline_is_compared_on_the_same_groups_and_not_with_an_interval_of_its_own() -> None:
    metrics = SOUND | {"auc_length": 0.76}  # inside the interval of auc
    groups = pd.Series(np.resize([0.002, -0.002], 200))
    alike = {"auc": groups, "auc_length": 0.9 * groups}
    assert findings(records(), metrics, influence=alike) == {}
    apart = {"auc": groups, "auc_length": -0.9 * groups}
    found = findings(records(), metrics, influence=apart)
    assert found["baseline_not_beaten"].level == "info"
    assert "by 0.040 (-0.06" in found["baseline_not_beaten"].message


def test_a_headline_without_an_interval_is_named_with_the_reason() -> None:
    found = findings(records(), {"auc": 0.8}, {"auc_low": "its interval needs 10 groups of each label"})
    assert found["interval_missing"].level == "warn"
    assert "needs 10 groups" in found["interval_missing"].message


def test_what_was_not_computed_is_named_and_fails_only_as_the_headline() -> None:
    assert findings(records(), {}, {"auc": "no labels"})["headline_undefined"].level == "fail"
    found = findings(records(), {"auc": 0.8}, {"f1": "nothing called", "pcc": "constant"})
    assert list(found) == ["undefined"]
    assert found["undefined"].level == "info"
    assert "f1 (nothing called), pcc (constant)" in found["undefined"].message


@pytest.mark.parametrize(
    ("column", "code", "level"),
    [
        (np.linspace(-1.01, 0, 10), "feature_out_of_range", "fail"),
        (np.linspace(0, 1.01, 10), "feature_out_of_range", "fail"),
        (np.linspace(-1 - 1e-7, 1 + 1e-7, 10), None, None),  # rounding
        (np.full(10, 0.5), "feature_constant", "warn"),
    ],
)
def test_features_that_are_constant_or_impossible_are_found(column: Any, code: str | None, level: str | None) -> None:
    found = findings(records(ecs_9_9=column))
    assert {each.code: each.level for each in found.values()} == ({code: level} if code else {})
    assert all("ecs_9_9" in each.message and "ecs_0_0" not in each.message for each in found.values())


def test_of_many_bad_columns_only_the_first_are_named_and_the_others_counted() -> None:
    message = findings(records(**{f"ecs_5_{i}": np.zeros(10) for i in range(8)}))["feature_constant"].message
    assert "ecs_5_2 and 5 more" in message
    assert "ecs_5_3" not in message


@pytest.mark.parametrize(
    ("counts", "code", "level"),
    [
        ({"kept": 100, "errors": 1}, "inputs_errors", "warn"),
        ({"kept": 100, "errors": 11}, "inputs_errors", "fail"),
        ({"kept": 100, "skipped": 10}, "inputs_skipped", "warn"),
        ({"errors": 5}, "inputs_errors", "fail"),
        ({"kept": 100, "prompts_cut": 1}, "inputs_truncated", "warn"),
        ({"kept": 100, "cut_to_window": 60}, "inputs_truncated", "warn"),
    ],
)
def test_inputs_that_failed_were_skipped_or_cut_are_counted(counts: dict[str, int], code: str, level: str) -> None:
    assert {each.code: each.level for each in findings(records(counts)).values()} == {code: level}


def test_a_cost_that_was_not_measured_now_is_said_so() -> None:
    assert "bench" in findings(records(), replayed=True)["cost_replayed"].message
    assert list(findings(records(cost=None), replayed=True)) == ["cost_unknown"]


def test_findings_come_worst_first_and_the_verdict_is_the_worst() -> None:
    seen = records({"kept": 10, "errors": 9, "prompts_cut": 1}, cost=None, ecs_9_9=np.zeros(10))
    found = audit(Audited(STAGE, seen, Report(SOUND), DetectScore(), replayed=True)).findings
    assert [each.level for each in found] == ["fail", "warn", "warn", "info"]
    assert [Audit(found[start:]).verdict for start in range(4)] == [each.level for each in found]
    assert Audit(found[1:]).adding(found[0]).findings == found


def test_what_is_added_to_an_audit_is_muted_as_well() -> None:
    doubt = Finding("warn", "trivial_baseline", "on the holdout as well")
    audited = Audited(STAGE, records(), Report(SOUND | {"f1_prior": 0.9}), DetectScore())
    found = audit(audited, "trivial_baseline").adding(doubt)
    assert (found.findings, len(found.muted), found.verdict) == ((), 2, "ok")


def test_what_is_said_beside_the_checks_has_a_code_that_can_be_muted() -> None:
    said = set[str]()
    for path in (Path(__file__).parent.parent / "harness").rglob("*.py"):
        said |= set(re.findall(r'Finding\(\s*[^,]+,\s*"(\w+)"', path.read_text()))
    assert said == {*BESIDE_CHECKS}


# --- what was asked, what passed, and what is known already ---------------------------------------------------------


def test_what_passed_is_told_beside_what_did_not() -> None:
    found = audit(Audited(STAGE, records(ecs_9_9=np.zeros(10)), Report(SOUND), DetectScore()))
    assert [finding.code for finding in found.findings] == ["feature_constant"]
    assert set(found.passed) == {check.code for check in CHECKS} - {"feature_constant"}
    told = found.as_json()
    assert told["checks"]["asked"] == len(CHECKS)
    assert told["checks"]["passed"]["interval_wide"] == "the interval of the headline is wider than 0.2"
    assert told["findings"] == [vars(finding) for finding in found.findings]


def test_a_muted_check_is_set_apart_and_does_not_count() -> None:
    audited = Audited(STAGE, records({"kept": 100, "skipped": 1, "prompts_cut": 1}), Report(SOUND), DetectScore())
    whole, part = audit(audited), audit(audited, " inputs_skipped, cost_unknown ,")
    assert [finding.code for finding in part.muted] == ["inputs_skipped"]
    assert {*part.findings, *part.muted} == set(whole.findings)
    assert part.passed == whole.passed
    none_left = audit(audited, "inputs_skipped,inputs_truncated")
    assert (whole.verdict, part.verdict, none_left.verdict) == ("warn", "warn", "ok")


def test_a_muted_failure_still_counts_for_the_verdict() -> None:
    audited = Audited(STAGE, records(), Report({}, {"auc": "no labels"}), DetectScore())
    found = audit(audited, "headline_undefined")
    assert ([finding.code for finding in found.findings], found.verdict) == ([], "fail")
    assert found.as_json()["audit"] == "fail"


@pytest.mark.parametrize(
    ("mute", "said"),
    [
        ("interval_wde", "mute = interval_wde: detect has no check interval_wde; did you mean interval_wide?"),
        ("in_sample,passes_needed", "mute = in_sample,passes_needed: detect has no check passes_needed; "),
    ],
)
def test_a_check_that_is_not_there_cannot_be_muted(mute: str, said: str) -> None:
    with pytest.raises(BadInput) as caught:
        muted_codes(DETECT, mute)
    assert str(caught.value).startswith(said)


# --- what only `detect` can doubt ---------------------------------------------------------------------------------


def doubts(frame: pd.DataFrame, metrics: dict[str, float] | None = None, **settings: Any) -> list[str]:
    records, params = Records(frame, None, {}), DetectScore(**settings)
    report = DETECT.score(records, params) if metrics is None else Report(metrics)
    audited = Audited(DETECT, records, report, params)
    return [finding.code for check in DETECT.checks() for finding in check.findings(audited)]


def spans(ecs: Any, pks: Any) -> pd.DataFrame:
    labels = np.arange(200) % 2
    frame = pd.DataFrame({"label": labels, "group": np.arange(200), "source": np.arange(200), "item": 0})
    return frame.assign(ecs_0_0=ecs - 1.5 * labels, ecs_0_1=ecs, pks_0=pks + 1.5 * labels)


def uninformative(frame: pd.DataFrame) -> list[str]:
    return [code for code in doubts(frame) if code.endswith("_uninformative")]


NOISE, OTHER = np.random.default_rng(0).normal(size=(2, 200))
TELLING = spans(NOISE, OTHER)


def test_the_published_protocol_is_labelled_in_sample() -> None:
    assert "in_sample" in doubts(TELLING, protocol="published")
    assert "in_sample" not in doubts(TELLING, protocol="crossfit")


@pytest.mark.parametrize("column", ["ecs_0_0", "pks_0"])
@pytest.mark.parametrize("values", [OTHER[::-1], np.zeros(200)], ids=["noise", "constant"])
def test_a_kind_of_feature_that_separates_nothing_is_found(column: str, values: Any) -> None:
    assert uninformative(TELLING.assign(**{column: values})) == [f"{column[:3]}_uninformative"]
    assert uninformative(TELLING) == []


@pytest.mark.parametrize("lost", [{"label": 1}, {"source": 0}], ids=["one class", "one source"])
def test_features_are_not_judged_where_nothing_can_be(lost: dict[str, int]) -> None:
    assert doubts(TELLING.assign(pks_0=0.0, **lost)) == []


def test_copies_of_a_span_under_one_prompt_do_not_make_a_feature_informative() -> None:
    weak = TELLING.assign(pks_0=0.1 * TELLING["label"] + NOISE[::-1])
    copied = pd.concat([weak.assign(group=weak["group"] + 1000 * i) for i in range(30)])
    assert uninformative(weak) == uninformative(copied) == ["pks_uninformative"]


def test_a_part_that_beats_the_whole_is_found_unless_the_other_part_has_no_weight() -> None:
    metrics = {"auc": 0.7, "auc_ecs": 0.72, "auc_pks": 0.6}
    assert doubts(TELLING, metrics) == ["part_beats_whole"]
    assert doubts(TELLING, metrics | {"auc": 0.75}) == []
    assert doubts(TELLING, {"auc_ecs": 0.72}) == []
    assert doubts(TELLING, metrics | {"auc": 0.72}, m=0) == []
    assert doubts(TELLING, metrics | {"auc": 0.6}, alpha=0) == []
