"""How often intervals of `montecarlo` hold and its findings are right, on data whose truth is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from docs.measured import CATCH, COVERAGE, FALSE_ALARM, FIGURE, Row, row
from experiments.arrays import Bools, Floats
from experiments.montecarlo import MONTECARLO
from experiments.montecarlo.scoring import audits
from experiments.montecarlo.scoring.params import MontecarloScore
from experiments.montecarlo.scoring.reliability import (
    Replicates,
    Scaling,
    gate,
    prediction_gap,
    prediction_gap_shown,
)
from experiments.montecarlo.scoring.score import share_interval, sign_test
from harness.running.differences import interval
from harness.stage import Audited, Check, Records, Report, Undefined

_SPREAD = 0.2  # of the log of images' true standard deviations


# --- intervals -------------------------------------------------------------------------------------------------------


def icc_interval(draws: int, seed: int) -> list[Row]:
    """How often the interval of the ICC holds that of the population, images being normal or lognormal."""
    rng, found = np.random.default_rng(seed), []
    for kind in ("normal", "lognormal"):
        for images, trials in ((50, 5), (500, 10)):
            for icc in (0.3, 0.6, 0.9):
                made = (_trials(rng, kind, rng.normal(size=images), trials, icc) for _ in range(draws))
                held = [low < icc < high for low, high in (each.icc_interval() for each in made)]
                case = f"{kind} images, {images} x {trials}, ICC {icc:g}"
                found.append(row("interval of `icc`", case, held, COVERAGE))
    return found


def _trials(rng: np.random.Generator, kind: str, z: Floats, trials: int, icc: float) -> Replicates:
    """Trials of images of unit variance, or of e^z with noise in proportion; their population's ICC is `icc`."""
    noise = rng.normal(size=(trials, len(z)))
    if kind == "normal":
        return Replicates(10 + z + np.sqrt((1 - icc) / icc) * noise)
    between, square = (np.e - 1) * np.e, np.exp(2)  # variance and mean square of e^z
    return Replicates(np.exp(z) * (1 + np.sqrt(between / square * (1 - icc) / icc) * noise))


def icc_gain(draws: int, seed: int) -> list[Row]:
    """How often the interval of one statistic's ICC less another's, on the same images, holds the population's."""
    rng, found = np.random.default_rng(seed), []
    for kind in ("normal", "lognormal"):
        for images, trials in ((150, 5), (500, 10)):
            for first, second in ((0.6, 0.6), (0.9, 0.6)):
                held = []
                for _ in range(draws):
                    z = rng.normal(size=images)
                    pair = [_trials(rng, kind, z, trials, icc) for icc in (first, second)]
                    gain, moved = pair[0].icc - pair[1].icc, pair[0].icc_influence - pair[1].icc_influence
                    low, high = interval(gain, pd.Series(moved))
                    held.append(low < first - second < high)
                case = f"{kind} images, {images} x {trials}, ICC {first:g} and {second:g}"
                found.append(row("`gain` in icc", case, held, COVERAGE))
    return found


def grows_interval(draws: int, seed: int) -> list[Row]:
    """How often the interval of a share of images that grow holds it."""
    rng, found = np.random.default_rng(seed), []
    for share in (0.2, 0.5, 0.8):
        intervals = [share_interval(_grown(rng, 100, share)) for _ in range(draws)]
        held = [low < share < high for low, high in intervals]
        found.append(row("interval of `grows`", f"100 images, of which {share:.0%} grow", held, COVERAGE))
    return found


# --- findings --------------------------------------------------------------------------------------------------------


def ablation_not_seen(draws: int, seed: int) -> list[Row]:
    """How often growth is said not to be shown where most images grow, and where as many shrink."""
    rng = np.random.default_rng(seed)

    def fires(share: float) -> bool:
        grown = _grown(rng, 100, share)
        low, high = share_interval(grown)
        metrics = {"grows/blur": grown.mean(), "grows/blur_low": low, "grows/blur_high": high}
        return _fires(audits.ablation_not_seen, metrics | {"grows_p/blur": sign_test(np.where(grown, 1.0, -1.0))})

    return [
        row("`ablation_not_seen`", f"100 images, of which {share:.0%} grow", [fires(share) for _ in range(draws)], kind)
        for share, kind in ((0.8, FALSE_ALARM), (0.5, CATCH))
    ]


