"""Reliability and validity of uncertainties: published figures, closed forms, and everything that is not defined."""

from __future__ import annotations

import itertools
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import spearmanr
from scipy.stats import t as student_t

from experiments.arrays import Floats
from experiments.montecarlo import MONTECARLO
from experiments.montecarlo.inference.params import BLURRED, DOWNSAMPLED, ORIGINAL
from experiments.montecarlo.inference.passes import Streamed
from experiments.montecarlo.scoring import audits
from experiments.montecarlo.scoring.metrics import STATUSES
from experiments.montecarlo.scoring.params import STATISTICS, MontecarloScore
from experiments.montecarlo.scoring.reliability import (
    Replicates,
    Scaling,
    gate,
    jackknife_interval,
    prediction_gap,
    prediction_gap_shown,
    spearman_brown,
)
from experiments.montecarlo.scoring.score import sign_test
from harness.running import hardware, run
from harness.running.audit import audit
from harness.running.settings import resolve
from harness.stage import Audited, BadInput, Finding, Records, Report, Undefined
from harness.sweeping.trial import split

RNG = np.random.default_rng(0)


def made(
    images: int = 60, trials: int = 4, passes: tuple[int, ...] = (4, 16), *, valid: bool = True, labels: bool = True
) -> pd.DataFrame:
    """Uncertainties whose noise shrinks with the passes; wrong answers come with the large ones where `valid`."""
    rng = np.random.default_rng(1)
    true = rng.gamma(4, 1, images)
    wrong = (rng.permutation(true) if not valid else true + rng.normal(0, 1, images)) > 5
    rows = []
    for count in passes:
        for trial in range(trials):
            u = np.abs(true + rng.normal(0, 4 / np.sqrt(count), images)) * 1e-4
            rows.append(
                pd.DataFrame(
                    {
                        "image": [f"{i}.png" for i in range(images)],
                        "variant": ORIGINAL,
                        "trial": trial,
                        "passes": count,
                        "u_trace_post": u,
                        "u_trace_pre": 300 * u,
                    }
                )
            )
    frame = pd.concat(rows, ignore_index=True)
    if labels:
        of = frame["image"].str.removesuffix(".png").astype(int)
        frame = frame.assign(label=of % 3, wrong=wrong.astype(int)[of], entropy=true[of], margin=np.exp(-true)[of])
    return frame


def score(frame: pd.DataFrame, **settings: Any) -> Report:
    return MONTECARLO.score(Records(frame, None, {"counts": {}}), MontecarloScore(**settings))


def findings(frame: pd.DataFrame, origin: dict[str, Any] | None = None, **settings: Any) -> dict[str, Finding]:
    params = MontecarloScore(**settings)
    records = Records(frame, None, origin or {"counts": {}})
    found = audit(Audited(MONTECARLO, records, MONTECARLO.score(records, params), params)).findings
    return {finding.code: finding for finding in found}


# ---- published results ----


@pytest.mark.parametrize("passes", [4, 16, 64])
@pytest.mark.parametrize("norm", ["pre", "post"])
def test_released_trials_give_the_published_summary(real_data: Path, norm: str, passes: int) -> None:
    folder = real_data / "montecarlo" / "siglip2_b16"
    published = json.loads((folder / "exp0_summary.json").read_text())["results"][f"T={passes}"][f"{norm}_norm"]
    assert MONTECARLO.read is not None
    report = MONTECARLO.score(MONTECARLO.read(folder), MontecarloScore())
    cell = f"{norm}_T{passes}"
    names = {"signal": "signal", "noise": "noise", "snr": "snr", "icc": "icc", "spearman": "pairwise_spearman_median"}
    names |= {"spearman_q25": "pairwise_spearman_q25", "spearman_q75": "pairwise_spearman_q75"}
    found = {name: report.metrics[f"{name}/{cell}"] for name in names}
    assert found == pytest.approx({ours: published[theirs] for ours, theirs in names.items()}, rel=1e-6, abs=0)
    assert STATUSES[int(report.metrics[f"gate/{cell}"])] == published["status"]


