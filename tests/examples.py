"""What the contract tries each stage with: an inference of seconds, what must not change it, and mistakes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from tests import tiny


@dataclass(frozen=True)
class Example:
    """One stage's: `prepare` writes what it needs into a folder and returns settings of an inference of some batches.

    `alike` are settings that change how it is computed, and by which share of a column's median the records may differ
    for it; `scorings` ways to score its records; `mistakes` what a user may type that only the stage can refuse.
    `degraded` take from the rows what figures need; `by_part` are the metrics that have no value as a whole.
    """

    prepare: Callable[[Path], dict[str, Any]]
    alike: tuple[tuple[Mapping[str, Any], float], ...]
    scorings: tuple[Mapping[str, Any], ...]
    mistakes: tuple[Mapping[str, Any], ...]
    degraded: tuple[Callable[[pd.DataFrame], pd.DataFrame], ...]
    by_part: tuple[str, ...]


def _detect(folder: Path) -> dict[str, Any]:
    model, data = tiny.save_llama(folder / "model"), folder / "data.jsonl"
    rows = [row | {"task": "chat" if i % 3 else "summary"} for i, row in enumerate(tiny.samples(16))]
    tiny.write_jsonl(data, rows)
    return {"model": model, "dataset": data, "batch_tokens": 1, "folds": 2}


def _rag(folder: Path) -> dict[str, Any]:
    return {"limit": 12, "batch_size": 2, "folds": 2}


def _montecarlo(folder: Path) -> dict[str, Any]:
    late = {"sites": "last-2", "attention": "split", "dropout": 0.1}
    return {"keep": 12, "batch_images": 4, "passes": "2,5", "mc_trials": 3, "ablation": 2, **late}


def _of_one_class(frame: pd.DataFrame) -> pd.DataFrame:
    """Nothing is hallucinated, or nothing is answered wrongly."""
    return frame.assign(**dict.fromkeys({"label", "wrong"} & set(frame), 0))


def _without(pattern: str) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """Without the columns whose whole names match."""
    return lambda frame: frame.loc[:, ~frame.columns.str.fullmatch(pattern)]


EXAMPLES = {
    "detect": Example(
        _detect,
        alike=(({"batch_tokens": 4096}, 1e-5), ({"workers": 2}, 0.0)),
        scorings=(
            {},
            {"select": "mutual_info"},
            {"scorer": "logistic"},
            {"scorer": "ensemble"},
            {"protocol": "published", "threshold": 0.1},
        ),
        mistakes=({"dataset": "/nowhere"}, {"model": "/nowhere"}, {"extract_heads": "99.0"}),
        degraded=(_of_one_class, _without("task|source")),
        by_part=("auc_in_task",),
    ),
    "rag": Example(
        _rag,
        alike=(
            ({"batch_size": 16, "nli_batch": 7}, 0.0),
            ({"batch_size": 1, "nli_batch": 1, "detector_workers": 3}, 0.0),
        ),
        scorings=({}, {"fusion": "logistic", "aggregation": "mean"}, {"detector": "lexical", "threshold": 0.5}),
        mistakes=({"dataset": "/nowhere"}, {"retriever": "dense"}, {"k": 10**9}),
        degraded=(_of_one_class, _without("achieved|recall|reciprocal_rank"), _without("lexical_.*")),
        by_part=("achieved", "missing"),
    ),
    "montecarlo": Example(
        _montecarlo,
        alike=(
            ({"batch_images": 5}, 1e-4),
            ({"trunk": "every_pass"}, 1e-4),
            ({"workers": 2}, 1e-12),
            ({"decoders": 1, "pixels": "mmap"}, 1e-12),
        ),
        scorings=({}, {"statistic": "trace_pre", "judged_passes": 2}),
        mistakes=({"images": "/nowhere"}, {"sites": "no-such-layer"}, {"passes": "1"}),
        degraded=(_of_one_class, _without("label|wrong|entropy|margin|(predicted_?)?(class)?")),
        by_part=("grows", "grows_p"),
    ),
}
