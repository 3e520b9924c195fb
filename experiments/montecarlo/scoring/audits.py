"""What only `montecarlo` can doubt about its own result."""

from __future__ import annotations

from collections.abc import Iterator

from experiments.montecarlo.inference.params import BLURRED, DOWNSAMPLED
from experiments.montecarlo.scoring.metrics import STATUSES
from harness.stage import Audited, Doubt, Level, check

_GAP = 0.1  # of an ICC from what is predicted
_NAMED = 5
_CHANCE = 0.05  # p from which a growth may be chance
_MOVED = 0.05  # of an uncertainty, by a precision
_USABLE = STATUSES.index("usable")


@check("the gate is missed, and passes may mend that", "set passes to what is predicted")
def passes_needed(audited: Audited) -> Iterator[Doubt]:
    metrics = audited.report.metrics
    if metrics.get("gate", _USABLE) < _USABLE:
        fewest, most = metrics.get("passes_predicted"), metrics.get("passes_predicted_heavy")
        advice = "no number of passes is"
        if fewest:
            heavy = f"{most:.0f}" if most else "no number that is known"
            advice = f"about {fewest:.0f} passes, or {heavy} if their tails are heavy, are"
        yield "info", f"{advice} predicted to pass the gate with {audited.params.statistic}; set passes"


@check(
    "trials agree on something that is not shown to predict error", "judge more labelled images before it rejects any"
)
def reliable_not_valid(audited: Audited) -> Iterator[Doubt]:
    report = audited.report
    auroc, low = report.metrics.get("auroc_error"), report.metrics.get("auroc_error_low")
    if report.metrics.get("gate") == _USABLE and auroc is not None and (low is None or low <= 0.5):
        why = f"no interval, for {report.undefined['auroc_error_low']}" if low is None else f"interval from {low:.3f}"
        yield (
            "warn",
            f"trials agree on {audited.params.statistic} (ICC {report.metrics['icc']:.3f}), but that it predicts error"
            f" is not shown: AUROC {auroc:.3f}, {why}; judge more labelled images before it rejects any",
        )


@check("nothing shows that it grows where an image shows less", "do not read it as how much of an image can be seen")
def ablation_not_seen(audited: Audited) -> Iterator[Doubt]:
    for variant in (BLURRED, DOWNSAMPLED):
        metrics = audited.report.metrics
        if (p := metrics.get(f"grows_p/{variant}")) is not None and p > _CHANCE:
            grows, low, high = (metrics[f"grows/{variant}{end}"] for end in ("", "_low", "_high"))
            yield (
                "warn",
                f"that {audited.params.statistic} grows under {variant} is not shown: it does for {grows:.0%} of images"
                f" ({low:.0%} to {high:.0%}; sign test p {p:.2g}); do not read it as how much of an image can be seen",
            )


@check("the ICC of actual passes is not what was predicted, by more than chance", "choose T by actual prefixes")
def prediction_missed(audited: Audited) -> Iterator[Doubt]:
    metrics = audited.report.metrics
    if (shown := metrics.get("prediction_gap_shown", 0.0)) > _GAP:
        yield (
            "warn",
            f"the ICC of actual prefixes lies {metrics['prediction_gap']:.2f} outside of what the fewest passes predict"
            f" with normal and with heavy tails, {shown:.2f} of it more than chance; choose T by actual prefixes",
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


def _images_counted(audited: Audited, name: str, what: str, level: Level = "info") -> Iterator[Doubt]:
    """Images that are not looked at as they are."""
    if count := audited.records.origin.get("counts", {}).get(name):
        yield level, f"{count} image{'s' if count > 1 else ''}: {what}"


@check("images hold more than one frame", "cut them up to have the others")
def images_animated(audited: Audited) -> Iterator[Doubt]:
    return _images_counted(
        audited, "animated", "more than one frame; only the first was looked at: cut them up to have the others"
    )


@check("images have 16 bits a channel", "scale them if the lower eight matter")
def images_sixteen_bit(audited: Audited) -> Iterator[Doubt]:
    return _images_counted(
        audited,
        "sixteen_bit",
        "16 bits a channel; the upper eight were looked at, and the lower are lost: scale them if these matter",
    )


@check("images have 32 bits a channel", "scale them to eight bits if the range matters")
def images_thirty_two_bit(audited: Audited) -> Iterator[Doubt]:
    return _images_counted(
        audited,
        "thirty_two_bit",
        "32 bits a channel; scaled by the smallest usual range that holds their values (1, 255, 65535, all bits, or"
        " their own if they fill less than a sixteenth of it): scale them to eight bits if another is meant",
    )


@check("images of 16 or 32 bits come out nearly black", "scale them to eight bits")
def images_dark(audited: Audited) -> Iterator[Doubt]:
    return _images_counted(
        audited,
        "dark",
        "of 16 or 32 bits, and nearly black in eight (below a sixteenth of the range), as are eight or twelve bits that"
        " are kept in sixteen: scale them to eight bits",
        "warn",
    )


@check("images hold values that are no numbers", "replace what is not finite")
def images_not_finite(audited: Audited) -> Iterator[Doubt]:
    return _images_counted(
        audited, "not_finite", "values that are no finite numbers, which count as 0: replace them", "warn"
    )


@check("images have transparent pixels", "compose them yourself if white is not what lies behind")
def images_transparent(audited: Audited) -> Iterator[Doubt]:
    return _images_counted(
        audited, "transparent", "transparent pixels, composed on white: compose them yourself if another is meant"
    )


@check("images were turned as their EXIF data say", "none, if they are upright so")
def images_turned(audited: Audited) -> Iterator[Doubt]:
    return _images_counted(audited, "turned", "turned or mirrored as their EXIF data say")


@check("images have EXIF data that cannot be read", "turn them upright")
def images_orientation_unknown(audited: Audited) -> Iterator[Doubt]:
    return _images_counted(
        audited, "orientation_unknown", "EXIF data that cannot be read; looked at as they lie: turn them upright"
    )


@check("the encoder cannot be taken apart at its blocks", "expect no gain of trunk=once")
def encoder_in_one_block(audited: Audited) -> Iterator[Doubt]:
    if why := audited.records.origin.get("one_block"):
        yield "info", f"the encoder runs as one block, for {why}: trunk=once gains nothing, its numbers are the same"


@check("memory ran out for the batch that was found", "set batch_images")
def batches_halved(audited: Audited) -> Iterator[Doubt]:
    origin = audited.records.origin
    if count := origin.get("counts", {}).get("batches_halved"):
        yield (
            "info",
            f"memory ran out {count} times in batches of {origin['batch_images']} images or what was left of them,"
            " which were halved: that took time, and changes no number; set batch_images",
        )


@check("pixels did not fit where they are fastest", "make room, or set pixels")
def pixels_moved(audited: Audited) -> Iterator[Doubt]:
    if why := audited.records.origin.get("pixels_moved"):
        yield "info", why


@check("images were decoded in an earlier run", "set decode=every_run to measure it")
def images_decoded_before(audited: Audited) -> Iterator[Doubt]:
    if count := audited.records.origin.get("decoded_before"):
        yield (
            "info",
            f"{count} images were decoded in an earlier run and are the same bit for bit; the seconds of preprocessing"
            " leave that out: decode=every_run measures it",
        )