def test_released_files_are_scored_through_the_same_door_as_any_records(real_data: Path) -> None:
    folder = real_data / "montecarlo" / "siglip2_b16"

    def figures(records: Path, **more: str) -> dict[str, float]:
        plan = resolve(MONTECARLO, {"records": str(records)} | more, hardware.load_profiles())
        return run.execute(plan).report.metrics

    alone = figures(folder / "exp0_trials_T16.npz", statistic="trace_pre")
    together = figures(folder, statistic="trace_pre", judged_passes="16")
    assert {name: alone[name] for name in ("icc", "snr", "spearman", "gate")} == {
        name: together[name] for name in ("icc", "snr", "spearman", "gate")
    }
    assert alone["gate"] == STATUSES.index("marginal")
    # Four passes predict what sixteen (not yet) and 64 then show: tails are heavier than normal, and not the heaviest.
    assert (together["passes_predicted"], together["passes_predicted_heavy"], together["passes_seen"]) == (14, 18, 64)
    assert together["prediction_gap"] == together["prediction_gap_shown"] == 0


# ---- formulas against independent ones ----

UNCERTAINTIES = arrays(
    np.float64, st.tuples(st.integers(2, 6), st.integers(2, 12)), elements=st.floats(0, 100).map(lambda x: round(x, 3))
)


@settings(max_examples=60, deadline=None)
@given(UNCERTAINTIES)
def test_icc_is_that_of_a_one_way_analysis_of_variance(u: np.ndarray[Any, Any]) -> None:
    k, n = u.shape
    within = sum((u[:, i] - u[:, i].mean()) @ (u[:, i] - u[:, i].mean()) for i in range(n)) / (n * (k - 1))
    between = k * sum((u[:, i].mean() - u.mean()) ** 2 for i in range(n)) / (n - 1)
    if between + (k - 1) * within < 1e-9:
        return
    assert Replicates(u).icc == pytest.approx((between - within) / (between + (k - 1) * within), abs=1e-9)
    if within > 1e-9:
        assert Replicates(u).snr == pytest.approx(between / k / within, abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(UNCERTAINTIES)
def test_agreement_is_the_median_rank_correlation_of_every_pair_of_trials(u: np.ndarray[Any, Any]) -> None:
    if (np.ptp(u, axis=1) == 0).any():
        with pytest.raises(Undefined, match="equally uncertain"):
            _ = Replicates(u).spearmans
        return
    pairs = [spearmanr(u[i], u[j]).statistic for i in range(len(u)) for j in range(i + 1, len(u))]
    assert Replicates(u).spearman == pytest.approx(np.median(pairs), abs=1e-9)


@pytest.mark.parametrize(
    ("spearman", "snr", "icc", "status"),
    [
        (0.8, 2.0, 0.75, "usable"),
        (0.79, 9.0, 0.9, "marginal"),
        (0.9, 1.9, 0.9, "marginal"),
        (0.9, 9.0, 0.74, "marginal"),
        (0.59, 9.0, 0.9, "failed"),
        (0.9, 0.9, 0.9, "failed"),
        (0.6, 1.0, 0.1, "marginal"),
    ],
)
def test_the_gate_has_the_published_thresholds(spearman: float, snr: float, icc: float, status: str) -> None:
    assert gate(spearman, snr, icc) == status


@given(st.floats(0.01, 0.99), st.floats(0.1, 50), st.floats(0.1, 50))
def test_spearman_brown_applied_twice_is_applied_once_with_the_product(r: float, first: float, second: float) -> None:
    assert spearman_brown(spearman_brown(r, first), second) == pytest.approx(spearman_brown(r, first * second))


def test_the_smallest_number_of_passes_passes_the_gate_and_one_less_does_not() -> None:
    scaling = Scaling(Replicates(np.abs(RNG.gamma(2, 1, 200) + RNG.normal(0, 1.5, (5, 200)))), 4, lost=1)
    found = scaling.smallest_usable()
    assert gate(**scaling.at(found)) == "usable" != gate(**scaling.at(found - 1))
    assert scaling.at(4)["icc"] == pytest.approx(scaling.trials.icc)
    assert scaling.at(4)["snr"] == pytest.approx(scaling.trials.snr)


def test_the_interval_of_the_icc_holds_it_and_narrows_with_more_images() -> None:
    few, many = (score(made(images=count)).metrics for count in (60, 600))
    for metrics in (few, many):
        assert metrics["icc_low"] < metrics["icc"] < metrics["icc_high"]
    assert many["icc_high"] - many["icc_low"] < few["icc_high"] - few["icc_low"]


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 4), st.integers(50, 55), st.integers(0, 99), st.sampled_from([0.0, 0.1, 2.0]))
def test_what_is_left_without_each_image_is_what_the_others_give(k: int, n: int, seed: int, noise: float) -> None:
    rng = np.random.default_rng(seed)
    u = np.exp(rng.normal(size=n)) * (1 + noise * rng.normal(size=(k, n)))
    for image, icc in enumerate(Replicates(u).icc_left_out):
        assert icc == pytest.approx(Replicates(np.delete(u, image, axis=1)).icc, abs=1e-9)


