"""What every stage must hold, as one class of tests; test_contract.py runs it over all of them."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import matplotlib.figure
import numpy as np
import pandas as pd
import pytest

from harness.running import cache, code, hardware, run
from harness.running.checks import CHECKS
from harness.running.records import read_records, require_sound, write_records
from harness.running.settings import RunOptions, resolve
from harness.stage import BadInput, Check, Params, Records, Report, Stage
from harness.sweeping import space
from tests.examples import EXAMPLES, Example

ROOT = Path(__file__).parent.parent
# A run as a user's process would have it, which dies by SIGKILL as soon as something has been kept.
KILLED = """
import os, signal, sys
from contextlib import contextmanager
from experiments import STAGES
from harness.running import hardware, journal, run
from harness.running.settings import resolve
class Deadly(journal.Journal):
    def keep(self, *arguments):
        super().keep(*arguments)
        os.kill(os.getpid(), signal.SIGKILL)
journal.Journal = Deadly
@contextmanager
def silent(*_):
    yield lambda *_: None
stage = next(stage for stage in STAGES if stage.name == sys.argv[1])
typed = dict(word.split("=", 1) for word in sys.argv[2:])
run.execute(resolve(stage, typed, hardware.load_profiles()), silent)
"""


def silent(*_: object) -> Any:
    """Progress that nobody sees."""
    return nullcontext(lambda *_: None)


def execute(stage: Stage[Any, Any], settings: Mapping[str, Any]) -> run.Result:
    """Run a configuration as typed."""
    typed = {name: str(value) for name, value in settings.items()}
    return run.execute(resolve(stage, typed, hardware.load_profiles()), silent)


def of(model: type[Params], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the settings that a model has."""
    return {name: value for name, value in settings.items() if name in model.model_fields}


