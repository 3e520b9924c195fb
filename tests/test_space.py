"""Search spaces: what ships validates, and a mistake names file, line, value and what is allowed."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import FloatDistribution, IntDistribution

from experiments import STAGES
from harness.running import cache, hardware
from harness.running.settings import resolve
from harness.stage import BadInput
from harness.sweeping import space
from harness.sweeping.samplers import at, distribution
from harness.sweeping.space import Range
from harness.sweeping.trial import with_settings

(DETECT,) = [stage for stage in STAGES if stage.name == "detect"]
MEMORY = {"peak_rss_gb": 16.0}
SHIPPED = sorted(space.FOLDER.glob("*.yaml"))


def load(tmp_path: Path, text: str, sampler: str | None = None) -> space.Space:
    path = tmp_path / "own.yaml"
    path.write_text(text)
    return space.load(str(path), DETECT, MEMORY, sampler)


def test_the_papers_grid_has_its_1960_points_once_each() -> None:
    grid = list(space.load("detect", DETECT, MEMORY, "grid").grid(frozenset()))
    assert len(grid) == space.load("detect", DETECT, MEMORY).size() == 1960
    assert len({tuple(point.items()) for point in grid}) == 1960
    assert sorted({point["alpha"] for point in grid}) == [0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.6]


def test_a_grid_varies_what_is_expensive_in_the_outer_loop(tmp_path: Path) -> None:
    found = load(tmp_path, "stage: detect\nfields:\n  top_n: [1, 2]\n  precision: [fp32, bf16]\nsampler: grid\n")
    assert [point["precision"] for point in found.grid(frozenset({"precision"}))] == ["fp32", "fp32", "bf16", "bf16"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("stage: detect\nfields:\n  top_m: [1]\n", "line 3: detect has no setting top_m; did you mean top_n?"),
        ("stage: detect\nfields:\n  top_n: [1, 0]\n", "line 3: top_n = 0: must be greater than or equal to 1"),
        ("stage: detect\nfields:\n  top_n:\n    low: 1\n    high: 9000\n", "line 5: top_n = 9000: must be less than"),
        ("stage: detect\nfields:\n  top_n: {low: 1, high: 7, step: 0.5}\n", "whole numbers only"),
        ("stage: detect\nfields:\n  top_n: {low: 7, high: 1}\n", "line 3: top_n: low = 7 must be below high = 1"),
        ("stage: detect\nfields:\n  alpha: {low: 0.0, high: 1, log: true}\n", "a log range has no step and begins ab"),
        ("stage: detect\nfields:\n  alpha: {low: 0.1, high: 1, step: 0.2}\n", "is not low plus whole steps of 0.2"),
        ("stage: detect\nfields:\n  alpha: {low: 0.1, hi: 1}\n", "line 3: alpha: hi is not a part of a range; low, h"),
        ("stage: detect\nfields:\n  alpha: {low: 0.1}\n", "line 3: alpha: high = None: a range needs numbers"),
        ("stage: detect\nfields:\n  alpha: {low: a, high: 1}\n", "line 3: alpha: low = a: a range needs numbers"),
        ("stage: detect\nfields:\n  task: [QA, chat]\n", "line 3: task decides which samples are judged, so its values"
            " have no common rank and cannot be searched; give it one value, sweep once for each (-P task=…), then co"),
        ("stage: detect\nfields:\n  select: []\n", "line 3: select: the list is empty"),
        ("stage: detect\nfields:\n  select: [auc, auc]\n", "line 3: select: auc stands there twice"),
        ("stage: detect\nfields:\n  select: [auc, luck]\n", "line 3: select = luck: must be 'auc' or 'mutual_info'"),
        ("stage: detect\nfields:\n  alpha: 0.6\n", "line 2: the space is empty: give at least one setting a range"),
        ("stage: detect\nfields:\n  alpha: -1\n", "line 3: alpha = -1: must be 'best' or greater than or equal to 0"),
        ("stage: rag\nfields:\n  alpha: [1]\n", "line 1: stage = rag: the sweep is of detect"),
        ("stage: detect\nfeilds:\n  alpha: [1]\n", "line 2: feilds is not a part of a space; stage, fields, objectiv"),
        ("- 1\n", "holds no mapping of stage, fields"),
        ("stage: [", "own.yaml: cannot be read: "),
        ("stage: detect\nfields: {alpha: [1]}\nobjectives: {acu: maximize}\n", "line 3: detect has no metric acu; di"),
        ("stage: detect\nfields: {alpha: [1]}\nobjectives: {auc: up}\n", "line 3: auc = up: must be maximize or mini"),
        ("stage: detect\nfields: {alpha: [1]}\nobjectives: {auc: minimize}\n", "line 3: auc = minimize: better is to"),
        ("stage: detect\nfields: {alpha: [1]}\nconstraints:\n  - auc < 1\n", "line 4: auc < 1: a constraint reads"),
        ("stage: detect\nfields: {alpha: [1]}\nconstraints:\n  - auc <= hardware\n", "is a bound of peak_rss_gb here"),
        ("stage: detect\nfields: {alpha: [1]}\nsampler: tpa\n", "line 3: sampler = tpa: must be tpe or gp or cmaes"),
        ("stage: detect\nfields: {alpha: {low: 0, high: 1.5}}\nsampler: grid\n", "alpha: a grid needs a step, or a l"),
        ("stage: detect\nfields: {alpha: [1]}\ninner: 0\n", "line 3: inner = 0: must be a whole number of at least 1"),
    ],
)  # fmt: skip
def test_a_mistake_names_its_line_and_what_is_allowed(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(BadInput) as caught:
        load(tmp_path, text)
    assert said in str(caught.value)
    assert "own.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_space_that_does_not_exist_is_named_with_those_that_do() -> None:
    with pytest.raises(
        BadInput, match=r"space = detect-wied: no such search space, nor a .yaml file; did you mean detect-wide\?"
    ):
        space.load("detect-wied", DETECT, MEMORY)


def test_the_bound_of_the_hardware_is_its_memory(tmp_path: Path) -> None:
    text = "stage: detect\nfields: {alpha: [1]}\nconstraints:\n  - peak_rss_gb <= hardware\n  - f1 >= 0.5\n"
    memory, f1 = load(tmp_path, text).constraints
    assert (memory.excess(17), memory.excess(15)) == (1, -1)
    assert (f1.excess(0.4) > 0, f1.excess(0.6) > 0) == (True, False)


def test_equal_spaces_have_equal_digests_however_their_values_are_written(tmp_path: Path) -> None:
    text = "stage: detect\nfields:\n  alpha: [{}]\n  m: {}\n  top_n: {{low: {}, high: 7}}\n"
    whole, parts = (load(tmp_path, text.format(*values)) for values in (("0, 1", "1", "1"), ("0.0, 1.0", "1.0", "1.0")))
    assert whole.digest == parts.digest
    assert [type(value) for value in (*whole.searched["alpha"], whole.fixed["m"])] == [float] * 3
    with pytest.raises(BadInput, match=r"alpha: 1\.0 stands there twice"):
        load(tmp_path, text.format("1, 1.0", "1", "1"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_sweep_over_a_space_that_ships_leaves_the_key_of_default_records_as_it_is(path: Path) -> None:
    stage = next(stage for stage in STAGES if path.stem.startswith(stage.name))
    found = space.load(path.stem, stage, MEMORY)
    plan = resolve(stage, {}, hardware.load_profiles())
    assert plan.infer is not None
    scoring = {name: next(iter(field)) for name, field in found.searched.items() if isinstance(field, tuple)}
    settings = {
        name: value for name, value in (scoring | found.fixed).items() if name in stage.score_params.model_fields
    }
    trial = with_settings(plan, settings)
    assert trial.infer is not None
    keys = {cache.key(stage, half, {}, 0, {}) for half in (plan.infer, trial.infer)}
    assert len(keys) == 1


RANGES = st.one_of(
    st.tuples(st.integers(-50, 50), st.integers(1, 60), st.integers(1, 7)).map(
        lambda t: Range(t[0], t[0] + t[1] * t[2], t[2])
    ),
    st.tuples(st.integers(-50, 50), st.integers(1, 60)).map(lambda t: Range(float(t[0]), float(t[0] + t[1]))),
    st.tuples(st.integers(1, 50), st.integers(1, 60)).map(lambda t: Range(t[0], t[0] + t[1], None, True)),
    st.tuples(st.integers(0, 30), st.integers(1, 9)).map(lambda t: Range(t[0] / 10, t[0] / 10 + t[1] * 0.2, 0.2)),
)


@given(RANGES, st.floats(0, 1))
def test_every_value_of_a_range_is_one_that_optuna_takes(field: Range, unit: float) -> None:
    of_optuna = distribution(field)
    for value in [at(field, unit), *(field.points() or [])]:
        assert of_optuna._contains(of_optuna.to_internal_repr(value))
    assert at(field, 0.0) == pytest.approx(field.low)
    assert at(field, 1.0) == pytest.approx(field.high)


def test_a_range_is_of_the_kind_of_its_setting_whatever_its_numbers_look_like(tmp_path: Path) -> None:
    text = "stage: detect\nfields:\n  alpha: {low: 0, high: 2}\n  top_n: {low: 1.0, high: 7.0}\n"
    searched = load(tmp_path, text).searched
    assert isinstance(distribution(searched["alpha"]), FloatDistribution)
    assert isinstance(distribution(searched["top_n"]), IntDistribution)
