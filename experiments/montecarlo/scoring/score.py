"""Records -> Report: do repeated trials agree on an image's uncertainty, and does it predict error?  Pure functions."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property, partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import rankdata, wilcoxon
from sklearn.metrics import accuracy_score

from experiments import statistics
from experiments.arrays import Floats, Ints
from experiments.judging import Judge, Words
from experiments.montecarlo.inference.params import BLURRED, DOWNSAMPLED, ORIGINAL, PREFIX
from experiments.montecarlo.scoring.metrics import FAILED, STATUSES, USABLE
from experiments.montecarlo.scoring.params import MontecarloScore
from harness.stage import BadInput, Late, Records, Report, Undefined

_COLOURS = {"uncertainty": "#c8553d", "entropy": "#3b76af"}
_FIGURES = "experiments.montecarlo.scoring.figures"
_RESAMPLES = 2000
_LIMIT = 10**6  # passes beyond which nobody goes


# --- reliability: K trials of the same images -----------------------------------------------------------------------


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


# --- the rows --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Observed:
    """The rows of a set of records, an image's own properties apart from its uncertainties."""

    frame: pd.DataFrame

    @cached_property
    def passes(self) -> list[int]:
        """The T that there are, ascending."""
        return [int(each) for each in np.sort(self.frame["passes"].unique())]

    @cached_property
    def statistics(self) -> list[str]:
        """The statistics that there are."""
        return [str(name).removeprefix(PREFIX) for name in self.frame if str(name).startswith(PREFIX)]

    @cached_property
    def images(self) -> pd.DataFrame:
        """One row an original image, indexed by its name, in the order of the records."""
        original = self.frame[self.frame["variant"] == ORIGINAL]
        return original.drop_duplicates("image").set_index("image")

    def trials(self, statistic: str, passes: int, variant: str = ORIGINAL) -> Replicates:
        """One statistic of every image in every trial; images in the order of `images`."""
        rows = self.frame[(self.frame["variant"] == variant) & (self.frame["passes"] == passes)]
        table = rows.pivot(index="trial", columns="image", values=PREFIX + statistic)
        if table.isna().to_numpy().any() or len(table) < 2:
            raise BadInput(f"the records hold {len(table)} trials, or not every image in each; at least 2 are needed")
        return Replicates(table[[name for name in self.images.index if name in table]].to_numpy(float))

    def has(self, *columns: str) -> bool:
        """Whether all of these are known of the images."""
        return set(columns) <= set(self.frame)


def observe(records: Records, params: MontecarloScore) -> tuple[Observed, int]:
    """The rows, and the T to judge; BadInput where the records lack the statistic or the T asked for."""
    observed = Observed(records.frame)
    if missing := {"image", "variant", "trial", "passes"} - set(records.frame):
        raise BadInput(f"the records have no column {', '.join(sorted(missing))}; they are not montecarlo's")
    if params.statistic not in observed.statistics:
        raise BadInput(
            f"statistic = {params.statistic}: the records hold {', '.join(observed.statistics)}; one of these"
        )
    wanted = observed.passes[-1] if params.judged_passes == "most" else params.judged_passes
    if wanted not in observed.passes:
        raise BadInput(f"judged_passes = {wanted}: the records hold {', '.join(map(str, observed.passes))}")
    return observed, wanted


# --- the report ------------------------------------------------------------------------------------------------------


def score(records: Records, params: MontecarloScore) -> Report:
    """Judge the uncertainty that `params` name: its reliability, its validity, what blur does to it."""
    observed, passes = observe(records, params)
    report = Report()
    trials = observed.trials(params.statistic, passes)
    _measure_reliability(report, observed, trials, passes, params)
    _measure_scaling(report, observed, params)
    uncertainty = trials.u.mean(axis=0)
    _measure_validity(report, observed, trials, uncertainty, params)
    _measure_ablation(report, observed, uncertainty, passes, params)
    _tabulate(report, observed, trials, uncertainty, params)
    return report


def held_out(train: Records, test: Records, params: MontecarloScore) -> Report:
    """Judge the images held out; nothing is learnt from the others."""
    return score(test, params)


