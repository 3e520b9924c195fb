"""What is in an image file, whatever its format: upright, eight bits of RGB, and what was done to get there."""

from __future__ import annotations

import importlib
import importlib.util
import io
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFile, ImageFilter, ImageOps, UnidentifiedImageError

# Of what Pillow reads: raster formats that its own libraries decode; PostScript would be run by another program.
_FORMATS = ["AVIF", "BMP", "DIB", "GIF", "ICO", "JPEG", "JPEG2000", "PNG", "PPM", "QOI", "TGA", "TIFF", "WEBP"]
_HEIF = frozenset({".heic", ".heif", ".hif"})
_HEIF_BRANDS = frozenset({b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"})
MOST_PIXELS = 89_478_485  # Pillow's own bound, from which it warns
_MOST_BYTES = 2**30
_STRETCHED = 200  # times one side may be the other: an encoder resizes the shorter to its own size
_ORIENTATION, _TILE_WIDTH, _TILE_LENGTH, _SAMPLE_FORMAT = 0x0112, 322, 323, 339
_HAIR = 0.001  # what fractions may lie outside of 0 to 1
_DARK = 16  # of a range of more than eight bits, the share that few of its images stay below
_BLUR = 0.05  # of the shorter side: the blur's standard deviation
_DOWNSAMPLE = 8
_THUMBNAIL = 64  # pixels of its longer side

warnings.filterwarnings("ignore", module=r"PIL\.")  # what they say of a file is noted or refused here, in words
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
HEIF: str | None = None  # the version of what reads HEIC, which not everybody has installed
if importlib.util.find_spec("pillow_heif"):
    _pillow_heif = importlib.import_module("pillow_heif")
    _pillow_heif.register_heif_opener()
    HEIF = str(_pillow_heif.__version__)
    _FORMATS.append("HEIF")


class Unreadable(ValueError):
    """Why a file is no image that can be looked at: a clause."""


@dataclass(frozen=True)
class Decoded:
    """An image as RGB with what had to be done to it, by the names of the checks that tell of it."""

    image: Image.Image
    notes: tuple[str, ...]

    @property
    def thumbnail(self) -> bytes:
        """A small JPEG to look at."""
        small, stream = self.image.copy(), io.BytesIO()
        small.thumbnail((_THUMBNAIL, _THUMBNAIL))
        small.save(stream, "JPEG", quality=85)
        return stream.getvalue()


def suffixes() -> frozenset[str]:
    """Endings by which a file says that it is an image, in lower case; those of HEIC too, so that it is missed."""
    known = Image.registered_extensions().items()
    return frozenset(ending for ending, format_ in known if format_ in _FORMATS) | _HEIF


def is_image(path: Path) -> bool:
    """Whether a file that does not say so is an image, by how it begins; no pixel is decoded."""
    try:
        with Image.open(path, formats=[name for name in _FORMATS if name != "TGA"]):  # TGA's beginning is anything's
            return True
    except Image.DecompressionBombError:
        return True
    except Exception:  # whatever Pillow raises of something else
        return _is_heif(path)


def decode(path: Path) -> Decoded:
    """Read one file: the first frame, upright, on white, three channels of eight bits; Unreadable, or Pillow's errors.

    Sizes are bounded as the header tells them, before a pixel is decoded.
    """
    if not (size := path.stat().st_size):
        raise Unreadable("the file is empty")
    if size > _MOST_BYTES:
        raise Unreadable(f"the file has {size / 2**30:.1f} GiB; at most {_MOST_BYTES / 2**30:.0f} are read")
    try:
        opened = Image.open(path, formats=_FORMATS)
    except UnidentifiedImageError as error:
        if _is_heif(path):
            raise Unreadable("HEIC, which Pillow reads with pillow-heif only: pip install pillow-heif") from error
        raise Unreadable(f"its content is of no format that is read ({', '.join(_FORMATS)}), or damaged") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise Unreadable(f"more than {MOST_PIXELS:,} pixels, which are not decoded; scale it down") from error
    with opened:
        _require_bounds(opened)
        notes = _notes(opened)
        opened.load()
        _require_bounds(opened)  # an icon's own header is another one than its pixels'
        upright = ImageOps.exif_transpose(opened) if "turned" in notes else opened
        grey, more = _eight_bits(upright, opened)
        image, transparent = _on_white(grey)
        more += ["dark"] * (not {"sixteen_bit", "thirty_two_bit"}.isdisjoint(notes) and _is_dark(grey))
        notes += [*more, *(["transparent"] if transparent else []), *(["animated"] if _has_more(opened) else [])]
        return Decoded(image, tuple(notes))


def blurred(image: Image.Image) -> Image.Image:
    """Gaussian blur in proportion to the image's size."""
    return image.filter(ImageFilter.GaussianBlur(_BLUR * min(image.size)))


def downsampled(image: Image.Image) -> Image.Image:
    """An eighth of the width and height, and back."""
    small = (max(1, image.width // _DOWNSAMPLE), max(1, image.height // _DOWNSAMPLE))
    return image.resize(small, Image.Resampling.BOX).resize(image.size, Image.Resampling.BICUBIC)


def _is_heif(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            start = stream.read(12)
    except OSError:
        return False
    return start[4:8] == b"ftyp" and start[8:12] in _HEIF_BRANDS


def _require_bounds(image: Image.Image) -> None:
    """Unreadable for pixels that would fill memory: decoded, as a tile of a TIFF, or resized by an encoder."""
    width, height = image.size
    if width * height > MOST_PIXELS:
        raise Unreadable(
            f"{width} x {height} are more than {MOST_PIXELS:,} pixels, which are not decoded; scale it down"
        )
    if max(width, height) > _STRETCHED * min(width, height):
        raise Unreadable(f"{width} x {height}: one side is more than {_STRETCHED} times the other; cut it")
    tags: Any = getattr(image, "tag_v2", None) or {}
    tile = [int(tags.get(tag) or 1) for tag in (_TILE_WIDTH, _TILE_LENGTH)]
    if tile[0] * tile[1] > MOST_PIXELS:
        raise Unreadable(f"its tiles of {tile[0]} x {tile[1]} are more than {MOST_PIXELS:,} pixels")


def _notes(image: ImageFile.ImageFile) -> list[str]:
    """What the header tells: more than eight bits a channel, to be turned, an orientation that cannot be read."""
    notes = []
    tiled = str([tile.args for tile in image.tile])  # before a PNG is asked for its EXIF, for which it is decoded
    if image.mode.startswith("I;16") or ";16" in tiled or (image.format == "PPM" and _deep_ppm(image)):
        notes.append("sixteen_bit")
    elif image.mode in {"I", "F"}:
        notes.append("thirty_two_bit")
    try:
        exif = image.getexif()
        unknown = bool(image.info.get("exif")) and not exif
        turned = exif.get(_ORIENTATION, 1) in range(2, 9)
    except Exception:  # damaged metadata make Pillow raise nearly anything; the pixels are as good as any
        unknown, turned = True, False
    return notes + ["orientation_unknown"] * unknown + ["turned"] * turned


def _deep_ppm(image: ImageFile.ImageFile) -> bool:
    """Whether a PPM's largest value, which is the decoder's last argument, takes more than eight bits."""
    args = image.tile[0].args
    return isinstance(args, tuple) and isinstance(args[-1], int) and args[-1] > 255


def _has_more(image: ImageFile.ImageFile) -> bool:
    """Whether there are more frames; what a camera adds to its JPEG (MPO) is a view or preview of the same."""
    if image.format == "MPO":
        return False
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # of a frame behind the first, which is all that is looked at
        return True


def _eight_bits(image: Image.Image, opened: ImageFile.ImageFile) -> tuple[Image.Image, list[str]]:
    """Greys of 16 and 32 bits, which Pillow would clip at 255 instead of scaling them; other modes as they are."""
    if not (image.mode.startswith("I") or image.mode == "F"):
        return image, []
    values: Any = np.asarray(image)
    unsigned = image.mode == "I" and (getattr(opened, "tag_v2", None) or {}).get(_SAMPLE_FORMAT, (1,)) in (1, (1,))
    values = (values.view(np.uint32) if unsigned else values).astype(np.float64)
    finite = np.isfinite(values)
    clear = opened.info.get("transparency")
    sixteen = image.mode.startswith("I;16") or opened.format == "PPM"  # whose largest value Pillow brings to 65535
    scaled = Image.fromarray(_scaled(np.where(finite, values, 0.0), image.mode, sixteen=sixteen and image.mode != "F"))
    if isinstance(clear, int):
        scaled.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    return scaled, [] if finite.all() else ["not_finite"]


def _scaled(values: np.ndarray[Any, Any], mode: str, *, sixteen: bool) -> np.ndarray[Any, Any]:
    """Finite greys -> eight bits, by the smallest range that they may be of: to 1 (F only), 255, 65535, 2^31, 2^32.

    Of 32 bits that fill less than a sixteenth of such a range, or lie below 0, the largest (and smallest) are the
    range; fractions may lie a hair outside of 0 to 1, as resampling leaves them.
    """
    if sixteen:
        return np.clip(values / 256, 0, 255).astype(np.uint8)  # the upper eight bits
    low, peak = min(values.min(initial=0), 0.0), values.max(initial=0)
    if mode == "F" and low >= -_HAIR and peak <= 1 + _HAIR:
        return np.asarray(np.round(np.clip(values, 0, 1) * 255), np.uint8)
    ranges = [255.0, 65535.0, 2.0**31 - 1, 2.0**32 - 1]
    full = next((each for each in ranges if low == 0 and each / _DARK < peak <= each), peak) - low
    return np.round((values - low) / full * 255).astype(np.uint8) if full else np.zeros(values.shape, np.uint8)


def _is_dark(image: Image.Image) -> bool:
    """Whether no channel but alpha reaches a sixteenth of eight bits."""
    extrema: Any = image.getextrema()
    peaks = [extrema[1]] if len(image.getbands()) == 1 else [peak for _, peak in extrema]
    return all(
        peak < 256 // _DARK for peak, band in zip(peaks, image.getbands(), strict=True) if band not in {"A", "a"}
    )


def _on_white(image: Image.Image) -> tuple[Image.Image, bool]:
    """Transparent pixels composed on white, where there are any; Pillow would show whatever lies beneath."""
    if image.has_transparency_data:
        layered = image.convert("RGBA")
        if layered.getchannel("A").histogram()[255] < image.width * image.height:
            return Image.alpha_composite(Image.new("RGBA", image.size, "white"), layered).convert("RGB"), True
        return layered.convert("RGB"), False
    return image.convert("RGB"), False
