"""Released per-image variances of nested MC dropout, read as the Records that an own run would have made."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd

from experiments.arrays import Floats
from experiments.montecarlo.inference.params import ORIGINAL, PREFIX
from harness.stage import BadInput, Records

_ARRAYS = {"trial_pre": "trace_pre", "trial_post": "trace_post"}
_ALLOWED = "an .npz named …_T<passes>.npz with trial_pre and trial_post (trials, images), or a folder of these"


def read_released(path: Path) -> Records:
    """Return a row an image, trial and number of passes; the passes are in the files' names, all of a folder's read."""
    files = sorted(path.glob("*.npz")) if path.is_dir() else [path]
    if not files:
        raise BadInput(f"records = {path}: no .npz in the folder; allowed: {_ALLOWED}")
    by_file = {file: _read(file) for file in files}
    shapes = {file: arrays["trace_pre"].shape for file, arrays in by_file.items()}
    if len(set(shapes.values())) > 1:
        said = ", ".join(f"{file.name} {shape}" for file, shape in shapes.items())
        raise BadInput(f"records = {path}: the files are not of the same trials and images: {said}")
    frame = pd.concat([_rows(_passes(file), arrays) for file, arrays in by_file.items()], ignore_index=True)
    if len(frame) != len(frame.drop_duplicates(["image", "trial", "passes"])):
        raise BadInput(f"records = {path}: two files have the same number of passes; allowed: one each")
    trials, images = next(iter(shapes.values()))
    counts = {"kept": images, "trials": trials, "files": len(files)}
    return Records(frame, None, {"kind": "released MC dropout variances", "counts": counts})


def _passes(file: Path) -> int:
    match = re.search(r"_T(\d+)\.npz$", file.name)
    if match is None:
        raise BadInput(f"records = {file}: the name does not tell the number of passes; allowed: {_ALLOWED}")
    return int(match[1])


def _read(file: Path) -> dict[str, Floats]:
    try:
        with np.load(file, allow_pickle=False) as content:
            arrays = {name: np.asarray(content[key], dtype=np.float64) for key, name in _ARRAYS.items()}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise BadInput(f"records = {file}: cannot be read ({error}); allowed: {_ALLOWED}") from error
    for name, array in arrays.items():
        if array.ndim != 2 or array.shape != arrays["trace_pre"].shape:
            raise BadInput(f"records = {file}: {name} has shape {array.shape}; allowed: two of (trials, images)")
        if len(array) < 2:
            raise BadInput(f"records = {file}: it holds {len(array)} trial; at least 2 are needed to say if they agree")
    return arrays


def _rows(passes: int, arrays: dict[str, Floats]) -> pd.DataFrame:
    trials, images = next(iter(arrays.values())).shape
    width = len(str(images - 1))
    return pd.DataFrame(
        {
            "image": np.tile([f"{i:0{width}d}" for i in range(images)], trials),
            "variant": ORIGINAL,
            "trial": np.repeat(np.arange(trials), images),
            "passes": passes,
            **{PREFIX + name: array.ravel() for name, array in arrays.items()},
        }
    )
