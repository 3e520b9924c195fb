"""Records on disk come back as they went, under a key that changes with whatever decides them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field

from experiments import STAGES
from harness.measuring.clock import Clock
from harness.measuring.cost import Cost
from harness.running import cache, code
from harness.running.records import read_records, write_records
from harness.stage import BadInput, Late, Params, Records

ROOT = Path(__file__).parent.parent
COST = Cost.of([Clock().lap()], "bench", "cpu")
RECORDS = Records(pd.DataFrame({"group": ["a"], "ecs_0_0": [0.5]}), COST, {"counts": {}})
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
        write_records(records, path)
        again = read_records(path)
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


@pytest.mark.parametrize(
    "change",
    [{"inputs": {"data": "2"}}, {"inputs": {"model": "1"}}, {"seed": 1}, {"surroundings": {"torch": "3"}}],
    ids=str,
)
def test_the_key_changes_with_inputs_seed_and_surroundings(change: dict[str, Any]) -> None:
    made_of: dict[str, Any] = {"inputs": {"data": "1"}, "seed": 0, "surroundings": {"torch": "2"}}
    before = cache.key(STAGES[0], STAGES[0].infer_params(), **made_of)
    assert cache.key(STAGES[0], STAGES[0].infer_params(), **made_of | change) != before


def test_what_inference_is_given_counts_by_name_and_nothing_else_may_be_given() -> None:
    def key(**given: Any) -> str:
        stage = replace(STAGES[0], infer=partial(STAGES[0].infer, **given))
        return cache.key(stage, stage.infer_params(), {}, 0, {})

    assert key(readers={"a": Late("m", "f")}) == key(readers={"a": Late("m", "f")})
    keys = {key(), key(readers={"b": Late("m", "f")}), *(key(readers={"a": Late("m", name)}) for name in "fg")}
    assert len(keys) == 4
    for other in ({"readers": {"a": print}}, {"readers": [Late("m", "f")]}, {"reader": object()}):
        with pytest.raises(TypeError, match="must be a mapping of names to functions that are Late"):
            key(**other)


HOUSE = {
    "demo/__init__.py": "STAGE = 1",
    "demo/stage/__init__.py": "from demo.stage.inference.infer import infer",
    "demo/stage/inference/__init__.py": "",
    "demo/stage/inference/infer.py": "import demo.models.language\ndef f():\n from demo.stage.inference import late",
    "demo/stage/inference/late.py": "READER = 'demo.models.named'",
    "demo/stage/scoring/__init__.py": "from demo.models import judge",
    "demo/models/__init__.py": "",
    "demo/models/language.py": "from demo.arrays import Floats",
    "demo/models/named.py": "",
    "demo/models/endpoint.py": "",
    "demo/models/judge.py": "",
    "demo/arrays.py": "if TYPE_CHECKING:\n from demo.stage import scoring\nelse:\n import demo.models.other",
    "demo/models/other.py": "if not TYPE_CHECKING:\n    import demo.models.third",
    "demo/models/third.py": "",
}


@pytest.fixture
def demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A house of its own, to be changed file by file."""
    for name, text in HOUSE.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("demo", None)


@pytest.mark.parametrize(
    ("file", "matters"),
    [
        ("demo/stage/inference/infer.py", True),
        ("demo/stage/inference/late.py", True),
        ("demo/stage/inference/new.py", True),
        ("demo/models/language.py", True),
        ("demo/models/named.py", True),
        ("demo/arrays.py", True),
        ("demo/models/other.py", True),
        ("demo/models/third.py", True),
        ("demo/models/endpoint.py", False),
        ("demo/models/judge.py", False),
        ("demo/stage/scoring/__init__.py", False),
        ("demo/stage/__init__.py", False),
        ("demo/__init__.py", False),
    ],
)
def test_code_counts_that_inference_imports_at_any_depth_and_no_other(demo: Path, file: str, matters: bool) -> None:
    before = code.digest("demo.stage.inference")
    (demo / file).write_text(HOUSE.get(file, "") + "\nCHANGED = 1\n")
    assert (code.digest("demo.stage.inference") != before) == matters


@pytest.mark.parametrize(
    ("before", "after", "same"),
    [
        ("x = 1", "# one\nx  =  (1)\n", True),
        ("def f():\n    return 1", 'def f():\n    """Return one."""\n    return 1', True),
        (
            "m = Field(1, ge=0, description='weight')",
            "m = Field(1, ge=0, description='w')",
            True,
        ),
        (
            "m = Field(1, ge=0, description='w')",
            "m = Field(1, ge=1, description='w')",
            False,
        ),
        ("x = 1", "x = 2", False),
        ("if TYPE_CHECKING:\n    import a\nx = 1", "if typing.TYPE_CHECKING:\n    import a, b\nx = 1", True),
        ("if TYPE_CHECKING:\n    x = 1\nelse:\n    x = 2", "if TYPE_CHECKING:\n    x = 1\nelse:\n    x = 3", False),
        ("if not TYPE_CHECKING:\n    x = 1", "if not TYPE_CHECKING:\n    x = 2", False),
        ("def f():\n    return 1", "def f():\n    return 2", False),
    ],
)
def test_what_is_said_to_people_changes_no_key(demo: Path, before: str, after: str, same: bool) -> None:
    file = demo / "demo/models/language.py"
    file.write_text(before)
    first = code.digest("demo.stage.inference")
    file.write_text(after)
    os.utime(file, ns=(1, 1))
    assert (code.digest("demo.stage.inference") == first) == same