def plain(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows in which lists are lists, and not sometimes arrays."""
    lists = {name: column.map(_as_list) for name, column in frame.items() if column.dtype == object}
    return frame.assign(**{str(name): column for name, column in lists.items()})


def _as_list(value: Any) -> Any:
    return list(value) if isinstance(value, list | np.ndarray) else value


class StageContract:
    """Tests of `stage`, tried with `example`, whose undisturbed run is `result`."""

    @pytest.fixture(scope="class")
    @classmethod
    def example(cls, stage: Stage[Any, Any]) -> Example:
        assert stage.name in EXAMPLES, "every stage needs an example in tests/examples.py"
        return EXAMPLES[stage.name]

    @pytest.fixture(scope="class")
    @classmethod
    def settings(
        cls, stage: Stage[Any, Any], example: Example, tmp_path_factory: pytest.TempPathFactory
    ) -> dict[str, Any]:
        return example.prepare(tmp_path_factory.mktemp(stage.name))

    @pytest.fixture(scope="class")
    @classmethod
    def result(cls, stage: Stage[Any, Any], settings: dict[str, Any]) -> run.Result:
        return execute(stage, settings | {"cache": "off"})

    @pytest.fixture(scope="class")
    @classmethod
    def reports(cls, stage: Stage[Any, Any], example: Example, settings: dict[str, Any], result: run.Result) -> Any:
        """A report for each way to score."""
        fixed = of(stage.score_params, settings)
        params = [stage.score_params.model_validate(fixed | dict(each)) for each in example.scorings]
        return [(each, stage.score(result.records, each)) for each in params]

    # --- settings ----------------------------------------------------------------------------------------------------

    def test_settings_are_unique_described_bounded_and_valid_by_default(self, stage: Stage[Any, Any]) -> None:
        models: list[type[Params]] = [stage.infer_params, stage.score_params, RunOptions]
        names = [name for model in models for name in model.model_fields]
        assert len(names) == len(set(names))
        for model in models:
            model()
            schema = model.model_json_schema()["properties"]
            for name, field in model.model_fields.items():
                assert field.description, name
                kinds = schema[name].get("anyOf", [schema[name]])
                numbers = [kind for kind in kinds if kind.get("type") in {"integer", "number"}]
                bounds = {"minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum"}
                assert all(bounds & kind.keys() for kind in numbers), f"{name} has no bound"

    @pytest.mark.filterwarnings("ignore:Pydantic serializer")
    def test_every_setting_of_inference_is_in_the_key_and_none_of_scoring(self, stage: Stage[Any, Any]) -> None:
        def key(params: Params) -> str:
            return cache.key(stage, params, {}, 0, {})

        params = stage.infer_params()
        assert key(params) == key(stage.infer_params())
        for name in stage.infer_params.model_fields:
            assert key(params.model_copy(update={name: "another"})) != key(params), name
        assert not [name for name in code.sources(f"{stage.package}.inference") if ".scoring" in name]

    def test_remedies_name_settings_and_values_that_can_be_typed(
        self, stage: Stage[Any, Any], result: run.Result
    ) -> None:
        settings = stage.infer_params().model_dump() | stage.score_params().model_dump()
        for metrics in (result.metrics(), {}):
            for remedy in stage.remedies(settings, metrics):
                (model,) = (m for m in (stage.infer_params, stage.score_params) if remedy.setting in m.model_fields)
                model.model_validate(of(model, settings) | {remedy.setting: remedy.value})
                assert remedy.why

    def test_what_hardware_profiles_set_validates(self, stage: Stage[Any, Any]) -> None:
        models: list[type[Params]] = [stage.infer_params, stage.score_params]
        for profile in hardware.load_profiles():
            defaults = profile.defaults.get(stage.name, {})
            assert defaults.keys() <= {name for model in models for name in model.model_fields}, profile.tag
            for model in models:
                model.model_validate(of(model, defaults))

    def test_a_space_of_its_name_ships_and_every_shipped_space_of_it_loads(self, stage: Stage[Any, Any]) -> None:
        texts = {path.stem: path.read_text() for path in space.FOLDER.glob("*.yaml")}
        own = [name for name, text in texts.items() if f"stage: {stage.name}\n" in text]
        assert stage.name in own
        for name in own:
            assert space.load(name, stage, {"peak_rss_gb": 16, "peak_device_gb": 16}).searched

    def test_bad_input_is_one_line(self, stage: Stage[Any, Any], example: Example, settings: dict[str, Any]) -> None:
        fields = {**stage.infer_params.model_fields, **stage.score_params.model_fields}
        narrow = [name for name, field in fields.items() if field.annotation not in {str, str | None}]
        for mistake in (*({name: "\x00"} for name in narrow), *example.mistakes, {"no_such_setting": 1}):
            with pytest.raises(BadInput) as caught:
                execute(stage, settings | {"cache": "off"} | dict(mistake))
            name, value = next(iter(mistake.items()))
            assert "\n" not in str(caught.value)
            assert name in str(caught.value) or str(value) in str(caught.value)

    # --- records -----------------------------------------------------------------------------------------------------

    def test_records_survive_the_disk_and_score_as_before(
        self, stage: Stage[Any, Any], result: run.Result, tmp_path: Path
    ) -> None:
        write_records(result.records, tmp_path / "records.parquet")
        again = read_records(tmp_path / "records.parquet")
        pd.testing.assert_frame_equal(plain(again.frame), plain(result.records.frame), check_exact=True)
        assert (again.cost, again.origin) == (result.records.cost, result.records.origin)
        assert stage.score(again, result.plan.score).metrics == result.report.metrics

    def test_records_are_sound_and_their_features_have_a_range(
        self, stage: Stage[Any, Any], result: run.Result
    ) -> None:
        require_sound(result.records)
        assert result.records.origin["counts"]
        for prefix, (low, high) in stage.feature_ranges(result.records).items():
            values = result.records.frame.filter(regex=f"^{prefix}").stack()
            assert values.between(low - 1e-6, high + 1e-6).all(), prefix

    def test_how_it_is_computed_does_not_decide_what_comes_out(
        self, stage: Stage[Any, Any], example: Example, settings: dict[str, Any], result: run.Result
    ) -> None:
        whole = result.records.frame
        for change, tolerance in example.alike:
            frame = execute(stage, settings | {"cache": "off"} | dict(change)).records.frame
            assert list(frame) == list(whole)
            for name, column in whole.items():
                if tolerance and pd.api.types.is_float_dtype(column):
                    slack = tolerance * column.abs().median()
                    np.testing.assert_allclose(frame[name], column, tolerance, slack, err_msg=f"{change}, {name}")
                elif not tolerance or name != "embedding":  # which is rounded like the numbers, but stands in lists
                    pd.testing.assert_series_equal(plain(frame)[name], plain(whole)[name])

    def test_a_run_that_is_killed_half_way_and_goes_on_equals_one_that_is_not(
        self,
        stage: Stage[Any, Any],
        settings: dict[str, Any],
        result: run.Result,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setenv("RIGSWEEP_CACHE", str(tmp_path / "cache"))
        words = [f"{name}={value}" for name, value in settings.items()]
        done = subprocess.run([sys.executable, "-c", KILLED, stage.name, *words], cwd=ROOT, check=False)
        assert done.returncode == -signal.SIGKILL
        assert list((tmp_path / "cache").glob("*.journal/*.arrow")), "nothing was kept"
        resumed = execute(stage, settings)
        pd.testing.assert_frame_equal(resumed.records.frame, result.records.frame)
        assert resumed.report.metrics == result.report.metrics
        assert resumed.records.cost is not None
        assert resumed.records.cost.sessions == 2
        assert resumed.records.origin["counts"] == result.records.origin["counts"]
        assert not resumed.replayed
        assert execute(stage, settings).replayed

    # --- scoring -----------------------------------------------------------------------------------------------------

    def test_what_is_reported_is_declared_and_defined_or_not_but_never_both(
        self, stage: Stage[Any, Any], reports: list[tuple[Params, Report]]
    ) -> None:
        declared = {metric.name: metric for metric in stage.metrics}
        assert len(declared) == len(stage.metrics)
        for metric in stage.metrics:
            assert {metric.baseline_of, metric.within_of} - {None} <= declared.keys()
        for params, report in reports:
            told = report.metrics.keys() | report.undefined.keys()
            for name in told:
                stem = name.partition("/")[0]
                assert stem in declared or stem.removesuffix("_low").removesuffix("_high") in declared, name
            assert not report.metrics.keys() & report.undefined.keys(), params
            assert stage.metrics[0].name in told
            assert set(stage.quick) <= told
            assert all(np.isfinite(value) for value in report.metrics.values())

    def test_scoring_changes_nothing_and_repeats_itself(
        self, stage: Stage[Any, Any], result: run.Result, reports: list[tuple[Params, Report]]
    ) -> None:
        before = result.records.frame.copy(deep=True)
        for params, report in reports:
            again = stage.score(result.records, params)
            assert (again.metrics, again.undefined) == (report.metrics, report.undefined)
        pd.testing.assert_frame_equal(result.records.frame, before)

    def test_no_figure_depends_on_the_order_of_the_rows(
        self, stage: Stage[Any, Any], result: run.Result, reports: list[tuple[Params, Report]]
    ) -> None:
        order = np.random.default_rng(0).permutation(len(result.records.frame))
        shuffled = Records(result.records.frame.iloc[order], None, result.records.origin)
        for params, report in reports:
            assert stage.score(shuffled, params).metrics == report.metrics

    def test_many_settings_at_once_score_as_each_does(
        self, stage: Stage[Any, Any], result: run.Result, reports: list[tuple[Params, Report]]
    ) -> None:
        if stage.score_many is None:
            assert not stage.quick
            return
        table = stage.score_many(result.records, [params for params, _ in reports], stage.quick)
        for row, (_, report) in zip(table.to_dict("records"), reports, strict=True):
            known = {name: report.metrics[name] for name in stage.quick if name in report.metrics}
            assert {name: row[name] for name in known} == pytest.approx(known, abs=1e-12)
            assert all(np.isnan(row[name]) for name in stage.quick if name not in known)

    def test_a_holdout_is_judged_in_the_same_words_and_parts_no_group(
        self, stage: Stage[Any, Any], result: run.Result, reports: list[tuple[Params, Report]]
    ) -> None:
        groups, labels = stage.strata(result.records.frame)
        assert len(groups) == len(labels) == len(result.records.frame)
        held = groups.isin(sorted(set(groups))[::2]).to_numpy()
        train, test = (
            Records(result.records.frame[rows].reset_index(drop=True), None, result.records.origin)
            for rows in (~held, held)
        )
        declared = {metric.name for metric in stage.metrics}
        for params, _ in reports:
            report = stage.held_out(train, test, params)
            named = {name.partition("/")[0].removesuffix("_low").removesuffix("_high") for name in report.metrics}
            assert named <= declared

    def test_figures_are_drawn_without_pyplot_and_only_when_called(
        self,
        stage: Stage[Any, Any],
        result: run.Result,
        reports: list[tuple[Params, Report]],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
        with monkeypatch.context() as patch:
            patch.setattr(matplotlib.figure.Figure, "__init__", _refuse)
            drawn = stage.score(result.records, reports[0][0]).figures
        assert drawn
        for name, draw in drawn.items():
            assert isinstance(draw(), matplotlib.figure.Figure), name

    # --- audit -------------------------------------------------------------------------------------------------------

    def test_checks_have_a_code_of_their_own_and_say_what_to_do(
        self, stage: Stage[Any, Any], result: run.Result
    ) -> None:
        checks = [*CHECKS, *stage.checks()]
        assert len({check.code for check in checks}) == len(checks)
        assert all(check.title and check.mend for check in checks)
        modules = [sys.modules[check.rule.__module__] for check in checks]
        written = {value.code for module in modules for value in vars(module).values() if isinstance(value, Check)}
        assert written == {check.code for check in checks}, "a check is written and not asked"
        assert {finding.code for finding in result.findings} <= {check.code for check in checks} | {"no_trace"}


def _refuse(*_: object, **__: object) -> None:
    raise AssertionError("a figure was drawn that nobody has asked for")
