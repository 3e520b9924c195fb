"""Make a CUDA build of torchvision importable beside a CPU build of torch.

Registries carry torchvision for CUDA only.  Beside a CPU torch its import stops at the missing
operator `torchvision::nms` and takes transformers and open_clip down with it.  Declaring the two
schemas it looks for is enough: transforms and image processors are pure Python; torchvision's own
compiled operators stay unavailable, and nothing here calls them.
"""

import re
from importlib.util import find_spec
from pathlib import Path

import torch

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_library: torch.library.Library | None = None  # the schemas live as long as this object


def _is_cuda_build() -> bool:
    """Read the build from torchvision's own version file: its package metadata leaves it out."""
    spec = find_spec("torchvision")
    if spec is None or spec.origin is None:
        return False
    version_file = Path(spec.origin).with_name("version.py")
    return version_file.is_file() and bool(re.search(r"\+cu\d", version_file.read_text()))


def allow_import() -> None:
    """Declare torchvision's operators where its binaries cannot load; does nothing anywhere else."""
    global _library
    if _library is None and torch.version.cuda is None and _is_cuda_build():
        _library = torch.library.Library("torchvision", "FRAGMENT")
        for schema in _SCHEMAS:
            _library.define(schema)
