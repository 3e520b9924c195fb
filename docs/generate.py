"""The tables of these pages that the code decides: `python -m docs.generate` writes them anew."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from docs.measured import CATCH, COVERAGE, FALSE_ALARM, FIGURE
from experiments import STAGES
from harness.commands.arguments import describe
from harness.measuring import cost
from harness.running.checks import CHECKS
from harness.running.hardware import load_profiles
from harness.running.settings import RunOptions
from harness.stage import Check, Metric, Params
from harness.sweeping import space
from harness.tracking.compare import CompareOptions

FOLDER = Path(__file__).parent
MEASURED = FOLDER / "measured.csv"
_BLOCK = re.compile(r"(<!-- generated: (.+?) -->\n).*?(<!-- end -->)", re.DOTALL)


def main(arguments: Sequence[str]) -> int:
    """Write the generated blocks of every page anew; with `--check` only name the pages that are not up to date."""
    stale = {page: text for page in sorted(FOLDER.glob("*.md")) if (text := renewed(page)) != page.read_text()}
    for page, text in stale.items():
        print(f"{page.relative_to(FOLDER.parent)}: {'not up to date' if '--check' in arguments else 'written'}")
        if "--check" not in arguments:
            page.write_text(text)
    return int("--check" in arguments and bool(stale))


def renewed(page: Path) -> str:
    """The text of a page with what the code says now in its generated blocks."""
    known = blocks()
    return _BLOCK.sub(lambda block: f"{block[1]}\n{known[block[2]]()}\n\n{block[3]}", page.read_text())


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table without the columns in which no row says anything."""
    told = [column for column in range(len(head)) if not rows or any(row[column] for row in rows)]
    lines = [[line[column].replace("|", r"\|") for column in told] for line in (head, *rows)]
    lines.insert(1, ["---"] * len(told))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _settings(model: type[Params]) -> str:
    """One row a field: what may be typed, what holds otherwise, what it is."""
    rows = []
    for name, field in model.model_fields.items():
        kind, limits, default = describe(field)
        rows.append([f"`{name}`", ", ".join([kind.replace("|", " | "), *limits]), default, str(field.description)])
    return _table(["setting", "allowed", "default", "what it is"], rows)


def _metrics(metrics: Sequence[Metric]) -> str:
    """One row a metric, the headline first."""
    better = {"maximize": "more", "minimize": "less", "none": ""}
    rows = [
        [f"`{metric.name}`", metric.unit, better[metric.direction], _chance(metric), _gate(metric), metric.summary]
        for metric in metrics
    ]
    return _table(["metric", "unit", "better", "chance", "gate", "what it is"], rows)


def _chance(metric: Metric) -> str:
    return "" if metric.chance is None else f"{metric.chance:g}"


def _gate(metric: Metric) -> str:
    limits = {"failed below": metric.failed, "usable from": metric.usable}
    return ", ".join(f"{limit} {value:g}" for limit, value in limits.items() if value is not None)


def _checks(checks: Callable[[], Sequence[Check]]) -> str:
    """One row a check of the audit."""
    rows = [[f"`{check.code}`", check.title, check.mend] for check in checks()]
    return _table(["code", "what it looks for", "what to do"], rows)


def _hardware() -> str:
    """One row a profile: its defaults, and what was published from such a machine."""
    rows = []
    for profile in load_profiles():
        published = "; ".join(f"{report.stage}: {report.figures} ({report.source})" for report in profile.published)
        defaults = "; ".join(f"{stage}: {_pairs(settings)}" for stage, settings in profile.defaults.items())
        rows.append([f"`{profile.tag}`", profile.description, defaults, published])
    return _table(["hardware", "what it is", "defaults", "published by others"], rows)


def _limits() -> str:
    """One row a setting that a machine cannot run with."""
    rows = []
    for profile in load_profiles():
        for setting, limit in profile.cannot.items():
            values = [*map(_word, limit.values), *([f"above {limit.above}"] if limit.above is not None else [])]
            rows.append([f"`{profile.tag}`", f"`{setting}`", ", ".join(values), limit.reason])
    return _table(["hardware", "setting", "refused", "why, and what instead"], rows)


def _spaces() -> str:
    """One row a search space that comes with the program."""
    stages = {stage.name: stage for stage in STAGES}
    rows = []
    for file in sorted(space.FOLDER.glob("*.yaml")):
        name = re.search(r"^stage: (\w+)", file.read_text(), re.MULTILINE)
        assert name is not None, f"{file} names no stage"
        read = space.load(file.stem, stages[name[1]], cost.bounds("cuda", 0, 0))
        searched = ", ".join(f"`{setting}`" for setting in read.searched)
        rows.append([f"`{read.name}`", name[1], searched, ", ".join(read.objectives), read.sampler])
    return _table(["space", "stage", "searches", "objectives", "sampler"], rows)


def _measured(kind: str) -> str:
    """One row of what `python -m docs.measured` has found: what is said, in which case, how often it is so."""
    found = pd.read_csv(MEASURED)
    rows = [
        [str(what), str(case), str(draws), f"{rate:.3f}"]
        for what, case, draws, rate in found[found["kind"] == kind].drop(columns="kind").itertuples(index=False)
    ]
    return _table(["what", "where", "draws", "rate"], rows)


def _pairs(settings: dict[str, Any]) -> str:
    return ", ".join(f"{name}={_word(value)}" for name, value in settings.items())


def _word(value: object) -> str:
    return str(value).lower()


def blocks() -> dict[str, Callable[[], str]]:
    """What makes each block, by the name that stands in its first line."""
    tables: dict[str, Callable[[], str]] = {
        "settings of a run": partial(_settings, RunOptions),
        "settings of a sweep": partial(_settings, space.SweepOptions),
        "settings of compare": partial(_settings, CompareOptions),
        "figures of cost": partial(_metrics, cost.COSTS),
        "hardware": _hardware,
        "limits of hardware": _limits,
        "search spaces": _spaces,
        "checks of every stage": partial(_checks, lambda: CHECKS),
    }
    tables |= {f"measured {kind}": partial(_measured, kind) for kind in (COVERAGE, FALSE_ALARM, CATCH, FIGURE)}
    for stage in STAGES:
        tables |= {
            f"inference of {stage.name}": partial(_settings, stage.infer_params),
            f"scoring of {stage.name}": partial(_settings, stage.score_params),
            f"metrics of {stage.name}": partial(_metrics, stage.metrics),
            f"checks of {stage.name}": partial(_checks, stage.checks),
        }
    return tables


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
