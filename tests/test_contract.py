"""Every stage holds the contract."""

from __future__ import annotations

from typing import Any

import pytest

from experiments import STAGES
from harness.stage import Stage
from tests.contract import StageContract


@pytest.fixture(scope="class", params=STAGES, ids=lambda stage: stage.name)
def stage(request: pytest.FixtureRequest) -> Stage[Any, Any]:
    """Each stage in turn."""
    found: Stage[Any, Any] = request.param
    return found


class TestContract(StageContract):
    """The contract, stage by stage."""
