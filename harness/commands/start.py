"""How long commands take from nothing, each in a process of its own, and which large packages that loads."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from harness.progress import working
from harness.stage import BadInput, one_line

LARGE = ("matplotlib", "mlflow", "optuna", "pandas", "scipy", "sklearn", "torch", "transformers")
_ROOT = Path(__file__).parents[2]
_TELLING = "import atexit, sys; atexit.register(lambda: print(*sys.modules, file=sys.stderr)); "
_COMMAND = "import runpy; runpy.run_module('harness', run_name='__main__', alter_sys=True)"
_IMPORTS = "import torch, mlflow, optuna, pandas, sklearn, matplotlib"
# What MLflow takes to log as much as a run of ours does, when nothing of ours is there.
_LOGGING = """
import mlflow
from mlflow.entities import Metric, Param, RunTag
client = mlflow.MlflowClient()
run = client.create_run("0").info.run_id
client.log_batch(run, [Metric(f"m{i}", i, 0, 0) for i in range(40)], [Param(f"p{i}", "1") for i in range(30)],
                 [RunTag(f"t{i}", "1") for i in range(20)])
for i in range(8):
    client.log_text(run, "1,2,3", f"{i}.csv")
client.set_terminated(run)
"""
_NOTHING = "name: nothing\nentry_points:\n  main:\n    command: python -c pass\n"


class Program(NamedTuple):
    """What is timed: its name in the table and its words; `tells` if it says in the end what it has loaded."""

    name: str
    words: Sequence[str]
    tells: bool = True


def start(commands: Sequence[Sequence[str]], folder: Path, repeats: int) -> pd.DataFrame:
    """One row a program: median seconds, those of importing the large packages, timed in turn, and what it loads.

    The programs are these commands, `mlflow run` of those that begin with it, and MLflow by itself.  They run in a
    folder of their own, with a tracking store there; each is run once before, untimed.
    """
    nothing = folder / "nothing"
    nothing.mkdir()
    (nothing / "MLproject").write_text(_NOTHING)
    programs = [
        _python("importing", _IMPORTS),
        *map(_command, commands),
        _python("MLflow alone: 1 run, 40 metrics, 8 files", _LOGGING),
        _project("MLflow alone: mlflow run of nothing", nothing, []),
    ]
    loads = [_run(program, folder)[1] for program in programs]
    seconds = pd.DataFrame(index=range(repeats), columns=range(len(programs)), dtype=float)
    with working("start", repeats * len(programs), "processes") as advance:
        for repeat in range(repeats):
            for place, program in enumerate(programs):
                seconds.loc[repeat, place] = _run(program, folder)[0]
                advance(1)
    baseline, *medians = seconds.median()
    return pd.DataFrame(
        {
            "command": [program.name for program in programs[1:]],
            "seconds": medians,
            "baseline_seconds": baseline,
            "ratio": [baseline / median for median in medians],
            "loads": [
                ", ".join(loaded) or "-" if program.tells else ""
                for program, loaded in zip(programs[1:], loads[1:], strict=True)
            ],
        }
    )


def _command(words: Sequence[str]) -> Program:
    """A command of ours, in this interpreter or as MLflow starts it: `mlflow run . -e detect …`."""
    name = " ".join(word for word in words if not word.startswith("/"))
    if words[:3] == ["mlflow", "run", "."]:
        return _project(name, _ROOT, words[3:])
    return _python(name, _COMMAND, *words)


def _python(name: str, code: str, *words: str) -> Program:
    return Program(name, [sys.executable, "-c", _TELLING + code, *words])


def _project(name: str, project: Path, words: Sequence[str]) -> Program:
    return Program(name, [sys.executable, "-m", "mlflow", "run", str(project), "--env-manager=local", *words], False)


def _run(program: Program, folder: Path) -> tuple[float, list[str]]:
    """Wall seconds of a fresh process, and the large packages that it has loaded in the end."""
    own = {"MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}", "PYTHONPATH": str(_ROOT)}
    own["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    began = time.perf_counter()
    ran = subprocess.run(
        program.words, cwd=folder, env=os.environ | own, capture_output=True, text=True, check=False
    )  # fmt: skip
    seconds = time.perf_counter() - began
    if ran.returncode:
        raise BadInput(f"bench: {program.name} has failed: {one_line(ran.stderr)[-300:]}")
    modules = ran.stderr.splitlines()[-1].split() if program.tells else []
    return seconds, [name for name in LARGE if name in modules]
