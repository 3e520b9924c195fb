"""What a holdout says of a winner: what it gains over the default settings, over chance and over trivial baselines."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

from harness.running.checks import WIDE
from harness.running.differences import apart, difference, quantile, turned
from harness.stage import Finding, Report, Stage, Undefined

Figure = tuple[float, float, float]  # a value, and where its interval begins and ends


@dataclass(frozen=True)
class Verdict:
    """The winner's `holdout`, beside that of the `default` settings (empty: not to be had), by the first objective.

    `aim` is that objective and its direction.  Differences are positive where the winner is better.
    """

    stage: Stage[Any, Any]
    aim: tuple[str, str]
    holdout: Report
    default: Report

    @property
    def name(self) -> str:
        """The first objective."""
        return self.aim[0]

    def metrics(self, selection: Report) -> dict[str, float]:
        """What the default settings reach, the gain over them, and what having been selected has flattered by.

        `selection` is the winner's report on what the search saw: other groups, so that the two are independent.
        """
        found: dict[str, float] = {}
        if self.name in self.default.metrics:
            found[f"{self.name}_default_holdout"] = self.default.metrics[self.name]
        if self.name not in self.holdout.metrics:
            return found
        if self.name in self.default.metrics:
            gain, _ = self._ahead(self.default, self.name)
            found |= _named("gain", gain)
        sides = [_figure(report, self.name) for report in (selection, self.holdout)]
        price = apart(*(side if self.aim[1] == "maximize" else turned(side) for side in sides))
        return found | _named("selection_price", price)

    def findings(self, looks: tuple[int, int]) -> Iterator[Finding]:
        """All that is to be said; `looks` is how often the holdout has been looked at, and by how many studies."""
        if self.name not in self.holdout.metrics:
            if self.name in self.holdout.undefined:
                reason = self.holdout.undefined[self.name]
                yield Finding("warn", "holdout_undefined", f"{self.name} on the holdout is undefined: {reason}")
            return
        yield from self._looks(*looks)
        yield from self._interval()
        yield from self._gain()
        yield from self._trivial()

    def _looks(self, times: int, studies: int) -> Iterator[Finding]:
        if times < 2:
            return
        _, low, high = widened(self.holdout, self.name, times)
        wider = f"for all of them to hold at once, the interval of {self.name} is {low:.3f} to {high:.3f}"
        if math.isnan(low) or math.isnan(high):
            wider = f"it has no interval of {self.name} that could be widened for that"
        by = f" by {studies} studies" if studies > 1 else ""
        message = f"the holdout has been looked at {times} times{by}, which makes the best of them too good: {wider}"
        yield Finding("info", "holdout_seen_again", message)

    def _interval(self) -> Iterator[Finding]:
        value, low, high = _figure(self.holdout, self.name)
        chance = next((metric.chance for metric in self.stage.metrics if metric.name == self.name), None)
        if high - low > WIDE:
            yield Finding(
                "warn",
                "holdout_interval_wide",
                f"on the holdout {self.name} is {value:.3f} with an interval from {low:.3f} to {high:.3f}: too few"
                " groups to tell settings apart by less than that; more data, or a larger holdout",
            )
        if math.isnan(low) or math.isnan(high):
            reason = self.holdout.undefined.get(f"{self.name}_low", "none is known of this metric")
            message = f"on the holdout {self.name}, {value:.3f}, has no interval: {reason}; it shows nothing by itself"
            yield Finding("warn", "holdout_interval_missing", message)
        if chance is not None and low <= chance:
            where = "holds chance" if chance <= high else "lies below chance"
            yield Finding(
                "warn",
                "holdout_chance",
                f"on the holdout the interval of the winner's {self.name}, {low:.3f} to {high:.3f}, {where}: whatever"
                " the search saw, nothing has been shown; more data",
            )

    def _gain(self) -> Iterator[Finding]:
        if self.name not in self.default.metrics:
            if reason := self.default.undefined.get(self.name):
                message = f"the default settings' {self.name} on the holdout is undefined: {reason}"
                yield Finding("warn", "default_failed", message)
            return
        gain, unsure = self._ahead(self.default, self.name)
        if unsure or gain[1] <= 0:
            ours, theirs = (report.metrics[self.name] for report in (self.holdout, self.default))
            seen = "whether there is a gain cannot be said" if unsure and gain[0] > 0 else "no gain can be seen"
            yield Finding(
                "warn",
                "no_gain",
                f"{seen}: on the holdout the winner's {self.name} is {ours:.3f}, that of the default"
                f" settings {theirs:.3f}; {_told(gain, unsure)}",
            )

    def _trivial(self) -> Iterator[Finding]:
        for metric in self.stage.metrics:
            if metric.baseline_of != self.name or metric.name not in self.holdout.metrics:
                continue
            ahead, unsure = self._ahead(self.holdout, metric.name)
            if unsure or ahead[1] <= 0:
                ours, theirs = self.holdout.metrics[self.name], self.holdout.metrics[metric.name]
                yield Finding(
                    "info" if unsure and ahead[0] > 0 else "warn",
                    "holdout_trivial",
                    f"on the holdout the winner's {self.name}, {ours:.3f}, is not known to beat {metric.name},"
                    f" {theirs:.3f} ({metric.summary}); {_told(ahead, unsure)}",
                )

    def _ahead(self, other: Report, name: str) -> tuple[Figure, str]:
        """How far the winner is ahead of a metric of some report, and why that has no interval if it has none."""
        try:
            figure, unsure = difference(self.holdout, other, self.name, name), ""
        except Undefined as reason:
            figure, unsure = (self.holdout.metrics[self.name] - other.metrics[name], math.nan, math.nan), str(reason)
        return (figure if self.aim[1] == "maximize" else turned(figure)), unsure


def widened(report: Report, name: str, count: int) -> Figure:
    """A metric with an interval wide enough that of `count` such intervals none misses, 95 times in 100 at least.

    Bonferroni: of level 1 - 0.05 / count, by Student's t (the normal, where nothing is known of what moves the metric);
    either side of the 95 % interval is longer by as much as the quantile is, that of a share on the logit scale.
    """
    value, low, high = _figure(report, name)
    moved = report.influence.get(name)
    normal = NormalDist().inv_cdf
    once, all_of_them = (
        normal((1 + level) / 2) if moved is None else quantile(moved, level) for level in (0.95, 1 - 0.05 / count)
    )
    longer = all_of_them / once
    if not 0 < low <= value <= high < 1:
        return value, value - longer * (value - low), value + longer * (high - value)
    at = [math.log(each / (1 - each)) for each in (value, low, high)]  # a share stays one
    low, high = at[0] - longer * (at[0] - at[1]), at[0] + longer * (at[2] - at[0])
    return value, 1 / (1 + math.exp(-low)), 1 / (1 + math.exp(-high))


def _figure(report: Report, name: str) -> Figure:
    """A metric of a report, with the ends of its interval, NaN where there is none."""
    low, high = (report.metrics.get(f"{name}_{end}", math.nan) for end in ("low", "high"))
    return report.metrics.get(name, math.nan), low, high


def _named(name: str, figure: Figure) -> dict[str, float]:
    """What is defined of a figure, by the names under which it is reported."""
    named = zip((name, f"{name}_low", f"{name}_high"), figure, strict=True)
    return {each: value for each, value in named if math.isfinite(value)}


def _told(ahead: Figure, unsure: str) -> str:
    value, low, high = ahead
    if unsure:
        return f"the difference is {value:+.3f}, without an interval: {unsure}"
    return f"the difference is {value:+.3f}, its interval {low:+.3f} to {high:+.3f}"
