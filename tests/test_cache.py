"""Records on disk come back as they went, under a key that changes with whatever decides them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments import STAGES
from harness.measuring.measure import Clock, Cost
from harness.running import cache
from harness.stage import BadInput, Params, Records, Stage

RECORDS = Records(
    pd.DataFrame({"group": ["a"], "ecs_0_0": [0.5]}), Cost.of([Clock().lap()], "bench", "cpu"), {"counts": {}}
)
NUMBERS = st.floats(allow_nan=False, width=64)
ROWS = st.lists(st.tuples(st.text(max_size=5), st.integers(-9, 9), NUMBERS, st.booleans()), max_size=8)
JSON = st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5) | st.lists(NUMBERS, max_size=2))


@settings(max_examples=40, deadline=None)
@given(rows=ROWS, origin=JSON, known=st.booleans())
def test_records_come_back_as_they_were_written(rows: list[Any], origin: dict[str, Any], known: bool) -> None:
    frame = pd.DataFrame(rows, columns=["group", "label", "ecs_0_0", "odd"]).astype({"group": "str", "label": "int64"})
    records = Records(frame, RECORDS.cost if known else None, origin)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "new" / "records.parquet"
        cache.write(records, path)
        again = cache.read(path)
        assert [file.name for file in path.parent.iterdir()] == ["records.parquet"]
    pd.testing.assert_frame_equal(again.frame, frame, check_exact=True)
    assert (again.cost, again.origin) == (records.cost, origin)
    assert (again.frame.attrs, frame.attrs) == ({}, {})


def test_records_are_found_under_the_key_they_were_kept_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RIGSWEEP_CACHE", str(tmp_path / "kept"))
    assert cache.find("abc") is None
    cache.keep("abc", RECORDS)
    found = cache.find("abc")
    assert found is not None
    assert found.cost == RECORDS.cost
    assert cache.find("abd") is None
    (tmp_path / "kept" / "abc.parquet").write_bytes(b"torn")
    assert cache.find("abc") is None  # to be made again, not to stand in the way


@pytest.mark.filterwarnings("ignore:Pydantic serializer")
@pytest.mark.parametrize(
    ("stage", "setting"),
    [(stage, name) for stage in STAGES for name in stage.infer_params.model_fields],
    ids=lambda each: getattr(each, "name", each),
)
def test_the_key_changes_with_every_inference_setting(stage: Stage[Any, Any], setting: str) -> None:
    def key(params: Params) -> str:
        return cache.key(stage, params, {}, 0, {})

    params = stage.infer_params()
    assert key(params) == key(stage.infer_params())
    assert key(params.model_copy(update={setting: "another"})) != key(params)


@pytest.mark.parametrize(
    "change",
    [{"inputs": {"data": "2"}}, {"inputs": {"model": "1"}}, {"seed": 1}, {"surroundings": {"torch": "3"}}],
    ids=str,
)
def test_the_key_changes_with_inputs_seed_and_surroundings(change: dict[str, Any]) -> None:
    made_of: dict[str, Any] = {"inputs": {"data": "1"}, "seed": 0, "surroundings": {"torch": "2"}}
    before = cache.key(STAGES[0], STAGES[0].infer_params(), **made_of)
    assert cache.key(STAGES[0], STAGES[0].infer_params(), **made_of | change) != before


@pytest.mark.parametrize(
    ("file", "matters"),
    [
        ("demo/inference/infer.py", True),
        ("demo/inference/helper.py", True),
        ("models/language.py", True),
        ("demo/scoring/score.py", False),
        ("demo/scoring/figures.py", False),
        ("demo/audits.py", False),
        ("other/inference/infer.py", False),
    ],
)
def test_the_key_changes_with_code_that_infers_and_not_with_code_that_scores(
    tmp_path: Path, file: str, matters: bool
) -> None:
    for name in ("demo/__init__.py", "models/language.py", file):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("def infer(params, context): ...\n")
    made: dict[str, Any] = {}
    source = tmp_path / "demo/__init__.py"
    exec(compile(source.read_text(), str(source), "exec"), made)
    stage = replace(STAGES[0], infer=made["infer"])

    def key() -> str:
        return cache.key(stage, stage.infer_params(), {}, 0, {})

    before = key()
    (tmp_path / file).write_text("# changed\n")
    assert (key() != before) == matters


@pytest.mark.parametrize(
    "spoil",
    [lambda content: b"", lambda content: b"no parquet\nat all", lambda content: content[: len(content) // 2]],
    ids=["empty", "text", "cut off"],
)
def test_a_file_that_is_not_whole_records_is_named_in_one_line(tmp_path: Path, spoil: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "records.parquet"
    cache.write(RECORDS, path)
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(BadInput) as caught:
        cache.read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_records_of_another_version_are_refused_in_one_line(tmp_path: Path) -> None:
    frame = RECORDS.frame.copy()
    frame.attrs = {"cost": {"hardware": "bench", "minutes": 3}, "origin": {}}
    frame.to_parquet(tmp_path / "old.parquet")
    with pytest.raises(BadInput, match=r"old\.parquet: written by another version .+$"):
        cache.read(tmp_path / "old.parquet")


@pytest.mark.parametrize("fault", [KeyboardInterrupt, MemoryError])
def test_an_interrupted_write_leaves_what_was_there_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: type[BaseException]
) -> None:
    def die_half_way(frame: pd.DataFrame, path: Path) -> None:
        path.write_bytes(b"PAR1 and no")
        raise fault

    cache.write(RECORDS, tmp_path / "old.parquet")
    monkeypatch.setattr(pd.DataFrame, "to_parquet", die_half_way)
    for name in ("new.parquet", "old.parquet"):
        with pytest.raises(fault):
            cache.write(RECORDS, tmp_path / name)
    assert [file.name for file in tmp_path.iterdir()] == ["old.parquet"]
    assert cache.read(tmp_path / "old.parquet").cost == RECORDS.cost


def test_a_folder_that_cannot_be_written_is_named_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "below" / "records.parquet"
    with pytest.raises(BadInput, match=rf"^records {path}: cannot be written: .+$"):
        cache.write(RECORDS, path)
