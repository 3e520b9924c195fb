"""Train the built-in CLIP on handwritten digits and their captions.

`python -m experiments.models.train_digits_clip` makes it from seeds alone, in about a minute on one CPU core.  It sees
the training part of the digits only, and few of those, so that on the rest it errs often enough for its uncertainty
to be held against its errors.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import open_clip
import torch
from safetensors.torch import save_file
from torch.nn import functional
from tqdm import tqdm

from experiments.models import digits

FOLDER = Path(__file__).with_name("digits_clip")
MEAN, STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)


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


# Most of a CLIP this small is its vocabulary, which is that of open_clip's own tokenizer.
ARCHITECTURE = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": digits.SIZE, "layers": 4, "width": 64, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
PREPROCESS = {"mean": MEAN, "std": STD, "interpolation": "bicubic", "resize_mode": "shortest"}


def main() -> None:
    """Train, save, and measure the zero-shot accuracy on the part held out."""
    recipe = Recipe()
    torch.set_num_threads(1)  # one thread repeats on any machine
    torch.manual_seed(recipe.seed)
    rng = np.random.default_rng(recipe.seed)
    model = open_clip.CLIP(**ARCHITECTURE)
    tokens = open_clip.get_tokenizer("ViT-B-32", context_length=16)(
        [digits.CAPTION.format(name) for name in digits.NAMES]
    )
    pixels, labels = _tensors("train")
    chosen = rng.permutation(len(labels))[: recipe.images]
    pixels, labels = pixels[chosen], labels[chosen]
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
    _save(model, recipe)
    print(json.dumps(measure(), indent=2))


def measure() -> dict[str, float]:
    """Zero-shot accuracy of the saved model, on the part it has learnt from and on the part held out."""
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{FOLDER}")
    model.eval()
    tokens = open_clip.get_tokenizer(f"local-dir:{FOLDER}")([digits.CAPTION.format(name) for name in digits.NAMES])
    found: dict[str, float] = {}
    parts: tuple[digits.Part, ...] = ("train", "held_out")
    for part in parts:
        images, labels, _ = digits.load(part)
        pixels = torch.stack([preprocess(digits.enlarge(image).convert("RGB")) for image in images])
        with torch.no_grad():
            image, text, _ = model(pixels, tokens)
        found[part] = float(((image @ text.T).argmax(dim=1).numpy() == labels).mean())
    return found


def _tensors(part: digits.Part) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels, _ = digits.load(part)
    grey = np.stack([np.asarray(digits.enlarge(image)) for image in images]).astype(np.float32) / 255
    return ((torch.from_numpy(grey) - MEAN[0]) / STD[0])[:, None].repeat(1, 3, 1, 1), torch.from_numpy(labels)


def _moved(pixels: torch.Tensor, rng: np.random.Generator, most: int) -> torch.Tensor:
    """Each image rolled by a few pixels: the digits' margins are empty."""
    by = rng.integers(-most, most + 1, size=(len(pixels), 2))
    return torch.stack([image.roll((int(x), int(y)), (1, 2)) for image, (x, y) in zip(pixels, by, strict=True)])


def _save(model: torch.nn.Module, recipe: Recipe) -> None:
    FOLDER.mkdir(exist_ok=True)
    state = {name: value.half().contiguous() for name, value in model.state_dict().items()}
    save_file(state, FOLDER / "open_clip_model.safetensors")
    config = {"model_cfg": ARCHITECTURE, "preprocess_cfg": PREPROCESS}
    (FOLDER / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")
    (FOLDER / "recipe.json").write_text(json.dumps(asdict(recipe) | {"accuracy": measure()}, indent=2) + "\n")


if __name__ == "__main__":
    main()
