"""The cheap half of `rag`: what a metric is, what is learnt where, and what is undefined rather than 0."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.metrics import cohen_kappa_score, f1_score, roc_auc_score

from experiments import protocols, statistics
from experiments.rag import RAG
from experiments.rag.scoring.answers import Answers, fit, read_answers, rule
from experiments.rag.scoring.params import RagScore
from harness.running.audit import audit
from harness.running.hardware import load_profiles
from harness.running.records import require_sound
from harness.running.settings import resolve
from harness.stage import Audited, BadInput, Records, Undefined
from harness.sweeping.trial import split

TIERS = ("high", "medium", "low")
DETECTORS = ("lexical", "nli", "string")


def frame(questions: int = 40, seed: int = 0) -> pd.DataFrame:
    """Answers at three tiers: `lexical` and `nli` know something, the less the worse the tier, `string` nothing."""
    rng = np.random.default_rng(seed)
    rows = []
    for question in range(questions):
        for tier, base, noise in zip(TIERS, (0.3, 0.5, 0.7), (0.2, 0.5, 1.0), strict=True):
            label = int(rng.random() < base)

            def support(label: int = label, noise: float = noise) -> float:
                return float(1 / (1 + np.exp(2 * label - 1 + noise * 2 * rng.normal())))

            row = {"group": f"q{question:03d}", "item": f"q{question:03d}/{tier}", "tier": tier, "label": label}
            row |= {"verdict": ("faithful", "hallucinated")[label], "length": 3 + int(rng.integers(4)), "evidence": 1}
            row |= {"achieved": {"high": 0.8, "medium": 0.5, "low": 0.2}[tier], "recall": 0.5, "reciprocal_rank": 1.0}
            for name in ("lexical_tokens", "lexical_entities", "nli"):
                row |= {f"{name}_min": (least := support()), f"{name}_mean": (1 + least) / 2}
            rows.append(row | {"string_rouge": rng.random(), "string_chrf": rng.random()})
    return pd.DataFrame(rows)


def report(rows: pd.DataFrame, **chosen: Any) -> Any:
    return RAG.score(Records(rows, None, {"counts": {}}), RagScore.model_validate(chosen))


def test_a_detectors_metrics_are_those_of_a_plain_computation() -> None:
    rows = frame(80)
    found = report(rows, aggregation="mean", detector="nli").metrics
    score = 1 - rows["nli_mean"]
    assert found["auc"] == found["auc/nli"] == pytest.approx(roc_auc_score(rows["label"], score))
    for tier in TIERS:
        mine = rows["tier"] == tier
        assert found[f"auc/nli/{tier}"] == pytest.approx(roc_auc_score(rows["label"][mine], score[mine]))
        assert found[f"prevalence/{tier}"] == pytest.approx(rows["label"][mine].mean())
        assert found[f"achieved/{tier}"] == pytest.approx(rows["achieved"][mine].mean())
    assert found["degradation"] == pytest.approx(found["auc/nli/high"] - found["auc/nli/low"])
    assert found["degradation_low"] < found["degradation"] < found["degradation_high"]
    assert found["auc_in_tier"] == pytest.approx(np.mean([found[f"auc/nli/{tier}"] for tier in TIERS]))
    overlap = 1 - (rows["lexical_tokens_min"] + rows["lexical_entities_min"]) / 2
    assert report(rows).metrics["auc/lexical"] == pytest.approx(roc_auc_score(rows["label"], overlap))
    assert (found["recall_at_k"], found["mrr"]) == (0.5, 1.0)


def test_a_detector_that_has_read_nothing_is_left_out_of_the_pictures() -> None:
    found = report(frame().assign(string_rouge=np.nan))
    assert "auc/string" in found.undefined
    titles = [axes.get_title() for axes in found.figures["confusion"]().axes]
    assert "lexical" in titles
    assert "string" not in titles
    for name in found.figures:
        found.figures[name]()


def out_of_fold(answers: Answers, params: RagScore) -> protocols.Judged[Answers]:
    """Judged as the stage does."""
    return protocols.out_of_fold(answers, lambda train: fit(train, params), rule(answers, params))


def test_calls_and_fusion_come_from_other_questions() -> None:
    """Each fold's threshold and fusion is what fitting on the other folds gives, and no question is in both."""
    rows = frame()
    params = RagScore(fusion="logistic", folds=4)
    answers = read_answers(rows, params)
    judged = out_of_fold(answers, params)
    for train, test in statistics.group_folds(answers.labels, answers.groups, 4, 0, "questions"):
        assert not set(answers.groups[train]) & set(answers.groups[test])
        seen = answers.take(train)
        expected = fit(seen, params)(answers.take(test))
        assert expected.keys() == judged.scores.keys() == judged.calls.keys()
        for name, scores in expected.items():
            np.testing.assert_array_equal(judged.scores[name][test], scores)
            threshold = statistics.best_f1_threshold(answers.labels[train], fit(seen, params)(seen)[name])
            np.testing.assert_array_equal(judged.calls[name][test], scores >= threshold)
    found = report(rows, fusion="logistic", folds=4).metrics
    assert found["f1/nli"] == pytest.approx(f1_score(answers.labels, judged.calls["nli"]))
    assert found["auc/fused"] == pytest.approx(roc_auc_score(answers.labels, judged.scores["fused"]))
    calls = pd.DataFrame(judged.calls)
    kappas = [cohen_kappa_score(calls[a], calls[b]) for a, b in (("lexical", "nli"), ("lexical", "string"))]
    assert found["agreement/lexical+nli"] == pytest.approx(kappas[0])
    assert found["agreement/lexical+string"] == pytest.approx(kappas[1])


