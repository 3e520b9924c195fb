"""Records -> Report: is the uncertainty reliable, is it valid, and does it grow when an image shows less?"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import binomtest

from experiments import judging, statistics
from experiments.arrays import Bools, Floats, Ints
from experiments.judging import Judge
from experiments.montecarlo.inference.params import BLURRED, DOWNSAMPLED, ORIGINAL, PREFIX
from experiments.montecarlo.scoring.metrics import FAILED, STATUSES, USABLE
from experiments.montecarlo.scoring.params import STATISTICS, MontecarloScore
from experiments.montecarlo.scoring.reliability import (
    Replicates,
    Scaling,
    gate,
    prediction_gap,
    prediction_gap_shown,
)
from experiments.protocols import Words
from harness.stage import BadInput, Late, Records, Report, Undefined, judged_on

_COLOURS = {"uncertainty": "#c8553d", "entropy": "#3b76af"}
_FIGURES = "experiments.montecarlo.scoring.figures"


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
        """One row an original image, indexed by its name, in the order of the names."""
        original = self.frame[self.frame["variant"] == ORIGINAL]
        return original.drop_duplicates("image").set_index("image").sort_index()

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
    images = observed.images
    classes = images["label"] if observed.has("label") else ["unknown"] * len(images)
    report = Report(judged=judged_on(f"{params.judging}, {len(images)} images", images.index, classes))
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
    report.measure_ends("icc", trials.icc_interval)
    names = observed.images.index
    judging.explain(report, "icc", lambda: pd.concat({"group": pd.Series(trials.icc_influence, names)}))
    _measure_trials(report, trials, "")
    rows = []
    for statistic in observed.statistics:
        for count in observed.passes:
            own = observed.trials(statistic, count)
            part = Report()
            part.measure("icc", lambda own=own: own.icc)  # type: ignore[misc]
            _measure_trials(part, own, "")
            rows.append({"statistic": statistic, "passes": count, "status": _status(part), **part.metrics})
            if statistic in ("trace_pre", "trace_post"):  # both norms stand beside whatever is judged
                name = f"/{statistic.removeprefix('trace_')}_T{count}"
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
    by_passes = {passes: observed.trials(params.statistic, passes) for passes in observed.passes}
    first, *others = observed.passes
    scaling = Scaling(by_passes[first], first, STATISTICS[params.statistic])
    heavy = replace(scaling, lost=0)

    def actual() -> dict[int, Replicates]:
        if not others:
            raise Undefined(f"there is no number of passes but {first} to check the prediction by")
        return {count: by_passes[count] for count in others}

    def smallest_seen() -> int:
        for count, trials in by_passes.items():
            if gate(trials.spearman, trials.snr, trials.icc) == "usable":
                return count
        raise Undefined(f"none of {', '.join(map(str, by_passes))} passes is usable")

    report.measure("passes_predicted", scaling.smallest_usable)
    report.measure("passes_predicted_heavy", heavy.smallest_usable)
    report.measure("passes_seen", smallest_seen)
    report.measure("prediction_gap", lambda: prediction_gap(scaling, actual()))
    report.measure("prediction_gap_shown", lambda: prediction_gap_shown(scaling, actual()))
    rows = []
    for count, trials in by_passes.items():
        part = Report()
        for name in USABLE:
            part.measure(name, partial(getattr, trials, name))
            part.measure(f"{name}_predicted", lambda name=name, count=count: scaling.at(count)[name])  # type: ignore[misc]
            part.measure(f"{name}_heavy", lambda name=name, count=count: heavy.at(count)[name])  # type: ignore[misc]
        rows.append({"passes": count, **part.metrics})
    columns = [
        "passes",
        *USABLE,
        *(f"{name}_{kind}" for name in USABLE for kind in ("predicted", "heavy")),
    ]  # also where one is undefined throughout
    report.tables["scaling"] = pd.DataFrame(rows, columns=columns)
    report.figures["scaling"] = partial(Late(_FIGURES, "scaling"), report.tables["scaling"], USABLE, FAILED)


@dataclass(frozen=True)
class Images:
    """The images as cases: was the zero-shot answer wrong?"""

    images: pd.DataFrame
    words = Words("image", "image", "class", "wrong")
    stratum = None

    @property
    def labels(self) -> Ints:
        """1: wrong."""
        return self.images["wrong"].fillna(-1).to_numpy(np.int64)

    @property
    def groups(self) -> NDArray[Any]:
        """Each image stands for itself."""
        return self.images.index.to_numpy()

    @property
    def lengths(self) -> Floats:
        """Images have none."""
        raise Undefined("images have no length")

    def take(self, rows: Ints) -> Images:
        """Some of them."""
        return Images(self.images.iloc[rows])

    def relabelled(self, source: Ints) -> Images:
        """Each wrong where another is."""
        return Images(self.images.assign(wrong=self.images["wrong"].to_numpy()[source]))


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
    def judge() -> Judge[Images]:
        known("wrong", "the images have no labels")
        given = {"uncertainty": uncertainty}
        given |= {"entropy": images["entropy"].to_numpy(float)} if observed.has("entropy") else {}
        return Judge(Images(images), given=given, absent=lambda _: no_softmax)

    report.measure("auroc_error", lambda: judge().auc("uncertainty"))
    if "auroc_error" in report.metrics:
        judge().measure_auc(report, "auroc_error", "uncertainty")
        judge().measure_p(report, "auroc_error", "uncertainty")
    report.measure(
        "auroc_error_one_trial", lambda: statistics.column_aucs(*_told(judge().cases.labels, trials.u)).mean()
    )
    report.measure("auroc_entropy", lambda: judge().auc("entropy"))
    judging.explain(report, "auroc_entropy", lambda: judge().influence("entropy"))
    report.measure("spearman_entropy", lambda: statistics.spearman(uncertainty, known("entropy", no_softmax)))
    report.measure("spearman_margin", lambda: statistics.spearman(uncertainty, -known("margin", no_softmax)))
    report.measure("accuracy", lambda: 1 - judge().prevalence())
    report.measure("accuracy_prior", lambda: _commonest(known("label", "the images have no labels")))
    if "auroc_error" in report.metrics:
        judge().draw(report, [name for name in ("uncertainty", "entropy") if name in judge().given], _COLOURS)


def _told(wrong: Ints, u: Floats) -> tuple[Ints, Floats]:
    """Whether the answer was wrong (n,) and the uncertainties (n, k) of the images of which that is known."""
    return wrong[wrong >= 0], u.T[wrong >= 0]


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
        report.measure_ends(f"grows/{variant}", lambda growth=growth: share_interval(growth() > 0))  # type: ignore[misc]
        report.measure(f"grows_p/{variant}", lambda growth=growth: sign_test(growth()))  # type: ignore[misc]


def share_interval(hits: Bools) -> tuple[float, float]:
    """95 % interval of the share of which `hits` (n,) are a sample (Clopper and Pearson 1934)."""
    ends = binomtest(int(hits.sum()), len(hits)).proportion_ci(method="exact")
    return float(ends.low), float(ends.high)


def sign_test(growth: Floats) -> float:
    """One-sided p of as many above 0 among differences (n,) that are not 0, were either sign as likely."""
    changed = growth[growth != 0]
    if not len(changed):
        raise Undefined("no uncertainty has changed")
    return float(binomtest(int((changed > 0).sum()), len(changed), alternative="greater").pvalue)


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
