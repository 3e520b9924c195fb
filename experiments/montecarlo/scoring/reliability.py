"""Do repeated trials agree on how uncertain each image is, and how many passes would make them?  Pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

import numpy as np
from scipy.stats import rankdata
from scipy.stats import t as student_t

from experiments.arrays import Floats
from experiments.montecarlo.scoring.metrics import FAILED, USABLE
from harness.stage import Undefined

F = TypeVar("F", float, Floats)

_FEWEST, _IMAGES_A_TRIAL = 50, 10  # images from which intervals have been found to hold, skewed as variances are
_ROUNDING = 1e-12  # share of a variance that may be none
_SYMMETRIC = 1e-6  # skewness that cannot be told from none, for which its transform is 0 / 0
_LIMIT = 10**6  # passes beyond which nobody goes


@dataclass(frozen=True)
class Replicates:
    """Uncertainties `u` (k, n) of n images in k independent trials; formulas as published for nested MC dropout."""

    u: Floats

    @property
    def count(self) -> int:
        """K."""
        return len(self.u)

    @cached_property
    def signal(self) -> float:
        """Variance over images (ddof 1) of the mean over trials."""
        if self.u.shape[1] < 2:
            raise Undefined("one image has no variance between images")
        return float(self.u.mean(axis=0).var(ddof=1))

    @cached_property
    def noise(self) -> float:
        """Mean over images of the variance over trials (ddof 1)."""
        return float(self.u.var(axis=0, ddof=1).mean())

    @property
    def snr(self) -> float:
        """Signal over noise."""
        if self.noise == 0:
            raise Undefined("all trials agree to the last bit, so there is no noise to compare with")
        return self.signal / self.noise

    @property
    def icc(self) -> float:
        """ICC(1) = (MSB - MSW) / (MSB + (K - 1) MSW), with MSB = K signal and MSW = noise."""
        return _icc(self.signal, self.noise, self.count)

    def icc_interval(self) -> tuple[float, float]:
        """95 % interval of the population's ICC, by the jackknife over images of the log of the SNR.

        That is the true variance between all images of the kind that these are drawn from, over its sum with their mean
        variance within.  Supposes that images are drawn independently.
        """
        snr, (signal, noise) = self.snr, self._left_out
        if (signal <= _ROUNDING * self.signal).any() or (noise <= _ROUNDING * self.noise).any():
            raise Undefined("all that differs comes from one image, which says nothing about others")
        ends = jackknife_interval(float(np.log(snr)), np.log(signal / noise))
        low, high = (_icc(float(np.exp(end)), 1.0, self.count) for end in ends)
        return low, high

    @property
    def icc_left_out(self) -> Floats:
        """The ICC (n,) without each image."""
        return _icc(*self._left_out, self.count)

    @property
    def icc_influence(self) -> Floats:
        """How much each image (n,) moves the ICC; see harness.running.differences."""
        left_out, n = self.icc_left_out, self.u.shape[1]
        return np.asarray((left_out.mean() - left_out) * np.sqrt((n - 1) / n), dtype=np.float64)

    @cached_property
    def _left_out(self) -> tuple[Floats, Floats]:
        """Signal and noise (n,) without each image."""
        n = self.u.shape[1]
        if n < (fewest := max(_FEWEST, _IMAGES_A_TRIAL * self.count)):
            raise Undefined(f"{n} images in {self.count} trials are too few for an interval, which holds from {fewest}")
        means, variances = self.u.mean(axis=0), self.u.var(axis=0, ddof=1)
        squares = (means - means.mean()) ** 2
        signal = (squares.sum() - n / (n - 1) * squares) / (n - 2)
        return signal, (variances.sum() - variances) / (n - 1)

    @cached_property
    def spearmans(self) -> Floats:
        """Spearman correlation of each of the K (K - 1) / 2 pairs of trials."""
        ranks = rankdata(self.u, axis=1)
        if self.u.shape[1] < 2 or (np.ptp(ranks, axis=1) == 0).any():
            raise Undefined("in some trial all images are equally uncertain")
        return np.asarray(np.corrcoef(ranks)[np.triu_indices(self.count, 1)], dtype=np.float64)

    @property
    def spearman(self) -> float:
        """Median over the pairs."""
        return float(np.median(self.spearmans))


def _icc(signal: F, noise: F, count: int) -> F:
    between = count * signal
    if np.any(between + (count - 1) * noise == 0):
        raise Undefined("every uncertainty is the same")
    return (between - noise) / (between + (count - 1) * noise)


def jackknife_interval(value: float, left_out: Floats, level: float = 0.95) -> tuple[float, float]:
    """Interval of a smooth function of a sample from its values `left_out` (n,) with each observation left out in turn.

    The value's t is that of the pseudo-values n value - (n - 1) left_out (Tukey 1958; Miller 1968 for variances, whose
    logs he takes).  Its degrees of freedom are those that their variance is worth, 2 n / (kurtosis - 1) (Satterthwaite
    1946), of which a quarter is counted, since samples of what is heavy-tailed do not show how much so it is.  Their
    skewness to the right is removed by Hall's (1992) cubic transformation.
    """
    n = len(left_out)
    pseudo = n * value - (n - 1) * left_out
    deviations = pseudo - pseudo.mean()
    if (variance := float(np.mean(deviations**2))) == 0:
        return value, value
    error = float(np.sqrt(variance / (n - 1)))
    excess = max(float(np.mean(deviations**4)) / variance**2 - 1, 0.5 / n)
    reach = float(student_t.ppf((1 + level) / 2, np.clip(0.5 * n / excess, 1, n - 1)))
    skewness = max(float(np.mean(deviations**3)) / variance**1.5, 0.0) / np.sqrt(n)
    low, high = (_from_hall(end, skewness) for end in (-reach, reach))
    return value - error * high, value - error * low


def _from_hall(t: float, skewness: float) -> float:
    """The studentised value whose transform is t: x + s x^2 / 3 + s^2 x^3 / 27 + s / 6, s being skewness / sqrt(n)."""
    if skewness < _SYMMETRIC:
        return t
    return 3 / skewness * float(np.cbrt(1 + skewness * (t - skewness / 6)) - 1)


def gate(spearman: float, snr: float, icc: float) -> str:
    """Usable, marginal or failed, by the published thresholds."""
    found = {"spearman": spearman, "snr": snr, "icc": icc}
    if all(found[name] >= bound for name, bound in USABLE.items()):
        return "usable"
    return "failed" if any(found[name] < bound for name, bound in FAILED.items()) else "marginal"


def spearman_brown(reliability: F, factor: float) -> F:
    """Reliability of what has 1 / `factor` of the noise: f r / (1 + (f - 1) r); Undefined for one not positive."""
    if (least := float(np.min(reliability))) <= 0:
        raise Undefined(f"a reliability of {least:.3f} is that of noise, of which more passes make nothing")
    return factor * reliability / (1 + (factor - 1) * reliability)


@dataclass(frozen=True)
class Scaling:
    """What the trials of `passes` passes say of other numbers of passes.

    The variance over trials is taken to be in inverse proportion to T - `lost`.  A mean over T passes loses none.  The
    variance of T normal values loses one, for its own variance is 2 sigma^4 / (T - 1); with an excess kurtosis k it is
    sigma^4 (2 / (T - 1) + k / T), so that one lost and none are the two ends of what tails heavier than normal ones do.
    """

    trials: Replicates
    passes: int
    lost: int

    def factor(self, passes: int) -> float:
        """How many times less noise so many passes have."""
        if self.passes <= self.lost:
            raise Undefined(f"{self.passes} passes have no variance to begin from")
        return (passes - self.lost) / (self.passes - self.lost)

    def at(self, passes: int) -> dict[str, float]:
        """Spearman, SNR and ICC predicted for so many passes."""
        factor, k = self.factor(passes), self.trials.count
        between = self.trials.snr - 1 / k  # the true variance between images, in units of the noise
        if between <= 0:
            raise Undefined("the images differ by no more than noise does")
        return {
            "spearman": spearman_brown(self.trials.spearman, factor),
            "snr": factor * between + 1 / k,
            "icc": spearman_brown(self.trials.icc, factor),
        }

    def smallest_usable(self) -> int:
        """The smallest number of passes, at least 2, that is predicted to pass the gate."""
        if min(self.trials.icc, self.trials.spearman) <= 0:
            raise Undefined(f"{self.passes} passes agree no better than chance, and more of nothing is nothing")

        def usable(passes: int) -> bool:
            return gate(**self.at(passes)) == "usable"

        high = 2
        while not usable(high):
            high *= 2
            if high > _LIMIT:
                raise Undefined(f"even {_LIMIT} passes are not predicted to pass")
        low = high // 2
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if usable(middle) else (middle, high)
        return high


def prediction_gap(scaling: Scaling, others: Mapping[int, Replicates]) -> float:
    """How far outside of what is predicted, from normal to heavy tails, an ICC of actual passes (by T) lies at most."""
    first = scaling.trials
    misses = [_misses(scaling, passes, first.icc, trials.icc) for passes, trials in others.items()]
    return max(0.0, *(side for sides in misses for side in sides))


def prediction_gap_shown(scaling: Scaling, others: Mapping[int, Replicates]) -> float:
    """What chance leaves of that gap: the largest lower end of its intervals, all of which hold (95 %, Bonferroni)."""
    first, level, ends = scaling.trials, 1 - 0.05 / len(others), [0.0]
    for passes, trials in others.items():
        values = _misses(scaling, passes, first.icc, trials.icc)
        left_out = _misses(scaling, passes, first.icc_left_out, trials.icc_left_out)
        ends += [jackknife_interval(*side, level)[0] for side in zip(values, left_out, strict=True)]
    return max(ends)


def _misses(scaling: Scaling, passes: int, first: F, actual: F) -> tuple[F, F]:
    """How far an actual ICC lies above that predicted with normal tails, and below that predicted with heavy ones."""
    normal, heavy = (spearman_brown(first, each.factor(passes)) for each in (scaling, replace(scaling, lost=0)))
    return actual - normal, heavy - actual
