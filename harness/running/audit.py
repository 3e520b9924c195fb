"""May a result be believed, and if not, what to do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from harness.running.checks import BESIDE_CHECKS, CHECKS
from harness.stage import Audited, BadInput, Check, Finding, Stage, suggest

_SEVERITY = {"fail": 0, "warn": 1, "info": 2}


@dataclass(frozen=True)
class Audit:
    """What an audit has come to, worst first, which codes are muted, and which checks were put."""

    all_findings: tuple[Finding, ...] = ()
    mute: frozenset[str] = frozenset()
    checks: tuple[Check, ...] = ()

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What was found, but for what is muted."""
        return tuple(finding for finding in self.all_findings if finding.code not in self.mute)

    @property
    def muted(self) -> tuple[Finding, ...]:
        """What was found and is muted."""
        return tuple(finding for finding in self.all_findings if finding.code in self.mute)

    @property
    def passed(self) -> tuple[str, ...]:
        """The codes of the checks that had no doubt."""
        doubted = {finding.code for finding in self.all_findings}
        return tuple(check.code for check in self.checks if check.code not in doubted)

    @property
    def verdict(self) -> str:
        """The worst level found, or `ok`; muting a failure does not make a result a good one."""
        counting = (
            finding for finding in self.all_findings if finding.code not in self.mute or finding.level == "fail"
        )
        return next((finding.level for finding in counting), "ok")

    def adding(self, *findings: Finding) -> Audit:
        """With what else is to be said of a result, by other means than a check."""
        return replace(self, all_findings=_worst_first((*self.all_findings, *findings)))

    def as_json(self) -> dict[str, Any]:
        """The whole audit as plain JSON values."""
        titles = {check.code: check.title for check in self.checks}
        return {
            "audit": self.verdict,
            "findings": [vars(finding) for finding in self.findings],
            "muted": [vars(finding) for finding in self.muted],
            "checks": {"asked": len(titles), "passed": {code: titles[code] for code in self.passed}},
        }


def audit(audited: Audited, mute: str | None = None) -> Audit:
    """Put all checks to a result; those that `mute` names are set apart."""
    checks = checks_of(audited.stage)
    findings = _worst_first(finding for check in checks for finding in check.findings(audited))
    return Audit(findings, muted_codes(audited.stage, mute), checks)


def checks_of(stage: Stage[Any, Any]) -> tuple[Check, ...]:
    """The common checks, and those that only this stage has."""
    return *CHECKS, *stage.checks()


def muted_codes(stage: Stage[Any, Any], mute: str | None) -> frozenset[str]:
    """The codes that the setting `mute` names; BadInput for one that no finding about the stage can have."""
    codes = frozenset(filter(None, map(str.strip, (mute or "").split(","))))
    known = [*(check.code for check in checks_of(stage)), *BESIDE_CHECKS] if codes else []
    if unknown := sorted(codes - set(known)):
        raise BadInput(f"mute = {mute}: {stage.name} has no check {unknown[0]}; {suggest(unknown[0], known)}")
    return codes


def _worst_first(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    return tuple(sorted(findings, key=lambda finding: _SEVERITY[finding.level]))
