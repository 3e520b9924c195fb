"""What every stage must hold, as one class of tests; test_contract.py runs it over all of them."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib.figure
import numpy as np
import pandas as pd
import pytest
import yaml

from harness.measuring.cost import COSTS
from harness.progress import Work
from harness.running import cache, code, hardware, run
from harness.running.checks import CHECKS
from harness.running.records import read_records, require_sound, write_records
from harness.running.settings import RunOptions, resolve
from harness.stage import BadInput, Check, Params, Records, Report, Stage
from harness.sweeping import space
from tests.examples import EXAMPLES, Example

ROOT = Path(__file__).parent.parent
# A run as a user's process would have it, which dies by SIGKILL with one part kept and another one computed.
KILLED = """
import os, signal, sys
from experiments import STAGES
from harness.running import hardware, journal, run
from harness.running.settings import resolve
class Deadly(journal.Journal):
    def keep(self, *arguments):
        if self.done:
            os.kill(os.getpid(), signal.SIGKILL)
        super().keep(*arguments)
journal.Journal = Deadly
stage = next(stage for stage in STAGES if stage.name == sys.argv[1])
typed = dict(word.split("=", 1) for word in sys.argv[2:])
run.execute(resolve(stage, typed, hardware.load_profiles()))
"""
# Another process, which is sent a stage and settings and has records on its disk: it scores them, then draws.
ELSEWHERE = """
import json, pickle, sys
from pathlib import Path
stage, infer, score = pickle.loads(Path("sent.pickle").read_bytes())
from harness.running import cache
from harness.running.records import read_records
key = cache.key(stage, infer, {}, 0, {})
report = stage.score(read_records(Path("records.parquet")), score)
scored = sorted(sys.modules)
for draw in report.figures.values():
    draw().canvas.draw()
print(json.dumps({"key": key, "metrics": report.metrics, "scored": scored, "drawn": sorted(sys.modules)}))
"""


def execute(stage: Stage[Any, Any], settings: Mapping[str, Any]) -> run.Result:
    """Run a configuration as typed."""
    typed = {name: str(value) for name, value in settings.items()}
    return run.execute(resolve(stage, typed, hardware.load_profiles()))


def of(model: type[Params], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the settings that a model has."""
    return {name: value for name, value in settings.items() if name in model.model_fields}


def shipped_spaces() -> dict[str, str]:
    """The stage of every space that ships, by the space's name."""
    return {path.stem: yaml.safe_load(path.read_text())["stage"] for path in space.FOLDER.glob("*.yaml")}


