"""How often intervals and p of the judge hold, and findings about detectors are right."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import joblib
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import norm

from docs.measured import CATCH, COVERAGE, FALSE_ALARM, FIGURE, Row, row
from experiments import statistics
from experiments.arrays import Floats, Ints
from experiments.detect import DETECT
from experiments.judging import Judge
from experiments.protocols import Judged
from experiments.rag import RAG
from experiments.rag.scoring.answers import Answers
from harness.running.audit import audit
from harness.running.differences import difference
from harness.stage import Audited, Records, Report, Stage, Undefined

_HEADS, _LAYERS = 32, 4
_SHAPES = (  # responses, share of wrong ones, scorer, and of how many of the draws: the larger ones take long
    (120, 0.5, "linear", 1.0),
    (450, 0.5, "linear", 1.0),
    (300, 0.05, "linear", 0.5),
    (120, 0.5, "logistic", 1.0),
    (450, 0.5, "logistic", 0.5),
    (300, 0.05, "logistic", 0.25),
    (800, 0.5, "logistic", 0.5),
    (120, 0.5, "ensemble", 0.25),
)


# --- scores for which nothing is learnt ------------------------------------------------------------------------------


def fixed_scores(draws: int, seed: int) -> list[Row]:
    """Normal scores of independent cases, and of prompts whose answers share part of score and label."""
    rng, found = np.random.default_rng(seed), []
    for positives, negatives in ((10, 10), (10, 490), (25, 75), (225, 225)):
        for area in (0.5, 0.7, 0.9, 0.97):
            case = f"{positives} wrong, {negatives} right, AUC {area:g}"
            found += _intervals(case, area, [_independent(rng, positives, negatives, area) for _ in range(draws)])
    for prompts, area in ((25, 0.5), (25, 0.7), (25, 0.9), (100, 0.7)):
        case = f"{prompts} prompts of six, AUC {area:g}"
        found += _intervals(case, area, [_grouped(rng, prompts, area) for _ in range(draws)])
    few = [_independent(rng, 9, 200, 0.7) for _ in range(draws)]
    found.append(
        row("an interval is given", "9 wrong, 200 right", [_interval(*each) is not None for each in few], FIGURE)
    )
    return found


Scored = tuple[Ints, Floats, NDArray[Any]]  # labels, scores, groups


def _independent(rng: np.random.Generator, positives: int, negatives: int, area: float) -> Scored:
    labels = np.repeat([1, 0], [positives, negatives])
    return labels, rng.normal(size=len(labels)) + labels * norm.ppf(area) * np.sqrt(2), np.arange(len(labels))


def _grouped(rng: np.random.Generator, prompts: int, area: float) -> Scored:
    group = np.repeat(np.arange(prompts), 6)

    def shared() -> Floats:
        return np.asarray(np.sqrt(0.4) * rng.normal(size=prompts)[group] + np.sqrt(0.6) * rng.normal(size=len(group)))

    labels = (shared() > 0.25).astype(np.int64)
    return labels, shared() + labels * norm.ppf(area) * np.sqrt(2), group


def _intervals(case: str, area: float, data: Sequence[Scored]) -> list[Row]:
    known = [ends for ends in (_interval(*each) for each in data) if ends is not None]
    found = [row("interval of an AUC, scores given", case, [low <= area <= high for low, high in known], COVERAGE)]
    if area == 0.5:
        found.append(row("an AUC is told from chance", case, [low > 0.5 for low, _ in known], FALSE_ALARM))
    return found


def _interval(labels: Ints, scores: Floats, groups: NDArray[Any]) -> tuple[float, float] | None:
    try:
        influence = statistics.auc_influence(labels, scores, groups)
    except Undefined:
        return None
    rests_on = statistics.sizes(labels, scores, groups)
    return statistics.auc_interval(statistics.auc(labels, scores), influence, rests_on)


def gains_in_calls(draws: int, seed: int) -> list[Row]:
    """What two detectors gain over each other on a holdout of prompts of three, one wrong in 20 %, one in 30 %."""
    rng, found = np.random.default_rng(seed), []
    common, rate = 0.4, np.array([0.2, 0.3])
    called = common * (1 - rate) + (1 - common) * rate
    truths = {
        "f1": 2 * common * (1 - rate) / (common + called),
        "precision": common * (1 - rate) / called,
        "recall": 1 - rate,
        "accuracy": 1 - rate,
    }
    for prompts in (40, 150):
        drawn = [_calls(rng, prompts, common, rate) for _ in range(draws)]
        for kind, truth in truths.items():
            ends = [difference(*pair, kind)[1:] for pair in drawn]
            held = [low <= truth[0] - truth[1] <= high for low, high in ends]
            found.append(row(f"`gain` in {kind}", f"{prompts} prompts of three on the holdout", held, COVERAGE))
    return found


def _calls(rng: np.random.Generator, prompts: int, common: float, rate: Floats) -> tuple[Report, Report]:
    """Reports of two detectors on the same answers, of which those to one prompt share part of what makes a label."""
    group = np.repeat(np.arange(prompts), 3)
    latent = np.sqrt(0.4) * rng.normal(size=prompts)[group] + np.sqrt(0.6) * rng.normal(size=len(group))
    labels = (latent > norm.isf(common)).astype(np.int64)
    hard = rng.random(len(group))  # which both get wrong
    frame = pd.DataFrame({"group": group, "tier": "given", "label": labels, "length": 1})
    reports = []
    for share in rate:
        calls = np.where(hard < share, 1 - labels, labels).astype(np.float64)
        judged: Judged[Answers] = Judged({}, {"calls": calls}, ())
        answers = Answers(frame, frame[[]], {}, np.zeros(len(frame), np.int64))
        judge, report = Judge(answers, lambda fit, rule, judged=judged: judged), Report()  # type: ignore[misc]
        for kind in ("f1", "precision", "recall", "accuracy"):
            judge.measure_calls(report, kind, "calls")
        reports.append(report)
    return reports[0], reports[1]


# --- detectors that learn --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Said:
    """What one draw's run has said: its figures, and the level of each finding."""

    metrics: dict[str, float]
    levels: dict[str, str]

    @property
    def claims(self) -> bool:
        """Whether it stands there as a result that can be told from chance."""
        return not {"chance_in_interval", "polarity_inverted", "interval_missing"} & self.levels.keys()

    def holds(self, name: str, truth: float) -> bool:
        """Whether a metric's interval holds what is true."""
        return self.metrics[f"{name}_low"] <= truth <= self.metrics[f"{name}_high"]


