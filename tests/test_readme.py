"""The README says what the program does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from experiments import STAGES
from harness.commands.arguments import describe
from harness.running.hardware import Profile, load_profiles
from harness.running.settings import RunOptions
from harness.stage import Params, Stage
from harness.sweeping.space import SweepOptions
from harness.tracking.compare import CompareOptions

README = Path(__file__).parent.parent / "README.md"


def rows(model: type[Params]) -> list[str]:
    """One table row a field."""
    shown = []
    for name, field in model.model_fields.items():
        kind, limits, default = describe(field)
        allowed = ", ".join([kind.replace("|", " \\| "), *limits])
        shown.append(f"| `{name}` | {allowed} | {default} | {field.description} |")
    return shown


def machine(profile: Profile) -> str:
    """The table row of a hardware profile."""

    def shown(defaults: dict[str, Any]) -> str:
        return ", ".join(f"{name}={str(value).lower()}" for name, value in defaults.items())

    defaults = "; ".join(f"{stage}: {shown(each)}" for stage, each in profile.defaults.items())
    published = "; ".join(f"{each.stage}: {each.figures} ({each.source})" for each in profile.published)
    return f"| `{profile.tag}` | {profile.description} | {defaults} | {published} |"


def test_every_hardware_profile_has_its_row_in_the_readme() -> None:
    missing = [row for row in map(machine, load_profiles()) if row not in README.read_text()]
    assert not missing, "put these rows into the README:\n" + "\n".join(missing)


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_every_setting_of_a_stage_and_of_a_run_has_its_row_in_the_readme(stage: Stage[Any, Any]) -> None:
    text = README.read_text()
    expected = [*rows(stage.infer_params), *rows(stage.score_params)]
    expected += [row for model in (RunOptions, SweepOptions, CompareOptions) for row in rows(model)]
    missing = [row for row in expected if row not in text]
    assert not missing, "put these rows into the README:\n" + "\n".join(missing)