def plain(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows in which lists are lists, and not sometimes arrays."""
    lists = {name: column.map(_as_list) for name, column in frame.items() if column.dtype == object}
    return frame.assign(**{str(name): column for name, column in lists.items()})


def _as_list(value: Any) -> Any:
    return list(value) if isinstance(value, list | np.ndarray) else value


def stem(name: str) -> str:
    """The declared name of a metric's part, of an end of its interval, or of its p."""
    for end in ("_low", "_high", "_p"):
        name = name.removesuffix(end)
    return name.partition("/")[0]


def told(report: Report) -> set[str]:
    """All that a report has something to say of."""
    return report.metrics.keys() | report.undefined.keys()


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
        scorings = [stage.score_params.model_validate(fixed | dict(given)) for given in example.scorings]
        return [(params, stage.score(result.records, params)) for params in scorings]

    @pytest.fixture(scope="class")
    @classmethod
    def degraded(cls, stage: Stage[Any, Any], example: Example, result: run.Result, reports: Any) -> list[Report]:
        """Reports on records that define less, one for each way to score."""
        frames = [degrade(result.records.frame) for degrade in example.degraded]
        lesser = [Records(frame.reset_index(drop=True), None, result.records.origin) for frame in frames]
        return [stage.score(records, params) for records in lesser for params, _ in reports]

    # --- what a person sees ------------------------------------------------------------------------------------------

    def test_what_may_take_long_says_so(
        self, stage: Stage[Any, Any], settings: dict[str, Any], told: list[Work]
    ) -> None:
        execute(stage, settings | {"cache": "off"})
        said = {work.what for work in told}
        assert {"load libraries", "read what the key is made of", "score"} <= said
        assert any(what.startswith("load ") for what in said - {"load libraries"})
        assert any(work.total == work.done > 0 for work in told if work.what != "read what the key is made of")

    # --- settings ----------------------------------------------------------------------------------------------------

    def test_settings_are_unique_described_bounded_and_valid_by_default(self, stage: Stage[Any, Any]) -> None:
        models: list[type[Params]] = [stage.infer_params, stage.score_params, RunOptions]
        names = [name for model in models for name in model.model_fields]
        assert len(names) == len(set(names))
        for model in models:
            assert model.model_validate(model().model_dump()) == model()
            schema = model.model_json_schema()["properties"]
            for name, field in model.model_fields.items():
                assert field.description, name
                kinds = schema[name].get("anyOf", [schema[name]])
                numbers = [kind for kind in kinds if kind.get("type") in {"integer", "number"}]
                bounds = {"minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum"}
                assert all(bounds & kind.keys() for kind in numbers), f"{name} has no bound"

    @pytest.mark.filterwarnings("ignore:Pydantic serializer")
    def test_every_setting_of_inference_is_in_the_key_and_none_of_scoring(
        self, stage: Stage[Any, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert not [name for name in code.sources(f"{stage.package}.inference") if ".scoring" in name]
        monkeypatch.setattr(code, "digest", lambda *_: "the same code")  # which takes a moment to read

        def key(params: Params) -> str:
            return cache.key(stage, params, {}, 0, {})

        params = stage.infer_params()
        assert key(params) == key(stage.infer_params())
        for name in stage.infer_params.model_fields:
            assert key(params.model_copy(update={name: "another"})) != key(params), name

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
                written = of(model, defaults)
                kept = of(model, model.model_validate(written).model_dump())
                assert {name: kept[name] for name in written} == written, profile.tag

    def test_a_space_of_its_name_ships_and_every_shipped_space_of_it_loads(self, stage: Stage[Any, Any]) -> None:
        own = [name for name, of_stage in shipped_spaces().items() if of_stage == stage.name]
        assert stage.name in own
        figures = {metric.name for metric in (*stage.metrics, *COSTS)}
        for name in own:
            loaded = space.load(name, stage, {"peak_rss_gb": 16, "peak_device_gb": 16})
            assert loaded.searched
            assert {stem(aim) for aim in loaded.objectives} <= figures, name
            assert {stem(constraint.metric) for constraint in loaded.constraints} <= figures, name

    def test_what_decides_by_what_is_judged_is_searched_by_no_space_that_ships_and_cannot_be(
        self, stage: Stage[Any, Any], tmp_path: Path
    ) -> None:
        decide = stage.infer_params.yardstick() | stage.score_params.yardstick()
        for name in (name for name, of_stage in shipped_spaces().items() if of_stage == stage.name):
            assert not space.load(name, stage, {"peak_rss_gb": 16, "peak_device_gb": 16}).searched.keys() & decide
        assert decide, "every stage has settings that select its data"
        for name in decide:
            for values in ("[1, 2]", "{low: 1, high: 2}"):
                (tmp_path / "own.yaml").write_text(f"stage: {stage.name}\nfields:\n  {name}: {values}\n")
                with pytest.raises(BadInput, match=f"own.yaml, line 3: {name} decides {decide[name]}, so its values"):
                    space.load(str(tmp_path / "own.yaml"), stage, {})

    def test_bad_input_is_one_line(self, stage: Stage[Any, Any], example: Example, settings: dict[str, Any]) -> None:
        fields = {**stage.infer_params.model_fields, **stage.score_params.model_fields}
        narrow = [name for name, field in fields.items() if field.annotation not in {str, str | None}]
        for mistake in (*({name: "\x00"} for name in narrow), *example.mistakes, {"no_such_setting": 1}):
            with pytest.raises(BadInput) as caught:
                execute(stage, settings | {"cache": "off"} | dict(mistake))
            (name,) = mistake
            assert "\n" not in str(caught.value)
            assert name in str(caught.value)

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
                    pd.testing.assert_series_equal(plain(frame)[name], plain(whole)[name], check_exact=True)

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
        pd.testing.assert_frame_equal(plain(resumed.records.frame), plain(result.records.frame), check_exact=True)
        assert resumed.report.metrics == result.report.metrics
        assert resumed.records.cost is not None
        assert result.records.cost is not None
        assert resumed.records.cost.sessions == 2
        assert resumed.records.cost.samples == result.records.cost.samples
        assert resumed.records.cost.batches == result.records.cost.batches
        assert resumed.records.origin["counts"] == result.records.origin["counts"]
        assert not resumed.replayed
        assert execute(stage, settings).replayed

    # --- scoring -----------------------------------------------------------------------------------------------------

    def test_what_is_reported_is_declared_and_defined_or_not_but_never_both(
        self, stage: Stage[Any, Any], reports: list[tuple[Params, Report]], degraded: list[Report]
    ) -> None:
        declared = {metric.name for metric in stage.metrics}
        assert len(declared) == len(stage.metrics)
        for metric in stage.metrics:
            assert {metric.baseline_of, metric.within_of} - {None} <= declared
        for report in (*(report for _, report in reports), *degraded):
            assert {stem(name) for name in told(report)} <= declared
            assert not report.metrics.keys() & report.undefined.keys()
            assert {stage.metrics[0].name, *stage.quick} <= told(report)
            assert all(np.isfinite(value) for value in report.metrics.values())
            assert all(report.undefined.values()), "an undefined metric has no reason"

    def test_what_is_declared_is_reported(
        self, stage: Stage[Any, Any], example: Example, reports: list[tuple[Params, Report]]
    ) -> None:
        names = set().union(*(told(report) for _, report in reports))
        assert {metric.name for metric in stage.metrics} - names == set(example.by_part)
        assert set(example.by_part) <= {name.partition("/")[0] for name in names}

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
            again = stage.score(shuffled, params)
            assert (again.metrics, again.judged) == (report.metrics, report.judged)

    def test_a_report_says_by_which_protocol_it_has_judged_which_rows(
        self, stage: Stage[Any, Any], result: run.Result, reports: list[tuple[Params, Report]]
    ) -> None:
        half = sorted(set(stage.strata(result.records.frame)[0]))[::2]
        rows = stage.strata(result.records.frame)[0].isin(half)
        fewer = Records(result.records.frame[rows].reset_index(drop=True), None, result.records.origin)
        for params, report in reports:
            assert report.judged.startswith(params.judging)
            assert report.judged != stage.score(fewer, params).judged

    def test_many_settings_at_once_score_as_each_does(
        self, stage: Stage[Any, Any], result: run.Result, reports: list[tuple[Params, Report]]
    ) -> None:
        if stage.score_many is None:
            assert not stage.quick
            return
        many = stage.score_many(result.records, [params for params, _ in reports], stage.quick)
        for quick, (_, report) in zip(many, reports, strict=True):
            known = {name: report.metrics[name] for name in stage.quick if name in report.metrics}
            assert quick.metrics == pytest.approx(known, abs=1e-12)
            assert quick.undefined == {name: report.undefined[name] for name in stage.quick if name not in known}
            assert quick.judged == report.judged

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
            assert {stem(name) for name in told(stage.held_out(train, test, params))} <= declared

    def test_figures_are_drawn_without_pyplot_and_only_when_called(
        self,
        stage: Stage[Any, Any],
        result: run.Result,
        reports: list[tuple[Params, Report]],
        degraded: list[Report],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
        with monkeypatch.context() as patch:
            patch.setattr(matplotlib.figure.Figure, "__init__", _refuse)
            assert stage.score(result.records, reports[0][0]).figures
        for report in (*(report for _, report in reports), *degraded):
            assert all(report.figures), "a figure has no name"
            for draw in report.figures.values():
                draw().canvas.draw()

    def test_another_process_finds_the_same_key_and_scores_without_what_runs_models(
        self, stage: Stage[Any, Any], result: run.Result, tmp_path: Path
    ) -> None:
        write_records(result.records, tmp_path / "records.parquet")
        infer = stage.infer_params()
        (tmp_path / "sent.pickle").write_bytes(pickle.dumps((stage, infer, result.plan.score)))
        command, environment = [sys.executable, "-c", ELSEWHERE], os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
        found = json.loads(done.stdout)
        assert found["key"] == cache.key(stage, infer, {}, 0, {})
        assert found["metrics"] == result.report.metrics
        assert not {"torch", "transformers"} & set(found["scored"])
        assert "matplotlib.pyplot" not in found["drawn"]

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
        findings = (*result.audit.findings, *result.audit.muted)
        assert {finding.code for finding in findings} <= {check.code for check in checks} | {"no_trace"}


def _refuse(*_: object, **__: object) -> None:
    raise AssertionError("a figure was drawn that nobody has asked for")
