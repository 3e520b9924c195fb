"""Do repeated trials agree on how uncertain each image is, and how many passes would make them?  Pure functions."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.stats import rankdata

from experiments.arrays import Floats
from experiments.montecarlo.scoring.metrics import FAILED, USABLE
from harness.stage import Undefined

_RESAMPLES = 2000
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

    def icc_interval(self, seed: int) -> tuple[float, float]:
        """95 % percentile bootstrap interval of the ICC over images."""
        rng = np.random.default_rng(seed)
        means, variances = self.u.mean(axis=0), self.u.var(axis=0, ddof=1)
        n = len(means)
        values = []
        for _ in range(_RESAMPLES):
            drawn = rng.integers(n, size=n)
            signal, noise = means[drawn].var(ddof=1), variances[drawn].mean()
            if self.count * signal + noise > 0:
                values.append(_icc(float(signal), float(noise), self.count))
        if n < 2 or not values:
            raise Undefined("too few images differ")
        low, high = np.percentile(values, [2.5, 97.5])
        return float(low), float(high)

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


def _icc(signal: float, noise: float, count: int) -> float:
    between = count * signal
    if between + (count - 1) * noise == 0:
        raise Undefined("every uncertainty is the same")
    return (between - noise) / (between + (count - 1) * noise)


def gate(spearman: float, snr: float, icc: float) -> str:
    """Usable, marginal or failed, by the published thresholds."""
    found = {"spearman": spearman, "snr": snr, "icc": icc}
    if all(found[name] >= bound for name, bound in USABLE.items()):
        return "usable"
    return "failed" if any(found[name] < bound for name, bound in FAILED.items()) else "marginal"


def spearman_brown(reliability: float, factor: float) -> float:
    """Reliability of `factor` times as many passes: f r / (1 + (f - 1) r); Undefined for one that is not positive."""
    if reliability <= 0:
        raise Undefined(f"a reliability of {reliability:.3f} is that of noise, of which more passes make nothing")
    return factor * reliability / (1 + (factor - 1) * reliability)


@dataclass(frozen=True)
class Scaling:
    """What the trials of `passes` passes say of other numbers of passes, noise being in inverse proportion to them."""

    trials: Replicates
    passes: int

    def at(self, passes: int) -> dict[str, float]:
        """Spearman, SNR and ICC predicted for so many passes."""
        factor, k = passes / self.passes, self.trials.count
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
