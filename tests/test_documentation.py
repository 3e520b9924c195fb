"""README and docs say what the program does: tables, commands, links and examples."""

from __future__ import annotations

import ast
import re
import shlex
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from docs import generate
from experiments import STAGES
from experiments.detect import DETECT
from harness.commands.arguments import parse
from harness.running.detectors import ApplyOptions
from harness.running.hardware import Profile
from harness.running.settings import RunOptions, validate
from harness.stage import Params
from harness.sweeping import space
from harness.sweeping.space import SweepOptions
from harness.tracking.compare import CompareOptions

ROOT = Path(__file__).parent.parent
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS]
BLOCK = re.compile(r"^( *)```(\w+)\n(.*?)^\1```", re.DOTALL | re.MULTILINE)
SCREEN = 50  # lines
ROOMS = "experiments|harness|hardware|search_spaces|tests|docs"


def code(page: Path, language: str) -> list[str]:
    """The blocks of code of a page in one language."""
    return [found[3] for found in BLOCK.finditer(page.read_text()) if found[2] == language]


def sections(page: Path) -> dict[str, str]:
    """The text of each section of the second level, by its title."""
    parts = re.split(r"^## (.+)\n", page.read_text(), flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def anchors(page: Path) -> set[str]:
    """What a link may name on a page, as GitHub makes it from the headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands() -> list[tuple[str, str]]:
    """Every command of the program in a page's shell blocks, with the page's name; a placeholder becomes a run's id."""
    lines = [(page.name, line) for page in PAGES for block in code(page, "bash") for line in block.splitlines()]
    told = [(name, re.sub("<run id>", "0" * 32, line)) for name, line in lines]
    return [(name, line) for name, line in told if line.startswith(("mlflow run", "python -m harness "))]


def typed(line: str) -> list[str]:
    """The arguments of `python -m harness`, as a shell or MLflow hands them over."""
    words = shlex.split(line, comments=True)
    if words[0] == "python":
        return words[3:]
    assert words[:4] == ["mlflow", "run", ".", "-e"], line
    assert all(flag == "-P" for flag in words[5::2]), line
    settings = [word.partition("=") for word in words[6::2]]
    return [words[4], *(text for name, _, value in settings for text in (f"--{name}", value))]


# ---- tables ----


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.name)
def test_tables_are_what_the_code_says(page: Path) -> None:
    stale = generate.renewed(page) != page.read_text()
    assert not stale, "python -m docs.generate writes them anew"


def test_every_table_that_can_be_generated_stands_on_a_page() -> None:
    standing = re.findall(r"<!-- generated: (.+?) -->", "".join(page.read_text() for page in DOCS))
    assert sorted(standing) == sorted(generate.blocks())


def test_stale_pages_are_named_and_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "docs" / "page.md"
    page.parent.mkdir()
    page.write_text("Before.\n<!-- generated: hardware -->\n| old |\n<!-- end -->\nAfter.\n")
    monkeypatch.setattr(generate, "FOLDER", page.parent)
    assert generate.main(["--check"]) == 1
    assert "| old |" in page.read_text()
    assert capsys.readouterr().out == "docs/page.md: not up to date\n"
    assert generate.main([]) == 0
    assert generate.main(["--check"]) == 0
    assert re.fullmatch(r"Before\.\n<!-- .+ -->\n\n\| hardware .+\|\n\n<!-- end -->\nAfter\.\n", page.read_text(), re.S)


# ---- size, links ----


def test_readme_is_one_page() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


@pytest.mark.parametrize("title", [title for title in sections(ROOT / "docs" / "adding.md") if title.startswith("A ")])
def test_what_it_takes_to_add_something_fits_a_screen(title: str) -> None:
    assert len(sections(ROOT / "docs" / "adding.md")[title].splitlines()) < SCREEN


def test_it_is_told_how_everything_is_added() -> None:
    wanted = {"A stage", "A detector", "A check", "A profile", "A space"}
    assert wanted <= sections(ROOT / "docs" / "adding.md").keys()


