"""What the records of `detect` are made of, as digests; scoring kept records imports this and no model."""

from __future__ import annotations

from pathlib import Path

from experiments.detect.inference.data import FORMATS, RAGTRUTH_FILES
from experiments.detect.inference.params import DetectInfer
from experiments.models import files
from harness.stage import BadInput

BUILTIN = Path(__file__).with_name("builtin.jsonl")


def inputs(params: DetectInfer) -> dict[str, str]:
    """Content digests of model and data set."""
    path = dataset(params)
    if not path.exists():
        raise BadInput(f"dataset {path}: no such file or folder; `builtin`, {FORMATS}")
    if not (path.is_file() or path.is_dir()):  # what is read once cannot be known again by its contents
        raise BadInput(f"dataset {path}: is neither a file nor a folder; `builtin`, {FORMATS}")
    read = [path] if path.is_file() else [path / name for name in RAGTRUTH_FILES if (path / name).is_file()]
    if not read:
        raise BadInput(f"{path}: has no {' and no '.join(RAGTRUTH_FILES)}; allowed: {FORMATS}")
    digests = {"model": files.digest_model(params.model), "data": files.digest((file.name, file) for file in read)}
    if params.embedder not in {"model", "states"}:
        digests["embedder"] = files.digest_sentence_encoder("embedder", params.embedder)
    return digests


def dataset(params: DetectInfer) -> Path:
    """The file or folder that is read."""
    return BUILTIN if params.dataset == "builtin" else Path(params.dataset).expanduser()