def test_without_skewness_the_jackknife_of_a_mean_is_students_interval_with_fewer_degrees_of_freedom() -> None:
    x = np.concatenate([np.arange(1, 31), -np.arange(1, 31)]).astype(float)
    low, high = jackknife_interval(0.0, (x.sum() - x) / 59)
    error = x.std(ddof=1) / np.sqrt(60)
    freedom = 0.5 * 60 / (np.mean(x**4) / np.mean(x**2) ** 2 - 1)
    assert (low, high) == pytest.approx(student_t.interval(0.95, freedom, scale=error))


def test_an_interval_of_what_is_skewed_to_the_right_reaches_further_there() -> None:
    x = np.exp(np.random.default_rng(0).normal(size=200))
    low, high = jackknife_interval(float(x.mean()), (x.sum() - x) / 199)
    assert high - x.mean() > 1.2 * (x.mean() - low)
    t = [(x.mean() - end) / (x.std() / np.sqrt(199)) for end in (high, low)]
    s = np.mean((x - x.mean()) ** 3) / x.std() ** 3 / np.sqrt(200)
    back = [each + s * each**2 / 3 + s**2 * each**3 / 27 + s / 6 for each in t]  # Hall's transformation
    assert back[0] == pytest.approx(-back[1])


@pytest.mark.parametrize("skewed", [False, True])
def test_the_interval_of_the_icc_covers_that_of_all_images_also_where_they_are_skewed(skewed: bool) -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):  # population ICC: 0.6, noise being in proportion to what it is on
        images = np.exp(rng.normal(size=50)) if skewed else 10 + rng.normal(size=50)
        share = np.sqrt((1 - np.exp(-1)) * 0.4 / 0.6) if skewed else np.sqrt(1 / 101 * 0.4 / 0.6)
        low, high = Replicates(images * (1 + share * rng.normal(size=(5, 50)))).icc_interval()
        covered += low < 0.6 < high
    assert 0.92 <= covered / 200 <= 0.995


def test_few_images_or_one_that_alone_differs_have_no_interval() -> None:
    for images, trials, fewest in ((49, 4, 50), (99, 10, 100)):
        said = score(made(images=images, trials=trials)).undefined["icc_low"]
        assert said == f"{images} images in {trials} trials are too few for an interval, which holds from {fewest}"
    alike = np.random.default_rng(0).random((3, 1)) * np.ones((3, 60))
    for u in (np.where(np.arange(60) == 0, [[1.0], [2.0], [4.0]], 0.3), np.where(np.arange(60) == 0, 5.0, alike)):
        with pytest.raises(Undefined, match="comes from one image"):
            Replicates(u).icc_interval()


# ---- more passes ----


