"""Scoring many settings at once gives what scoring each gives, and alpha=best is the best there is."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments import statistics
from experiments.detect import DETECT
from experiments.detect.bench import scoring as bench_score
from experiments.detect.scoring import grid
from experiments.detect.scoring.grid import score_table
from experiments.detect.scoring.metrics import LINEAR
from experiments.detect.scoring.params import DetectScore
from experiments.detect.scoring.records import read_responses
from experiments.detect.scoring.released import read_released
from experiments.judging import Judge
from experiments.redeep.fits import best_alpha, fit_linear
from experiments.redeep.fitted import SCORE
from harness.running.audit import audit
from harness.stage import Audited, BadInput, Records, Undefined
from tests.tiny import features


def made(spans: int = 90, *, heads: int = 12, layers: int = 3, seed: int = 0) -> pd.DataFrame:
    """Unsorted spans of responses, three to a prompt; the first head and layer follow the label, all else is noise."""
    rng = np.random.default_rng(seed)
    response = np.sort(rng.integers(0, spans // 3, spans))
    frame = pd.DataFrame({"group": [f"r{i}" for i in response], "item": np.arange(spans), "source": response // 3})
    frame["label"] = rng.integers(0, 2, spans) * (response % 2)
    for name in [*(f"ecs_{i}_0" for i in range(heads)), *(f"pks_{i}" for i in range(layers))]:
        sign = {"ecs_0_0": -1, "pks_0": 1}.get(name, 0)
        frame[name] = rng.normal(size=spans) + sign * frame["label"]
    return frame.sample(frac=1, random_state=seed)


def coarse(frame: pd.DataFrame) -> pd.DataFrame:
    """Features of three values: full of ties, many of them made or broken by rounding alone."""
    return frame.assign(**{name: frame[name].clip(-1, 1).round() for name in frame.filter(regex="^(ecs|pks)_")})


DATA = {
    "tiny": features(40),
    "noise": made(),
    "ties": coarse(made(150, seed=1)),
    "constant columns": made(seed=2).assign(ecs_1_0=0.3, pks_0=0.0, pks_1=0.0, pks_2=0.0),
    "one span a response": made(120, seed=3).drop_duplicates("group"),
    "no heads": made(heads=0),
    "no layers": made(layers=0),
    "not a number": made(seed=4).assign(ecs_1_0=np.nan),
    "infinite": made(seed=5).assign(ecs_1_0=lambda frame: frame["ecs_1_0"].mask(frame["item"] == 5, np.inf)),
    "huge": made(seed=6).assign(ecs_0_0=lambda frame: frame["ecs_0_0"] * 1e30),
    "one class": made().assign(label=0),
    "hallucinated in every response": made().assign(label=lambda frame: ~frame["group"].duplicated()),
    "too few prompts": made(30),
}
WEIGHTS: list[dict[str, Any]] = [
    {"top_n": 1, "top_k": 1, "alpha": 0.6, "m": 1},
    {"top_n": 10, "top_k": 2, "alpha": 0.3, "m": 0.7},
    {"top_n": 99, "top_k": 99, "alpha": 1, "m": 1},
    {"alpha": 0, "m": 0.1},
    {"alpha": 0.7, "m": 0},
    {"alpha": 0, "m": 0},
    {"alpha": "best", "m": 0.9},
]


@pytest.fixture(autouse=True)
def _no_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here looks at intervals, in which `score` spends its time."""

    def undefined(*_: Any) -> Any:
        raise Undefined("not looked at")

    for name in ("influence", "p"):
        monkeypatch.setattr(Judge, name, undefined)


def table_of(frame: pd.DataFrame, *arguments: Any) -> pd.DataFrame:
    return score_table(read_responses(frame), *arguments)


