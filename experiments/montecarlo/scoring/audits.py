"""What only `montecarlo` can doubt about its own result."""

from __future__ import annotations

from collections.abc import Iterator

from experiments.montecarlo.inference.params import BLURRED, DOWNSAMPLED
from experiments.montecarlo.scoring.metrics import STATUSES
from harness.stage import Audited, Doubt, check

_GAP = 0.1  # of a predicted ICC from that of actual passes
_NAMED = 5
_CHANCE = 0.05  # p below which a growth is none of chance
_MOVED = 0.05  # of an uncertainty, by a precision
_USABLE = STATUSES.index("usable")


@check("the gate is missed, and passes may mend that", "set passes to what is predicted")
def passes_needed(audited: Audited) -> Iterator[Doubt]:
    metrics = audited.report.metrics
    if metrics.get("gate", _USABLE) < _USABLE:
        predicted = metrics.get("passes_predicted")
        advice = f"about {predicted:.0f} passes are" if predicted else "no number of passes is"
        yield "info", f"{advice} predicted to pass the gate with {audited.params.statistic}; set passes"


@check("trials agree on something that does not predict error", "do not use it to reject images")
def reliable_not_valid(audited: Audited) -> Iterator[Doubt]:
    metrics = audited.report.metrics
    low = metrics.get("auroc_error_low")
    if metrics.get("gate") == _USABLE and low is not None and low <= 0.5:
        yield (
            "warn",
            f"trials agree on {audited.params.statistic} (ICC {metrics['icc']:.3f}), but it does not predict error:"
            f" AUROC {metrics['auroc_error']:.3f}, interval from {low:.3f}; do not use it to reject images",
        )


@check("the uncertainty does not grow where an image shows less", "do not read it as how much of an image can be seen")
def ablation_not_seen(audited: Audited) -> Iterator[Doubt]:
    for variant in (BLURRED, DOWNSAMPLED):
        grows, p = (audited.report.metrics.get(f"{name}/{variant}") for name in ("grows", "wilcoxon_p"))
        if grows is not None and p is not None and p > _CHANCE:
            yield (
                "warn",
                f"{audited.params.statistic} grows for {grows:.0%} of images under {variant}, which chance gives (p"
                f" {p:.2g}); it does not follow how much of an image can be seen",
            )


@check("the ICC predicted for more passes is not that of actual ones", "choose the number of passes by actual prefixes")
def prediction_missed(audited: Audited) -> Iterator[Doubt]:
    gap = audited.report.metrics.get("prediction_gap")
    if gap is not None and gap > _GAP:
        yield (
            "warn",
            f"the ICC predicted from the fewest passes is off by {gap:.2f} at actual prefixes; choose T by those",
        )


@check("a precision below fp32 moves the uncertainty", "compare the ICC with that of precision=fp32")
def precision_changes_uncertainty(audited: Audited) -> Iterator[Doubt]:
    origin = audited.records.origin
    if checked := origin.get("checked"):
        much = max(checked["trace_pre"], checked["trace_post"]) > _MOVED
        yield (
            "warn" if much else "info",
            f"with the masks of fp32, {origin.get('infer', {}).get('precision')} moves trace_pre by"
            f" {checked['trace_pre']:.1%} and trace_post by {checked['trace_post']:.1%} (median of {checked['images']}"
            f" images, T = {checked['passes']})" + ("; compare the ICC with that of precision=fp32" if much else ""),
        )


@check("images could not be read", "replace or remove them")
def images_broken(audited: Audited) -> Iterator[Doubt]:
    if broken := audited.records.origin.get("broken"):
        named = "; ".join(f"{name}: {why}" for name, why in list(broken.items())[:_NAMED])
        more = f"; and {len(broken) - _NAMED} more" if len(broken) > _NAMED else ""
        yield "warn", f"{named}{more}; they are left out everywhere: replace or remove them"


def _images_counted(audited: Audited, name: str, what: str) -> Iterator[Doubt]:
    """Images of which only a part was looked at."""
    if count := audited.records.origin.get("counts", {}).get(name):
        yield "info", f"{count} images {what}"


@check("images hold more than one frame", "cut them up to have the others")
def images_animated(audited: Audited) -> Iterator[Doubt]:
    return _images_counted(
        audited, "animated", "hold more than one frame; only the first was looked at: cut them up to have the others"
    )


@check("images have 16 bits a channel", "scale them if the lower eight matter")
def images_sixteen_bit(audited: Audited) -> Iterator[Doubt]:
    return _images_counted(
        audited,
        "sixteen_bit",
        "have 16 bits a channel; the upper eight were looked at: scale them if the lower ones matter",
    )


@check("pixels did not fit where they are fastest", "make room, or set pixels")
def pixels_moved(audited: Audited) -> Iterator[Doubt]:
    if why := audited.records.origin.get("pixels_moved"):
        yield "info", why
