"""`python -m docs.measured [DRAWS]`: measure all anew, and write docs/measured.csv for the page on statistics."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import pandas as pd
from tqdm import tqdm

from docs.generate import MEASURED
from docs.measured import Row, judging, montecarlo, sweeps
from docs.measured.picture import draw

_DRAWS = 120  # a rate of 0.95 is then known to 0.02
_SEED = 20261127


def main(arguments: Sequence[str]) -> int:
    """Run all simulations, on all cores."""
    draws = int(arguments[0]) if arguments else _DRAWS
    simulations = judging.SIMULATIONS | montecarlo.SIMULATIONS | sweeps.SIMULATIONS
    found: list[Row] = []
    for simulation, times in tqdm(simulations.items(), "measuring", unit="simulations"):
        found += simulation(times * draws, _SEED)
    table = pd.DataFrame(found).round(4)
    table.to_csv(MEASURED, index=False)
    draw(table, MEASURED.parent / "pictures" / "measured.png")
    print(f"{MEASURED.name}: {len(found)} rows; python -m docs.generate puts them into the page")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
