"""ReDeEP's detectors: the columns that tell responses apart, and three ways to combine those."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from experiments import statistics
from experiments.arrays import Floats, Ints
from experiments.columns import Columns
from experiments.redeep.fitted import SCORE, Ensemble, Fitted, Linear, Logistic, Scale
from experiments.redeep.responses import Responses
from harness.stage import BadInput

_ALPHA_MAX = 10.0
_PAIRS = 1_000_000  # pairs of responses looked at together: bounds memory at 100 MB however many there are
_BINS = 16_381  # of alpha's range; a prime, so that no border is a ratio of small numbers, where many pairs change
_NARROW = 1e-9  # an interval of alpha this narrow is the work of rounding


class Settings(Protocol):
    """What is chosen, and how it is weighed; a stage declares and bounds these settings as its own."""

    @property
    def heads(self) -> str:
        """`auto`: the `top_n` best; `all`; or layer.head pairs such as 3.0,5.2."""

    @property
    def select(self) -> str:
        """What ranks heads and layers: auc, or mutual_info."""

    @property
    def top_n(self) -> int: ...
    @property
    def top_k(self) -> int: ...
    @property
    def alpha(self) -> float | Literal["best"]: ...
    @property
    def m(self) -> float: ...
    @property
    def fold_seed(self) -> int: ...


def fit_linear(train: Responses, params: Settings) -> Linear:
    """The published combination: m * PKS - alpha * ECS, each a min-max scaled sum of the chosen columns."""
    layers = best_columns(train.pks, train.label, params.top_k, params)
    heads = choose_heads(train, params)
    ecs, pks = Scale.of(train.ecs.sum(heads)), Scale.of(train.pks.sum(layers))
    alpha = 0.0 if params.alpha == "best" else params.alpha
    fitted = Linear(heads=tuple(heads), layers=tuple(layers), ecs=ecs, pks=pks, alpha=alpha, m=params.m)
    if params.alpha != "best":
        return fitted
    of_ecs, of_pks = (train.mean(values) for values in fitted.scaled(train))
    return fitted.model_copy(update={"alpha": best_alpha(train.labels, of_ecs, of_pks, params.m)})


def best_alpha(labels: Ints, ecs: Floats, pks: Floats, m: float) -> float:
    """The alpha in [0, 10] at which m * pks - alpha * ecs, all (r,), has the highest AUROC.

    That AUROC has a step where two responses of different label change places, at m (P_i - P_j) / (E_i - E_j).  Taken
    is the middle of the interval between steps where it is highest, the widest on a tie; 1 if m is 0, when all alphas
    rank alike.  All pairs are gone through twice: first only counted by bins of alpha, then those bins are looked into
    which can hold the highest, so that memory is bounded.
    """
    statistics.require_two_classes(labels)
    if m == 0:
        return 1.0
    (e1, p1), (e0, p0) = ((ecs[labels == label], m * pks[labels == label]) for label in (1, 0))

    def steps() -> Iterator[tuple[Floats, NDArray[np.bool_], Ints]]:
        """Where a pair changes places, whether its hallucinated side then leads, and the bin it lies in."""
        for rows in np.array_split(np.arange(len(e1)), -(-len(e1) * len(e0) // _PAIRS)):
            lead, fall = p1[rows, None] - p0, e1[rows, None] - e0
            at = np.divide(lead, fall, out=np.zeros_like(lead), where=fall != 0)
            inside = (at > 0) & (at < _ALPHA_MAX)
            yield at[inside], fall[inside] < 0, (at[inside] * (_BINS / _ALPHA_MAX)).astype(np.int64)

    gained, lost = np.zeros(_BINS), np.zeros(_BINS)
    for _, gains, bins in steps():
        gained += np.bincount(bins[gains], minlength=_BINS)
        lost += np.bincount(bins[~gains], minlength=_BINS)
    before = np.cumsum(gained - lost) - (gained - lost)  # pairs won since alpha = 0
    close = before + gained >= before.max()
    found = [(at[close[bins]], np.where(gains, 1.0, -1.0)[close[bins]]) for at, gains, bins in steps()]
    at = np.concatenate([np.flatnonzero(~close) * (_ALPHA_MAX / _BINS), *(each for each, _ in found)])
    change = np.concatenate([(gained - lost)[~close], *(each for _, each in found)])
    order = np.argsort(at, kind="stable")
    ends = np.concatenate([[0.0], at[order], [_ALPHA_MAX]])
    won = np.concatenate([[0.0], np.cumsum(change[order])])
    width = np.diff(ends)
    won[width < _NARROW] = -np.inf
    widest = int(np.where(won == won.max(), width, 0).argmax())
    middle = float(ends[widest] + width[widest] / 2)
    # At either end of the range, pairs may be tied that are lost at every other alpha.
    return max((middle, 0.0, _ALPHA_MAX), key=lambda alpha: statistics.auc(labels, m * pks - alpha * ecs))


def fit_logistic(train: Responses, params: Settings) -> Logistic:
    """Strongly regularised logistic regression on each response's mean, max, min and std of every column.

    PKS enters on a log scale, floored at the smallest positive value seen in training.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    statistics.require_two_classes(train.labels)
    pks = train.pks.values
    floor = float(pks[pks > 0].min()) if (pks > 0).any() else 1.0
    heads = list(train.ecs.names) if params.heads == "auto" else choose_heads(train, params)

    inputs, scaler = train.aggregates(heads, floor), StandardScaler()
    model = LogisticRegression(C=0.01, max_iter=1000).fit(scaler.fit_transform(inputs), train.labels)
    return Logistic(
        heads=tuple(heads),
        layers=train.pks.names,
        floor=floor,
        centre=tuple(scaler.mean_.tolist()),
        spread=tuple(scaler.scale_.tolist()),
        weights=tuple(model.coef_[0].tolist()),
        intercept=float(model.intercept_[0]),
    )


