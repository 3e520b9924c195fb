"""What the records of `montecarlo` are made of, as digests; scoring kept records imports this and no model."""

from __future__ import annotations

from experiments.models import files
from experiments.montecarlo.inference import captions, decoding, images
from experiments.montecarlo.inference.params import MontecarloInfer


def inputs(params: MontecarloInfer) -> dict[str, str]:
    """Content digests of encoder, images and, where a file says it, of what their classes are called."""
    items = images.find(params.images, params.keep)
    named = {"classes": captions.digest(params.classes)} if params.classes else {}
    reads_more = {"pillow-heif": decoding.HEIF} if decoding.HEIF else {}  # images that were broken are so no longer
    return {
        "model": files.digest_encoder(params.encoder, params.library, params.pretrained),
        "data": images.digest(items),
        **named,
        **reads_more,
    }