def one_by_one(frame: pd.DataFrame, settings: list[DetectScore]) -> pd.DataFrame:
    """What `score` reports."""
    metrics = [DETECT.score(Records(frame, None, {}), each).metrics for each in settings]
    return pd.DataFrame([{name: found.get(name, np.nan) for name in LINEAR} for found in metrics])


def assert_same(frame: pd.DataFrame, settings: list[DetectScore]) -> pd.DataFrame:
    """AUC bit for bit, PCC to 1e-12."""
    many, single = table_of(frame, settings), one_by_one(frame, settings)
    aucs = [name for name in LINEAR if name != "pcc"]
    pd.testing.assert_frame_equal(many[aucs], single[aucs], check_exact=True)
    pd.testing.assert_frame_equal(many[["pcc"]], single[["pcc"]], rtol=0, atol=1e-12)
    return many


# --- the same as scoring one by one ----------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:invalid value encountered")  # infinity less infinity, in both
@pytest.mark.parametrize("data", DATA)
def test_many_settings_score_as_each_does(data: str) -> None:
    published = [DetectScore(protocol="published", **weights) for weights in WEIGHTS[1:3]]
    assert_same(DATA[data], [*published, *(DetectScore(**weights) for weights in WEIGHTS)])


@pytest.mark.parametrize("data", ["tiny", "ties", "too few prompts"])
def test_settings_that_differ_in_anything_share_a_table_in_their_order(data: str) -> None:
    different: list[dict[str, Any]] = [
        *({"heads": heads, **weights} for heads in ("1.0,0.0,1.0", "all") for weights in (WEIGHTS[0], WEIGHTS[-1])),
        {"select": "mutual_info"},
        {"scorer": "logistic"},
        {"scorer": "ensemble", "alpha": "best", "folds": 2},
        {"folds": 3, "alpha": "best"},
        {"fold_seed": 1},
        {"threshold": 0.2},
    ]
    settings = [DetectScore(protocol=protocol, **each) for each in different for protocol in ("crossfit", "published")]
    assert_same(DATA[data], settings)


def test_labels_may_be_true_or_false_and_features_short_numbers() -> None:
    short = dict.fromkeys(made().filter(regex="^(ecs|pks)_"), np.float32)
    assert_same(made().astype({"label": bool, **short}), [DetectScore(**weights) for weights in WEIGHTS])