def _measure_reliability(
    report: Report, observed: Observed, trials: Replicates, passes: int, params: MontecarloScore
) -> None:
    report.measure("icc", lambda: trials.icc)
    report.measure_ends("icc", lambda: trials.icc_interval(params.bootstrap_seed))
    _measure_trials(report, trials, "")
    rows = []
    for statistic in observed.statistics:
        for each in observed.passes:
            own = observed.trials(statistic, each)
            part = Report()
            part.measure("icc", lambda own=own: own.icc)  # type: ignore[misc]
            _measure_trials(part, own, "")
            rows.append({"statistic": statistic, "passes": each, "status": _status(part), **part.metrics})
            if statistic in ("trace_pre", "trace_post"):  # both norms stand beside whatever is judged
                name = f"/{statistic.removeprefix('trace_')}_T{each}"
                report.measure(f"icc{name}", lambda own=own: own.icc)  # type: ignore[misc]
                _measure_trials(report, own, name)
    report.tables["summary"] = pd.DataFrame(rows)


def _measure_trials(report: Report, trials: Replicates, part: str) -> None:
    """Everything but the ICC, under names that end in `part`."""
    report.measure(f"signal{part}", lambda: trials.signal)
    report.measure(f"noise{part}", lambda: trials.noise)
    report.measure(f"snr{part}", lambda: trials.snr)
    report.measure(f"spearman{part}", lambda: trials.spearman)
    report.measure(f"spearman_q25{part}", lambda: float(np.percentile(trials.spearmans, 25)))
    report.measure(f"spearman_q75{part}", lambda: float(np.percentile(trials.spearmans, 75)))
    report.measure(f"gate{part}", lambda: STATUSES.index(gate(trials.spearman, trials.snr, trials.icc)))


def _status(report: Report) -> str:
    return STATUSES[int(report.metrics["gate"])] if "gate" in report.metrics else report.undefined["gate"]


def _measure_scaling(report: Report, observed: Observed, params: MontecarloScore) -> None:
    """Predict from the fewest passes, as one who wants to know how many are needed would, and check by the others."""
    found = {passes: observed.trials(params.statistic, passes) for passes in observed.passes}
    first, *others = observed.passes
    scaling = Scaling(found[first], first)

    def gap() -> float:
        if not others:
            raise Undefined(f"there is no number of passes but {first} to check the prediction by")
        return max(abs(scaling.at(each)["icc"] - found[each].icc) for each in others)

    def smallest_seen() -> int:
        for each, trials in found.items():
            if gate(trials.spearman, trials.snr, trials.icc) == "usable":
                return each
        raise Undefined(f"none of {', '.join(map(str, found))} passes is usable")

    report.measure("passes_predicted", scaling.smallest_usable)
    report.measure("passes_seen", smallest_seen)
    report.measure("prediction_gap", gap)
    rows = []
    for each, trials in found.items():
        part = Report()
        for name in USABLE:
            part.measure(name, partial(getattr, trials, name))
            part.measure(f"{name}_predicted", lambda name=name, each=each: scaling.at(each)[name])  # type: ignore[misc]
        rows.append({"passes": each, **part.metrics})
    columns = ["passes", *USABLE, *(f"{name}_predicted" for name in USABLE)]  # also where one is undefined throughout
    report.tables["scaling"] = pd.DataFrame(rows, columns=columns)
    report.figures["scaling"] = partial(Late(_FIGURES, "scaling"), report.tables["scaling"], USABLE, FAILED)


@dataclass(frozen=True)
class Answers:
    """The images as cases: was the zero-shot answer wrong?"""

    images: pd.DataFrame
    words = Words("image", "image", "class", "wrong")
    stratum = None

    @property
    def labels(self) -> Ints:
        """1: wrong."""
        return self.images["wrong"].to_numpy(np.int64)

    @property
    def groups(self) -> NDArray[Any]:
        """Each image stands for itself."""
        return self.images.index.to_numpy()

    @property
    def lengths(self) -> Floats:
        """Images have none."""
        raise Undefined("images have no length")

    def take(self, rows: Ints) -> Answers:
        """Some of them."""
        return Answers(self.images.iloc[rows])


