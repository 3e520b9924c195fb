"""What a run stands on besides its settings and inputs: package versions, the machine, the code."""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

from harness.running.hardware import Machine
from harness.stage import Stage

_SCORING = ("numpy", "pandas", "scikit-learn", "scipy")  # what scores are computed with
_TRACKING = ("mlflow",)


def versions(packages: Iterable[str]) -> dict[str, str]:
    """The version of each of some distributions."""
    return {name: _version(name) for name in sorted(packages)}


def environment(stage: Stage[Any, Any], machine: Machine) -> dict[str, str]:
    """What a reader needs to compare two runs: versions, device, code commit."""
    torch = sys.modules.get("torch")
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": str(machine),
        **versions({*stage.packages, *_SCORING, *_TRACKING}),
        **({"threads": str(torch.get_num_threads())} if torch else {}),  # else nothing was computed with them
        "commit": _commit(),
    }


def deciding(stage: Stage[Any, Any], hardware: str, machine: Machine) -> dict[str, str]:
    """What decides the records of a stage here, under a hardware tag."""
    return versions(stage.packages) | {"hardware": hardware, "device": machine.name}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _commit() -> str:
    """The commit of this checkout, with `+changes` when the tree differs from it."""
    root = Path(__file__).parents[2]
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=True)
        changes = subprocess.run(["git", "status", "--porcelain"], cwd=root, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown: not a git checkout"
    return head.stdout.strip() + ("+changes" if changes.stdout.strip() else "")
