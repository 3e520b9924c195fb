"""How fast thousands of score settings are: beside the published procedure in pandas, one configuration at a time."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import pearsonr
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import MinMaxScaler

from experiments.detect.scoring.grid import score_table
from experiments.detect.scoring.params import DetectScore
from experiments.detect.scoring.records import read_responses
from experiments.detect.scoring.released import read_released
from experiments.detect.scoring.score import rule
from experiments.protocols import folds
from harness.progress import working
from harness.stage import Records

_DATA = Path(os.environ.get("RIGSWEEP_DATA", Path(__file__).parents[4] / "shared" / "data"))
_RELEASED = _DATA / "redeep" / "llama2_7b_4bit_chunk.json"
_BASELINE_SECONDS = 5.0

Rows = slice | NDArray[np.bool_]


class Ranked(NamedTuple):
    """The rows to learn from and to score, and the columns by their AUC on the former, best first."""

    train: Rows
    test: Rows
    heads: list[str]
    layers: list[str]


def bench(device: str, repeats: int, quick: bool) -> pd.DataFrame:
    """The paper's 1,960 configurations in and out of sample, and on a million random rows: one row a case.

    Our seconds hold everything from the arguments to the table: building the settings, reading the frame, folds.  The
    baseline's hold no reading and no folds; `ratio` is against ranking the columns and scoring for every configuration,
    `ratio_ranked_once` against a baseline that ranks them beforehand, at no cost.
    """
    del device  # there is nothing for a GPU to do
    records, features = paper_features()
    rows = []
    with working("bench score", 2 if quick else 3, "cases") as advance:
        for case, protocol in (("in sample", "published"), ("5 folds", "crossfit")):
            rows.append(_compare(case, protocol, records, features, repeats))
            advance(1)
        if quick:
            return pd.DataFrame(rows)
        rows.append(_compare("a million rows", "published", synthetic(1_000_000, 32, 32), "random", repeats=1))
        advance(1)
    return pd.DataFrame(rows)


def paper_grid(protocol: str) -> list[DetectScore]:
    """The grid over which the paper's weights were chosen: 7 x 7 x 8 x 5 configurations."""
    counts, alphas, ms = range(1, 8), np.arange(1, 9) / 5, np.arange(2, 7) / 4
    return [
        DetectScore.model_validate({"protocol": protocol, "top_n": n, "top_k": k, "alpha": alpha, "m": m})
        for n, k, alpha, m in itertools.product(counts, counts, alphas.tolist(), ms.tolist())
    ]


def rank(frame: pd.DataFrame, split: Sequence[tuple[Rows, Rows]]) -> list[Ranked]:
    """Rank ECS by its AUC for faithful spans and PKS by its AUC for hallucinated ones, once a fold."""
    ranked = []
    for train, test in split:
        fit = frame[train]
        heads, layers = (
            sorted(
                (str(name) for name in fit if str(name).startswith(prefix)),
                key=lambda name: float(roc_auc_score(truth, fit[name])),
                reverse=True,
            )
            for prefix, truth in (("ecs_", 1 - fit["label"]), ("pks_", fit["label"]))
        )
        ranked.append(Ranked(train, test, heads, layers))
    return ranked


def published(frame: pd.DataFrame, ranked: Sequence[Ranked], params: DetectScore) -> tuple[float, float]:
    """AUC and PCC of one configuration as the authors' code has them: sums, min-max, means over responses."""
    scored = []
    for train, test, heads, layers in ranked:
        ecs, pks = frame[heads[: params.top_n]].sum(axis=1), frame[layers[: params.top_k]].sum(axis=1)
        sums = pd.DataFrame({"ecs": ecs, "pks": pks})
        scaled = MinMaxScaler().fit(sums[train]).transform(sums[test])
        spans = frame.loc[test, ["group", "label"]]
        scored.append(spans.assign(score=params.m * scaled[:, 1] - params.alpha * scaled[:, 0]))
    spans = pd.concat(scored) if len(scored) > 1 else scored[0]
    responses = spans.groupby("group").agg({"label": "max", "score": "mean"})
    auc = roc_auc_score(responses["label"], responses["score"])
    return float(auc), float(pearsonr(responses["label"], responses["score"])[0])


def synthetic(rows: int, heads: int, layers: int) -> Records:
    """Random features of responses of one to four spans."""
    rng = np.random.default_rng(0)
    response = np.repeat(np.arange(rows), rng.integers(1, 5, rows))[:rows]
    names = [f"ecs_{i}_0" for i in range(heads)] + [f"pks_{i}" for i in range(layers)]
    frame = pd.DataFrame({name: rng.random(rows) for name in names})
    frame["label"] = (rng.random(rows) < 0.3).astype(np.int64)
    frame["group"] = [f"r{i}" for i in response]
    frame["item"] = np.arange(rows)
    return Records(frame, None, {})


def paper_features() -> tuple[Records, str]:
    """The released features where they are at hand, else random ones of their shape, and which they are."""
    if _RELEASED.is_file():
        return read_released(_RELEASED), "released"
    return synthetic(1_159, 32, 1), "random"


def _compare(case: str, protocol: str, records: Records, features: str, repeats: int) -> dict[str, Any]:
    """Time both sides in turn, and look at how far apart their figures are."""
    frame = records.frame
    times, tables = zip(*(_timed(lambda: _ours(records, protocol)) for _ in range(repeats)), strict=True)
    seconds, table = float(np.median(times)), tables[0]
    settings = paper_grid(protocol)
    ranking, ranked = _timed(lambda: rank(frame, split_rows(records, settings[0])))
    order = np.random.default_rng(0).permutation(len(settings))
    spent, theirs = 0.0, list[tuple[float, float]]()
    while spent < _BASELINE_SECONDS and len(theirs) < len(settings):
        took, figures = _timed(lambda: published(frame, ranked, settings[order[len(theirs)]]))
        spent += took
        theirs.append(figures)
    per_setting = spent / len(theirs)
    differences = np.abs(table.iloc[order[: len(theirs)]][["auc", "pcc"]].to_numpy() - np.array(theirs))
    return {
        "case": case,
        "features": features,
        "rows": len(frame),
        "columns": len(frame.filter(regex="^(ecs|pks)_").columns),
        "configurations": len(settings),
        "seconds": seconds,
        "configurations_per_s": len(settings) / seconds,
        "baseline_configurations": len(theirs),
        "baseline_configurations_per_s": 1 / (ranking + per_setting),
        "ratio": (ranking + per_setting) * len(settings) / seconds,
        "ratio_ranked_once": per_setting * len(settings) / seconds,
        "largest_difference": float(differences.max()),
    }


def _ours(records: Records, protocol: str) -> pd.DataFrame:
    return score_table(read_responses(records.frame), paper_grid(protocol), ("auc", "pcc"))


def split_rows(records: Records, params: DetectScore) -> list[tuple[Rows, Rows]]:
    """The rows to learn from and to score of every fold, or all and all in sample."""
    if params.protocol == "published":
        return [(slice(None), slice(None))]
    cases = read_responses(records.frame)
    fold_of = pd.Series(0, index=cases.table["id"])
    for fold, (_, test) in enumerate(folds(cases, rule(params))):
        fold_of.iloc[test] = fold
    own = records.frame["group"].map(fold_of).to_numpy()
    return [(own != fold, own == fold) for fold in range(params.folds)]


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result
