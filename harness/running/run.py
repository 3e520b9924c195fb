"""One configuration from its settings in force to an audited result: infer or replay -> score -> audit."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.measuring.clock import Clock
from harness.measuring.cost import speeds
from harness.running import cache, surroundings
from harness.running.audit import Audit, audit
from harness.running.detectors import learnt
from harness.running.journal import open_journal
from harness.running.records import read_records, require_sound, write_records
from harness.running.settings import Plan
from harness.stage import Audited, BadInput, Context, Finding, Records, Report, Stage, load


@dataclass(frozen=True)
class Result:
    """All there is to say about one run."""

    plan: Plan
    records: Records
    report: Report
    audit: Audit
    digests: dict[str, str]
    environment: dict[str, str]
    replayed: bool
    shares: dict[str, float]  # of this run's own wall time, replayed or not
    trace: bytes | None
    detector: dict[str, Any] | None  # see harness.running.detectors

    def metrics(self) -> dict[str, float]:
        """Quality, cost and what the time went into, in one flat set."""
        return self.report.metrics | (self.records.cost.metrics() if self.records.cost else {}) | self.shares

    def as_json(self) -> dict[str, Any]:
        """The whole result as plain JSON values."""
        settings, cost = self.plan.settings, self.records.cost
        return {
            "stage": self.plan.stage.name,
            "metrics": self.report.metrics,
            "undefined": self.report.undefined,
            "judged": self.report.judged,
            **self.audit.as_json(),
            "params": {name: {"value": value, "origin": self.plan.origins[name]} for name, value in settings.items()},
            "cost": vars(cost) | speeds(cost.metrics()) if cost else None,
            "shares": self.shares,
            "counts": self.records.origin.get("counts", {}),
            "replayed": self.replayed,
            "digests": self.digests,
            "environment": self.environment,
        }


def execute(plan: Plan) -> Result:
    """Run one configuration; quality is the same whether its records are fresh, cached or read from a file."""
    for name in ("report", "save_records", "save_detector"):
        require_writable(name, getattr(plan.options, name))
    clock = Clock(profile=plan.options.profile)
    records, digests, replayed = obtain(plan, clock)
    if plan.options.save_records:
        with clock.spending("io"):
            write_records(records, Path(plan.options.save_records).expanduser())
    with clock.spending("scoring"):
        report = plan.stage.score(records, plan.score)
        audited = audit(Audited(plan.stage, records, report, plan.score, replayed), plan.options.mute)
    if plan.options.profile and clock.trace is None:
        why = "no batch was computed in this process, so there is no trace; infer anew, with workers=1"
        audited = audited.adding(Finding("info", "no_trace", why))
    settings = {name: value for name, value in plan.settings.items() if name != "records"}
    digests = digests | {"config": digest(settings)}  # a new dict: the old one is the records' own
    environment = surroundings.environment(plan.stage, plan.machine)
    detector = learnt(plan.stage, plan.score, records, report, digests, environment)
    shares = clock.shares()
    result = Result(plan, records, report, audited, digests, environment, replayed, shares, clock.trace, detector)
    if plan.options.save_detector and detector:
        write_json(Path(plan.options.save_detector).expanduser(), detector)
    if plan.options.report:
        write_json(Path(plan.options.report).expanduser(), result.as_json())
    return result


def write_json(path: Path, content: Any) -> None:
    """Write indented JSON; BadInput where the place does not allow it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")
    except OSError as error:
        raise BadInput(f"{path}: cannot be written: {error.strerror}") from error


def obtain(plan: Plan, clock: Clock, *, apart: bool = False) -> tuple[Records, dict[str, str], bool]:
    """Read, replay or infer: the records, the digests of what they were made from, whether they are a replay."""
    if plan.infer is None:
        with clock.spending("io"):
            records, digests = _read(plan.stage, Path(str(plan.options.records)).expanduser())
            require_sound(records)
        return records, digests, True
    key, digests, kept = find(plan, clock, apart=apart)
    if kept:
        return kept, digests, True
    return _infer(plan, key, digests, clock), digests, False


def find(plan: Plan, clock: Clock, *, apart: bool = False) -> tuple[str, dict[str, str], Records | None]:
    """The key of a plan's records, the digests of what they are made from, and the records if the cache may give them.

    `apart` means records whose cost was measured in a process of its own, which takes less memory.
    """
    assert plan.infer is not None
    with clock.spending("setup"):  # libraries are imported on the way
        digests = dict(plan.stage.inputs(plan.infer))
        deciding = surroundings.deciding(plan.stage, plan.profile.tag, plan.machine)
        deciding |= {"process": "of its own"} if apart else {}
        key = cache.key(plan.stage, plan.infer, digests, plan.options.seed, deciding)
    if plan.options.cache != "use" or plan.options.profile:
        return key, digests, None
    with clock.spending("io"):
        return key, digests, cache.find(key)


def _infer(plan: Plan, key: str, digests: dict[str, str], clock: Clock) -> Records:
    assert plan.infer is not None
    use = "off" if plan.options.profile else plan.options.cache
    plan.profile.apply()
    with clock.spending("setup"):  # so that libraries are in the memory before the model, and the model is not
        load(plan.stage.infer)
    with open_journal(None if use == "off" else key, fresh=use == "refresh") as journal, clock.sampling():
        context = Context(plan.profile.tag, plan.profile.match.device, plan.options.seed, clock, journal)
        records = plan.stage.infer(plan.infer, context)
        require_sound(records)
        records.origin.update(infer=plan.infer.model_dump(), digests=digests)
        if use != "off":
            with clock.spending("io"):
                cache.keep(key, records)
    return records


def input_digests(plan: Plan) -> dict[str, str]:
    """What a run's records are made from, or were, by name."""
    if plan.infer is None:
        return _read(plan.stage, Path(str(plan.options.records)).expanduser())[1]
    return dict(plan.stage.inputs(plan.infer))


def _read(stage: Stage[Any, Any], path: Path) -> tuple[Records, dict[str, str]]:
    if not path.exists():
        raise BadInput(f"records = {path}: no such file; a parquet of save_records, or features made elsewhere")
    if path.suffix == ".parquet":
        records = read_records(path)
    elif stage.read is not None:
        records = stage.read(path)
    else:
        raise BadInput(f"records = {path}: {stage.name} reads parquet files only")
    return records, records.origin.get("digests") or {"data": _content(path)}


def _content(path: Path) -> str:
    """SHA-256 of a file, or over the names and contents of the files in a folder."""
    if path.is_dir():
        files = sorted(each for each in path.iterdir() if each.is_file())
        return digest([[file.name, _content(file)] for file in files])
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def require_writable(name: str, path: str | None) -> None:
    """Refuse a place that cannot be written to before hours of inference, not after."""
    if path is None:
        return
    target = Path(path).expanduser().absolute()
    folder = next(parent for parent in target.parents if parent.exists())
    if target.is_dir() or not folder.is_dir() or not os.access(target if target.exists() else folder, os.W_OK):
        raise BadInput(f"{name} = {path}: cannot be written; a file in a folder that allows it is needed")


def judged_tags(judged: str) -> dict[str, str]:
    """Tags that tell which runs have a common rank, from what a report says of it; none where it says nothing."""
    protocol, colon, content = judged.rpartition(": ")
    return {"judged": protocol, "judged_digest": content} if colon else {}


def digest(content: Any) -> str:
    """SHA-256 of plain JSON values."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
