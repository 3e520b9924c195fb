"""One judge for all stages: nobody is judged by what has learnt from him, and what cannot be judged says why."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import rankdata
from sklearn.metrics import accuracy_score, f1_score, precision_score, recall_score, roc_auc_score

from experiments import protocols, statistics, trivial
from experiments.arrays import Floats, Ints
from experiments.judging import Judge
from experiments.protocols import Rule, Scorer, Scores, Words
from harness.running.differences import difference
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

    def relabelled(self, source: Ints) -> Patients:
        """Each as ill as another is."""
        return replace(self, labels=self.labels[source])


def patients(count: int = 80, seed: int = 0, unknown: int = 0) -> Patients:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, count)
    feature = labels + rng.normal(size=count)
    stratum = np.array([["young", "old"][i] for i in rng.integers(0, 2, count)], dtype=object)
    labels[:unknown] = -1
    return Patients(feature, labels, np.arange(count) // 2, stratum, rng.random(count))


def by_mean(train: Patients) -> Scorer[Patients]:
    """How far a feature lies above the mean of training: what it learns shows in every score."""
    mean = train.feature.mean()
    return lambda cases: {"score": cases.feature - mean}


def judge(cases: Patients, rule: Rule = AUTO) -> Judge[Patients]:
    return Judge(cases, partial(protocols.out_of_fold, cases), by_mean, rule)


def of_trivial(cases: Patients, learn: Any) -> float:
    report = Report()
    judge(cases).measure_baseline(report, "auc_trivial", learn)
    return report.metrics["auc_trivial"]


# --- who is judged by whom -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unknown", [0, 13])
def test_a_case_is_scored_and_called_by_what_has_seen_neither_it_nor_its_group(unknown: int) -> None:
    cases = patients(unknown=unknown)
    judged = protocols.out_of_fold(cases, by_mean, AUTO)
    known = np.flatnonzero(cases.labels >= 0)
    tested: list[int] = []
    for train, test in protocols.folds(cases, AUTO):
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
    judged = protocols.out_of_fold(cases, by_mean, AUTO)
    np.testing.assert_array_equal(judged.scores["score"][:13], cases.feature[:13] - cases.feature[13:].mean())
    assert set(judged.calls["score"][:13]) <= {0.0, 1.0}
    known = judge(cases).known("score")
    assert len(known.labels) == len(cases.labels) - 13
    assert set(known.labels) == {0, 1}
    assert judge(cases).prevalence() == cases.labels[13:].mean()


def test_in_sample_everyone_has_seen_himself_and_on_a_holdout_nobody_has() -> None:
    cases, others = patients(), patients(seed=1)
    inside, outside = protocols.in_sample(cases, by_mean, AUTO), protocols.held_out(cases, others, by_mean, AUTO)
    np.testing.assert_array_equal(inside.scores["score"], cases.feature - cases.feature.mean())
    np.testing.assert_array_equal(outside.scores["score"], others.feature - cases.feature.mean())


def test_a_threshold_that_is_given_is_kept() -> None:
    judged = protocols.out_of_fold(patients(), by_mean, Rule({"score": 0.7}, 4, 0))
    np.testing.assert_array_equal(judged.calls["score"], judged.scores["score"] >= 0.7)


def test_a_score_that_could_not_be_had_is_no_call_and_counts_nowhere() -> None:
    cases = patients()
    holes = np.arange(80) % 3 == 0

    def fit(train: Patients) -> Scorer[Patients]:
        del train
        return lambda some: {"score": np.where(np.isin(some.feature, cases.feature[holes]), np.nan, some.feature)}

    judging_it = Judge(cases, partial(protocols.out_of_fold, cases), fit, AUTO)
    assert np.isnan(judging_it.judged.calls["score"][holes]).all()
    assert judging_it.auc("score") == pytest.approx(
        roc_auc_score(cases.labels[~holes], cases.feature[~holes]), abs=1e-12
    )
    labels, calls = judging_it.calls("score")
    assert len(labels) == len(calls) == (~holes).sum()


def test_a_detector_that_training_lacks_is_absent_and_no_error() -> None:
    cases = patients()
    judged = protocols.held_out(cases, patients(seed=1), by_mean, Rule({"score": None, "oracle": None}, 4, 0))
    assert judged.calls.keys() == judged.scores.keys() == {"score"}


def test_what_cannot_be_learnt_is_tried_once() -> None:
    tried = 0

    def fail(*_: Any) -> protocols.Judged[Patients]:
        nonlocal tried
        tried += 1
        raise Undefined("too few wards")

    cases = patients()
    found = Judge(cases, fail)
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
    if stratum is not None:  # compared by their ranks within the fold that a detector has scored
        for _, tested in protocols.folds(cases, AUTO):
            ranks = (rankdata(found.judged.scores["score"][tested]) - 0.5) / len(tested)
            scores[np.isin(np.flatnonzero(rows), tested)] = ranks[rows[tested]]
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
    alone = Judge(one, given={"score": one.feature})
    with pytest.raises(Undefined, match="one source"):
        alone.interval("score")


@dataclass(frozen=True)
class Scans(Patients):
    """Made-up cases with many features, of which a regression makes something whatever they are."""

    table: Floats = field(default_factory=lambda: np.empty((0, 0)))

    def take(self, rows: Ints) -> Scans:
        """Some of them."""
        return Scans(**vars(super().take(rows)), table=self.table[rows])  # type: ignore[arg-type]


def scans(seed: int, count: int = 120, signal: float = 0.0, positives: int | None = None) -> Scans:
    rng = np.random.default_rng(seed)
    half = count // 2 if positives is None else positives
    labels, table = rng.permutation((np.arange(count) < half).astype(int)), rng.normal(size=(count, 40))
    table[:, :4] += signal * (labels - 0.5)[:, None]
    base = Patients(table[:, 0], labels, np.arange(count), None, np.ones(count))
    return Scans(**vars(base), table=table)


def ridge(train: Scans) -> Scorer[Scans]:
    weights = np.linalg.solve(train.table.T @ train.table + 5 * np.eye(40), train.table.T @ (train.labels - 0.5))
    return lambda cases: {"score": cases.table @ weights, "first": cases.feature}


def judge_scans(cases: Scans) -> Judge[Scans]:
    return Judge(cases, partial(protocols.out_of_fold, cases), ridge, Rule({}, 5, 0))


@pytest.mark.parametrize("signal", [0.0, 0.7])
def test_the_interval_of_a_detector_that_learns_much_counts_what_learning_adds(signal: float) -> None:
    judges = [judge_scans(scans(seed, signal=signal)) for seed in range(60)]
    for name in ("score", "first"):
        areas = np.array([each.auc(name) for each in judges])
        errors = np.array([np.sqrt((each.influence(name) ** 2).sum()) for each in judges])
        assert errors.mean() == pytest.approx(areas.std(ddof=1), rel=0.25)
        held = np.mean([low <= areas.mean() <= high for low, high in (each.interval(name) for each in judges)])
        assert 0.88 <= held <= 1.0  # 0.95, and two standard errors of 60 draws
    refits = [(each.influence("score")["refit"] ** 2).sum() for each in judges]
    fixed = [(each.influence("first")["refit"] ** 2).sum() for each in judges]
    assert np.mean(refits) > (1.5 if signal == 0 else 1.1) * np.mean(fixed)


def test_a_p_of_what_learns_much_comes_from_permuted_labels_and_holds_its_level() -> None:
    found = [judge_scans(scans(seed, 80)).p("score") for seed in range(30)]
    assert np.mean(np.array(found) <= 0.05) <= 0.17  # more of thirty come in one of a hundred
    assert judge_scans(scans(0, 80, signal=1.5)).p("score") <= 0.01
    learnt = [len(each._drawn) for each in (judge_scans(scans(seed, 80)) for seed in range(20)) if each.p("score")]
    assert np.mean(np.array(learnt) > 0) > 0.6  # in the others learning shows too little
    assert np.median(learnt) < 100  # what is plain is not drawn on and on


@pytest.mark.parametrize("rare", [False, True])
def test_of_many_groups_what_learning_adds_is_known_from_some_of_them(
    monkeypatch: pytest.MonkeyPatch, rare: bool
) -> None:
    errors = {}
    for most in (600, 160):
        monkeypatch.setattr(protocols, "_MOST", most)
        judges = [judge_scans(scans(seed, 400, 0.8, positives=30 if rare else 200)) for seed in range(12)]
        for each in judges:
            looked, labels = each._refits[0].looked, each.cases.labels
            assert looked.sum() == min(400, most)
            assert (labels[looked] == 1).sum() == min((labels == 1).sum(), 400 if most > 400 else most // 2)
        errors[most] = np.mean([np.sqrt((each.influence("score") ** 2).sum()) for each in judges])
    assert 0.9 < errors[160] / errors[600] < 1.35  # a little wide, for of more data less is left to learn


@pytest.mark.parametrize("count", [24, 60])
def test_folds_of_a_group_or_two_have_an_interval_or_the_reason_why_not(count: int) -> None:
    cases, report = scans(0, count), Report()
    Judge(cases, partial(protocols.out_of_fold, cases), ridge, Rule({}, count // 2, 0)).measure_auc(
        report, "auc", "score"
    )
    assert "auc_low" in report.metrics or "too little is left" in report.undefined["auc_low"]


def test_what_two_detectors_share_cancels_though_only_one_of_them_learns() -> None:
    cases, report = scans(1, 200, signal=0.7), Report()

    def almost(train: Scans) -> Scorer[Scans]:
        return lambda some: {"learnt": some.feature + 0.01 * train.feature.mean()}

    both = Judge(cases, partial(protocols.out_of_fold, cases), almost, Rule({}, 5, 0), {"given": cases.feature})
    for name in ("learnt", "given"):
        both.measure_auc(report, name, name)
    _, low, high = difference(report, report, "learnt", "given")
    assert high - low < 0.1 * np.ptp(both.interval("given"))


def test_a_result_below_chance_is_confirmed_by_permutation_before_it_is_called_so() -> None:
    cases = scans(0, 200)
    turned = Judge(cases, given={"turned": -1.0 * cases.labels + np.random.default_rng(1).normal(size=200)})
    assert turned.auc("turned") < 0.3
    assert turned.p("turned") == 0.01


def test_what_is_judged_in_sample_has_no_interval_but_a_p_that_counts_the_learning() -> None:
    cases = scans(3)
    flattered = Judge(cases, partial(protocols.in_sample, cases), ridge, Rule({}, 5, 0))
    assert flattered.auc("score") > 0.8
    with pytest.raises(Undefined, match="judged on what it has learnt from"):
        flattered.interval("score")
    assert flattered.p("score") > 0.05


def test_a_paired_difference_is_narrower_than_what_its_ends_would_give_and_nothing_differs_from_itself() -> None:
    cases = patients(400)
    noisy = cases.feature + np.random.default_rng(1).normal(0, 0.3, 400)
    both = Judge(cases, given={"sharp": cases.feature, "noisy": noisy})
    report = Report()
    for name in ("sharp", "noisy"):
        both.measure_auc(report, name, name)
    value, low, high = difference(report, report, "sharp", "noisy")
    assert low < value < high
    assert high - low < np.ptp(both.interval("sharp")) / 2
    assert difference(report, report, "sharp", "sharp") == (0.0, 0.0, 0.0)


def test_scores_for_which_nothing_is_learnt_need_no_folds() -> None:
    few = patients(6)
    cases = Judge(few, partial(protocols.out_of_fold, few), by_mean, AUTO, {"feature": few.feature})
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
        protocols.held_out(well, cases, by_mean, AUTO)  # no threshold can be learnt


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
        assert of_trivial(long, trivial.fit_length) == 1.0


def test_the_stratum_counts_by_its_share_of_positives_and_one_never_seen_by_that_of_all() -> None:
    cases = patients()
    strata = np.where(cases.labels == 1, "old", "young").astype(object)
    aged = Patients(cases.feature, cases.labels, cases.groups, strata, cases.lengths)
    assert of_trivial(aged, trivial.fit_stratum) == 1.0
    strange = Patients(cases.feature, cases.labels, cases.groups, np.full(80, "new", dtype=object), cases.lengths)
    scores = trivial.fit_stratum(aged)(strange)["stratum"]
    assert set(scores) == {cases.labels.mean()}
    nameless = Patients(cases.feature, cases.labels, cases.groups, None, cases.lengths)
    for some, reason in ((nameless, "the data name no ages"), (strange, "every patient is of age new")):
        with pytest.raises(Undefined, match=reason):
            trivial.fit_stratum(some)


def test_curves_are_drawn_of_the_detectors_that_have_both_labels() -> None:
    cases, report = patients(), Report()
    ill = np.where(cases.labels == 1, cases.feature, np.nan)
    both: Scores = {"feature": cases.feature, "of the ill": ill}
    Judge(cases, given=both).draw(report, list(both), {})
    assert report.figures.keys() == {"roc", "precision_recall"}
    for draw in report.figures.values():
        labels = [line.get_label() for line in draw().axes[0].lines]
        assert sum(str(label).startswith("feature") for label in labels) == 1
        assert not any("of the ill" in str(label) for label in labels)