def test_fused_ranks_are_shares_of_training_scores() -> None:
    rows = frame()
    params = RagScore()
    answers = read_answers(rows, params)
    fused = fit(answers, params)(answers)["fused"]
    expected = answers.readings.rank(method="average").sub(0.5).div(len(rows)).mean(axis=1)
    np.testing.assert_allclose(fused, expected)


def test_labels_of_an_answer_do_not_reach_its_own_fused_score() -> None:
    rows = frame()
    params = RagScore(fusion="logistic")
    before = out_of_fold(read_answers(rows, params), params).scores["fused"]
    held = rows["group"] == "q007"
    other = rows.assign(label=rows["label"].where(~held, 1 - rows["label"]))
    answers = read_answers(other, params)
    splits = statistics.group_folds(read_answers(rows, params).labels, answers.groups, 5, 0, "questions")
    (train, test), *_ = [split for split in splits if "q007" in answers.groups[split[1]]]
    after = fit(answers.take(train), params)(answers.take(test))["fused"]
    np.testing.assert_array_equal(before[test], after)


@given(st.lists(st.tuples(st.integers(0, 1), st.floats(0, 1)), min_size=1, max_size=60))
def test_calibration_error_is_the_mean_gap_over_bins(pairs: list[tuple[int, float]]) -> None:
    labels, scores = (np.array(each) for each in zip(*pairs, strict=True))
    expected = 0.0
    for place in range(10):
        mine = np.minimum((scores * 10).astype(int), 9) == place
        expected += abs(labels[mine].mean() - scores[mine].mean()) * mine.mean() if mine.any() else 0.0
    assert statistics.calibration_error(labels, scores) == pytest.approx(expected)


def test_calibration_error_agrees_with_sklearns_curve() -> None:
    rng = np.random.default_rng(1)
    scores = rng.random(500)
    labels = (rng.random(500) < scores**2).astype(np.int64)
    true, predicted = calibration_curve(labels, scores, n_bins=10)
    counts = np.histogram(scores, bins=10, range=(0, 1))[0]
    assert statistics.calibration_error(labels, scores) == pytest.approx(
        (np.abs(true - predicted) * counts).sum() / 500
    )
    with pytest.raises(Undefined, match="no probabilities"):
        statistics.calibration_error(labels, scores + 1)


# ---- what is not there ----


def test_one_class_is_undefined_and_never_0() -> None:
    rows = frame().assign(label=1, verdict="hallucinated")
    found = report(rows)
    assert "auc" not in found.metrics
    assert found.undefined["auc/nli"] == "all 120 labels are 1, and both 0 and 1 are needed"
    assert not [name for name in found.metrics if name.startswith(("auc", "f1/", "precision", "recall/"))]
    assert found.metrics["prevalence"] == 1.0


