"""Detectors are chosen without sight of what they are judged on, and every figure is defined or says why not."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pydantic import TypeAdapter
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from experiments.detect import DETECT
from experiments.detect.scoring.params import DetectScore
from experiments.detect.scoring.records import read_responses
from experiments.detect.scoring.released import read_released
from experiments.detect.scoring.score import rule
from experiments.protocols import Scorer, out_of_fold
from experiments.redeep.fits import FITS
from experiments.redeep.fitted import SCORE, Fitted
from experiments.redeep.responses import Responses
from experiments.statistics import best_f1_threshold
from harness.running.audit import audit
from harness.stage import Audited, BadInput, Records, Report

SCORERS = ("linear", "logistic", "ensemble")


def made(
    responses: int = 60, *, heads: int = 4, layers: int = 2, signal: float = 1.0, per_source: int = 2, seed: int = 0
) -> pd.DataFrame:
    """Spans of responses to prompts; the first head and layer follow the label, all else is noise."""
    rng = np.random.default_rng(seed)
    response = np.repeat(np.arange(responses), rng.integers(1, 5, responses))
    hallucinated = rng.permutation(np.arange(responses) % 2)
    label = hallucinated[response] * (rng.random(len(response)) < 0.6)
    label[np.unique(response, return_index=True)[1]] = hallucinated  # at least one span of a hallucinated response
    columns = {f"ecs_{i // 2}_{i % 2}": rng.normal(size=len(response)) for i in range(heads)}
    columns |= {f"pks_{i}": np.exp(rng.normal(size=len(response))) for i in range(layers)}
    frame = pd.DataFrame({"group": [f"r{i}" for i in response], "label": label, **columns})
    frame["item"] = frame.groupby("group").cumcount()
    frame["length"] = rng.integers(10, 99, len(response))
    frame["source"] = [f"s{i // per_source}" for i in response]
    frame["ecs_0_0"] -= signal * label
    frame["pks_0"] *= np.exp(signal * label)
    return frame


def score(frame: pd.DataFrame, **settings: Any) -> Report:
    return DETECT.score(Records(frame, None, {"counts": {}}), DetectScore(**settings))


def picked(frame: pd.DataFrame, **settings: Any) -> dict[str, float]:
    """The columns that were chosen, and in what share of the folds."""
    features = score(frame, **settings).tables["features"].set_index("column")["picked"]
    return {str(name): share for name, share in features.items() if share > 0}


# --- the published protocol ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def released() -> Records:
    root = Path(os.environ.get("RIGSWEEP_DATA", Path(__file__).parents[2] / "shared" / "data"))
    path = root / "redeep" / "llama2_7b_4bit_chunk.json"
    if not path.is_file():
        pytest.skip(f"the released ReDeEP features are not at {path}; set RIGSWEEP_DATA")
    return read_released(path)


@pytest.mark.real_data
def test_released_features_score_as_published_and_the_audit_sees_that_pks_is_degenerate(released: Records) -> None:
    params = DetectScore(protocol="published", top_n=3, top_k=4, alpha=0.6, m=1)
    report = DETECT.score(released, params)
    published = {
        "auc": 0.6885469342604298,
        "pcc": 0.32314327508344176,
        "span_auc": 0.5984646934929609,
        "auc_ecs": 0.7030854930467763,
        "auc_pks": 0.45666087231352714,
    }
    assert {name: report.metrics[name] for name in published} == pytest.approx(published, abs=1e-9)
    found = {
        finding.code: finding for finding in audit(Audited(DETECT, released, report, params, replayed=True)).findings
    }
    assert found["feature_out_of_range"].level == "fail"
    assert "pks_" in found["feature_out_of_range"].message
    assert found["feature_out_of_range"].message.count("ecs_") == 0
    assert {"in_sample", "pks_uninformative", "part_beats_whole"} <= found.keys()


@pytest.mark.real_data
def test_by_default_released_features_are_judged_out_of_fold_with_an_interval(released: Records) -> None:
    metrics = DETECT.score(released, DetectScore()).metrics
    assert metrics["auc"] == metrics["auc_out_of_fold"]
    assert metrics["auc_low"] < metrics["auc"] < metrics["auc_high"]
    assert metrics["auc_in_sample"] == pytest.approx(0.6885469342604298, abs=1e-9)
    assert metrics["optimism"] == pytest.approx(metrics["auc_in_sample"] - metrics["auc_out_of_fold"])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("top_n", "top_k", "alpha", "m"), [(1, 1, 1, 1), (3, 2, 0.6, 2), (99, 99, 0.1, 0.7)])
def test_the_published_protocol_is_what_its_description_says(
    seed: int, top_n: int, top_k: int, alpha: float, m: float
) -> None:
    frame = made(40, heads=6, layers=4, signal=0.4, seed=seed)

    def part(prefix: str, truth: Any, count: int) -> Any:
        names = [name for name in frame if str(name).startswith(prefix)]
        best = sorted(names, key=lambda name: roc_auc_score(truth, frame[name]), reverse=True)[:count]
        total = frame[best].sum(axis=1)
        return (total - total.min()) / (total.max() - total.min())

    frame["ecs"], frame["pks"] = part("ecs_", 1 - frame["label"], top_n), part("pks_", frame["label"], top_k)
    frame["score"] = m * frame["pks"] - alpha * frame["ecs"]
    truth = frame.groupby("group")["label"].max()
    mean = frame.groupby("group")[["score", "ecs", "pks"]].mean()
    called = mean["score"] >= best_f1_threshold(truth.to_numpy(), mean["score"].to_numpy())
    expected = {
        "auc": roc_auc_score(truth, mean["score"]),
        "span_auc": roc_auc_score(frame["label"], frame["score"]),
        "auc_ecs": roc_auc_score(truth, -mean["ecs"]),
        "auc_pks": roc_auc_score(truth, mean["pks"]),
        "pcc": mean["score"].corr(truth),
        "f1": f1_score(truth, called),
        "accuracy": (truth == called).mean(),
        "prevalence": truth.mean(),
    }
    settings = {"top_n": top_n, "top_k": top_k, "alpha": alpha, "m": m}
    metrics = score(frame.drop(columns=["ecs", "pks", "score"]), protocol="published", **settings).metrics
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, abs=1e-9)
    assert metrics["auc_in_sample"] == metrics["auc"]


# --- selection sees training folds only ----------------------------------------------------------------------------


def test_every_response_is_judged_once_by_a_fit_and_threshold_that_saw_neither_it_nor_its_prompt() -> None:
    cases = read_responses(made(60, per_source=3))
    folds: list[tuple[pd.DataFrame, pd.DataFrame, Any]] = []

    def spy(train: Responses) -> Scorer[Responses]:
        offset = 10.0 * len(folds)  # a threshold of one fold is of no use in another
        folds.append((train.table, train.table, 0))

        def detect(given: Responses) -> dict[str, Any]:
            scores = offset + given.mean(given.ecs["ecs_0_0"])
            if not set(given.table["id"]) & set(train.table["id"]):
                reference = offset + train.mean(train.ecs["ecs_0_0"])
                threshold = best_f1_threshold(train.labels, reference)
                folds[-1] = (train.table, given.table, scores >= threshold)
            return {SCORE: scores}

        return detect

    judged = out_of_fold(cases, spy, rule(DetectScore(folds=4)))
    assert len(folds) == 4
    for train, test, _ in folds:
        assert not set(train["source"]) & set(test["source"])
        assert sorted([*train["id"], *test["id"]]) == sorted(cases.table["id"])
    once = pd.concat([test.assign(called=called) for _, test, called in folds]).set_index("id")
    assert once.index.is_unique
    assert once.loc[cases.table["id"], "called"].tolist() == judged.calls[SCORE].tolist()


@pytest.mark.parametrize("scorer", SCORERS)
def test_a_detector_scores_a_response_alone_as_it_does_among_others(scorer: str) -> None:
    cases = read_responses(made(40))
    detect = FITS[scorer](cases.take(np.arange(30)), DetectScore())
    together = detect(cases.take(np.arange(30, 40)))[SCORE]
    alone = [detect(cases.take(np.array([i])))[SCORE][0] for i in range(30, 40)]
    assert together.tolist() == alone


@pytest.mark.parametrize("scorer", SCORERS)
def test_a_detector_that_was_kept_as_json_scores_as_it_did_to_the_last_bit(scorer: str) -> None:
    cases = read_responses(made(40, seed=3))
    detect = FITS[scorer](cases.take(np.arange(30)), DetectScore(alpha="best"))
    again: Scorer[Responses] = TypeAdapter(Fitted).validate_json(detect.model_dump_json())
    assert again == detect
    assert again(cases)[SCORE].tolist() == detect(cases)[SCORE].tolist()


def test_a_logistic_detector_is_the_regression_that_the_library_fits() -> None:
    cases = read_responses(made(40))
    train, floor = cases.take(np.arange(30)), cases.pks.values[cases.response < 30].min()
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
    model.fit(train.aggregates(list(cases.ecs.names), floor), train.labels)
    expected = model.predict_proba(cases.aggregates(list(cases.ecs.names), floor))[:, 1]
    assert FITS["logistic"](train, DetectScore())(cases)[SCORE] == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize(("scorer", "columns"), [("linear", 100), ("logistic", 16)])
def test_on_noise_the_in_sample_figure_flatters_and_the_out_of_fold_figure_does_not(scorer: str, columns: int) -> None:
    frames = [made(60, heads=columns, layers=columns, signal=0, seed=seed) for seed in range(4)]
    mean = pd.DataFrame([score(frame, scorer=scorer, folds=3).metrics for frame in frames]).mean()
    assert mean["auc_in_sample"] > 0.65
    assert 0.4 < mean["auc_out_of_fold"] < 0.6
    assert mean["optimism"] > 0.15


@pytest.mark.parametrize("scorer", SCORERS)
def test_a_signal_is_found_out_of_fold(scorer: str) -> None:
    metrics = score(made(80, signal=3), scorer=scorer, folds=3).metrics
    assert metrics["auc"] > 0.9
    assert metrics["f1"] > 0.8
    assert metrics["auc_low"] > 0.8


def test_other_folds_give_another_interval_and_what_was_seen_in_training_none() -> None:
    first, second = (score(made(40), fold_seed=seed).metrics["auc_low"] for seed in (0, 1))
    assert first != second
    published = score(made(40), protocol="published")
    assert "judged on what it has learnt from" in published.undefined["auc_low"]
    assert published.metrics["auc_p"] <= 1


@pytest.mark.parametrize("seed", range(5))
def test_a_response_with_anothers_label_has_its_spans_in_the_pattern_of_that_ones(seed: int) -> None:
    cases = read_responses(made(60, seed=seed))
    source = np.random.default_rng(seed).permutation(60)
    again = cases.relabelled(source)
    np.testing.assert_array_equal(again.labels, cases.labels[source])
    np.testing.assert_array_equal(
        again.labels, np.maximum.reduceat(again.label, np.r_[0, np.flatnonzero(np.diff(again.response)) + 1])
    )
    for response, other in enumerate(source):
        mine, theirs = again.label[again.response == response], cases.label[cases.response == other]
        if len(mine) == len(theirs):
            np.testing.assert_array_equal(mine, theirs)
    same = cases.relabelled(np.arange(60))
    np.testing.assert_array_equal(same.label, cases.label)
    np.testing.assert_array_equal(again.aggregates(["ecs_0_0"], 0.1), cases.aggregates(["ecs_0_0"], 0.1))


# --- settings --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["crossfit", "published"])
def test_a_given_threshold_is_honoured(protocol: str) -> None:
    table = score(made(), protocol=protocol, threshold=0.1).tables["responses"]
    assert (table["called"] == (table["score"] >= 0.1)).all()
    assert 0 < table["called"].mean() < 1
    nothing = score(made(), protocol=protocol, threshold=15)
    assert nothing.undefined["precision"] == "no response was called hallucinated"
    assert (nothing.metrics["recall"], nothing.metrics["f1"]) == (0, 0)


def test_heads_are_all_those_listed_or_the_best_in_each_fold() -> None:
    frame, layers = made(heads=6, layers=3, signal=3), {"top_k": 1}
    every = {f"ecs_{layer}_{head}" for layer in range(3) for head in range(2)}
    assert picked(frame, heads="all", **layers).keys() == every | {"pks_0"}
    assert picked(frame, heads="2.1,1.0", top_n=1, **layers).keys() == {"ecs_2_1", "ecs_1_0", "pks_0"}
    auto = picked(frame, heads="auto", top_n=2, **layers)
    assert auto["ecs_0_0"] == pytest.approx(1)
    assert sum(auto.values()) == pytest.approx(2 + 1)


def test_a_head_listed_twice_counts_once() -> None:
    assert score(made(), heads="0.0,0.0,1.0").metrics == score(made(), heads="0.0,1.0").metrics


@pytest.mark.parametrize("scorer", SCORERS)
def test_a_head_that_the_records_lack_is_named_in_one_line(scorer: str) -> None:
    with pytest.raises(BadInput, match=r"^heads = 0\.0,7\.1: no column ecs_7_1 .* 4 heads from ecs_0_0 to ecs_1_1$"):
        score(made(), heads="0.0,7.1", scorer=scorer)


def test_mutual_information_finds_a_head_whose_extremes_are_both_bad_and_auc_does_not() -> None:
    frame = made(120, signal=0.7)
    frame["ecs_1_1"] = np.where(frame["label"] == 1, np.sign(frame["ecs_1_1"]) * 3, frame["ecs_1_1"])
    assert picked(frame, select="mutual_info", top_n=1)["ecs_1_1"] == pytest.approx(1)
    assert picked(frame, select="auc", top_n=1)["ecs_0_0"] == pytest.approx(1)


# --- data that define little ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["crossfit", "published"])
@pytest.mark.parametrize("scorer", SCORERS)
@pytest.mark.parametrize("label", [0, 1])
def test_one_class_leaves_every_figure_undefined_that_needs_two(protocol: str, scorer: str, label: int) -> None:
    report = score(made().assign(label=label), protocol=protocol, scorer=scorer)
    assert report.metrics == {"prevalence": label, "f1_prior": label, "accuracy_prior": 1}
    for name in ("auc", "pcc", "f1", "auc_in_sample", "auc_length"):
        assert f"labels are {label}, and both 0 and 1 are needed" in report.undefined[name]
    assert report.undefined.keys() >= {"auc", "optimism", "auc_out_of_fold", "recall"}


def test_too_few_prompts_for_the_folds_leave_only_the_in_sample_figure() -> None:
    report = score(made(30, per_source=10))
    assert report.undefined["auc"] == "5 folds need 5 prompts of each label, and one label has 3"
    assert report.undefined["optimism"].startswith("auc_out_of_fold is undefined: 5 folds need")
    assert "auc_in_sample" in report.metrics
    assert not {"auc", "auc_low", "f1"} & report.metrics.keys()


def test_responses_to_a_single_prompt_give_an_auc_without_an_interval() -> None:
    report = score(made(per_source=1000), protocol="published")
    assert "auc" in report.metrics
    assert "one source" in report.undefined["auc_low"]


@pytest.mark.parametrize("scorer", SCORERS)
def test_a_constant_column_changes_nothing(scorer: str) -> None:
    frame, settings = made(signal=2), {"scorer": scorer, "top_n": 1, "top_k": 1, "folds": 3}
    before = score(frame, **settings).metrics
    after = score(frame.assign(ecs_9_9=0.3, pks_9=1.0), **settings).metrics
    assert after == pytest.approx(before, abs=1e-9)


def test_a_kind_of_feature_that_is_constant_throughout_carries_nothing() -> None:
    metrics = score(made(layers=1, signal=2).assign(pks_0=0.0)).metrics
    assert metrics["auc_pks"] == 0.5
    assert metrics["auc"] == pytest.approx(metrics["auc_ecs"], abs=0.02)


# --- tasks and trivial baselines -----------------------------------------------------------------------------------


def test_without_tasks_or_with_a_single_one_there_is_no_task_baseline() -> None:
    assert score(made()).undefined["auc_task"] == "the data name no tasks"
    one = score(made().assign(task="QA"))
    assert one.undefined["auc_task"] == "every response is of task QA"
    assert one.metrics["auc_in_task/QA"] == one.metrics["auc"]


def test_a_label_that_follows_the_task_is_exposed_by_the_task_baseline_and_within_tasks() -> None:
    frame = made(240, signal=0, per_source=1)
    number = frame["group"].str[1:].astype(int)
    guilty = frame.groupby("group")["label"].transform("max") == 1
    frame["task"] = np.where(guilty ^ (number % 5 == 0), "summary", "QA")
    frame.loc[~guilty & (number % 2 == 0), "task"] = "chat"
    frame["ecs_0_0"] = (frame["task"] != "summary") + 0.01 * frame["ecs_0_0"]  # knows the task, nothing else
    report = score(frame, heads="0.0", m=0)
    assert report.metrics["auc"] > 0.7
    assert report.metrics["auc_task"] > report.metrics["auc"] - 0.1
    for task in ("QA", "summary"):
        name = f"auc_in_task/{task}"
        assert report.metrics[f"{name}_low"] < 0.5 < report.metrics[f"{name}_high"]
    assert "labels are 0" in report.undefined["auc_in_task/chat"]


@pytest.mark.parametrize("sign", [1, -1])
def test_a_label_that_follows_the_length_is_exposed_by_the_length_baseline(sign: int) -> None:
    frame = made(signal=0)
    frame["length"] = 1000 + sign * 300 * frame.groupby("group")["label"].transform("max")
    frame["length"] //= frame.groupby("group")["length"].transform("size")
    assert score(frame).metrics["auc_length"] == 1


# --- what a stage promises -----------------------------------------------------------------------------------------
