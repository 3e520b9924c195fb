"""One judge for all stages: nobody is judged by what has learnt from him, and what cannot be judged says why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, f1_score, precision_score, recall_score, roc_auc_score

from experiments import judging, statistics
from experiments.arrays import Floats, Ints
from experiments.judging import Judge, Rule, Scores, Words
from harness.stage import Report, Undefined

AUTO = Rule({"score": None}, folds=4, seed=0)


@dataclass(frozen=True)
class Patients:
    """Made-up cases with one feature, which follows the label."""

    feature: Floats
    labels: Ints
    groups: NDArray[Any]
    stratum: NDArray[Any] | None
    lengths: Floats
    words = Words("patient", "ward", "age", "ill")

    def take(self, rows: Ints) -> Patients:
        """Some of them."""
        stratum = None if self.stratum is None else self.stratum[rows]
        return Patients(self.feature[rows], self.labels[rows], self.groups[rows], stratum, self.lengths[rows])


def patients(count: int = 80, seed: int = 0, unknown: int = 0) -> Patients:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, count)
    feature = labels + rng.normal(size=count)
    stratum = np.array([["young", "old"][i] for i in rng.integers(0, 2, count)], dtype=object)
    labels[:unknown] = -1
    return Patients(feature, labels, np.arange(count) // 2, stratum, rng.random(count))


def by_mean(train: Patients) -> judging.Scorer[Patients]:
    """How far a feature lies above the mean of training: what it learns shows in every score."""
    mean = train.feature.mean()
    return lambda cases: {"score": cases.feature - mean}


def judge(cases: Patients, rule: Rule = AUTO) -> Judge[Patients]:
    return Judge(cases, cases, rule.seed, lambda: judging.out_of_fold(cases, by_mean, rule))


# --- who is judged by whom -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unknown", [0, 13])
def test_a_case_is_scored_and_called_by_what_has_seen_neither_it_nor_its_group(unknown: int) -> None:
    cases = patients(unknown=unknown)
    judged = judging.out_of_fold(cases, by_mean, AUTO)
    known = np.flatnonzero(cases.labels >= 0)
    tested: list[int] = []
    for train, test in judging.folds(cases, AUTO):
        assert not set(cases.groups[train]) & set(cases.groups[test])
        mean = cases.feature[train].mean()
        least = statistics.best_f1_threshold(cases.labels[train], cases.feature[train] - mean)
        np.testing.assert_array_equal(judged.scores["score"][test], cases.feature[test] - mean)
        np.testing.assert_array_equal(judged.calls["score"][test], cases.feature[test] - mean >= least)
        tested += test.tolist()
    assert sorted(tested) == known.tolist()
    assert len(judged.detectors) == 4


def test_a_case_without_a_label_is_scored_by_what_has_learnt_from_all_others_and_not_judged() -> None:
    cases = patients(unknown=13)
    judged = judging.out_of_fold(cases, by_mean, AUTO)
    np.testing.assert_array_equal(judged.scores["score"][:13], cases.feature[:13] - cases.feature[13:].mean())
    assert set(judged.calls["score"][:13]) <= {0.0, 1.0}
    known = judge(cases).known("score")
    assert len(known.labels) == len(cases.labels) - 13
    assert set(known.labels) == {0, 1}
    assert judge(cases).prevalence() == cases.labels[13:].mean()


def test_in_sample_everyone_has_seen_himself_and_on_a_holdout_nobody_has() -> None:
    cases, others = patients(), patients(seed=1)
    inside, outside = judging.in_sample(cases, by_mean, AUTO), judging.held_out(cases, others, by_mean, AUTO)
    np.testing.assert_array_equal(inside.scores["score"], cases.feature - cases.feature.mean())
    np.testing.assert_array_equal(outside.scores["score"], others.feature - cases.feature.mean())


def test_a_threshold_that_is_given_is_kept() -> None:
    judged = judging.out_of_fold(patients(), by_mean, Rule({"score": 0.7}, 4, 0))
    np.testing.assert_array_equal(judged.calls["score"], judged.scores["score"] >= 0.7)


def test_a_score_that_could_not_be_had_is_no_call_and_counts_nowhere() -> None:
    cases = patients()
    holes = np.arange(80) % 3 == 0

    def fit(train: Patients) -> judging.Scorer[Patients]:
        del train
        return lambda some: {"score": np.where(np.isin(some.feature, cases.feature[holes]), np.nan, some.feature)}

    judging_it = Judge(cases, cases, 0, lambda: judging.out_of_fold(cases, fit, AUTO))
    assert np.isnan(judging_it.judged.calls["score"][holes]).all()
    assert judging_it.auc("score") == pytest.approx(
        roc_auc_score(cases.labels[~holes], cases.feature[~holes]), abs=1e-12
    )
    labels, calls = judging_it.calls("score")
    assert len(labels) == len(calls) == (~holes).sum()


def test_a_detector_that_training_lacks_is_absent_and_no_error() -> None:
    cases = patients()
    judged = judging.held_out(cases, patients(seed=1), by_mean, Rule({"score": None, "oracle": None}, 4, 0))
    assert judged.calls.keys() == judged.scores.keys() == {"score"}


def test_what_cannot_be_learnt_is_tried_once() -> None:
    tried = 0

    def fail() -> judging.Judged[Patients]:
        nonlocal tried
        tried += 1
        raise Undefined("too few wards")

    cases = patients()
    found = Judge(cases, cases, 0, fail)
    for ask in (found.auc, found.f1, found.recall):
        with pytest.raises(Undefined, match="too few wards"):
            ask("score")
    assert tried == 1


# --- what that is worth ----------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), stratum=st.sampled_from([None, "young", "old"]))
def test_figures_are_those_of_a_plain_computation(seed: int, stratum: str | None) -> None:
    cases = patients(seed=seed)
    found = judge(cases)
    rows = np.full(80, True) if stratum is None else cases.stratum == stratum
    labels, scores, calls = cases.labels[rows], found.judged.scores["score"][rows], found.judged.calls["score"][rows]
    assert found.auc("score", stratum) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    for ours, theirs in (
        (found.f1, f1_score),
        (found.recall, recall_score),
        (found.precision, precision_score),
        (found.accuracy, accuracy_score),
    ):
        assert ours("score", stratum) == theirs(labels, calls)


def test_the_interval_holds_the_figure_and_resamples_groups() -> None:
    cases = patients(400)
    low, high = judge(cases).interval("score")
    assert low < judge(cases).auc("score") < high
    one = Patients(cases.feature, cases.labels, np.zeros(400), None, cases.lengths)
    alone = Judge(one, one, 0, given={"score": one.feature})
    with pytest.raises(Undefined, match="one source"):
        alone.interval("score")


def test_a_paired_difference_is_narrower_than_what_its_ends_would_give_and_nothing_differs_from_itself() -> None:
    cases = patients(400)
    noisy = cases.feature + np.random.default_rng(1).normal(0, 0.3, 400)
    both = Judge(cases, cases, 0, given={"sharp": cases.feature, "noisy": noisy})
    low, high = both.difference_interval(both.known("sharp"), both.known("noisy"))
    assert low < both.auc("sharp") - both.auc("noisy") < high
    assert high - low < np.ptp(both.interval("sharp")) / 2
    assert both.difference_interval(both.known("sharp"), both.known("sharp")) == (0.0, 0.0)


def test_scores_for_which_nothing_is_learnt_need_no_folds() -> None:
    few = patients(6)
    cases = Judge(few, few, 0, lambda: judging.out_of_fold(few, by_mean, AUTO), {"feature": few.feature})
    assert cases.auc("feature") == pytest.approx(roc_auc_score(few.labels, few.feature), abs=1e-12)
    with pytest.raises(Undefined, match="4 folds need 4 wards of each label"):
        cases.auc("score")


def test_one_label_alone_is_undefined_and_never_a_figure() -> None:
    cases = patients()
    well = Patients(cases.feature, 0 * cases.labels, cases.groups, cases.stratum, cases.lengths)
    for ask in (judge(well).auc, judge(well).f1, judge(well).interval):
        with pytest.raises(Undefined, match="labels are 0"):
            ask("score")
    with pytest.raises(Undefined, match="labels are 0"):
        judging.held_out(well, cases, by_mean, AUTO)  # no threshold can be learnt


def test_a_detector_that_there_is_not_and_one_that_calls_nothing_are_named_in_the_stages_words() -> None:
    cases = patients()
    with pytest.raises(Undefined, match="no detector is called oracle"):
        judge(cases).auc("oracle")
    with pytest.raises(Undefined, match="no patient was called ill"):
        judge(cases, Rule({"score": 1e9}, 4, 0)).precision("score")


# --- trivial detectors and pictures ----------------------------------------------------------------------------------


def test_the_length_counts_in_the_direction_that_training_says() -> None:
    cases = patients()
    for sign in (1.0, -1.0):
        long = Patients(cases.feature, cases.labels, cases.groups, None, 10.0 + sign * cases.labels)
        assert Judge(long, long, 0).baseline(judging.fit_length) == 1.0


def test_the_stratum_counts_by_its_share_of_positives_and_one_never_seen_by_that_of_all() -> None:
    cases = patients()
    strata = np.where(cases.labels == 1, "old", "young").astype(object)
    aged = Patients(cases.feature, cases.labels, cases.groups, strata, cases.lengths)
    assert Judge(aged, aged, 0).baseline(judging.fit_stratum) == 1.0
    strange = Patients(cases.feature, cases.labels, cases.groups, np.full(80, "new", dtype=object), cases.lengths)
    scores = judging.fit_stratum(aged)(strange)["stratum"]
    assert set(scores) == {cases.labels.mean()}
    nameless = Patients(cases.feature, cases.labels, cases.groups, None, cases.lengths)
    for some, reason in ((nameless, "the data name no ages"), (strange, "every patient is of age new")):
        with pytest.raises(Undefined, match=reason):
            judging.fit_stratum(some)


def test_curves_are_drawn_of_the_detectors_that_have_both_labels() -> None:
    cases, report = patients(), Report()
    ill = np.where(cases.labels == 1, cases.feature, np.nan)
    both: Scores = {"feature": cases.feature, "of the ill": ill}
    Judge(cases, cases, 0, given=both).draw(report, list(both), {})
    assert report.figures.keys() == {"roc", "precision_recall"}
    for draw in report.figures.values():
        labels = [line.get_label() for line in draw().axes[0].lines]
        assert sum(str(label).startswith("feature") for label in labels) == 1
        assert not any("of the ill" in str(label) for label in labels)