def test_every_page_is_linked_from_the_readme() -> None:
    linked = re.findall(r"\]\((docs/\w+\.md)\)", (ROOT / "README.md").read_text())
    assert {str(page.relative_to(ROOT)) for page in DOCS} == set(linked)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if link.startswith("https://"):
            continue
        file, _, anchor = link.partition("#")
        target = page.parent / file if file else page
        assert target.is_file(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_and_modules_that_are_named_exist(page: Path) -> None:
    text = page.read_text()
    for name in re.findall(rf"`((?:{ROOMS})/[\w./-]*)`", text):
        assert (ROOT / name).exists(), name
    for name in re.findall(r"python -m ((?:experiments|harness|docs)[\w.]*)", text):
        assert find_spec(name) is not None, name


def test_pictures_are_small_and_shown() -> None:
    pictures = list((ROOT / "docs" / "pictures").iterdir())
    text = "".join(page.read_text() for page in PAGES)
    assert [picture.name for picture in pictures if f"pictures/{picture.name})" not in text] == []
    assert max(picture.stat().st_size for picture in pictures) < 300_000


# ---- commands, examples ----


@pytest.mark.parametrize(("page", "line"), commands())
def test_command_is_one_that_the_program_takes(page: str, line: str) -> None:
    if line.startswith("mlflow run"):
        assert shlex.split(line, comments=True)[4] in yaml.safe_load((ROOT / "MLproject").read_text())["entry_points"]
    if "-e test" in line:
        return
    _, given = parse(typed(line), STAGES)
    assert given.unknown == []
    if given.command in {"bench", "reproduce", "advise"}:
        return
    if given.command == "apply":
        named = {name for name in vars(given) if name not in {"command", "unknown", "version"}}
        known = {*ApplyOptions.model_fields, *RunOptions.model_fields, *DETECT.infer_params.model_fields}
        assert {"detector"} <= named <= known
        return
    stage = next(stage for stage in STAGES if stage.name == getattr(given, "stage", given.command))
    models: list[type[Params]] = [RunOptions, stage.infer_params, stage.score_params, SweepOptions]
    settings = {name: value for name, value in vars(given).items() if name not in {"command", "stage", "unknown"}}
    for model in [CompareOptions] if given.command == "compare" else models:
        validate(model, stage, settings, dict.fromkeys(settings, "given"))


def test_commands_were_found() -> None:
    found = commands()
    assert len(found) > 20
    assert {typed(line)[0] for _, line in found} >= {
        "sweep",
        "compare",
        "score",
        "reproduce",
        "advise",
        "apply",
        "test",
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_in_the_text_is_python(page: Path) -> None:
    for block in code(page, "python"):
        ast.parse("\n".join(line.removeprefix("   ") for line in block.splitlines()))


def test_examples_of_spaces_and_profiles_are_valid(tmp_path: Path) -> None:
    blocks = [block for page in DOCS for block in code(page, "yaml")]
    profiles = [yaml.safe_load(block) for block in blocks if block.startswith("tag:")]
    assert [Profile.model_validate(profile).tag for profile in profiles]
    known = {stage.name: stage for stage in STAGES}
    for profile in profiles:
        for name, defaults in profile["defaults"].items():
            validate(known[name].infer_params, known[name], defaults, dict.fromkeys(defaults, "the profile"))
    spaces = [block for block in blocks if block.startswith("stage:")]
    assert len(spaces) > 1
    assert len(spaces) + len(profiles) == len(blocks)
    for number, block in enumerate(spaces):
        (file := tmp_path / f"{number}.yaml").write_text(block)
        assert space.load(str(file), known[yaml.safe_load(block)["stage"]], {"peak_rss_gb": 8.0}).searched


def test_citation_names_the_program_and_its_licence() -> None:
    citation: dict[str, Any] = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert (citation["cff-version"], citation["license"]) == ("1.2.0", "Apache-2.0")
    assert "Apache License" in (ROOT / "LICENSE").read_text()
