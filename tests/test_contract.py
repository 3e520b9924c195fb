"""Every stage holds the contract."""

from __future__ import annotations

from typing import Any

import pytest

from experiments import STAGES
from harness.running import hardware
from harness.stage import Stage
from tests.contract import StageContract, shipped_spaces


@pytest.fixture(scope="class", params=STAGES, ids=lambda stage: stage.name)
def stage(request: pytest.FixtureRequest) -> Stage[Any, Any]:
    """Each stage in turn."""
    found: Stage[Any, Any] = request.param
    return found


class TestContract(StageContract):
    """The contract, stage by stage."""


def test_what_ships_for_a_stage_is_for_one_that_there_is() -> None:
    names, profiles = {stage.name for stage in STAGES}, hardware.load_profiles()
    assert set(shipped_spaces().values()) == names
    for profile in profiles:
        assert profile.defaults.keys() | {published.stage for published in profile.published} <= names, profile.tag