def fit_ensemble(train: Responses, params: Settings) -> Ensemble:
    """Mean of the linear and the logistic detector, each put on its rank among the training scores."""
    linear, logistic = fit_linear(train, params), fit_logistic(train, params)
    return Ensemble(
        linear=linear,
        logistic=logistic,
        linear_reference=tuple(np.sort(linear(train)[SCORE]).tolist()),
        logistic_reference=tuple(np.sort(logistic(train)[SCORE]).tolist()),
    )


FITS: Mapping[str, Callable[[Responses, Settings], Fitted]] = {
    "linear": fit_linear,
    "logistic": fit_logistic,
    "ensemble": fit_ensemble,
}


def choose_heads(train: Responses, params: Settings) -> list[str]:
    """The ECS columns that the settings name: the best on these spans, all, or those listed."""
    if params.heads == "auto":
        return best_columns(train.ecs, 1 - train.label, params.top_n, params)
    if params.heads == "all":
        return list(train.ecs.names)
    names = list(dict.fromkeys("ecs_" + pair.replace(".", "_") for pair in params.heads.split(",")))
    if missing := [name for name in names if name not in train.ecs.names]:
        raise BadInput(
            f"heads = {params.heads}: no column {missing[0]} in the records, which hold {len(train.ecs.names)} heads"
            f" from {train.ecs.names[0]} to {train.ecs.names[-1]}"
        )
    return names


def best_columns(columns: Columns, label: Ints, count: int, params: Settings) -> list[str]:
    """The `count` columns that tell label 1 best on these spans, best first; earlier columns win ties."""
    if params.select == "auc":
        rows = np.ascontiguousarray(columns.values.T)
        parts = statistics.blocks(*rows.shape)
        worth = np.concatenate([statistics.row_aucs(label, rows[part]) for part in parts]) if parts else np.empty(0)
    else:
        from sklearn.feature_selection import mutual_info_classif

        statistics.require_two_classes(label)
        worth = mutual_info_classif(columns.values, label, random_state=params.fold_seed)
    return [columns.names[i] for i in np.argsort(-worth, kind="stable")[:count]]
