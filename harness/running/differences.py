"""How sure a figure is, and the difference of two, from what each group of the data adds to them.

A figure's *influence* says by how much each group of what was judged moves it: independent terms around 0, one a group,
of which the figure's deviation from its expectation is the sum, so that its variance is the sum of their squares (the
infinitesimal jackknife: Efron and Tibshirani 1993, chapter 22).  What two figures share cancels in their difference.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from harness.stage import Report, Undefined

if TYPE_CHECKING:
    import pandas as pd

CLEAR = 0.05  # a p up to which something counts as shown


def interval(value: float, influence: pd.Series[float], level: float = 0.95) -> tuple[float, float]:
    """Interval of a figure from its influence (groups,), by Student's t; Undefined where it has no spread."""
    reach = spread(influence) * quantile(influence, level)
    return value - reach, value + reach


def spread(influence: pd.Series[float]) -> float:
    """Standard error; Undefined where no group moves the figure."""
    error = float((influence**2).sum() ** 0.5)
    if error == 0:
        raise Undefined("no group moves it, which says nothing about how others would differ")
    return error


def quantile(influence: pd.Series[float], level: float) -> float:
    """How many standard errors an interval of `level` reaches to either side."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom(influence), (1 + level) / 2))


def freedom(influence: pd.Series[float]) -> float:
    """Degrees of freedom of the sum of squares: few where few groups make it up.

    Satterthwaite (1946), with fourth powers in place of the squared variances that they estimate three times over; n
    for n normal terms of one variance.
    """
    squares = influence**2
    return float(min(max(3 * squares.sum() ** 2 / (squares**2).sum(), 1.0), max(len(squares) - 1, 1)))


def difference(
    first: Report, second: Report, name: str, other: str | None = None, level: float = 0.95
) -> tuple[float, float, float]:
    """A metric of the first report less one of the second (the same, or `other`), with the ends of its interval.

    Groups that both have judged move both.  Undefined where either metric is, or nothing is known of what moves it.
    """
    names = name, other or name
    for report, each in zip((first, second), names, strict=True):
        if each not in report.metrics:
            raise Undefined(f"{each} is undefined: {report.undefined.get(each, 'it is not reported')}")
        if each not in report.influence:
            raise Undefined(f"how sure {each} is cannot be said")
    value = first.metrics[names[0]] - second.metrics[names[1]]
    moved = less(first.influence[names[0]], second.influence[names[1]])
    if value == 0 and not moved.any():
        return value, value, value  # one thing twice
    return value, *interval(value, moved, level)


def less(first: pd.Series[float], second: pd.Series[float]) -> pd.Series[float]:
    """The influence of the difference of two figures; groups that only one of them has move it alone."""
    import pandas as pd

    both = pd.concat([first, -second])
    return both.groupby(level=[*range(both.index.nlevels)], sort=False).sum()


def lead(report: Report, name: str, other: str) -> tuple[bool, str]:
    """Whether one metric of a report is seen to lie below another, and its lead over that one where it is known."""
    try:
        value, low, high = difference(report, report, name, other)
    except Undefined:
        return False, ""
    return high < 0, f" ({value:+.3f}, {low:+.3f} to {high:+.3f})"


def apart(first: tuple[float, float, float], second: tuple[float, float, float]) -> tuple[float, float, float]:
    """A figure less another that was judged on other groups, with the ends of its interval; both come with theirs.

    MOVER (Zou and Donner 2008, equation 2): each end is as far off as the two ends that make it, at right angles.
    """
    (a, a_low, a_high), (b, b_low, b_high) = first, second
    return a - b, a - b - math.hypot(a - a_low, b_high - b), a - b + math.hypot(a_high - a, b - b_low)


def turned(figure: tuple[float, float, float]) -> tuple[float, float, float]:
    """A figure with the ends of its interval, the other way round."""
    value, low, high = figure
    return -value, -high, -low
