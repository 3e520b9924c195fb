"""Who may import whom: arrows between the rooms of the house run one way, and in no circle."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from experiments import STAGES
from harness.running import code

ROOT = Path(__file__).parent.parent
PACKAGES = ("harness", "experiments")
# Within harness a room may import those named before it; sweeping and tracking stand side by side.
FLOORS = {
    "progress": set[str](),
    "stage": {"progress"},
    "measuring": {"progress", "stage"},
    "running": {"progress", "stage", "measuring"},
    "sweeping": {"progress", "stage", "measuring", "running"},
    "tracking": {"progress", "stage", "measuring", "running"},
    "commands": {"progress", "stage", "measuring", "running", "sweeping", "tracking"},
    "__main__": {"stage", "commands"},
}
OPEN_TO_EXPERIMENTS = (
    "harness.progress",
    "harness.stage",
    "harness.measuring",
    "harness.running.work",
    "harness.running.cache",
    "harness.running.journal",
    "harness.running.differences",
)
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in PACKAGES
    for path in (ROOT / package).rglob("*.py")
}


def imports(path: Path, *, when_called: bool) -> Iterator[str]:
    """The modules of this house that a file imports, but for what only a type checker reads."""

    def visit(node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not when_called:
            return
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        if isinstance(node, ast.ImportFrom) and node.module in MODULES:
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in MODULES else str(node.module) for name in whole)
        for child in ast.iter_child_nodes(node):
            yield from visit(child)

    yield from visit(code._parsed(path))


def foreign(path: Path) -> set[str]:
    """The top-level packages that a file imports, be it in a function or for a type checker."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)]
    return {name.partition(".")[0] for name in names}


ARROWS = sorted((name, other) for name, path in MODULES.items() for other in imports(path, when_called=True))


def room(module: str) -> str:
    """The room of harness that a module is in."""
    return module.split(".")[1]


def test_arrows_within_harness_run_one_way() -> None:
    inside = [(a, b) for a, b in ARROWS if a.startswith("harness.") and b.startswith("harness.")]
    back = [f"{a} -> {b}" for a, b in inside if room(a) != room(b) and room(b) not in FLOORS[room(a)]]
    assert not back


def test_experiments_import_of_harness_only_what_is_open_to_them() -> None:
    strays = [
        f"{a} -> {b}"
        for a, b in ARROWS
        if a.startswith("experiments") and b.startswith("harness") and not b.startswith(OPEN_TO_EXPERIMENTS)
    ]
    assert not strays


def test_only_what_is_typed_knows_the_stages() -> None:
    strays = [
        f"{a} -> {b}"
        for a, b in ARROWS
        if a.startswith("harness") and b.startswith("experiments") and room(a) not in {"commands", "__main__"}
    ]
    assert not strays


@pytest.mark.parametrize(("library", "home"), [("optuna", "harness.sweeping"), ("mlflow", "harness.tracking")])
def test_a_library_that_one_room_talks_to_is_imported_nowhere_else(library: str, home: str) -> None:
    users = [name for name, path in MODULES.items() if library in foreign(path)]
    assert users
    assert [name for name in users if not name.startswith(f"{home}.")] == []


@pytest.mark.parametrize("package", PACKAGES)
def test_no_module_imports_itself_by_way_of_others(package: str) -> None:
    graph = {
        name: set(imports(path, when_called=False)) - {name}
        for name, path in MODULES.items()
        if name.split(".")[0] == package
    }
    list(TopologicalSorter(graph).static_order())  # raises CycleError, which names the circle


def test_inference_knows_nothing_of_scoring_or_of_a_benchmark() -> None:
    strays = [f"{a} -> {b}" for a, b in ARROWS if ".inference" in a and (".scoring" in b or ".bench" in b)]
    assert not strays


def test_no_stage_imports_another_nor_does_what_stages_share_import_a_stage() -> None:
    stages = {stage.package for stage in STAGES}

    def stage_of(module: str) -> str | None:
        return next((package for package in stages if f"{module}.".startswith(f"{package}.")), None)

    inside = [(a, b) for a, b in ARROWS if a != "experiments" and a.startswith("experiments.")]
    strays = [f"{a} -> {b}" for a, b in inside if stage_of(b) not in {None, stage_of(a)}]
    assert not strays