def test_a_scoring_setting_and_another_stages_models_are_in_no_key_of_a_stage() -> None:
    for stage in STAGES:
        found = code.sources(f"{stage.package}.inference")
        assert f"{stage.package}.inference.params" in found
        assert not [name for name in found if ".scoring" in name or ".bench" in name or name == stage.package]
    assert "experiments.models.endpoint" not in code.sources("experiments.montecarlo.inference")
    assert "experiments.models.endpoint" in code.sources("experiments.rag.inference")


_CODE = """
import json
from harness.running import code
stages = ("detect", "rag", "montecarlo")
print(json.dumps({stage: code.digest(f"experiments.{stage}.inference") for stage in stages}))
"""


def test_what_is_said_to_people_and_what_others_compute_rekeys_no_stage_that_ships(tmp_path: Path) -> None:
    """In a copy of the experiments: a file, what is changed in it, and the stages whose records are lost by it."""
    python = shutil.ignore_patterns("__pycache__", "*.safetensors", "*.json", "*.jsonl")
    shutil.copytree(ROOT / "experiments", tmp_path / "experiments", ignore=python)
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", _CODE]

    def digests() -> dict[str, str]:
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
        found: dict[str, str] = json.loads(done.stdout)
        return found

    weight, endpoint = "experiments/detect/scoring/params.py", "experiments/models/endpoint.py"
    changes = [
        (weight, 'description="weight of PKS"', 'description="how much PKS counts"', set()),
        (weight, "m: float = Field(1.0", "m: float = Field(2.0", set()),
        (endpoint, "import json", "# what servers are asked with\nimport json", set()),
        (endpoint, "import json", "import json\nCHANGED = 1", {"rag"}),
        ("experiments/models/files.py", "import json", "import json\nCHANGED = 1", {"detect", "rag", "montecarlo"}),
    ]
    before = digests()
    for file, old, new, rekeyed in changes:
        path = tmp_path / file
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))
        after = digests()
        assert {stage for stage in before if after[stage] != before[stage]} == rekeyed, (file, new)
        path.write_text(text)


_DIGEST = """
import sys
from experiments import STAGES
for stage in STAGES:
    assert stage.inputs(stage.infer_params())
    loaded = {"torch", "transformers", "torchvision", "open_clip", "timm"} & sys.modules.keys()
    assert not loaded, (stage.name, loaded)
"""


def test_what_records_are_made_of_is_digested_without_a_library_of_models() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _DIGEST], capture_output=True, text=True, cwd=Path(code.__file__).parents[2]
    )
    assert done.returncode == 0, done.stderr


class _Settings(Params):
    timeout: float = Field(60, gt=0)
    weight: Literal["best"] | float = 0.0


def test_equal_settings_are_equal_in_every_digest() -> None:
    spelled = [_Settings(), *map(_Settings.model_validate, [{"timeout": 60.0}, {"timeout": "6e1", "weight": "-0.0"}])]
    assert len({json.dumps(each.canonical()) for each in spelled}) == 1
    assert _Settings.model_validate({"weight": "best"}).canonical() != spelled[0].canonical()


@pytest.mark.parametrize(
    "spoil",
    [lambda content: b"", lambda content: b"no parquet\nat all", lambda content: content[: len(content) // 2]],
    ids=["empty", "text", "cut off"],
)
def test_a_file_that_is_not_whole_records_is_named_in_one_line(tmp_path: Path, spoil: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "records.parquet"
    write_records(RECORDS, path)
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(BadInput) as caught:
        read_records(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("names", [("batch_p", "latency_p"), ("seconds", "minutes")])
def test_a_cost_in_the_figures_of_another_version_is_left_out_and_never_taken_for_one_of_this(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: tuple[str, str]
) -> None:
    """What was called latency was a sample's share of its batch; such records are made again where they are cached."""
    monkeypatch.setenv("RIGSWEEP_CACHE", str(tmp_path))
    old, new = names
    figures = {
        name.replace(new, old) if new in name else name.replace(old, new): value for name, value in asdict(COST).items()
    }
    frame = RECORDS.frame.copy()
    frame.attrs = {"cost": figures, "origin": {}}
    frame.to_parquet(tmp_path / "key.parquet")
    again = read_records(tmp_path / "key.parquet")
    assert again.cost is None
    pd.testing.assert_frame_equal(again.frame, RECORDS.frame)
    assert cache.find("key") is None


@pytest.mark.parametrize("fault", [KeyboardInterrupt, MemoryError])
def test_an_interrupted_write_leaves_what_was_there_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: type[BaseException]
) -> None:
    def die_half_way(frame: pd.DataFrame, path: Path) -> None:
        path.write_bytes(b"PAR1 and no")
        raise fault

    write_records(RECORDS, tmp_path / "old.parquet")
    monkeypatch.setattr(pd.DataFrame, "to_parquet", die_half_way)
    for name in ("new.parquet", "old.parquet"):
        with pytest.raises(fault):
            write_records(RECORDS, tmp_path / name)
    assert [file.name for file in tmp_path.iterdir()] == ["old.parquet"]
    assert read_records(tmp_path / "old.parquet").cost == RECORDS.cost


def test_a_folder_that_cannot_be_written_is_named_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "below" / "records.parquet"
    with pytest.raises(BadInput, match=rf"^records {path}: cannot be written: .+$"):
        write_records(RECORDS, path)
