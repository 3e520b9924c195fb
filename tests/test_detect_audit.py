"""What `detect` doubts about the data that its records were made of."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from experiments.detect import DETECT
from experiments.detect.scoring import audits
from experiments.detect.scoring.params import DetectScore
from harness.running.checks import inputs_skipped
from harness.stage import Audited, Check, Records, Report
from tests.tiny import features


def doubts(check: Check, sizes: list[int], level: str = "chunk", **origin: Any) -> list[tuple[str, str]]:
    """What a check says of records of responses that have so many spans."""
    frame = pd.DataFrame({"group": [f"r{i}" for i, size in enumerate(sizes) for _ in range(size)]})
    records = Records(frame, None, {"counts": {}, "infer": {"level": level}} | origin)
    audited = Audited(DETECT, records, Report(), DetectScore())
    return [(finding.level, finding.message) for finding in check.findings(audited)]


@pytest.mark.parametrize(
    ("sizes", "prompts", "said"),
    [
        ([1, 1, 2], 0, ["2 of 3 responses are one span"]),
        ([1, 2, 3, 1], 0, []),
        ([3, 3, 3], 2, ["the prompts of 2 of 3 responses are one span"]),
        ([1, 1], 2, ["2 of 2 responses are one span", "the prompts of 2 of 2 responses are one span"]),
    ],
)
def test_data_most_of_which_have_one_span_are_doubted(sizes: list[int], prompts: int, said: list[str]) -> None:
    found = doubts(audits.one_span, sizes, counts={"prompts_of_one_span": prompts})
    assert [level for level, _ in found] == ["warn"] * len(said)
    assert all(part in message for part, (_, message) in zip(said, found, strict=True))


def test_tokens_are_no_spans_to_be_counted() -> None:
    assert doubts(audits.one_span, [1, 1], level="token", counts={"prompts_of_one_span": 2}) == []


def test_rows_that_were_left_out_and_columns_that_were_not_used_are_told() -> None:
    counts = {"kept": 98, "read": 100, "skipped": 2, "unknown_columns": 1}
    ((level, message),) = doubts(inputs_skipped, [2], counts=counts)
    assert (level, message[:8]) == ("warn", "2 inputs")
    ((level, message),) = doubts(audits.rows_faulty, [2], counts=counts, faults=["a.csv, line 3: 2 cells"])
    assert (level, message) == ("info", "what skip_bad=true left out begins with a.csv, line 3: 2 cells")
    ((level, message),) = doubts(audits.columns_unused, [2], counts=counts, unknown_columns=["a\nb"])
    assert (level, message) == ("info", "1 columns of the data are not used: 'a\\nb'")
    assert doubts(audits.rows_faulty, [2], faults=[]) == doubts(audits.columns_unused, [2], unknown_columns=[]) == []


def test_responses_without_a_label_are_told_and_change_no_figure() -> None:
    rng = np.random.default_rng(0)
    frame = features(60)
    # Of many columns of noise others are chosen each time, so that the p has to come from permuted labels.
    names = [f"{kind}_{i}" for kind in ("ecs_0", "pks") for i in range(30)]
    frame = pd.concat(
        [frame[["group", "item", "label", "length"]], pd.DataFrame(rng.random((120, 60)), columns=names)], axis=1
    )
    frame["source"] = frame["group"]
    more = frame[frame["group"].isin([f"r{i}" for i in range(20)])].assign(label=-1)
    more = more.assign(group="z" + more["group"], source="z" + more["source"])
    both = Records(pd.concat([frame, more], ignore_index=True), None, {"counts": {}})
    known = Records(frame, None, {"counts": {}})
    params = DetectScore(folds=3)
    with_them, without = DETECT.score(both, params), DETECT.score(known, params)
    assert with_them.metrics == pytest.approx(without.metrics, rel=1e-12)
    assert with_them.undefined == without.undefined
    ((level, message),) = audits.responses_unlabelled.rule(Audited(DETECT, both, with_them, params))
    assert (level, "20 of 80 responses have no label" in message) == ("info", True)
    assert not [*audits.responses_unlabelled.rule(Audited(DETECT, known, without, params))]