def _say(stage: Stage[Any, Any], frame: pd.DataFrame, settings: Mapping[str, Any]) -> Said:
    records, params = Records(frame, None, {"counts": {}}), stage.score_params.model_validate(settings)
    report: Report = stage.score(records, params)
    found = audit(Audited(stage, records, report, params)).findings
    return Said(report.metrics, {finding.code: finding.level for finding in found})


def _many(
    draws: int, seed: int, made: Callable[[np.random.Generator], pd.DataFrame], stage: Stage[Any, Any], **settings: Any
) -> list[Said]:
    streams = np.random.SeedSequence(seed).spawn(draws)
    jobs = (joblib.delayed(_say)(stage, made(np.random.default_rng(stream)), settings) for stream in streams)
    return list(joblib.Parallel(n_jobs=-1)(jobs))


def _holding(found: Sequence[Said], name: str, what: str, case: str, truth: float | None = None) -> Row:
    """How often an interval holds the truth: what comes out on average, unless it is known."""
    told = [each for each in found if f"{name}_low" in each.metrics]
    true = float(np.mean([each.metrics[name] for each in told])) if truth is None else truth
    return row(what, case, [each.holds(name, true) for each in told], COVERAGE)


def _firing(found: Sequence[Said], code: str, case: str, kind: str, level: str | None = None) -> Row:
    """How often a finding is there, at that level if one is named."""
    fired = [each.levels.get(code) == level if level else code in each.levels for each in found]
    return row(f"`{code}`" + (f" at level {level}" if level else ""), case, fired, kind)


def _silent(found: Sequence[Said], code: str, case: str) -> Row:
    """How often a finding that something is not shown keeps silent where it is so."""
    return row(f"`{code}` keeps silent", case, [code not in each.levels for each in found], CATCH)


def responses(
    rng: np.random.Generator, count: int, ecs: float = 0.0, pks: float = 0.0, wrong: float = 0.5
) -> pd.DataFrame:
    """Records of `detect`: one to three spans a response; a signal lies in every column of its kind, the same."""
    spans = rng.integers(1, 4, count)
    response = np.repeat(np.arange(count), spans)
    label = rng.permutation(np.arange(count) < round(wrong * count)).astype(np.int64)
    frame = pd.DataFrame({"group": [f"r{i:05d}" for i in response], "item": np.arange(len(response))})
    frame["label"] = label[response]
    frame["length"] = rng.integers(20, 200, len(response))
    frame["task"] = np.array(["QA", "chat", "summary"], dtype=object)[rng.integers(0, 3, count)][response]
    for kind, columns, shift in (("ecs_0", _HEADS, -ecs), ("pks", _LAYERS, pks)):
        common = rng.normal(size=(count, 1))[response] + rng.normal(size=(len(response), 1)) * 0.5
        values = common + rng.normal(size=(len(response), columns)) + shift * label[response][:, None]
        for column, value in enumerate(0.3 + 0.05 * values.T):
            frame[f"{kind}_{column}"] = value
    return frame


