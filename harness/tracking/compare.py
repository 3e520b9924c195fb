"""Leaderboards over tracked runs: quality beside speed, memory and audit, and which runs no other beats."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from harness.measuring import cost
from harness.stage import BadInput, Direction, Params, Stage, suggest

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

_NO_SETTINGS = {"params.hardware"}  # has a column of its own


class CompareOptions(Params):
    """Which tracked runs are ranked, and by what."""

    hardware: str | None = Field(None, description="only runs measured on this hardware tag")
    data: str | None = Field(None, description="only runs on data whose digest begins like this")
    study: str | None = Field(None, description="only the trials of this study")
    kind: Literal["run", "trial"] = Field("run", description="single runs, or trials of sweeps (study implies trial)")
    metric: str | None = Field(None, description="rank by this metric (unset: the stage's first)")
    top: int = Field(20, ge=1, le=10_000, description="rows to print")
    across_data: bool = Field(False, description="rank runs on different data, which says little about settings")

    def tags(self, stage: str) -> dict[str, str]:
        """Tags that the runs must have."""
        tags = {"stage": stage, "kind": "trial" if self.study else self.kind}
        return tags | ({"study": self.study} if self.study else {})


def leaderboard(runs: pd.DataFrame, stage: Stage[Any, Any], options: CompareOptions) -> pd.DataFrame:
    """Finished runs, best first; BadInput where there are none, or their data differ and that was not asked for.

    `runs` has a row a run, with columns run_id, name, status, metrics.…, params.… and tags.…, as MLflow lists them.
    """
    metric = options.metric or stage.metrics[0].name
    directions = {known.name: known.direction for known in stage.metrics} | cost.directions()
    if metric not in directions:
        raise BadInput(f"compare: {stage.name} has no metric {metric}; {suggest(metric, directions)}")
    column = f"metrics.{metric}"
    if column in runs:
        runs = runs[(runs["status"] == "FINISHED") & runs[column].notna()]
        if options.hardware is not None:
            runs = runs[_tag(runs, "hardware") == options.hardware]
        if options.data is not None:
            runs = runs[_tag(runs, "data_digest").str.startswith(options.data)]
    if column not in runs or runs.empty:
        raise BadInput(f"compare: no finished run of {stage.name} with {metric} fits; python -m harness {stage.name}")
    digests = runs["tags.data_digest"].fillna("unknown").unique() if "tags.data_digest" in runs else ["unknown"]
    if len(digests) > 1 and not options.across_data:
        raise BadInput(
            f"compare: these {len(runs)} runs are on {len(digests)} different data sets, which have no common rank;"
            f" data= one of {', '.join(digest[:10] for digest in digests[:5])}, or across_data=true"
        )
    ranked = runs.sort_values(column, ascending=directions[metric] == "minimize", kind="stable", ignore_index=True)
    low, high = f"{column}_low", f"{column}_high"
    shown: dict[str, Any] = {"rank": ranked.index + 1, "run": ranked["name"], metric: ranked[column]}
    shown |= {name.removeprefix("metrics."): ranked[name] for name in (low, high) if name in ranked}
    shown |= {axis.name: ranked[f"metrics.{axis.name}"] for axis in _axes() if f"metrics.{axis.name}" in ranked}
    shown |= {name: ranked[f"tags.{name}"] for name in ("hardware", "audit", "replayed") if f"tags.{name}" in ranked}
    varied = [
        name
        for name in map(str, ranked)
        if name.startswith("params.") and name not in _NO_SETTINGS and ranked[name].nunique(dropna=False) > 1
    ]
    shown |= {name: ranked[name] for name in varied}
    shown |= {"data": ranked["tags.data_digest"].str[:10]} if len(digests) > 1 else {}
    table = ranked[["run_id"]].assign(**shown)[[*shown, "run_id"]]
    return table.assign(pareto=_front(table, metric, directions))


def _tag(runs: pd.DataFrame, name: str) -> pd.Series[str]:
    """A tag of each run, empty where it has none."""
    return runs.reindex(columns=[f"tags.{name}"])[f"tags.{name}"].fillna("").astype(str)


def _axes() -> list[cost.CostMetric]:
    return [figure for figure in cost.COSTS if figure.axis]


def _front(table: pd.DataFrame, metric: str, directions: Mapping[str, Direction]) -> list[bool]:
    """Whether no other run is at least as good in quality, speed and memory, and better in one of them."""
    from harness.running.dominance import undominated

    names = [metric, *(axis.name for axis in _axes() if axis.name in table and table[axis.name].notna().all())]
    losses = table[names].to_numpy(float) * [1.0 if directions[name] == "minimize" else -1.0 for name in names]
    return [bool(kept) for kept in undominated(losses, equals=True)]


def figures(table: pd.DataFrame, metric: str) -> dict[str, Callable[[], Figure]]:
    """Quality against speed and against memory."""
    known = [
        axis.name for axis in _axes() if axis.name in table.columns.drop(metric) and table[axis.name].notna().any()
    ]
    return {f"{metric}_by_{name}": partial(_scatter, table, metric, name) for name in known}


def _scatter(table: pd.DataFrame, metric: str, against: str) -> Figure:
    """One colour a hardware tag; runs that no other beats are ringed and named."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5.5), layout="constrained")
    axes = figure.subplots()
    tagged = table.assign(hardware=table["hardware"].fillna("unknown") if "hardware" in table else "unknown")
    for tag, rows in tagged.groupby("hardware"):
        axes.scatter(rows[against], rows[metric], label=str(tag), alpha=0.7)
    best = table[table["pareto"]]
    axes.scatter(best[against], best[metric], s=120, facecolors="none", edgecolors="black", label="no other beats it")
    for _, row in best.head(8).iterrows():
        axes.annotate(
            str(row["run"]), (row[against], row[metric]), textcoords="offset points", xytext=(7, 5), fontsize=8
        )
    axes.set(xlabel=against, ylabel=metric, title=f"{metric} against {against}")
    axes.grid(alpha=0.3)
    axes.legend()
    return figure
