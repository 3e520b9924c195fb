"""What only `montecarlo` can doubt about its own result."""

from __future__ import annotations

from collections.abc import Iterator

from experiments.montecarlo.inference.params import BLURRED, DOWNSAMPLED
from experiments.montecarlo.scoring.metrics import STATUSES
from experiments.montecarlo.scoring.params import MontecarloScore
from harness.stage import Finding, Level, Records, Report

_GAP = 0.1  # of a predicted ICC from that of actual passes
_NAMED = 5
_CHANCE = 0.05  # p below which a growth is none of chance
_MOVED = 0.05  # of an uncertainty, by a precision
_USABLE = STATUSES.index("usable")


def more_passes(records: Records, report: Report, params: MontecarloScore) -> Iterator[Finding]:
    """Below the gate: whether more passes would help, and how many."""
    if report.metrics.get("gate", _USABLE) < _USABLE:
        predicted = report.metrics.get("passes_predicted")
        advice = f"about {predicted:.0f} passes are" if predicted else "no number of passes is"
        yield Finding(
            "info", "passes_needed", f"{advice} predicted to pass the gate with {params.statistic}; set passes"
        )


def reliable_but_not_valid(records: Records, report: Report, params: MontecarloScore) -> Iterator[Finding]:
    """Trials may agree perfectly on something that has nothing to do with error."""
    low = report.metrics.get("auroc_error_low")
    if report.metrics.get("gate") == _USABLE and low is not None and low <= 0.5:
        yield Finding(
            "warn",
            "reliable_not_valid",
            f"trials agree on {params.statistic} (ICC {report.metrics['icc']:.3f}), but it does not predict error:"
            f" AUROC {report.metrics['auroc_error']:.3f}, interval from {low:.3f}; do not use it to reject images",
        )


def blind_to_blur(records: Records, report: Report, params: MontecarloScore) -> Iterator[Finding]:
    """An uncertainty about what an image shows should grow when the image shows less."""
    for variant in (BLURRED, DOWNSAMPLED):
        grows, p = report.metrics.get(f"grows/{variant}"), report.metrics.get(f"wilcoxon_p/{variant}")
        if grows is not None and p is not None and p > _CHANCE:
            yield Finding(
                "warn",
                "ablation_not_seen",
                f"{params.statistic} grows for {grows:.0%} of images under {variant}, which chance gives (p {p:.2g});"
                " it does not follow how much of an image can be seen",
            )


def prediction_missed(records: Records, report: Report, params: MontecarloScore) -> Iterator[Finding]:
    """Spearman-Brown assumes passes that are alike; actual prefixes show whether that holds."""
    gap = report.metrics.get("prediction_gap")
    if gap is not None and gap > _GAP:
        yield Finding(
            "warn",
            "prediction_missed",
            f"the ICC predicted from the fewest passes is off by {gap:.2f} at actual prefixes; choose T by those",
        )


def lower_precision(records: Records, report: Report, params: MontecarloScore) -> Iterator[Finding]:
    """What a precision below fp32 did to the few images looked at: its rounding adds a variance of its own."""
    checked = records.origin.get("checked")
    if checked:
        precision = records.origin.get("infer", {}).get("precision")
        level: Level = "warn" if max(checked["trace_pre"], checked["trace_post"]) > _MOVED else "info"
        yield Finding(
            level,
            "precision_changes_uncertainty",
            f"with the masks of fp32, {precision} moves trace_pre by {checked['trace_pre']:.1%} and trace_post"
            f" by {checked['trace_post']:.1%} (median of {checked['images']} images, T = {checked['passes']})"
            + ("; compare the ICC with that of precision=fp32" if level == "warn" else ""),
        )


def images_not_plain(records: Records, report: Report, params: MontecarloScore) -> Iterator[Finding]:
    """Names the images that could not be read, and says what was done to those that could in part."""
    broken = records.origin.get("broken", {})
    if broken:
        named = "; ".join(f"{name}: {why}" for name, why in list(broken.items())[:_NAMED])
        more = f"; and {len(broken) - _NAMED} more" if len(broken) > _NAMED else ""
        yield Finding("warn", "images_broken", f"{named}{more}; they are left out everywhere: replace or remove them")
    counts = records.origin.get("counts", {})
    for name, what in (
        ("animated", "hold more than one frame; only the first was looked at: cut them up to have the others"),
        ("sixteen_bit", "have 16 bits a channel; the upper eight were looked at: scale them if the lower ones matter"),
    ):
        if counts.get(name):
            yield Finding("info", f"images_{name}", f"{counts[name]} images {what}")


def pixels_moved(records: Records, report: Report, params: MontecarloScore) -> Iterator[Finding]:
    """Pixels that do not fit where they are fastest cost time, never accuracy."""
    if why := records.origin.get("pixels_moved"):
        yield Finding("info", "pixels_moved", why)
