"""Train a tiny CLIP on small grey images of ten classes and their captions: the built-in one, on handwritten digits.

`python -m experiments.models.train_digits_clip` makes it from seeds alone, in about a minute on one CPU core.  It sees
the training part of the digits only, and few of those, so that on the rest it errs often enough for its uncertainty
to be held against its errors.

With `--fashion FOLDER --save FOLDER` the same is trained on Fashion-MNIST, whose IDX files lie in the first, and saved
in the second.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional
from tqdm import tqdm

from experiments.models import digits, files, idx
from harness.stage import BadInput

MEAN, STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
_AT_ONCE = 1000  # images that are measured at once


@dataclass(frozen=True)
class Recipe:
    """Everything the weights follow from, besides the code."""

    seed: int = 0
    images: int = 120
    steps: int = 600
    batch: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    shift: int = 2  # pixels that an image is moved by at most, either way


Labelled = tuple[NDArray[np.uint8], NDArray[np.int64]]  # images (n, height, width) and their labels (n,)


@dataclass(frozen=True)
class Data:
    """What is learnt: named classes of images in two parts, by `load`, and how much of them by the recipe."""

    load: Callable[[digits.Part], Labelled]
    names: Sequence[str]
    caption: str
    recipe: Recipe

    @property
    def captions(self) -> list[str]:
        """One of each class."""
        return [self.caption.format(name) for name in self.names]


DIGITS = Data(lambda part: digits.load(part)[:2], digits.NAMES, digits.CAPTION, Recipe())
FASHION_NAMES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip


def fashion(folder: Path) -> Data:
    """Fashion-MNIST (Xiao, Rasul and Vollgraf 2017) from its IDX files, `train` and `t10k`."""
    by_part = {idx.part(path): path for path in idx.found(folder)} if folder.is_dir() else {}

    def load(part: digits.Part) -> Labelled:
        path = by_part.get("train" if part == "train" else "t10k")
        labels = idx.labels(path) if path else None
        if path is None or labels is None:
            raise BadInput(f"--fashion {folder}: lacks images or labels of train or t10k, as idx3-ubyte and idx1-ubyte")
        return idx.images(path), labels.astype(np.int64)

    return Data(load, FASHION_NAMES, "a photo of a {}", Recipe(images=2000, steps=1500))


# Most of a CLIP this small is its vocabulary, which is that of open_clip's own tokenizer.
ARCHITECTURE = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": digits.SIZE, "layers": 4, "width": 64, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
PREPROCESS = {"mean": MEAN, "std": STD, "interpolation": "bicubic", "resize_mode": "shortest"}


def main(given: Sequence[str] | None = None) -> None:
    """Train, save, and measure the zero-shot accuracy on the part held out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fashion", type=Path, metavar="FOLDER", help="Fashion-MNIST's IDX files (default: digits)")
    parser.add_argument("--save", type=Path, metavar="FOLDER", help="where the model goes (digits: the built-in one)")
    options = parser.parse_args(given)
    if options.fashion and not options.save:
        parser.error("--fashion needs --save FOLDER: the built-in encoder is of digits")
    try:
        train(fashion(options.fashion) if options.fashion else DIGITS, options.save or files.ENCODER)
    except BadInput as error:
        parser.error(str(error))


def train(data: Data, folder: Path) -> None:
    """Train on the training part as the recipe says, save into the folder, and print the accuracies."""
    recipe = data.recipe
    torch.set_num_threads(1)  # one thread repeats on any machine
    torch.manual_seed(recipe.seed)
    rng = np.random.default_rng(recipe.seed)
    model = open_clip.CLIP(**ARCHITECTURE)
    tokens = open_clip.get_tokenizer("ViT-B-32", context_length=16)(data.captions)
    images, found = data.load("train")
    chosen = rng.permutation(len(found))[: recipe.images]
    pixels, labels = _tensor(images[chosen]), torch.from_numpy(found[chosen])
    optimizer = torch.optim.AdamW(model.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, recipe.steps)
    model.train()
    for _ in tqdm(range(recipe.steps)):
        drawn = rng.integers(len(labels), size=recipe.batch)
        moved = _moved(pixels[drawn], rng, recipe.shift)
        image, text, scale = model(moved, tokens)
        # Ten captions say all there is to say of a batch: each image is to find its own among them.
        loss = functional.cross_entropy(scale * image @ text.T, labels[drawn])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    _save(model, data, folder)


def measure(data: Data, folder: Path) -> dict[str, float]:
    """Zero-shot accuracy of the saved model, on the part it has learnt from and on the part held out."""
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    model.eval()
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(data.captions)
    found: dict[str, float] = {}
    parts: tuple[digits.Part, ...] = ("train", "held_out")
    for part in parts:
        images, labels = data.load(part)
        right = 0
        with torch.no_grad():
            for start in range(0, len(images), _AT_ONCE):
                batch = images[start : start + _AT_ONCE]
                pixels = torch.stack([preprocess(_enlarge(image).convert("RGB")) for image in batch])
                image, text, _ = model(pixels, tokens)
                right += int(((image @ text.T).argmax(dim=1).numpy() == labels[start : start + _AT_ONCE]).sum())
        found[part] = right / len(images)
    return found


def _enlarge(pixels: NDArray[np.uint8]) -> Image.Image:
    """One image as the tower takes it."""
    return Image.fromarray(pixels).resize((digits.SIZE, digits.SIZE), Image.Resampling.BICUBIC)


def _tensor(images: NDArray[np.uint8]) -> torch.Tensor:
    grey = np.stack([np.asarray(_enlarge(image)) for image in images]).astype(np.float32) / 255
    return ((torch.from_numpy(grey) - MEAN[0]) / STD[0])[:, None].repeat(1, 3, 1, 1)


def _moved(pixels: torch.Tensor, rng: np.random.Generator, most: int) -> torch.Tensor:
    """Each image rolled by a few pixels: the digits' margins are empty."""
    by = rng.integers(-most, most + 1, size=(len(pixels), 2))
    return torch.stack([image.roll((int(x), int(y)), (1, 2)) for image, (x, y) in zip(pixels, by, strict=True)])


def _save(model: torch.nn.Module, data: Data, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: value.half().contiguous() for name, value in model.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")
    config = {"model_cfg": ARCHITECTURE, "preprocess_cfg": PREPROCESS}
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")
    accuracy = measure(data, folder)
    (folder / "recipe.json").write_text(json.dumps(asdict(data.recipe) | {"accuracy": accuracy}, indent=2) + "\n")
    print(json.dumps(accuracy, indent=2))


if __name__ == "__main__":
    main()
