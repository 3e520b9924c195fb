"""How long commands take from nothing, each in a process of its own, and which large packages that loads."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from harness.stage import BadInput, Progress, one_line

LARGE = ("matplotlib", "mlflow", "optuna", "pandas", "scipy", "sklearn", "torch", "transformers")
_ROOT = Path(__file__).parents[2]
_TELLING = "import atexit, sys; atexit.register(lambda: print(*sys.modules, file=sys.stderr)); "
_COMMAND = "from harness.__main__ import main; sys.exit(main(sys.argv[1:]))"
_BASELINE = "import torch, mlflow, optuna, pandas, sklearn, matplotlib"


def start(commands: Sequence[Sequence[str]], folder: Path, repeats: int, progress: Progress) -> pd.DataFrame:
    """One row a command: median seconds, those of importing the large packages, timed in turn, and what it loads.

    The commands run in a folder of their own, with a tracking store there; each is run once before, untimed.
    """
    programs = [(_BASELINE, ()), *((_COMMAND, tuple(words)) for words in commands)]
    loads = [_run(code, words, folder)[1] for code, words in programs]
    with progress(repeats * len(programs), "start", "processes") as advance:
        seconds = pd.DataFrame(index=range(repeats), columns=range(len(programs)), dtype=float)
        for repeat in range(repeats):
            for place, (code, words) in enumerate(programs):
                seconds.loc[repeat, place] = _run(code, words, folder)[0]
                advance(1)
    baseline, *medians = seconds.median()
    return pd.DataFrame(
        {
            "command": [" ".join(words[:2]) for words in commands],
            "seconds": medians,
            "baseline_seconds": baseline,
            "ratio": [baseline / median for median in medians],
            "loads": [", ".join(loaded) or "-" for loaded in loads[1:]],
        }
    )


def _run(code: str, words: Sequence[str], folder: Path) -> tuple[float, list[str]]:
    """Wall seconds of a fresh interpreter, and the large packages that it has loaded in the end."""
    store = {"MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}", "PYTHONPATH": str(_ROOT)}
    began = time.perf_counter()
    ran = subprocess.run(
        [sys.executable, "-c", _TELLING + code, *words],
        cwd=folder, env=os.environ | store, capture_output=True, text=True, check=False,
    )  # fmt: skip
    seconds = time.perf_counter() - began
    if ran.returncode:
        raise BadInput(f"bench: {' '.join(words)} has failed: {one_line(ran.stderr)[:300]}")
    modules = ran.stderr.splitlines()[-1].split()
    return seconds, [name for name in LARGE if name in modules]
