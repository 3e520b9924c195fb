"""scikit-learn's handwritten digits (UCI, 1998) as images: a part to learn from, and the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
CAPTION = "a handwritten digit {}"
SIZE = 32  # pixels of a written image's side; the originals have 8
_HELD_OUT = 500
_SEED = 0
Part = Literal["train", "held_out"]


def load(part: Part) -> tuple[NDArray[np.uint8], NDArray[np.int64], list[int]]:
    """Images (n, 8, 8), their digits (n,) and their places in scikit-learn's set; the parts share no image."""
    from sklearn.datasets import load_digits

    data: Any = load_digits()
    order = np.random.default_rng(_SEED).permutation(len(data.target))
    chosen = np.sort(order[:_HELD_OUT] if part == "held_out" else order[_HELD_OUT:])
    pixels = np.round(data.images[chosen] * (255 / 16)).astype(np.uint8)
    return pixels, data.target[chosen].astype(np.int64), chosen.tolist()


def enlarge(pixels: NDArray[np.uint8]) -> Image.Image:
    """One digit (8, 8) as an image of the size that is written."""
    return Image.fromarray(pixels).resize((SIZE, SIZE), Image.Resampling.BICUBIC)


def write(folder: Path) -> None:
    """Write the part held out as a folder of PNGs for each digit, unless it is there."""
    pixels, labels, places = load("held_out")
    done = folder / "complete"
    if done.is_file():
        return
    for image, label, place in zip(pixels, labels, places, strict=True):
        path = folder / NAMES[label] / f"{place:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        enlarge(image).save(path)
    done.touch()