def sampled(passes: tuple[int, ...], *, images: int = 300, trials: int = 5, seed: int = 0) -> dict[int, Replicates]:
    """Variances over the first T of normal passes, of images whose true variance differs."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(max(passes), trials, images, 4)) * np.exp(rng.normal(0, 0.2, (images, 1)))
    return {count: Replicates(x[:count].var(axis=0).mean(axis=-1)) for count in passes}


def test_every_statistic_says_how_many_passes_it_loses_to_a_mean_of_its_own() -> None:
    """Noise relative to the statistic, from 2 passes to 8: a seventh of it where one is lost, a quarter where none."""
    torch.manual_seed(0)
    plain = torch.tensor([3.0, 1.0, 0.5], dtype=torch.float64).repeat(6000, 1)
    streamed, noise = Streamed(plain), {}
    for number in range(1, 9):
        streamed.add(plain + 1e-3 * torch.randn(plain.shape, dtype=torch.float64))
        noise[number] = {name: float(u.var() / u.mean() ** 2) for name, u in streamed.statistics().items()}
    assert noise[8].keys() == STATISTICS.keys()
    for name, lost in STATISTICS.items():
        if name != "largest":  # which of the dimensions it is depends on the passes, so that neither law is exact
            assert noise[2][name] / noise[8][name] == pytest.approx((8 - lost) / (2 - lost), rel=0.12), name


def test_from_two_normal_passes_the_icc_of_more_is_predicted() -> None:
    found = sampled((2, 16))
    predicted = Scaling(found[2], 2, lost=1).at(16)
    assert predicted["icc"] == pytest.approx(found[16].icc, abs=0.05)
    assert Scaling(found[2], 2, lost=0).at(16)["icc"] < found[16].icc - 0.08


def test_a_prediction_is_missed_where_more_passes_do_not_help_and_not_by_chance() -> None:
    found = sampled((2, 8, 32))
    scaling = Scaling(found[2], 2, lost=1)
    assert prediction_gap_shown(scaling, {8: found[8], 32: found[32]}) == 0
    assert 0.1 < prediction_gap_shown(scaling, {8: found[2]}) < prediction_gap(scaling, {8: found[2]})


def test_one_pass_has_no_variance_to_begin_from() -> None:
    with pytest.raises(Undefined, match="1 passes have no variance"):
        Scaling(Replicates(RNG.random((3, 60))), 1, lost=1).factor(4)


def test_a_missed_prediction_is_a_finding() -> None:
    frame = made(images=200, passes=(4,))
    same = frame.assign(passes=64)
    assert "choose T by actual prefixes" in findings(pd.concat([frame, same]))["prediction_missed"].message
    assert "prediction_missed" not in findings(made(images=200))


# ---- what a report holds ----


def test_without_labels_validity_is_undefined_and_reliability_is_not() -> None:
    report = score(made(labels=False))
    assert report.undefined["auroc_error"] == report.undefined["accuracy"] == "the images have no labels"
    assert "softmax" in report.undefined["spearman_entropy"]
    assert report.metrics["icc"] > 0.5


def test_an_encoder_without_an_error_has_no_auroc_but_an_accuracy() -> None:
    report = score(made().assign(wrong=0))
    assert "all 60 labels are 0" in report.undefined["auroc_error"]
    assert report.metrics["accuracy"] == 1


def test_trials_that_agree_to_the_last_bit_have_no_signal_to_noise_ratio() -> None:
    frame = made()
    frame["u_trace_post"] = frame.groupby("image")["u_trace_post"].transform("first")
    report = score(frame)
    assert "no noise" in report.undefined["snr"]
    assert report.metrics["icc"] == 1


def test_images_that_are_all_alike_define_nothing() -> None:
    report = score(made().assign(u_trace_post=1.0))
    assert {"icc", "snr", "spearman", "gate", "passes_predicted"} <= report.undefined.keys()
    assert not [name for name, value in report.metrics.items() if np.isnan(value)]


def test_more_of_what_is_noise_is_not_predicted_to_help() -> None:
    frame = made()
    frame["u_trace_post"] = np.random.default_rng(3).random(len(frame))
    assert "passes_predicted" in score(frame).undefined


def test_validity_asks_whether_the_wrong_answers_are_the_uncertain_ones() -> None:
    valid, not_valid = score(made(images=200)).metrics, score(made(images=200, valid=False)).metrics
    assert valid["auroc_error"] > 0.8 > 0.6 > not_valid["auroc_error"]
    assert valid["auroc_error"] > valid["auroc_error_one_trial"] > 0.5  # the mean of trials is better than one
    assert valid["spearman_entropy"] == pytest.approx(valid["spearman_margin"])  # one is a function of the other here


def test_ablation_counts_the_images_that_grow_less_certain() -> None:
    frame = made(images=40)
    some = frame[frame["image"].isin([f"{i}.png" for i in range(20)])]
    shrunk = some["image"].isin([f"{i}.png" for i in range(5)])
    blur = some.assign(variant=BLURRED, u_trace_post=some["u_trace_post"] * np.where(shrunk, 0.5, 2.0))
    same = some.assign(variant=DOWNSAMPLED)
    report = score(pd.concat([frame, blur, same], ignore_index=True))
    assert report.metrics["grows/blur"] == 0.75
    assert report.metrics["grows/blur_low"] < 0.75 < report.metrics["grows/blur_high"]
    assert report.metrics["grows_p/blur"] == sum(math.comb(20, count) for count in range(15, 21)) / 2**20 < 0.05
    assert report.metrics["grows/downsample"] == 0
    assert report.undefined["grows_p/downsample"] == "no uncertainty has changed"
    assert "ablation_not_seen" not in findings(pd.concat([frame, blur], ignore_index=True))
    sharper = some.assign(variant=BLURRED, u_trace_post=some["u_trace_post"] / 2)
    found = findings(pd.concat([frame, sharper], ignore_index=True))
    assert "is not shown: it does for 0% of images (0% to 17%; sign test p 1)" in found["ablation_not_seen"].message


@given(st.lists(st.sampled_from([-1.0, 0.0, 0.5, 2.0]), min_size=1, max_size=12))
def test_the_sign_test_counts_coins_that_fall_as_often_and_leaves_ties_out(growth: list[float]) -> None:
    grown, changed = sum(each > 0 for each in growth), sum(each != 0 for each in growth)
    if not changed:
        with pytest.raises(Undefined, match="no uncertainty has changed"):
            sign_test(np.array(growth))
        return
    falls = [sum(fall) for fall in itertools.product((0, 1), repeat=changed)]
    assert sign_test(np.array(growth)) == pytest.approx(np.mean(np.array(falls) >= grown))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"judged_passes": 128}, "judged_passes = 128: the records hold 4, 16"),
        ({"statistic": "largest"}, "statistic = largest: the records hold trace_post, trace_pre"),
    ],
)
def test_what_the_records_do_not_hold_is_named_with_what_they_do(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        score(made(), **settings)


def test_one_trial_cannot_agree_with_itself() -> None:
    with pytest.raises(BadInput, match="hold 1 trials, or not every image in each"):
        score(made(trials=1))


# ---- findings ----


def test_reliable_but_not_valid_is_a_finding() -> None:
    found = findings(made(passes=(4, 400), valid=False))
    assert "that it predicts error is not shown" in found["reliable_not_valid"].message
    assert "reliable_not_valid" not in findings(made(passes=(4, 400)))


def test_validity_without_an_interval_is_not_shown_either() -> None:
    frame = made(passes=(4, 400))
    params, records = MontecarloScore(), Records(frame, None, {"counts": {}})
    report = MONTECARLO.score(records, params)
    low = report.metrics.pop("auroc_error_low")
    assert low > 0.5
    report.undefined["auroc_error_low"] = "2 are wrong"
    (doubt,) = audits.reliable_not_valid.rule(Audited(MONTECARLO, records, report, params))
    assert "is not shown: AUROC" in doubt[1]
    assert "no interval, for 2 are wrong" in doubt[1]


def test_a_gate_that_is_not_met_is_a_finding_with_what_to_do() -> None:
    frame = made(passes=(4,))
    frame["u_trace_post"] += np.random.default_rng(5).normal(0, 4e-4, len(frame))
    found = findings(frame)
    assert found["gate_failed"].level == "fail"
    assert "predicted to pass the gate" in found["passes_needed"].message
    assert not findings(made(passes=(400,))).keys() & {"gate_marginal", "gate_failed", "passes_needed"}


def test_the_softmax_of_one_plain_pass_is_the_baseline() -> None:
    assert "auroc_entropy" in findings(made().assign(entropy=lambda frame: frame["wrong"]))["trivial_baseline"].message


def test_broken_images_are_named() -> None:
    found = findings(made(), {"counts": {"kept": 60, "errors": 1, "animated": 2}, "broken": {"a.png": "truncated"}})
    assert "a.png: truncated" in found["images_broken"].message
    assert found["inputs_errors"].level == "warn"
    assert "2 images" in found["images_animated"].message


def test_a_variance_below_zero_is_out_of_range() -> None:
    frame = made()
    frame.loc[0, "u_trace_post"] = -1.0
    assert findings(frame)["feature_out_of_range"].level == "fail"


# ---- holdout, figures, released files ----


def test_a_split_parts_no_image_spreads_the_classes_and_does_not_follow_the_answers() -> None:
    records = Records(made(), None, {"counts": {}})
    plan = resolve(MONTECARLO, {}, hardware.load_profiles())
    seen, held = split(plan, records, 0.3)
    assert held is not None
    assert not set(seen.frame["image"]) & set(held.frame["image"])
    assert held.frame.drop_duplicates("image")["label"].value_counts().to_dict() == {0: 6, 1: 6, 2: 6}
    others = split(plan, Records(made().assign(wrong=1), None, {"counts": {}}), 0.3)[1]
    assert others is not None
    assert set(others.frame["image"]) == set(held.frame["image"])
    assert MONTECARLO.held_out(seen, held, MontecarloScore()).metrics == score(held.frame).metrics


def save(path: Path, shape: tuple[int, ...] = (3, 5), **more: Any) -> Path:
    np.savez(path, **{"trial_pre": RNG.random(shape), "trial_post": RNG.random(shape)} | more)
    return path


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda folder: save(folder / "a_T4.npz", trial_pre=RNG.random(5)), "trace_pre has shape"),
        (lambda folder: save(folder / "a.npz"), "the name does not tell the number of passes"),
        (lambda folder: save(folder / "a_T4.npz", (1, 5)), "it holds 1 trial; at least 2"),
        (lambda folder: [save(folder / "a_T4.npz"), save(folder / "a_T8.npz", (3, 6))], "not of the same trials"),
        (lambda folder: [save(folder / "a_T4.npz"), save(folder / "b_T4.npz")], "two files have the same number"),
        (lambda folder: (folder / "a_T4.npz").write_bytes(b"torn"), "cannot be read"),
        (lambda folder: None, "no .npz in the folder"),
    ],
    ids=["shape", "name", "one trial", "shapes", "twice", "torn", "none"],
)
def test_a_released_file_that_is_not_one_is_named_in_one_line(tmp_path: Path, build: Any, said: str) -> None:
    build(tmp_path)
    assert MONTECARLO.read is not None
    with pytest.raises(BadInput, match=said) as caught:
        MONTECARLO.read(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_folder_of_records_is_known_by_its_contents(tmp_path: Path) -> None:
    def digest() -> str:
        plan = resolve(MONTECARLO, {"records": str(tmp_path)}, hardware.load_profiles())
        return run.input_digests(plan)["data"]

    save(tmp_path / "a_T4.npz")
    first = digest()
    assert digest() == first
    save(tmp_path / "a_T8.npz")
    assert digest() != first


def test_of_noise_nothing_is_predicted() -> None:
    """More passes of nothing are nothing: Spearman-Brown on a reliability below zero would give any number."""
    frame = pd.DataFrame(
        [
            {"image": f"i{i}", "variant": "original", "trial": k, "passes": passes, "u_trace_post": value}
            for passes, seed in ((4, 0), (16, 1))
            for k, row in enumerate(np.random.default_rng(seed).random((3, 5)))
            for i, value in enumerate(row)
        ]
    )
    frame["u_trace_post"] -= frame.groupby(["passes", "image"])["u_trace_post"].transform("mean")
    report = MONTECARLO.score(Records(frame, None, {"counts": {}}), MontecarloScore())
    assert report.metrics["icc"] < 0
    assert {"prediction_gap", "passes_predicted"} <= report.undefined.keys()
    scaling = report.tables["scaling"]
    assert scaling[["icc_predicted", "snr_predicted", "spearman_predicted"]].isna().all(axis=None)
    report.figures["scaling"]()


def interval_of_icc_one_by_one(u: Floats) -> tuple[float, float]:
    """The same by leaving out one image after the other, each time from the beginning."""

    def snr(some: Floats) -> float:
        return float(some.mean(axis=0).var(ddof=1) / some.var(axis=0, ddof=1).mean())

    left_out = np.array([np.log(snr(np.delete(u, i, axis=1))) for i in range(u.shape[1])])
    ends = [len(u) * np.exp(end) for end in jackknife_interval(float(np.log(snr(u))), left_out)]
    low, high = ((end - 1) / (end + len(u) - 1) for end in ends)
    return low, high


@settings(deadline=None, max_examples=20)
@given(st.integers(2, 6), st.integers(60, 120), st.integers(0, 1000))
def test_the_interval_of_the_icc_is_that_of_leaving_out_one_image_after_the_other(
    trials: int, images: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    u = rng.gamma(2, 1, images) * (1 + 0.3 * rng.normal(size=(trials, images)))
    np.testing.assert_allclose(Replicates(u).icc_interval(), interval_of_icc_one_by_one(u), rtol=1e-8)


def test_the_interval_of_the_icc_takes_time_in_proportion_to_the_images_and_one_by_one_their_square() -> None:
    rng = np.random.default_rng(0)

    def seconds(images: int, function: Callable[[Floats], object], repeats: int) -> float:
        u = rng.gamma(2, 1, images) * (1 + 0.3 * rng.normal(size=(5, images)))
        best = float("inf")
        for _ in range(repeats):
            before = time.process_time()
            function(u)
            best = min(best, time.process_time() - before)
        return best

    def ours(u: Floats) -> object:
        return Replicates(u).icc_interval()

    assert seconds(800_000, ours, 3) < 9 * seconds(200_000, ours, 3)  # of a square it would be 16 times
    assert seconds(1000, interval_of_icc_one_by_one, 1) > 20 * seconds(1000, ours, 5)