def nothing_to_learn(draws: int, seed: int) -> list[Row]:
    """Labels that no feature tells: intervals hold a half, nothing is claimed, nothing fails."""
    found = []
    for count, wrong, scorer, share in _SHAPES:
        case = f"{scorer}, {count} responses, {wrong:.0%} wrong, labels mean nothing"
        made = partial(responses, count=count, wrong=wrong)
        said = _many(int(draws * share), seed, made, DETECT, scorer=scorer)
        found.append(_holding(said, "auc", "interval of `auc`, out of fold", case, 0.5))
        found.append(row("`auc_p` at most 0.05", case, [each.metrics["auc_p"] <= 0.05 for each in said], FALSE_ALARM))
        found.append(row("an `auc` is told from chance", case, [each.claims for each in said], FALSE_ALARM))
        found.append(_firing(said, "polarity_inverted", case, FALSE_ALARM, level="fail"))
        if scorer == "linear":
            found += [_firing(said, f"{part}_uninformative", case, CATCH) for part in ("ecs", "pks")]
            for name in ("auc_length", "auc_task"):
                values = [each.metrics[name] for each in said if name in each.metrics]
                found.append(row(f"`{name}` on average", case, values, FIGURE))
    return found


def something_to_learn(draws: int, seed: int) -> list[Row]:
    """Every column tells a little: intervals hold what comes out on average, and it is seen."""
    found = []
    for count, wrong, scorer, share in _SHAPES:
        case = f"{scorer}, {count} responses, {wrong:.0%} wrong, every column tells a little"
        made = partial(responses, count=count, wrong=wrong, ecs=0.8, pks=0.8)
        said = _many(int(draws * share), seed, made, DETECT, scorer=scorer)
        found.append(_holding(said, "auc", "interval of `auc`, out of fold", case))
        found.append(row("an `auc` is told from chance", case, [each.claims for each in said], CATCH))
        found.append(_firing(said, "polarity_inverted", case, FALSE_ALARM, level="fail"))
        if scorer == "linear":
            for part in ("ecs", "pks"):
                found.append(_holding(said, f"auc_{part}", f"interval of `auc_{part}`", case))
                found.append(_silent(said, f"{part}_uninformative", case))
            beaten = [each.metrics["auc"] <= max(each.metrics["auc_length"], each.metrics["auc_task"]) for each in said]
            found.append(row("`trivial_baseline` about `auc`", case, beaten, FALSE_ALARM))
            found.append(_firing(said, "part_beats_whole", case, FALSE_ALARM, level="warn"))
    turned = _many(draws, seed, partial(responses, count=120, ecs=-0.8, pks=-0.8), DETECT)
    return [*found, _firing(turned, "polarity_inverted", "linear, 120 responses, labels swapped", CATCH, level="fail")]


def part_without_worth(draws: int, seed: int) -> list[Row]:
    """ECS tells, PKS is noise: the one that carries nothing is named, the other is not."""
    said = _many(draws, seed, partial(responses, count=450, ecs=0.8), DETECT)
    case = "linear, 450 responses, ECS tells, PKS does not"
    return [
        _firing(said, "pks_uninformative", case, CATCH),
        _silent(said, "ecs_uninformative", case),
        _firing(said, "part_beats_whole", case, CATCH, level="warn"),
    ]


def confounders(draws: int, seed: int) -> list[Row]:
    """What tells the task, and through it the label; and what tells the label in every task."""
    alone = _many(draws, seed, partial(_explained_by_task, count=450), DETECT)
    inside = _many(draws, seed, partial(responses, count=450, ecs=0.8, pks=0.8), DETECT)
    found = []
    for said, case, kind in (
        (alone, "450 responses, the task is all that is told", CATCH),
        (inside, "450 responses, told in every task", FALSE_ALARM),
    ):
        found += [_firing(said, "confounded", case, kind), _firing(said, "trivial_baseline", case, kind)]
        found.append(_firing(said, "baseline_not_beaten", case, FIGURE))
    return found


def _explained_by_task(rng: np.random.Generator, count: int) -> pd.DataFrame:
    frame = responses(rng, count)
    rate = frame["task"].map({"QA": 0.15, "chat": 0.5, "summary": 0.85})
    drawn = pd.Series(rng.random(count), index=frame["group"].unique())
    frame["label"] = (frame["group"].map(drawn) < rate).astype(np.int64)
    return frame.assign(**{f"ecs_0_{i}": frame[f"ecs_0_{i}"] - 0.2 * rate for i in range(_HEADS)})


# --- answers at tiers ------------------------------------------------------------------------------------------------