@pytest.mark.parametrize("data", ["noise", "ties"])
def test_no_result_depends_on_how_many_are_worked_on_at_once(data: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = [DetectScore(**weights) for weights in WEIGHTS]
    expected = table_of(DATA[data], settings)
    monkeypatch.setattr(statistics, "_CELLS", 1)
    pd.testing.assert_frame_equal(table_of(DATA[data], settings), expected)


def test_what_is_undefined_is_missing_and_the_rest_is_not() -> None:
    table = assert_same(DATA["too few prompts"], [DetectScore(), DetectScore(protocol="published")])
    assert table.notna().to_numpy().tolist() == [[False, False, True, False, False], [True, True, True, False, False]]
    assert table_of(DATA["one class"], [DetectScore()]).isna().all(axis=None)


def test_a_head_that_the_records_lack_is_refused() -> None:
    with pytest.raises(BadInput, match="no column ecs_99_1"):
        table_of(made(), [DetectScore(), DetectScore(heads="99.1")])


def test_only_the_metrics_asked_for_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = [DetectScore(protocol="published"), DetectScore(protocol="published", top_n=1)]
    expected = table_of(made(), settings)
    monkeypatch.delattr(grid, "folds")
    for metrics in (["auc", "pcc"], ["auc_in_sample"]):
        pd.testing.assert_frame_equal(table_of(made(), settings, metrics), expected[metrics])
    assert table_of(made(), []).shape == (0, len(LINEAR))


SCORES = st.lists(
    st.tuples(st.integers(0, 1), st.sampled_from([0.0, -0.0, 5e-324, 1e-9, 1 / 3, -1 / 3, 2.0, -7e9, 1e30, np.nan])),
    min_size=2,
    max_size=30,
).filter(lambda rows: len({label for label, _ in rows}) == 2)


@given(SCORES)
def test_the_sorted_auc_is_that_of_ranks_bit_for_bit(rows: list[tuple[int, float]]) -> None:
    labels, scores = np.array([label for label, _ in rows]), np.array([score for _, score in rows])
    scores[np.abs(scores) < 1e-300] = 0.0  # below the smallest number that can be told apart
    both = np.array([scores, -scores])
    known = ~np.isnan(scores)  # as the judge leaves out what could not be had
    if len(set(labels[known])) == 2:
        np.testing.assert_array_equal(
            statistics.row_aucs(labels, both), statistics.column_aucs(labels[known], both[:, known].T)
        )
    else:
        assert np.isnan(statistics.row_aucs(labels, both)).all()


# --- released features -----------------------------------------------------------------------------------------------


def test_the_papers_grid_on_released_features_is_what_the_published_procedure_gives(real_data: Path) -> None:
    records = read_released(real_data / "redeep" / "llama2_7b_4bit_chunk.json")
    settings = bench_score.paper_grid("published")
    assert len(settings) == 1960
    ranked = bench_score.rank(records.frame, [(slice(None), slice(None))])

    @cache  # a single PKS column: all of top_k is the same
    def published(top_n: int, alpha: float, m: float) -> tuple[float, float]:
        params = DetectScore(top_n=top_n, top_k=1, alpha=alpha, m=m)
        return bench_score.published(records.frame, ranked, params)

    expected = [published(each.top_n, each.alpha, each.m) for each in settings]
    table = table_of(records.frame, settings, ("auc", "pcc"))
    np.testing.assert_allclose(table.to_numpy(), expected, rtol=0, atol=1e-12)
    golden = table[[each == DetectScore(protocol="published", top_n=3, top_k=4) for each in settings]]
    np.testing.assert_allclose(golden, [[0.6885469342604298, 0.32314327508344176]], rtol=0, atol=1e-12)


def test_released_features_score_the_same_many_at_once_and_one_by_one(real_data: Path) -> None:
    records = read_released(real_data / "redeep" / "llama2_7b_4bit_chunk.json")
    some = bench_score.paper_grid("crossfit")[::400]
    assert_same(records.frame, [*some, *bench_score.paper_grid("published")[::400], DetectScore(alpha="best")])


# --- alpha=best ------------------------------------------------------------------------------------------------------

STEP = st.integers(0, 8).map(float) | st.integers(0, 6).map(lambda n: n / 3) | st.floats(0, 1, width=16)
RESPONSES = st.lists(st.tuples(st.integers(0, 1), STEP, STEP), min_size=2, max_size=12).filter(
    lambda rows: len({row[0] for row in rows}) == 2
)


def auc_at(labels: Any, ecs: Any, pks: Any, m: float, alpha: float) -> float:
    return statistics.auc(labels, m * pks - alpha * ecs)


@given(RESPONSES, st.sampled_from([0.01, 0.7, 1.0, 10.0]))
def test_best_alpha_reaches_what_no_other_alpha_exceeds(rows: list[tuple[int, float, float]], m: float) -> None:
    labels, ecs, pks = (np.array(column) for column in zip(*rows, strict=True))
    with np.errstate(divide="ignore", invalid="ignore"):
        places = m * np.subtract.outer(pks, pks) / np.subtract.outer(ecs, ecs)
    steps = np.unique(np.concatenate([[0, 10], places[(places > 0) & (places < 10)]]))
    between = (steps[1:] + steps[:-1])[np.diff(steps) > 1e-9] / 2
    brute = [auc_at(labels, ecs, pks, m, alpha) for alpha in (0.0, *between, *np.linspace(0.01, 10, 99), 10.0)]
    best = best_alpha(labels, ecs, pks, m)
    assert 0 <= best <= 10
    assert auc_at(labels, ecs, pks, m, best) == pytest.approx(max(brute), abs=1e-12)


def test_best_alpha_is_the_middle_of_the_widest_of_the_best_intervals() -> None:
    labels, ecs, pks = np.array([1, 0]), np.array([0.0, 1.0]), np.array([0.0, 3.0])
    assert best_alpha(labels, ecs, pks, 1.0) == pytest.approx(6.5)  # the pair changes places at 3
    assert best_alpha(labels, ecs, pks, 2.0) == pytest.approx(8.0)
    assert best_alpha(1 - labels, ecs, pks, 1.0) == pytest.approx(1.5)


def test_best_alpha_may_be_an_end_of_its_range_and_is_one_where_it_has_no_effect() -> None:
    labels, ecs, level = np.array([1, 0]), np.array([1.0, 0.0]), np.zeros(2)
    assert best_alpha(labels, ecs, level, 1.0) == 0  # a tie, where every other alpha loses
    assert best_alpha(labels, ecs, level, 0.0) == 1


def test_best_alpha_of_many_responses_is_the_same_in_small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    labels, ecs, pks = rng.integers(0, 2, 600), rng.random(600), rng.random(600)
    whole = best_alpha(labels, ecs, pks + 0.1 * labels, 1.0)
    assert auc_at(labels, ecs, pks + 0.1 * labels, 1.0, whole) >= max(
        auc_at(labels, ecs, pks + 0.1 * labels, 1.0, alpha) for alpha in np.linspace(0, 10, 2000)
    )
    monkeypatch.setitem(best_alpha.__globals__, "_PAIRS", 1000)
    assert best_alpha(labels, ecs, pks + 0.1 * labels, 1.0) == whole


def test_best_alpha_is_learned_from_training_responses_only() -> None:
    cases = read_responses(made())
    train, test = np.arange(0, 20), np.arange(20, len(cases.labels))
    params = DetectScore(alpha="best", top_n=2)
    swapped = np.concatenate([cases.labels[train], 1 - cases.labels[test]])
    again = replace(cases, labels=swapped)
    scores = [fit_linear(each.take(train), params)(each.take(test))[SCORE] for each in (cases, again)]
    assert scores[0].tolist() == scores[1].tolist()
    learned = [
        fit_linear(cases.take(train), DetectScore(alpha=alpha, top_n=2))(cases.take(train))[SCORE]
        for alpha in ("best", *np.linspace(0, 10, 200))
    ]
    labels = cases.labels[train]
    aucs = [statistics.auc(labels, each) for each in learned]
    assert aucs[0] == max(aucs)


def test_a_best_alpha_that_gains_nothing_is_doubted() -> None:
    records = Records(made().assign(ecs_0_0=lambda frame: frame["pks_0"]), None, {"counts": {}})
    params = DetectScore(alpha="best", heads="0.0", top_k=1, protocol="published")
    found = audit(Audited(DETECT, records, DETECT.score(records, params), params)).findings
    assert "part_beats_whole" in {finding.code for finding in found}


# --- the benchmark ---------------------------------------------------------------------------------------------------


def test_the_benchmark_has_a_row_a_case_and_finds_no_difference(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    small = Records(made(300), None, {})
    monkeypatch.setattr(bench_score, "_BASELINE_SECONDS", 0.05)
    monkeypatch.setattr(bench_score, "_RELEASED", tmp_path / "absent")
    monkeypatch.setattr(bench_score, "synthetic", lambda rows, heads, layers: small)
    table = bench_score.bench("cpu", 1, False)
    assert table["case"].tolist() == ["in sample", "5 folds", "a million rows"]
    assert (table["features"] == "random").all()
    assert (table["configurations"] == 1960).all()
    assert (table["largest_difference"] < 1e-12).all()
    assert (table["ratio"] > table["ratio_ranked_once"]).all()
    assert (table["ratio_ranked_once"] > 10).all()