def _measure_validity(
    report: Report, observed: Observed, trials: Replicates, uncertainty: Floats, params: MontecarloScore
) -> None:
    """Does the uncertainty predict error, and better than the softmax of one plain pass?"""
    images, no_softmax = observed.images, "no classes were named, so there is no softmax"

    def known(name: str, why: str) -> Floats:
        if not observed.has(name):
            raise Undefined(why)
        return images[name].to_numpy(float)

    @cache
    def judge() -> Judge[Answers]:
        known("wrong", "the images have no labels")
        given = {"uncertainty": uncertainty}
        given |= {"entropy": images["entropy"].to_numpy(float)} if observed.has("entropy") else {}
        cases = Answers(images)
        return Judge(cases, cases, params.bootstrap_seed, given=given, absent=lambda _: no_softmax)

    report.measure("auroc_error", lambda: judge().auc("uncertainty"))
    report.measure_ends("auroc_error", lambda: judge().interval("uncertainty"))
    report.measure("auroc_error_one_trial", lambda: statistics.column_aucs(judge().cases.labels, trials.u.T).mean())
    report.measure("auroc_entropy", lambda: judge().auc("entropy"))
    report.measure("spearman_entropy", lambda: statistics.spearman(uncertainty, known("entropy", no_softmax)))
    report.measure("spearman_margin", lambda: statistics.spearman(uncertainty, -known("margin", no_softmax)))
    report.measure("accuracy", lambda: accuracy_score(np.zeros(len(images)), judge().cases.labels))
    report.measure("accuracy_prior", lambda: _commonest(known("label", "the images have no labels")))
    if "auroc_error" in report.metrics:
        judge().draw(report, [name for name in ("uncertainty", "entropy") if name in judge().given], _COLOURS)


def _commonest(labels: Floats) -> float:
    return float(np.unique(labels, return_counts=True)[1].max() / len(labels))


def _measure_ablation(
    report: Report, observed: Observed, uncertainty: Floats, passes: int, params: MontecarloScore
) -> None:
    """Blur and downsampling take information away: uncertainty should grow, image by image."""
    before = pd.Series(uncertainty, index=observed.images.index)
    for variant in (BLURRED, DOWNSAMPLED):
        names = set(observed.frame.loc[observed.frame["variant"] == variant, "image"])

        def growth(names: set[str] = names, variant: str = variant) -> Floats:
            if not names:
                raise Undefined(f"no image was computed with {variant}; ablation says how many are")
            after = observed.trials(params.statistic, passes, variant).u.mean(axis=0)
            return np.asarray(after - before[before.index.isin(names)], dtype=np.float64)

        report.measure(f"grows/{variant}", lambda growth=growth: (growth() > 0).mean())  # type: ignore[misc]
        report.measure(f"wilcoxon_p/{variant}", lambda growth=growth: _wilcoxon(growth()))  # type: ignore[misc]


def _wilcoxon(growth: Floats) -> float:
    """One-sided p of Wilcoxon's signed-rank test that differences are above 0."""
    if not growth.any():
        raise Undefined("no uncertainty has changed")
    return float(wilcoxon(growth, alternative="greater").pvalue)


def _tabulate(
    report: Report, observed: Observed, trials: Replicates, uncertainty: Floats, params: MontecarloScore
) -> None:
    """The images with their uncertainty, most uncertain first, and the pictures."""
    kept = [name for name in ("label", "predicted", "wrong", "entropy", "margin") if observed.has(name)]
    images = observed.images[kept].assign(uncertainty=uncertainty, deviation=trials.u.std(axis=0, ddof=1))
    report.tables["images"] = images.sort_values("uncertainty", ascending=False, kind="stable").reset_index()
    title = f"{params.statistic}, T = {observed.passes[-1] if params.judged_passes == 'most' else params.judged_passes}"
    report.figures["trials"] = partial(Late(_FIGURES, "trials"), trials.u, title)
    if observed.has("thumbnail"):
        shown = observed.images.assign(uncertainty=uncertainty)
        report.figures["images"] = partial(Late(_FIGURES, "contact_sheet"), shown, title)
    if observed.has("wrong"):
        wrong = observed.images["wrong"].to_numpy(float)
        report.figures["error_rate"] = partial(Late(_FIGURES, "error_rate"), uncertainty, wrong, title)