def answers(
    rng: np.random.Generator, questions: int, signal: float = 1.0, string: float = 0.0, differ: bool = True
) -> pd.DataFrame:
    """Records of `rag`: `lexical` and `nli` tell what is wrong, the less the worse the tier; `string` by `string`.

    Support is a probability that the answer is right, as what draws the label has it for nli where signal is 1.
    """
    question = np.repeat(np.arange(questions), 3)
    tier = np.tile(["high", "medium", "low"], questions)
    base = np.tile([0.3, 0.5, 0.7] if differ else [0.5] * 3, questions)
    strength = np.tile([2.0, 1.0, 0.5] if differ else [1.0] * 3, questions) * signal
    logit = np.log(base / (1 - base))
    telling = rng.normal(size=len(question)) * strength
    label = (rng.random(len(question)) < 1 / (1 + np.exp(-logit - telling))).astype(np.int64)
    frame = pd.DataFrame({"group": [f"q{i:04d}" for i in question], "tier": tier, "label": label})
    frame["item"] = frame["group"] + "/" + frame["tier"]
    frame["verdict"] = np.where(label == 1, "hallucinated", "faithful")
    frame["length"], frame["evidence"] = 3 + rng.integers(0, 4, len(question)), 1
    nli = 1 / (1 + np.exp(logit + telling))
    noisy = 1 / (1 + np.exp(logit + telling + rng.normal(size=len(question)) * (signal > 0)))
    other = 1 / (1 + np.exp(-rng.normal(size=len(question)) + string * (2 * label - 1)))
    supports = {"nli": nli, "lexical_tokens": noisy, "lexical_entities": noisy, "string_rouge": other}
    for name, support in supports.items():
        for kind in ("min", "mean") if not name.startswith("string") else ("",):
            frame[f"{name}_{kind}" if kind else name] = support
    return frame


def detectors_by_tier(draws: int, seed: int) -> list[Row]:
    """Intervals over tiers, within them and between them."""
    found = []
    for fusion in ("rank", "logistic"):
        for signal, told in ((0.0, "nothing to tell"), (1.0, "detectors tell")):
            case = f"fusion={fusion}, 100 questions at three tiers, {told}"
            said = _many(draws, seed, partial(answers, questions=100, signal=signal), RAG, fusion=fusion)
            for name in ("auc", "auc_in_tier", *(["auc/nli/low"] if signal else []), "degradation"):
                found.append(_holding(said, name, f"interval of `{name}`", case))
            values = [each.metrics["auc_in_tier"] for each in said]
            found.append(row("`auc_in_tier` on average", case, values, FIGURE))
    return found


def single_detectors(draws: int, seed: int) -> list[Row]:
    """One that says nothing, one that is the wrong way round; tiers that differ, and tiers that do not."""
    said = {
        "100 questions, one of three detectors says nothing": partial(answers, questions=100),
        "100 questions, one of three is the wrong way round": partial(answers, questions=100, string=-0.4),
        "100 questions, tiers alike": partial(answers, questions=100, differ=False),
    }
    nothing, turned, alike = ((case, _many(draws, seed, made, RAG)) for case, made in said.items())
    return [
        _firing(nothing[1], "detector_inverted", nothing[0], FALSE_ALARM),
        _firing(turned[1], "detector_inverted", turned[0], CATCH),
        _firing(nothing[1], "tier_explains", nothing[0], CATCH),
        _firing(alike[1], "tier_explains", alike[0], FALSE_ALARM),
    ]


def probabilities(draws: int, seed: int) -> list[Row]:
    """Right ones, and wrong ones, at two sizes."""
    found = []
    for questions in (10, 100):
        for name, power in (("right probabilities", 1), ("their squares", 2)):
            said = _many(draws, seed, partial(_probable, questions=questions, power=power), RAG, detector="nli")
            case, code = f"{3 * questions} answers, {name}", "miscalibration_not_shown"
            found.append(_firing(said, code, case, CATCH) if power == 1 else _silent(said, code, case))
            for metric in ("ece", "ece_calibrated"):
                values = [each.metrics[metric] for each in said if metric in each.metrics]
                found.append(row(f"`{metric}` on average", case, values, FIGURE))
    return found


def _probable(rng: np.random.Generator, questions: int, power: int) -> pd.DataFrame:
    frame = answers(rng, questions)
    return frame.assign(nli_min=frame["nli_min"] ** power)


SIMULATIONS = {  # how many draws for each that is asked for: some are quick
    fixed_scores: 5,
    gains_in_calls: 5,
    nothing_to_learn: 1,
    something_to_learn: 1,
    part_without_worth: 1,
    confounders: 1,
    detectors_by_tier: 1,
    single_detectors: 1,
    probabilities: 1,
}
