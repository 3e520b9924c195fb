"""The packages that a stage names are those that its inference imports, and each of them is in its cache key."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from experiments import STAGES
from harness.running import cache as records_cache
from harness.running import code, surroundings
from harness.running.hardware import Machine
from harness.stage import Stage
from tests.examples import EXAMPLES

ROOT = Path(__file__).parent.parent
MACHINE = Machine(("cpu",), "a processor", "x86_64", 1, 1.0)
UNSEEN = {
    "bitsandbytes": "transformers loads it for precision=int8 and nf4 alone, which want a GPU",
    "gguf": "transformers restores GGUF files by it",
}
INFER = """if True:
    import json, sys
    from contextlib import nullcontext
    from experiments import STAGES
    from harness.measuring.clock import Clock
    from harness.running import hardware, run
    from harness.running.settings import resolve

    stage = next(stage for stage in STAGES if stage.name == sys.argv[1])
    plan = resolve(stage, {"cache": "off", **json.loads(sys.argv[2])}, hardware.load_profiles())
    run.obtain(plan, Clock())
    print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""

every_stage = pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)


def required(file: str) -> set[str]:
    lines = (ROOT / file).read_text().splitlines()
    return {canonicalize_name(Requirement(line).name) for line in lines if line and not line.startswith("#")}


def declared(stage: Stage[Any, Any]) -> set[str]:
    return set(map(canonicalize_name, stage.packages))


@cache
def owners() -> dict[str, set[str]]:
    """The distributions that have a top-level module."""
    found = metadata.packages_distributions()
    return {module: set(map(canonicalize_name, packages)) for module, packages in found.items()}


def distributions(modules: Iterable[str]) -> set[str]:
    return set().union(*(owners().get(module, set()) for module in modules))


def imported(package: str) -> set[str]:
    """The distributions that the sources of a package, and what they import at any depth, name in imports."""
    modules: set[str] = set()
    for path in code.sources(package).values():
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Import):
                modules |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                modules.add(node.module.partition(".")[0])
    outside = modules - sys.stdlib_module_names - {"experiments", "harness"}
    assert outside <= owners().keys()
    return distributions(outside)


@every_stage
def test_what_inference_imports_is_declared(stage: Stage[Any, Any]) -> None:
    assert imported(f"{stage.package}.inference") - declared(stage) == set()


@every_stage
def test_what_an_inference_loads_is_declared_and_what_is_declared_is_imported_or_loaded(
    stage: Stage[Any, Any], tmp_path: Path
) -> None:
    """Of the direct requirements; what the harness itself uses counts only where inference names it."""
    settings = {name: str(value) for name, value in EXAMPLES[stage.name].prepare(tmp_path).items()}
    done = subprocess.run(
        [sys.executable, "-c", INFER, stage.name, json.dumps(settings)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "RIGSWEEP_CACHE": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = distributions(json.loads(done.stdout.splitlines()[-1]))
    assert "torch" in loaded
    assert (loaded & required("requirements.in")) - imported("harness") - declared(stage) == set()
    assert declared(stage) - imported(f"{stage.package}.inference") - loaded - UNSEEN.keys() == set()


@every_stage
def test_what_is_declared_is_locked(stage: Stage[Any, Any]) -> None:
    assert declared(stage) - required("requirements.lock") == set()
    assert len(declared(stage)) == len(stage.packages)


@pytest.mark.parametrize(
    ("stage", "package"),
    [(stage, package) for stage in STAGES for package in stage.packages],
    ids=lambda value: getattr(value, "name", value),
)
def test_the_key_changes_with_the_version_of_every_package(
    stage: Stage[Any, Any], package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, before = metadata.version, key(stage)
    monkeypatch.setattr(metadata, "version", lambda name: "0" if name == package else real(name))
    assert key(stage) != before


@every_stage
def test_the_key_stays_where_only_scoring_and_tracking_change_and_a_run_records_them_all(
    stage: Stage[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, before = metadata.version, key(stage)
    monkeypatch.setattr(metadata, "version", lambda name: real(name) if name in stage.packages else "0")
    assert key(stage) == before
    recorded = surroundings.environment(stage, MACHINE)
    assert {name: recorded[name] for name in stage.packages} == {name: real(name) for name in stage.packages}
    assert (recorded["scipy"], recorded["mlflow"]) == ("0", "0")


def key(stage: Stage[Any, Any]) -> str:
    return records_cache.key(stage, stage.infer_params(), {}, 0, surroundings.deciding(stage, "any", MACHINE))