def test_one_class_at_one_tier_leaves_the_others_defined() -> None:
    rows = frame()
    rows.loc[rows["tier"] == "low", ["label", "verdict"]] = [1, "hallucinated"]
    found = report(rows)
    assert "auc/nli/low" in found.undefined
    assert "degradation" in found.undefined
    assert {"auc", "auc/nli/high", "auc/fused/medium"} <= found.metrics.keys()


def test_abstentions_are_neither_right_nor_wrong() -> None:
    rows = frame()
    silent = rows.iloc[:30].assign(verdict="abstained", label=0, evidence=0, item=lambda r: r["item"] + "/silent")
    silent[[name for name in silent if name.startswith(("lexical_", "nli_", "string_"))]] = np.nan
    both = pd.concat([rows, silent], ignore_index=True)
    require_sound(Records(both, None, {}))
    plain, found = report(rows).metrics, report(both).metrics
    assert found.pop("abstained") == pytest.approx(30 / 150)
    assert {name: value for name, value in found.items() if not name.startswith("abstained")} == pytest.approx(
        {name: value for name, value in plain.items() if not name.startswith("abstained")}
    )


def test_what_is_no_answer_has_no_label_and_is_counted_apart() -> None:
    """Beside 120 answers 30 abstain, 10 are cut and 20 empty; a share is of those that could have been otherwise."""
    rows, plain = frame(), report(frame()).metrics
    others = []
    for verdict, count, label in (("abstained", 30, 0), ("cut", 10, -1), ("empty", 20, -1)):
        some = rows.iloc[:count].assign(verdict=verdict, label=label, evidence=0, finish_reason="stop")
        some[[name for name in some if name.startswith(("lexical_", "nli_", "string_"))]] = np.nan
        others.append(some.assign(item=some["item"] + verdict))
    both = pd.concat([rows, *others], ignore_index=True)
    require_sound(Records(both, None, {}))
    reported = report(both)
    found = reported.metrics
    assert found["abstained"] == pytest.approx(30 / 150)
    assert (found["answers_cut"], found["answers_empty"]) == (pytest.approx(10 / 180), pytest.approx(20 / 180))
    high = both["tier"] == "high"
    assert found["answers_cut/high"] == pytest.approx((both[high]["verdict"] == "cut").mean())
    for name in ("auc", "auc_in_tier", "f1", "prevalence", "prevalence/low", "missing/nli", "auc_length", "f1_prior"):
        assert found[name] == plain[name]
    origin = {"counts": {}, "infer": {"max_new_tokens": 64}}
    findings = audit(Audited(RAG, Records(both, None, origin), reported, RagScore())).findings
    told = {finding.code: finding for finding in findings}
    assert (told["answers_cut"].level, told["answers_empty"].level) == ("warn", "warn")
    assert "5.6% of the answers ended in their midst, at max_new_tokens = 64 " in told["answers_cut"].message
    for draw in reported.figures.values():
        draw()


def test_a_label_that_is_unknown_is_none_of_a_judged_answer() -> None:
    rows = frame()
    rows.loc[3, "label"] = -1
    with pytest.raises(BadInput, match="the records hold label -1 in row 3; needed are"):
        report(rows)
    with pytest.raises(BadInput, match="the records hold verdict wrong in row 3; needed are"):
        report(rows.assign(verdict=rows["verdict"].where(rows.index != 3, "wrong")))


def test_a_holdout_spreads_answers_without_a_label_as_a_class_of_their_own() -> None:
    rows = frame()
    rows.loc[rows["group"] < "q020", ["label", "verdict"]] = [-1, "cut"]
    plan = resolve(RAG, {"seed": "3"}, load_profiles())
    seen, held = split(plan, Records(rows, None, {}), 0.5)
    assert held is not None
    assert (held.frame.drop_duplicates("group")["label"] == -1).sum() == 10
    assert set(RAG.held_out(seen, held, RagScore()).metrics) >= {"auc", "answers_cut"}