def prediction_missed(draws: int, seed: int) -> list[Row]:
    """How often a prediction is said to be missed where it holds, and where more passes do not help at all."""
    rng, found = np.random.default_rng(seed), []
    kinds: tuple[tuple[str, str, Callable[..., dict[int, Replicates]]], ...] = (
        ("normal passes", FALSE_ALARM, _normal_passes),
        ("passes that seldom drop", FALSE_ALARM, _seldom_dropped),
        ("passes that repeat themselves", CATCH, _repeated),
    )
    for name, kind, passes in kinds:
        for images, first in ((100, 2), (100, 4), (500, 2)):
            said = [_said_missed(passes(rng, (first, 8, 32), images=images)) for _ in range(draws)]
            found.append(row("`prediction_missed`", f"{name}, {images} x 5, T = {first}, 8, 32", said, kind))
    return found


def _said_missed(trials: Mapping[int, Replicates]) -> bool:
    first, *others = trials
    scaling, actual = Scaling(trials[first], first, lost=1), {count: trials[count] for count in others}
    try:
        shown = prediction_gap_shown(scaling, actual)
    except Undefined:
        return False
    metrics = {"prediction_gap": prediction_gap(scaling, actual), "prediction_gap_shown": shown}
    return _fires(audits.prediction_missed, metrics)


def passes_predicted(draws: int, seed: int) -> list[Row]:
    """Passes predicted from few normal ones over those needed, with T - 1 and with T: the nearer to 1."""
    rng, found = np.random.default_rng(seed), []
    every = _normal_passes(rng, range(2, 100), images=3000, dimensions=2)
    needed = next(count for count, each in every.items() if gate(each.spearman, each.snr, each.icc) == "usable")
    for first in (2, 4, 8):
        trials = [_normal_passes(rng, (first,), images=500, dimensions=2)[first] for _ in range(draws)]
        for name, lost in (("T - 1", 1), ("T", 0)):
            case = f"500 x 5 normal passes, T0 = {first}, noise by {name}, {needed} needed"
            ratios = [Scaling(each, first, lost).smallest_usable() / needed for each in trials]
            found.append(row("`passes_predicted` over those needed, on average", case, ratios, FIGURE))
    return found


# --- data ------------------------------------------------------------------------------------------------------------


def _grown(rng: np.random.Generator, images: int, share: float) -> Bools:
    return np.asarray(rng.random(images) < share)


def _true(rng: np.random.Generator, images: int) -> Floats:
    """True variances of images."""
    return np.asarray(np.exp(2 * _SPREAD * rng.normal(size=images)))


def _normal_passes(
    rng: np.random.Generator, passes: Sequence[int], images: int, trials: int = 5, dimensions: int = 8
) -> dict[int, Replicates]:
    """Mean variance of a dimension over the first T of normal passes: squares grow by independent chi squares."""
    true, found, before = _true(rng, images), {}, 1
    squares = np.zeros((trials, images))
    for count in passes:
        squares = squares + rng.chisquare(dimensions * (count - before), (trials, images))
        found[count], before = Replicates(true * squares / (dimensions * count)), count
    return found


def _seldom_dropped(rng: np.random.Generator, passes: Sequence[int], images: int) -> dict[int, Replicates]:
    """The same of passes that drop an entry in one of ten; their tails are heavy."""
    dropped = rng.random((max(passes), 5, images, 8)) < 0.1
    true = _true(rng, images)
    return {count: Replicates(true * dropped[:count].var(axis=0).mean(axis=-1)) for count in passes}


def _repeated(rng: np.random.Generator, passes: Sequence[int], images: int) -> dict[int, Replicates]:
    """The same of passes that come again and again after the first few, so that more of them are no more."""
    first = _normal_passes(rng, passes[:1], images)[passes[0]]
    return dict.fromkeys(passes, first)


def _fires(check: Check, metrics: Mapping[str, float]) -> bool:
    """Whether a check has a doubt about a report with these figures."""
    records, params = Records(pd.DataFrame(), None, {"counts": {}}), MontecarloScore.model_validate({})
    return any(True for _ in check.rule(Audited(MONTECARLO, records, Report(dict(metrics)), params)))


SIMULATIONS = {  # how many draws for each that is asked for: some are quick
    icc_interval: 5,
    icc_gain: 5,
    grows_interval: 5,
    ablation_not_seen: 5,
    prediction_missed: 5,
    passes_predicted: 5,
}
