"""Leaderboards over tracked runs: quality beside speed, memory and audit, and which of those alike no other beats."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from harness.measuring import cost
from harness.stage import IN_SAMPLE, BadInput, Direction, Params, Stage, suggest

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

_UNKNOWN = "unknown rows, by runs before this was noted down"
_NO_SETTINGS = {"params.hardware"}  # has a column of its own


class CompareOptions(Params):
    """Which tracked runs are ranked, and by what."""

    hardware: str | None = Field(None, description="only runs measured on this hardware tag")
    data: str | None = Field(None, description="only runs on data whose digest begins like this")
    study: str | None = Field(None, description="only the trials of this study")
    kind: Literal["run", "trial"] = Field("run", description="single runs, or trials of sweeps (study implies trial)")
    metric: str | None = Field(None, description="rank by this metric (unset: the stage's first)")
    top: int = Field(20, ge=1, le=10_000, description="rows to print")

    def tags(self, stage: str) -> dict[str, str]:
        """Tags that the runs must have."""
        tags = {"stage": stage, "kind": "trial" if self.study else self.kind}
        return tags | ({"study": self.study} if self.study else {})


def leaderboard(runs: pd.DataFrame, stage: Stage[Any, Any], options: CompareOptions) -> pd.DataFrame:
    """Finished runs, those of one `set` together and best first; BadInput where there are none.

    A set are runs judged on the same rows by the same protocol: only they have a rank and a front in common.  The
    largest comes first, then runs that do not tell, and last what was judged in sample, which flatters.
    `runs` has a row a run, with columns run_id, name, status, metrics.…, params.… and tags.…, as MLflow lists them.
    """
    import pandas as pd

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
    sets = [own for _, own in runs.groupby(_tag(runs, "judged_digest"))]
    boards = [_ranked(own, metric, directions).assign(set=i) for i, own in enumerate(sorted(sets, key=_place), 1)]
    table = pd.concat(boards, ignore_index=True)
    settings = [name for name in table if str(name).startswith("params.")]
    return table[[*table.columns.drop([*settings, "judged", "set", "run_id"]), *settings, "judged", "set", "run_id"]]


def _place(runs: pd.DataFrame) -> tuple[bool, bool, int, str]:
    """Where a set of runs stands among others: what is believed least comes last, else the largest comes first."""
    protocol = _protocol(runs)
    return protocol.startswith(IN_SAMPLE), protocol == _UNKNOWN, -len(runs), str(_tag(runs, "judged_digest").iloc[0])


def _protocol(runs: pd.DataFrame) -> str:
    protocol, digest = (str(_tag(runs, name).iloc[0]) for name in ("judged", "judged_digest"))
    return f"{protocol}, rows {digest[:6]}" if digest else _UNKNOWN


def _ranked(runs: pd.DataFrame, metric: str, directions: Mapping[str, Direction]) -> pd.DataFrame:
    """Runs that have a common rank, best first, with what differs between them and which of them no other beats."""
    column = f"metrics.{metric}"
    ranked = runs.sort_values(column, ascending=directions[metric] == "minimize", kind="stable", ignore_index=True)
    low, high = f"{column}_low", f"{column}_high"
    shown: dict[str, Any] = {"rank": ranked.index + 1, "run": ranked["name"], metric: ranked[column]}
    shown |= {name.removeprefix("metrics."): ranked[name] for name in (low, high) if name in ranked}
    shown |= {axis.name: ranked[f"metrics.{axis.name}"] for axis in _axes() if f"metrics.{axis.name}" in ranked}
    shown |= {name: ranked[f"tags.{name}"] for name in ("hardware", "audit", "replayed") if f"tags.{name}" in ranked}
    shown |= {
        name: ranked[name]
        for name in map(str, ranked)
        if name.startswith("params.") and name not in _NO_SETTINGS and ranked[name].nunique(dropna=False) > 1
    }
    table = ranked[["run_id"]].assign(**shown, judged=_protocol(runs))[[*shown, "judged", "run_id"]]
    return table.assign(pareto=_front(table, metric, directions))


def in_words(table: pd.DataFrame, top: int, number: Callable[[float], str]) -> Iterator[str]:
    """The first rows of a leaderboard, each set of runs by itself, as a person reads them; `number` writes a figure."""
    sizes = table["set"].value_counts().sort_index()
    if len(sizes) > 1:
        yield (
            f"{len(table)} runs in {len(sizes)} sets that have no common rank: what was judged differs (rows, labels),"
            " or the protocol by which it was"
        )
    shown = table.head(top)
    for place, rows in shown.groupby("set"):
        runs = "1 run" if sizes[place] == 1 else f"{sizes[place]} runs"
        yield f"\n{rows['judged'].iloc[0]}: {runs}"
        told = rows.drop(columns=["set", "judged", "run_id"]).dropna(axis=1, how="all")
        yield told.to_string(index=False, float_format=number, na_rep="-")
    if len(shown) < len(table):
        unseen = len(sizes) - shown["set"].nunique()
        yield f"\n{len(table) - len(shown)} more runs in leaderboard.csv" + (
            f", {unseen} sets of them not shown at all; top={len(table)} shows them" if unseen else ""
        )


def _tag(runs: pd.DataFrame, name: str) -> pd.Series[str]:
    """A tag of each run, empty where it has none."""
    return runs.reindex(columns=[f"tags.{name}"])[f"tags.{name}"].astype(object).fillna("").astype(str)


def _axes() -> list[cost.CostMetric]:
    return [figure for figure in cost.COSTS if figure.axis]


def _front(table: pd.DataFrame, metric: str, directions: Mapping[str, Direction]) -> list[bool]:
    """Whether no other run is at least as good in quality, speed and memory, and better in one of them."""
    from harness.running.dominance import undominated

    names = [metric, *(axis.name for axis in _axes() if axis.name in table and table[axis.name].notna().all())]
    losses = table[names].to_numpy(float) * [1.0 if directions[name] == "minimize" else -1.0 for name in names]
    return [bool(kept) for kept in undominated(losses, equals=True)]


def figures(table: pd.DataFrame, metric: str) -> dict[str, Callable[[], Figure]]:
    """Quality against speed and against memory, a picture each for every set of runs that has more than one."""
    drawn: dict[str, Callable[[], Figure]] = {}
    for place, rows in table.groupby("set"):
        known = [axis.name for axis in _axes() if axis.name in rows.columns.drop(metric)]
        suffix = "" if place == 1 else f"_set_{place}"
        if place == 1 or len(rows) > 1:
            drawn |= {
                f"{metric}_by_{name}{suffix}": partial(_scatter, rows, metric, name)
                for name in known
                if rows[name].notna().any()
            }
    return drawn


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
    axes.set(xlabel=against, ylabel=metric, title=f"{metric} against {against}\n{table['judged'].iloc[0]}")
    axes.grid(alpha=0.3)
    axes.legend()
    return figure
