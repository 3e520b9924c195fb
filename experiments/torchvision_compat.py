"""Make a CUDA build of torchvision importable beside a CPU build of torch.

Registries carry torchvision for CUDA only.  Beside a CPU torch its import stops at the missing
operator `torchvision::nms` and takes transformers and open_clip down with it.  Declaring the two
schemas it looks for is enough: transforms and image processors are pure Python; torchvision's own
compiled operators stay unavailable, and nothing here calls them.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_kept: list[Any] = []  # the schemas live as long as the library object that declared them


class _BeforeTorchvision(MetaPathFinder):
    """Finds no module itself: it only acts when somebody, mostly transformers, first imports torchvision."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name == "torchvision":
            sys.meta_path.remove(self)
            _declare_operators()
        return None


def install() -> None:
    """Declare torchvision's operators as soon as it is imported, where its binaries cannot load, and only there."""
    if "torchvision" not in sys.modules:
        sys.meta_path.insert(0, _BeforeTorchvision())


def _declare_operators() -> None:
    import torch

    if torch.version.cuda is None and _is_cuda_build():
        library = torch.library.Library("torchvision", "FRAGMENT")
        for schema in _SCHEMAS:
            library.define(schema)
        _kept.append(library)


def _is_cuda_build() -> bool:
    """Read the build from torchvision's own version file: its package metadata leaves it out."""
    spec = find_spec("torchvision")
    if spec is None or spec.origin is None:
        return False
    version_file = Path(spec.origin).with_name("version.py")
    return version_file.is_file() and bool(re.search(r"\+cu\d", version_file.read_text()))