def test_a_score_that_is_missing_is_left_out_and_counted() -> None:
    rows = frame().assign(ragas_faithfulness=lambda r: 1 - r["label"] * 0.5, error_ragas="")
    rows.loc[:9, "ragas_faithfulness"], rows.loc[:9, "error_ragas"] = np.nan, "no reply within 60 s"
    require_sound(Records(rows, None, {}))
    found = report(rows)
    assert (found.metrics["missing/ragas"], found.metrics["missing/fused"], found.metrics["missing/nli"]) == (10, 10, 0)
    assert found.metrics["auc/ragas"] == 1.0
    assert found.metrics["auc/nli"] == report(frame()).metrics["auc/nli"]
    findings = audit(Audited(RAG, Records(rows, None, {"counts": {}}), found, RagScore())).findings
    (failure,) = [finding for finding in findings if finding.code == "failures"]
    assert "10 of 120 rows (8%) failed (error_ragas), the most by: no reply within 60 s" in failure.message


def test_a_detector_that_has_read_nothing_is_named() -> None:
    assert report(frame(), detector="ragas").undefined["auc"] == "the records hold no reading of ragas"
    alone = report(frame().filter(regex="^(?!lexical|string)"))
    assert alone.undefined["auc"] == "one detector alone is nothing to fuse"
    assert "auc/nli" in alone.metrics


@pytest.mark.parametrize("column", ["group", "item", "tier", "verdict", "label", "length"])
def test_records_without_a_column_are_refused(column: str) -> None:
    with pytest.raises(BadInput, match=f"the records have no column {column}; needed are group"):
        report(frame().drop(columns=column))


# ---- baselines, holdout, sweeps ----


def test_a_detector_is_held_against_length_and_tier_alone() -> None:
    rows = frame()
    rows["length"] = 10 - 5 * rows["label"]  # the shorter, the more hallucinated
    found = report(rows)
    assert found.metrics["auc_length"] == 1.0
    rates = rows.groupby("tier")["label"].transform("mean")
    assert found.metrics["auc_tier"] == pytest.approx(roc_auc_score(rows["label"], rates))
    codes = {each.code for each in audit(Audited(RAG, Records(rows, None, {"counts": {}}), found, RagScore())).findings}
    assert "trivial_baseline" in codes


def test_a_detector_that_points_the_wrong_way_is_named() -> None:
    rows = frame()
    rows[["nli_min", "nli_mean"]] = 1 - rows[["nli_min", "nli_mean"]]
    found = audit(Audited(RAG, Records(rows, None, {"counts": {}}), report(rows), RagScore())).findings
    (inverted,) = [finding for finding in found if finding.code == "detector_inverted"]
    assert "auc/nli" in inverted.message


def test_a_holdout_is_judged_by_what_was_learnt_elsewhere() -> None:
    train, test = frame(seed=1), frame(20, seed=2)
    params = RagScore(fusion="logistic", detector="nli")
    found = RAG.held_out(Records(train, None, {}), Records(test, None, {}), params).metrics
    seen, held = read_answers(train, params), read_answers(test, params)
    judged = protocols.held_out(seen, held, lambda train: fit(train, params), rule(held, params))
    assert found["f1"] == pytest.approx(f1_score(held.labels, judged.calls["nli"]))
    assert found["auc/fused"] == pytest.approx(roc_auc_score(held.labels, judged.scores["fused"]))


def test_a_given_threshold_is_that_of_the_chosen_detector() -> None:
    rows = frame()
    found, auto = report(rows, detector="nli", threshold=0.9).metrics, report(rows).metrics
    assert found["f1"] == pytest.approx(f1_score(rows["label"], 1 - rows["nli_min"] >= 0.9))
    assert found["f1/string"] == auto["f1/string"]


def test_every_figure_can_be_drawn() -> None:
    for rows in (frame(), frame().query("tier == 'low'").assign(tier="given").drop(columns="achieved")):
        for draw in report(rows).figures.values():
            draw().canvas.draw()


def test_a_damaged_file_of_the_cache_is_told() -> None:
    rows = frame()
    origins: list[dict[str, Any]] = [{"counts": {}, "remade": ["lemmas/x.npz"]}, {"counts": {}, "remade": []}]
    found = [audit(Audited(RAG, Records(rows, None, each), report(rows), RagScore())).findings for each in origins]
    told = [[each.message for each in findings if each.code == "kept_damaged"] for findings in found]
    assert [len(each) for each in told] == [1, 0]
    assert "lemmas/x.npz in the cache could not be read" in told[0][0]
