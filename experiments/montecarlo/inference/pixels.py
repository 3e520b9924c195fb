"""Every image opened, decoded and preprocessed once, in parallel; pixels kept where the encoder gets at them fast."""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil
import torch
from joblib import Parallel, delayed
from PIL import Image

from experiments.models.vision import VisionModel
from experiments.montecarlo.inference import decoding, kept
from experiments.montecarlo.inference.images import Item
from experiments.montecarlo.inference.params import BLURRED, DOWNSAMPLED, ORIGINAL
from harness.progress import working
from harness.stage import BadInput, one_line

_SHARE = 0.5  # of free memory, what pixels may take
_CHANGES = {ORIGINAL: None, BLURRED: decoding.blurred, DOWNSAMPLED: decoding.downsampled}


@dataclass(frozen=True)
class View:
    """One image as it is computed: original, blurred or downsampled; `place` is where its pixels lie."""

    item: Item
    variant: str
    place: int


@dataclass
class Pixels:
    """What there is to compute, originals first, and what was found on the way."""

    tensor: torch.Tensor  # (places, 3, height, width)
    moved: str | None  # why it does not lie where it would be fastest
    file: Path | None
    views: list[View] = field(default_factory=list)
    thumbnails: dict[str, bytes] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)
    notes: Counter[str] = field(default_factory=Counter)
    decoded_before: int = 0  # images whose pixels an earlier run has kept

    @classmethod
    def mapped(cls, file: str, shape: tuple[int, ...], dtype: torch.dtype, views: list[View]) -> Pixels:
        """Pixels that lie in a file, which is made where it is not there."""
        flat = torch.from_file(file, shared=True, size=math.prod(shape), dtype=dtype)
        return cls(flat.view(shape), None, Path(file), views)

    def batch(self, views: Sequence[View], model: VisionModel) -> torch.Tensor:
        """Pixels of some views, where the model is and in its precision."""
        return self.tensor[[view.place for view in views]].to(model.device, model.dtype, non_blocking=True)


@contextmanager
def decoded(
    items: Sequence[Item], changed: Sequence[Item], model: VisionModel, place: str, decoders: int, *, keep: bool = False
) -> Iterator[Pixels]:
    """Decode all items, those of `changed` blurred and downsampled as well; a broken one is left out and named.

    With `keep`, what an earlier run has decoded is taken from the cache, or put there.
    """
    jobs = variants_of(items, changed)
    count = sum(len(variants) for _, variants in jobs)
    with tempfile.TemporaryDirectory(prefix="rigsweep-pixels-") as folder:
        store: Pixels | None = None
        broken: dict[str, str] = {}
        views: list[View] = []
        parallel = Parallel(n_jobs=decoders, prefer="threads", return_as="generator")
        with working("decode", len(jobs), "images") as advance, kept.found(items) if keep else nullcontext() as known:
            before = known if isinstance(known, kept.Kept) else None
            opened = parallel(delayed(_open)(item, variants, model, before) for item, variants in jobs)
            for (item, variants), result in zip(jobs, opened, strict=True):
                found = isinstance(result, _Ready) and result.before  # decoded by an earlier run
                advance(1, f"{len(broken)} broken" if broken else "", found=int(found))
                if isinstance(result, str):
                    broken[item.name] = result
                    continue
                shape = (count, *result.pixels[0].shape)
                store = store or _allocate(shape, model, place, Path(folder))
                for variant, pixels in zip(variants, result.pixels, strict=True):
                    store.tensor[len(views)] = pixels
                    views.append(View(item, variant, len(views)))
                store.thumbnails[item.name] = result.opened.thumbnail
                store.notes.update(result.opened.notes)
                store.decoded_before += result.before
                if isinstance(known, kept.Keeping):
                    known.add(item, result.opened)
        if store is None:
            name, why = next(iter(broken.items()))
            raise BadInput(f"images: none of {len(items)} can be read; {name}: {why}")
        store.broken = broken
        store.views = sorted(views, key=lambda view: view.variant != ORIGINAL)
        yield store


def variants_of(items: Sequence[Item], changed: Sequence[Item]) -> list[tuple[Item, list[str]]]:
    """Each item with the variants that it is computed in."""
    several = set(changed)
    return [(item, list(_CHANGES) if item in several else [ORIGINAL]) for item in items]


@dataclass(frozen=True)
class _Ready:
    """One image ready for the encoder: pixels of its variants, and whether they were decoded `before`."""

    pixels: list[torch.Tensor]
    opened: kept.Opened
    before: bool


def _open(item: Item, variants: Sequence[str], model: VisionModel, before: kept.Kept | None) -> _Ready | str:
    """An image in its variants; or why it cannot be read."""
    try:
        found = _found(item, before)
        opened = found or kept.Opened.of(item.decode())
        changed: list[Image.Image] = [
            change(opened.image) if (change := _CHANGES[each]) else opened.image for each in variants
        ]
        return _Ready([model.preprocess(image) for image in changed], opened, found is not None)
    except MemoryError:
        raise
    except Exception as error:  # a damaged file makes Pillow raise nearly anything
        return one_line(error) or type(error).__name__


def _found(item: Item, before: kept.Kept | None) -> kept.Opened | None:
    """An image that is kept, unless another process has let go of it meanwhile."""
    try:
        return before.get(item) if before else None
    except (OSError, ValueError):
        return None


_PLACES = {"device": "the device's memory", "pinned": "pinned memory", "mmap": "a temporary file"}


def _allocate(shape: tuple[int, ...], model: VisionModel, place: str, folder: Path) -> Pixels:
    """Memory for all pixels: where asked for, or at the first place that has room, fastest first.

    They are kept in the precision that autocast computes in, which would round them anyway.
    """
    size = math.prod(shape) * model.dtype.itemsize
    full: list[str] = []
    for candidate in ("device", "pinned", "mmap") if place == "auto" else (place,):
        if candidate == "pinned" and model.device.type != "cuda":
            full.append(f"only CUDA has pinned memory, not {model.device.type}")
        elif candidate == "mmap" or size <= _SHARE * (room := _free(candidate, model.device)):
            moved = f"{'; '.join(full)}; they are kept in {_PLACES[candidate]}" if full else None
            return _place(candidate, shape, model, folder, moved)
        else:
            said = f"pixels take {size / 2**30:.2g} GiB, more than {_SHARE:.0%} of the {room / 2**30:.2g} GiB free in"
            full.append(f"{said} {_PLACES[candidate]}")
    raise BadInput(f"pixels = {place}: {full[0]}; pixels=auto finds another place")


def _place(place: str, shape: tuple[int, ...], model: VisionModel, folder: Path, moved: str | None) -> Pixels:
    if place == "mmap":
        return replace(Pixels.mapped(str(folder / "pixels"), shape, model.dtype, []), moved=moved)
    if place == "pinned":
        return Pixels(torch.empty(shape, dtype=model.dtype, pin_memory=True), moved, None)
    return Pixels(torch.empty(shape, dtype=model.dtype, device=model.device), moved, None)


def _free(place: str, device: torch.device) -> float:
    """Bytes free of the memory in question."""
    if place == "device" and device.type == "cuda":
        return float(torch.cuda.mem_get_info()[0])
    return float(psutil.virtual_memory().available)
