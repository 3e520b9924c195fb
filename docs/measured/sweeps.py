"""How often what a sweep says of its winner is true."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from docs.measured import CATCH, COVERAGE, FALSE_ALARM, Row, row
from experiments import protocols, statistics, trivial
from experiments.detect import DETECT
from experiments.detect.scoring.params import DetectScore
from experiments.detect.scoring.records import read_responses
from experiments.detect.scoring.score import rule
from experiments.judging import Judge
from experiments.protocols import Way
from experiments.redeep.fits import FITS
from experiments.redeep.fitted import SCORE
from experiments.redeep.responses import Responses
from harness.running import hardware
from harness.running.settings import Plan, resolve
from harness.stage import Records, Report
from harness.sweeping.trial import Halves, halves
from harness.sweeping.verdict import Verdict, widened

_RESPONSES, _PROMPTS = 240, 160  # some prompts have several responses, which share what they share
_POPULATION = 5_000  # responses by which the truth is known to about 0.01
_TRIALS = 25
_LOOKS = 3
_COLUMNS = 6  # of each kind; with a signal, the first of ECS carries it
_UNCLEAR = {"holdout_chance", "holdout_interval_missing"}
_SIGNAL = 0.8  # standard deviations


@dataclass(frozen=True)
class Drawn:
    """One sweep on one draw of data: what it says, and what is true of the winner and of the default settings."""

    metrics: dict[str, float]
    codes: frozenset[str]
    truth: float  # AUC of the winner, as learnt, in the population
    default: float

    @property
    def price(self) -> float:
        """By how much the search has flattered the winner."""
        return self.metrics["auc_flattered"] - self.truth


def sweeps_without_signal(draws: int, seed: int) -> list[Row]:
    """Labels that no feature tells: nothing may be claimed, and the intervals hold what is true."""
    found = simulate(0.0, draws, seed, default=DetectScore.model_validate({}))
    case = "labels that no feature tells"
    claims = {
        "the holdout clears chance": lambda each: not each.codes & _UNCLEAR,
        "a gain is seen": lambda each: "no_gain" not in each.codes,
        "the length is seen to be beaten": lambda each: "holdout_trivial" not in each.codes,
    }
    return [
        *_coverages(found, case),
        *(row(what, case, map(rule, found), FALSE_ALARM) for what, rule in claims.items()),
    ]


def sweeps_with_signal(draws: int, seed: int) -> list[Row]:
    """A column of ECS tells hallucinations, and the default settings leave ECS out: the intervals hold, it is seen."""
    found = simulate(_SIGNAL, draws, seed, default=DetectScore.model_validate({"alpha": 0.0}))
    case = "a column that the default settings leave out"
    catches = {
        "the holdout clears chance": lambda each: not each.codes & _UNCLEAR,
        "a gain is seen": lambda each: "no_gain" not in each.codes,
        "the length is seen to be beaten": lambda each: "holdout_trivial" not in each.codes,
    }
    return [*_coverages(found, case), *(row(what, case, map(rule, found), CATCH) for what, rule in catches.items())]


def looks_at_one_holdout(draws: int, seed: int) -> list[Row]:
    """Several searches of the same data by labels that no feature tells: their widened intervals miss nothing."""
    plan = resolve(DETECT, {}, hardware.load_profiles())
    streams = np.random.SeedSequence(seed).spawn(draws)
    case = f"{_LOOKS} searches looked at one holdout"
    found = [_looked(plan, np.random.default_rng(stream)) for stream in streams]
    return [row("a widened interval misses the truth", case, map(bool, found), FALSE_ALARM)]


def _looked(plan: Plan, rng: np.random.Generator) -> bool:
    """Whether one of the intervals misses, widened as the finding has them."""
    own = _halves(plan, rng, 0.0)
    population = read_responses(_responses(rng, _POPULATION, 0.0))
    missed = False
    for _ in range(_LOOKS):
        winner, _ = _search(own, rng, DetectScore.model_validate({}))
        report = _held_out(own, winner)
        _, low, high = widened(report, "auc", _LOOKS)
        missed |= not low <= _truth(own, population, winner) <= high
    return missed


def simulate(signal: float, draws: int, seed: int, default: DetectScore) -> list[Drawn]:
    """So many sweeps, each on data of its own."""
    plan = resolve(DETECT, {}, hardware.load_profiles())
    streams = np.random.SeedSequence(seed).spawn(draws)
    return [_sweep(plan, np.random.default_rng(stream), signal, default) for stream in streams]


def _sweep(plan: Plan, rng: np.random.Generator, signal: float, default: DetectScore) -> Drawn:
    """A random search on the seen part of some data, and its conclusion on the holdout."""
    own = _halves(plan, rng, signal)
    winner, flattered = _search(own, rng, default)
    holdout, before = (_held_out(own, params) for params in (winner, default))
    verdict = Verdict(DETECT, ("auc", "maximize"), holdout, before)
    metrics = verdict.metrics(_out_of_fold(own, winner)) | {"auc_flattered": flattered}
    ends = [end for end in ("", "_low", "_high") if f"auc{end}" in holdout.metrics]
    metrics |= {f"auc_holdout{end}": holdout.metrics[f"auc{end}"] for end in ends}
    codes = frozenset(finding.code for finding in verdict.findings((1, 1)))
    population = read_responses(_responses(rng, _POPULATION, signal))
    return Drawn(metrics, codes, *(_truth(own, population, params) for params in (winner, default)))


def _halves(plan: Plan, rng: np.random.Generator, signal: float) -> Halves:
    """Some data, split as a sweep splits them."""
    plan = replace(plan, options=plan.options.model_copy(update={"seed": int(rng.integers(2**32))}))
    return halves(plan, Records(_responses(rng, _RESPONSES, signal), None, {}), 0.3)


def _search(own: Halves, rng: np.random.Generator, default: DetectScore) -> tuple[DetectScore, float]:
    """The best of some random settings, and what made it the best."""
    tried = [_settings(rng, default) for _ in range(_TRIALS)]
    assert DETECT.score_many is not None
    values = np.array([report.metrics["auc"] for report in DETECT.score_many(own.seen, tried, ["auc"])])
    return tried[int(values.argmax())], float(values.max())


def _held_out(own: Halves, params: DetectScore) -> Report:
    assert own.held_out is not None
    seen, cases = read_responses(own.seen.frame), read_responses(own.held_out.frame)
    return _report(cases, partial(protocols.held_out, seen, cases), params)


def _out_of_fold(own: Halves, params: DetectScore) -> Report:
    cases = read_responses(own.seen.frame)
    return _report(cases, partial(protocols.out_of_fold, cases), params)


def _report(cases: Responses, way: Way[Responses], params: DetectScore) -> Report:
    """What the stage reports of the AUC and of the length, without all the rest, which takes long."""
    judge, report = Judge(cases, way, lambda train: FITS[params.scorer](train, params), rule(params)), Report()
    judge.measure_auc(report, "auc", SCORE)
    judge.measure_baseline(report, "auc_length", trivial.fit_length)
    return report


def _settings(rng: np.random.Generator, default: DetectScore) -> DetectScore:
    chosen = {
        "top_n": int(rng.integers(1, _COLUMNS + 1)),
        "top_k": int(rng.integers(1, _COLUMNS + 1)),
        "alpha": float(rng.uniform(0, 2)),
        "m": float(rng.uniform(0, 2)),
    }
    return default.model_copy(update=chosen)


def _truth(own: Halves, population: Responses, params: DetectScore) -> float:
    """AUC of a detector learnt from the seen part, in the population."""
    scores = FITS[params.scorer](read_responses(own.seen.frame), params)(population)[SCORE]
    return statistics.auc(population.labels, np.asarray(scores, dtype=np.float64))


def _responses(rng: np.random.Generator, count: int, signal: float) -> pd.DataFrame:
    """Records of one span a response; those to one prompt share part of every feature, and of what makes a label."""
    prompt = np.sort(rng.integers(0, count * _PROMPTS // _RESPONSES, count))

    def shared(columns: int) -> Any:
        return (rng.normal(size=(count, columns)) + rng.normal(size=(count, columns))[prompt]) / np.sqrt(2)

    label = (shared(1)[:, 0] > 0.3).astype(int)
    frame = pd.DataFrame({"group": [f"r{i}" for i in range(count)], "item": 0, "label": label, "source": prompt})
    frame["length"] = rng.integers(20, 200, count)
    for kind, tells in (("ecs_0", -signal), ("pks", 0.0)):
        values = shared(_COLUMNS)
        values[:, 0] += tells * label
        for column, value in enumerate(0.3 + 0.05 * values.T):
            frame[f"{kind}_{column}"] = value
    return frame


def _coverages(found: Sequence[Drawn], case: str) -> list[Row]:
    """How often each interval holds what is true; of those that have one."""
    price = float(np.mean([each.price for each in found]))

    def truths(each: Drawn) -> dict[str, float]:
        return {"auc_holdout": each.truth, "gain": each.truth - each.default, "selection_price": price}

    rows = []
    for name in ("auc_holdout", "gain", "selection_price"):
        told = [each for each in found if f"{name}_low" in each.metrics]

        def holds(each: Drawn, name: str = name) -> bool:
            low, high = (each.metrics[f"{name}_{end}"] for end in ("low", "high"))
            return low - 1e-12 <= truths(each)[name] <= high + 1e-12

        rows.append(row(f"the interval of {name} holds the truth", case, map(holds, told), COVERAGE))
    return rows


SIMULATIONS = {  # how many draws for each that is asked for: some are quick
    sweeps_without_signal: 1,
    sweeps_with_signal: 1,
    looks_at_one_holdout: 1,
}
