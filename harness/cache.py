"""Records on disk, keyed by what made them and carrying what they cost."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from harness import measure
from harness.measure import Cost
from harness.stage import BadInput, Params, Records, Stage


def folder() -> Path:
    """Where records are kept: RIGSWEEP_CACHE, else the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    return Path(os.environ.get("RIGSWEEP_CACHE", f"{base}/rigsweep")).expanduser()


def key(
    stage: Stage[Any, Any], infer: Params, inputs: Mapping[str, str], seed: int, surroundings: Mapping[str, str]
) -> str:
    """Digest of all that decides the records of a stage: settings, input contents, seed, code and surroundings."""
    made_of = {
        "stage": stage.name,
        "infer": infer.model_dump(),
        "inputs": dict(inputs),
        "seed": seed,
        "code": code_digest(stage),
        "surroundings": dict(surroundings),
    }
    return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()


def code_digest(stage: Stage[Any, Any]) -> str:
    """SHA-256 over the sources that make records: the stage's folder but its scoring, shared models, measurement."""
    package = Path(inspect.getfile(stage.infer)).parent
    scoring = {"score.py", "figures.py", "audits.py"}
    sources = [path for path in package.glob("*.py") if path.name not in scoring]
    sources += [*(package.parent / "models").glob("*.py"), Path(measure.__file__)]
    total = hashlib.sha256()
    for path in sorted(sources):
        total.update(path.name.encode() + path.read_bytes())
    return total.hexdigest()


def find(name: str) -> Records | None:
    """The records kept under a key, or None; an unreadable file is as good as none, for it can be made again."""
    path = folder() / f"{name}.parquet"
    try:
        return read(path) if path.is_file() else None
    except BadInput:
        return None


def keep(name: str, records: Records) -> None:
    """Keep records under a key."""
    write(records, folder() / f"{name}.parquet")


def write(records: Records, path: Path) -> None:
    """Write one parquet file that holds the rows, their cost and their origin; all of it or nothing."""
    frame = records.frame.copy(deep=False)
    frame.attrs = {"cost": asdict(records.cost) if records.cost else None, "origin": records.origin}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".writing-") as scratch:
            frame.to_parquet(Path(scratch) / path.name)
            (Path(scratch) / path.name).replace(path)
    except OSError as error:
        raise BadInput(f"records {path}: cannot be written: {error.strerror}") from error


def read(path: Path) -> Records:
    """Read what `write` wrote; BadInput where it is something else."""
    try:
        frame = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise BadInput(f"records {path}: cannot be read as parquet: {str(error).splitlines()[0]}") from error
    attrs, frame.attrs = frame.attrs, {}
    try:
        cost = Cost(**attrs["cost"]) if attrs.get("cost") else None
    except TypeError as error:
        raise BadInput(f"records {path}: written by another version of rigsweep; infer them again") from error
    return Records(frame, cost, attrs.get("origin", {"counts": {}}))
