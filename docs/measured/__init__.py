"""How often what the program says is true, on data whose truth is known: `python -m docs.measured` measures it anew."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

Row = dict[str, Any]  # what, case, draws, rate, kind

COVERAGE = "coverage"  # of an interval: 0.95 is meant
FALSE_ALARM = "false alarm"  # of a finding, or of a claim: 0.05 at most is meant
CATCH = "catch"  # the more, the better
FIGURE = "figure"  # what comes out on average


def row(what: str, case: str, came: Iterable[float | bool], kind: str) -> Row:
    """What came of some draws, on average."""
    counted = [float(each) for each in came]
    rate = float(np.mean(counted)) if counted else float("nan")
    return {"what": what, "case": case, "draws": len(counted), "rate": rate, "kind": kind}
