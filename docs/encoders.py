"""The table of image towers in montecarlo.md: `python -m docs.encoders` proves tiny random ones and writes it."""

from __future__ import annotations

import json
import logging
import re
import sys
import tempfile
import warnings
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import experiments.models  # noqa: F401 - makes torchvision importable, which open_clip imports

# isort: split
import open_clip
import timm
import torch
from open_clip.transform import image_transform

from experiments.models import vision
from experiments.models.vision import VisionModel
from harness.stage import BadInput

PAGE = Path(__file__).with_name("montecarlo.md")
_BLOCK = re.compile(r"(<!-- encoders -->\n).*?(<!-- end -->)", re.DOTALL)
_LARGEST = 80_000_000  # weights of what still counts as tiny
_TEXT = {"context_length": 16, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1}
# What makes one of timm's towers tiny, by what its kinds call it; the first that it takes and that does it is taken.
_TIMM: tuple[dict[str, Any], ...] = (
    {"depth": 3, "embed_dim": 96, "num_heads": 4},
    {"depth": 3, "embed_dim": 96, "num_heads": 4, "init_values": None},
    {"depths": (1, 1, 2, 1), "dims": (16, 32, 64, 96)},
    {"depths": (1, 1, 2, 1), "embed_dim": 24, "num_heads": (1, 2, 4, 8)},
    {"layers": (1, 1, 2, 1), "embed_dims": (16, 32, 64, 128)},
    {"depths": (1, 1, 2, 1)},
    {"depth": 3},
    {},
)
_UNFIT = (
    TypeError, ValueError, KeyError, AttributeError, IndexError, RuntimeError, AssertionError, NotImplementedError
)  # fmt: skip


def main() -> int:
    """Write the table into the page."""
    PAGE.write_text(renewed())
    return 0


def renewed() -> str:
    """The text of the page with what the proof says now; three minutes."""
    logging.disable(logging.ERROR)
    warnings.simplefilter("ignore")
    return _BLOCK.sub(lambda block: f"{block[1]}\n{table(list(found()))}\n\n{block[2]}", PAGE.read_text())


def table(rows: list[tuple[str, str, str]]) -> str:
    """One row a kind of tower and what was found of it, with the names of open_clip that have it."""
    names: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name, tower, result in rows:
        names[tower, result].append(name)
    lines = [(tower, result, ", ".join(f"`{each}`" for each in some)) for (tower, result), some in names.items()]
    head = [("tower", "what is found", "architectures of open_clip"), ("---",) * 3]
    return "\n".join(f"| {' | '.join(cell.replace('|', ' ') for cell in line)} |" for line in [*head, *sorted(lines)])


def found() -> Iterator[tuple[str, str, str]]:
    """Each architecture's name, its tower's class, and whether it is taken apart, a single block or refused."""
    known: dict[str, tuple[str, str]] = {}
    for name in open_clip.list_models():
        seen = _config(name)
        alike = json.dumps([each for part, each in seen.items() if part != "text_cfg"])  # tiny ones often are
        known[alike] = known.get(alike) or prove(name)
        yield name, *known[alike]


def prove(name: str) -> tuple[str, str]:
    """The class of an architecture's tower, and what the proof says of it."""
    if (built := build(name)) is None:
        return "", "not tried: it cannot be made tiny"
    kind = type(getattr(built.visual, "trunk", built.visual)).__name__
    try:
        return f"`{kind}`", told(vision.assemble(name, built, torch.device("cpu"), torch.float32))
    except BadInput as refusal:
        return f"`{kind}`", f"refused: {str(refusal).removeprefix(f'encoder = {name}: ')}"


def told(model: VisionModel) -> str:
    """What was found of a tower, in words."""
    if model.tower.whole:
        return f"one block: {model.tower.whole}"
    name = next(name for name, module in model.visual.named_modules() if module is model.blocks[0])
    return f"taken apart at `{name}` and its neighbours"


def build(name: str) -> vision.Built | None:
    """A random tower of an architecture with few weights, as open_clip builds it, or None."""
    for sizes in _TIMM:
        try:
            with torch.device("meta"):
                weights = sum(each.numel() for each in _make(name, sizes, "meta").visual.parameters())
            if weights <= _LARGEST:
                torch.manual_seed(0)
                model = _make(name, sizes).eval()
                side = model.visual.image_size
                return vision.of_open_clip(model, image_transform(side, is_train=False), _no_text)
        except _UNFIT as error:
            print(f"{name}: {type(error).__name__}: {str(error)[:120]}", file=sys.stderr)
    return None


def _config(name: str) -> dict[str, Any]:
    """An architecture's configuration with a tiny text tower, and an image tower that is tiny if it is open_clip's."""
    config: dict[str, Any] = open_clip.get_model_config(name)
    seeing = config["vision_cfg"]
    if "timm_model_name" not in seeing:
        residual = isinstance(seeing["layers"], list)
        side = 64 if residual else 3 * seeing["patch_size"]
        seeing |= {"width": 16, "layers": [1, 1, 2, 1]} if residual else {"width": 64, "layers": 3, "head_width": 16}
        seeing |= {"image_size": side, "attn_pooler_heads": 4}
    several = "multimodal_cfg" in config
    config |= {"embed_dim": 32, "text_cfg": _TEXT | {"embed_cls": several, "output_tokens": several}}
    return config | ({"multimodal_cfg": _TEXT | {"attn_pooler_heads": 2}} if several else {})


def _make(name: str, sizes: dict[str, Any], device: str = "cpu") -> Any:
    """A random model of an architecture, with sizes of timm's towers as told."""
    real = timm.create_model
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "tiny.json").write_text(json.dumps(_config(name)))
        open_clip.add_model_config(Path(folder))
        with patch.object(timm, "create_model", lambda *given, **named: real(*given, **named | sizes)):
            return open_clip.create_model("tiny", load_weights=False, device=device)


def _no_text(captions: list[str]) -> torch.Tensor:
    raise NotImplementedError("a random encoder has no captions")


if __name__ == "__main__":
    sys.exit(main())
