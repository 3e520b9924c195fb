"""Images are looked at as they are meant: upright, on white, scaled, bounded; and found where people keep them."""

from __future__ import annotations

import gzip
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

from experiments.models import idx, train_digits_clip, vision
from experiments.montecarlo.bench import decoding as bench
from experiments.montecarlo.inference import captions, decoding, images, kept, pixels
from experiments.montecarlo.inference.inputs import inputs
from experiments.montecarlo.inference.params import MontecarloInfer
from harness.stage import BadInput
from tests.test_montecarlo_infer import execute

GREY = np.linspace(0, 255, 40 * 60).reshape(40, 60).astype(np.uint8)
RGB = np.stack([GREY, 255 - GREY, GREY // 2], axis=-1)
BLACK_TO_WHITE = GREY.astype(np.float64) / 255


def decoded(path: Path) -> tuple[np.ndarray[Any, Any], set[str]]:
    found = decoding.decode(path)
    return np.asarray(found.image).astype(int), set(found.notes)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, bits: int, colour: int, rows: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


# ---- what is in a file ----

UPRIGHT: dict[int, Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]] = {  # of EXIF's orientations
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: lambda a: np.rot90(a),
}


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif", "avif"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_an_image_is_turned_as_its_camera_says(orientation: int, ending: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(RGB).save(tmp_path / f"a.{ending}", exif=exif)
    found, notes = decoded(tmp_path / f"a.{ending}")
    np.testing.assert_allclose(found, UPRIGHT[orientation](RGB), atol=30)
    assert notes == ({"turned"} if orientation > 1 else set())


def test_damaged_exif_data_are_told(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.jpg")
    content, exif = (tmp_path / "a.jpg").read_bytes(), b"Exif\0\0II*\0\xff\xff\xff\xff"
    (tmp_path / "a.jpg").write_bytes(content[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + content[2:])
    assert decoded(tmp_path / "a.jpg")[1] == {"orientation_unknown"}


def test_transparent_pixels_are_composed_on_white(tmp_path: Path) -> None:
    alpha = np.full(GREY.shape, 255, np.uint8)
    alpha[:, :30], alpha[:, 30:40] = 0, 51
    Image.fromarray(np.dstack([RGB, alpha])).save(tmp_path / "rgba.png")
    share = alpha[..., None] / 255
    found, notes = decoded(tmp_path / "rgba.png")
    np.testing.assert_allclose(found, RGB * share + 255 * (1 - share), atol=1)
    assert notes == {"transparent"}
    Image.merge("LA", (Image.fromarray(GREY), Image.fromarray(alpha))).save(tmp_path / "la.png")
    assert (decoded(tmp_path / "la.png")[0][:, :30] == 255).all()
    Image.fromarray((GREY // 128).astype(np.uint8)).convert("P").save(tmp_path / "palette.png", transparency=1)
    assert (decoded(tmp_path / "palette.png")[0][GREY > 127] == 255).all()
    wide = Image.fromarray(GREY.astype(np.uint16) * 257)
    wide.save(tmp_path / "sixteen.png", transparency=257 * int(GREY[0, 0]))
    found, notes = decoded(tmp_path / "sixteen.png")
    assert (found[GREY[0, 0] == GREY] == 255).all()
    assert notes == {"sixteen_bit", "transparent"}


def test_an_alpha_channel_that_hides_nothing_changes_nothing(tmp_path: Path) -> None:
    Image.fromarray(RGB).convert("RGBA").save(tmp_path / "a.png")
    found, notes = decoded(tmp_path / "a.png")
    np.testing.assert_array_equal(found, RGB)
    assert notes == set()


@pytest.mark.parametrize(
    ("values", "note"),
    [
        (BLACK_TO_WHITE.astype(np.float32), "thirty_two_bit"),
        ((BLACK_TO_WHITE * 255).astype(np.float32), "thirty_two_bit"),
        ((BLACK_TO_WHITE * 65535).astype(np.float32), "thirty_two_bit"),
        ((BLACK_TO_WHITE * 2 - 1).astype(np.float32), "thirty_two_bit"),
        ((BLACK_TO_WHITE * 1e6).astype(np.float32), "thirty_two_bit"),
        (GREY.astype(np.int32), "thirty_two_bit"),
        (GREY.astype(np.int32) * 257, "thirty_two_bit"),
        ((BLACK_TO_WHITE * (2**31 - 1)).astype(np.int32), "thirty_two_bit"),
        (GREY.astype(np.uint16) * 257, "sixteen_bit"),
    ],
    ids=["to 1", "to 255", "to 65535", "below 0", "to its own", "int 255", "int 65535", "int", "16 bits"],
)
def test_a_tiff_of_more_bits_is_scaled_by_the_range_that_holds_it(
    values: np.ndarray[Any, Any], note: str, tmp_path: Path
) -> None:
    Image.fromarray(values).save(tmp_path / "a.tif")
    found, notes = decoded(tmp_path / "a.tif")
    np.testing.assert_allclose(found[..., 0], GREY, atol=1)
    assert notes == {note}


@pytest.mark.parametrize("peak", [1.0, 1.0000001, 1.0009, 1.08, 3.3, 15.0, 255.3, 300.0, 70000.0])
def test_floats_beyond_a_usual_range_are_no_black_image(peak: float, tmp_path: Path) -> None:
    Image.fromarray((BLACK_TO_WHITE * peak).astype(np.float32)).save(tmp_path / "a.tif")
    found, notes = decoded(tmp_path / "a.tif")
    np.testing.assert_allclose(found[..., 0], GREY, atol=1)
    assert notes == {"thirty_two_bit"}


def test_fractions_a_hair_below_0_are_still_fractions(tmp_path: Path) -> None:
    Image.fromarray((BLACK_TO_WHITE * 0.5 - 0.0005).astype(np.float32)).save(tmp_path / "a.tif")
    np.testing.assert_allclose(decoded(tmp_path / "a.tif")[0][..., 0], GREY / 2, atol=1)


@pytest.mark.parametrize("peak", [12, 300, 4095])
def test_few_of_32_bits_are_scaled_by_their_own_range(peak: int, tmp_path: Path) -> None:
    Image.fromarray(np.round(BLACK_TO_WHITE * peak).astype(np.int32)).save(tmp_path / "a.tif")
    found, notes = decoded(tmp_path / "a.tif")
    np.testing.assert_allclose(found[..., 0], GREY, atol=255 / peak)
    assert notes == {"thirty_two_bit"}


@pytest.mark.parametrize(("peak", "is_dark"), [(255, True), (3800, True), (4400, False), (65535, False)])
def test_few_of_16_bits_are_told_to_be_dark(peak: int, is_dark: bool, tmp_path: Path) -> None:
    wide = np.round(BLACK_TO_WHITE * peak).astype(">u2")
    Image.fromarray(wide.astype(np.uint16)).save(tmp_path / "a.tif")
    Image.fromarray(wide.astype(np.uint16)).save(tmp_path / "a.png")
    (tmp_path / "a.pgm").write_bytes(b"P5 60 40 65535\n" + wide.tobytes())
    (tmp_path / "a.ppm").write_bytes(b"P6 60 40 65535\n" + np.repeat(wide[..., None], 3, axis=2).tobytes())
    for ending in ("tif", "png", "pgm", "ppm"):
        assert decoded(tmp_path / f"a.{ending}")[1] == {"sixteen_bit", *(["dark"] if is_dark else [])}


def test_values_that_are_no_numbers_are_black_and_told(tmp_path: Path) -> None:
    values = BLACK_TO_WHITE.astype(np.float32)
    values[0, :2] = [np.nan, np.inf]
    Image.fromarray(values).save(tmp_path / "a.tif")
    found, notes = decoded(tmp_path / "a.tif")
    assert found[0, :2].tolist() == [[0] * 3] * 2
    assert notes == {"thirty_two_bit", "not_finite"}
    np.testing.assert_allclose(found[1:, :, 0], GREY[1:], atol=1)


def test_colours_of_sixteen_bits_are_counted(tmp_path: Path) -> None:
    wide = (RGB.astype(">u2") * 257).astype(">u2")
    (tmp_path / "a.png").write_bytes(png(60, 40, 16, 2, b"".join(b"\0" + row.tobytes() for row in wide)))
    (tmp_path / "a.ppm").write_bytes(b"P6 60 40 65535\n" + wide.tobytes())
    for name in ("a.png", "a.ppm"):
        found, notes = decoded(tmp_path / name)
        np.testing.assert_allclose(found, RGB, atol=1)
        assert notes == {"sixteen_bit"}


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.webp", "a.tif", "a.avif", "a.mpo"])
def test_the_first_frame_is_looked_at_and_a_cameras_second_view_is_no_frame(name: str, tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / name, save_all=True, append_images=[Image.fromarray(255 - RGB)])
    found, notes = decoded(tmp_path / name)
    np.testing.assert_allclose(found, RGB, atol=30)
    assert notes == (set() if name == "a.mpo" else {"animated"})


def _tiled_tiff() -> bytes:
    """Ten pixels in a tile of ten thousand million."""
    tags = [(256, 10), (257, 1), (258, 8), (259, 5), (262, 1), (322, 100_000), (323, 100_000), (324, 8), (325, 100)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(tags)) + entries + b"\0" * 104


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "the file is empty"),
        (b"<html><body>404</body></html>", "of no format that is read"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n", "of no format that is read"),
        (struct.pack(">I", 24) + b"ftypheic" + bytes(64), "pip install pillow-heif"),
        (png(60000, 60000, 8, 2, b"\0"), "more than 89,478,485 pixels"),
        (png(10000, 10000, 8, 2, b"\0"), "10000 x 10000 are more than 89,478,485 pixels"),
        (png(1, 60000, 8, 0, bytes(120000)), "1 x 60000: one side is more than 200 times the other"),
        (_tiled_tiff(), "its tiles of 100000 x 100000"),
    ],
    ids=["empty", "page", "PostScript", "HEIC", "bomb", "large", "thin", "tile"],
)
def test_what_is_no_image_or_would_fill_memory_is_refused_for_one_reason(
    content: bytes, said: str, tmp_path: Path
) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(decoding.Unreadable, match=said):
        decoding.decode(tmp_path / "a.png")


# ---- which there are ----


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("cat", "dog"):
        (tmp_path / "tree" / name).mkdir(parents=True)
        Image.fromarray(RGB).save(tmp_path / "tree" / name / "a.png")
    return tmp_path / "tree"


def found_in(folder: Path) -> dict[str, str | None]:
    return {item.name: item.label for item in images.find(str(folder))}


def test_files_are_images_by_their_ending_or_their_content(tree: Path) -> None:
    Image.fromarray(RGB).save(tree / "cat" / "b", "PNG")
    Image.fromarray(RGB).save(tree / "cat" / "photo.2019", "JPEG")
    for ending in ("jfif", "avif", "jp2"):
        Image.fromarray(RGB).save(tree / "cat" / f"b.{ending}")
    (tree / "cat" / "b.heic").write_bytes(b"?")
    (tree / "LICENSE").write_text("P6 is no image")
    (tree / "notes.json").write_text("{}")
    names = ["a.png", "b", "b.avif", "b.heic", "b.jfif", "b.jp2", "photo.2019"]
    assert found_in(tree) == {f"cat/{name}": "cat" for name in names} | {"dog/a.png": "dog"}


@pytest.mark.parametrize(
    ("name", "content"), [("README", b"P2 2 2 1\n0 1 1 0\n"), ("folder.ico", b"\0\0\1\0"), ("notes.txt", b"P1 1 1 0")]
)
def test_what_only_may_be_an_image_takes_no_class_away(name: str, content: bytes, tree: Path) -> None:
    (tree / name).write_bytes(content)
    assert found_in(tree) == {"cat/a.png": "cat", "dog/a.png": "dog"}
    Image.fromarray(RGB).save(tree / "b.png")
    assert set(found_in(tree).values()) == {None}


def test_classes_of_a_list_are_read_as_folders_are(tree: Path) -> None:
    (tree / "list.txt").write_text("cat/a.png\tpolar_bear\ndog/a.png\tsea_lion\n")
    (tree / "names.txt").write_text("polar_bear\tnanuq\nsea_lion\totary\n")
    items = images.find(str(tree / "list.txt"))
    called = captions.names(str(tree / "names.txt"), images.classes(items), "x")
    assert called == {"polar bear": ["nanuq"], "sea lion": ["otary"]}


def test_linked_folders_are_classes_and_hidden_ones_are_none(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "owls").mkdir()
    Image.fromarray(RGB).save(tmp_path / "owls" / "a.png")
    (tree / "owl").symlink_to(tmp_path / "owls")
    for name in (".ipynb_checkpoints", "__MACOSX", "cat/.thumbnails"):
        (tree / name).mkdir()
        Image.fromarray(RGB).save(tree / name / "b.png")
    Image.fromarray(RGB).save(tree / "cat" / "._a.png")
    (tree / "cat" / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
    os.mkfifo(tree / "cat" / "pipe.png")
    assert found_in(tree) == {"cat/a.png": "cat", "dog/a.png": "dog", "owl/a.png": "owl"}


@pytest.mark.parametrize("target", [".", "cat", "dog/.."])
def test_a_link_to_where_it_came_from_is_refused_in_a_line(target: str, tree: Path) -> None:
    (tree / "dog" / "loop").symlink_to((tree / target).resolve())
    with pytest.raises(BadInput, match=r"a link makes .* the same folder as .*; allowed: each image once"):
        images.find(str(tree))


def test_a_link_whose_target_is_gone_is_missed(tree: Path) -> None:
    (tree / "cat" / "gone.png").symlink_to("/nowhere/a.png")
    (tree / "dog" / "itself.png").symlink_to("itself.png")
    items = images.find(str(tree))
    assert {item.name for item in items} >= {"cat/gone.png", "dog/itself.png"}
    assert len(images.digest(items)) == 64
    result = execute(images=tree, mc_trials=2, passes=2)
    assert result.records.origin["broken"].keys() == {"cat/gone.png", "dog/itself.png"}


def test_names_of_any_bytes_are_text_of_one_line(tmp_path: Path) -> None:
    for name in (b"a\nb.png", b"\xff.png"):
        Image.fromarray(RGB).save(os.fsencode(tmp_path) + b"/" + name, "PNG")
    items = images.find(str(tmp_path))
    assert {item.name for item in items} == {"\\xff.png", "a\\nb.png"}
    assert len(images.digest(items)) == 64


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_no_part_of_a_name(encoding: str, tree: Path) -> None:
    (tree / "list.txt").write_bytes("cat/a.png\tcät\r\ndog/a.png\tdog\r\n".encode(encoding))
    assert found_in(tree / "list.txt") == {"cat/a.png": "cät", "dog/a.png": "dog"}


def test_what_was_done_to_images_is_told(tree: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(RGB).save(tree / "cat" / "turned.jpg", exif=exif)
    Image.fromarray(np.dstack([RGB, GREY])).save(tree / "dog" / "clear.png")
    values = BLACK_TO_WHITE.astype(np.float32)
    values[0, 0] = np.nan
    Image.fromarray(values).save(tree / "dog" / "float.tif")
    Image.fromarray(GREY.astype(np.uint16)).save(tree / "dog" / "dark.png")
    result = execute(images=tree, mc_trials=2, passes=2)
    said = {finding.code: finding.message for finding in result.audit.findings}
    for code in ("images_dark", "images_turned", "images_transparent", "images_thirty_two_bit", "images_not_finite"):
        assert said[code].startswith("1 image: ")


# ---- what classes are called ----


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.txt", "n01440764 tench, Tinca tinca\nn01443537 goldfish\n", [["tench", "Tinca tinca"], ["goldfish"]]),
        ("a.txt", "\ufeffn01443537\tgold fish\nn01440764\ttench\n", [["tench"], ["gold fish"]]),
        ("a.json", '{"n01440764": "tench", "n01443537": ["goldfish", "carp"]}', [["tench"], ["goldfish", "carp"]]),
        ("a.json", '{"0": ["n01440764", "tench"], "1": ["n01443537", "gold_fish"]}', [["tench"], ["gold fish"]]),
    ],
    ids=["synsets", "tabs", "object", "Keras"],
)
def test_imagenets_folders_are_called_as_a_file_says(
    name: str, content: str, expected: list[list[str]], tmp_path: Path
) -> None:
    (tmp_path / name).write_text(content)
    found = captions.names(str(tmp_path / name), ["n01440764", "n01443537"], "x")
    assert list(found.values()) == expected


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("n01440764 tench\n", "says nothing of n01443537"),
        ("n01440764 tench\nn01443537\n", "says nothing of n01443537"),
        ("n01440764 tench\nn01443537 carp\nn01440764 fish\n", "n01440764 stands there twice"),
        ('{"n01440764": "a", "n01440764": "b"}', "n01440764 stands there twice"),
        ('{"n01440764": 3}', "n01440764: must be text or a list of texts"),
        ("{", "no JSON"),
        ("\udcff", "cannot be read"),
        (None, "no such file"),
    ],
)
def test_a_file_of_names_that_lacks_one_is_refused(content: str | None, said: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "names").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(BadInput, match=said):
        captions.names(str(tmp_path / "names"), ["n01440764", "n01443537"], "x")


@pytest.mark.parametrize(
    ("content", "classes", "expected"),
    [
        ("# names\napple\nplum\n", "01", ["apple", "plum"]),
        ("apple\nplum\n", "12", ["apple", "plum"]),
        ('["apple", ["plum", "prune"]]', "12", ["apple", "plum"]),
        ("apple\npear\nplum\n", "02", ["apple", "plum"]),
        ("0 apple\n1 plum\n", "01", ["apple", "plum"]),
        ("7 Up\napple\n", "01", ["7 Up", "apple"]),
    ],
)
def test_names_in_order_are_those_of_numbered_classes(
    content: str, classes: str, expected: list[str], tmp_path: Path
) -> None:
    (tmp_path / "names.txt").write_text(content)
    assert [each[0] for each in captions.names(str(tmp_path / "names.txt"), list(classes), "x").values()] == expected


@pytest.mark.parametrize(
    ("content", "classes", "said"),
    [
        ("apple\nbanana\npear\nplum\n", "123", "lack 0, so that 4 names in order may begin at 0 or at 1"),
        ('["apple", "banana", "pear", "plum"]', "123", "lack 0, so that 4 names"),
        ("apple\npear\nplum\n", "13", "lack 0, so that 3 names"),
        ("0,apple\n1,plum\n", "01", r"each name begins with a number \(0,apple\)"),
        ("1. apple\n2. plum\n", "01", "each name begins with a number"),
        ("1) apple\n2) plum\n", "12", "each name begins with a number"),
        ("1 apple\n2 plum\n", "01", "each name begins with a number"),
        ("n01440764 tench\nn01443537 carp\n", "01", "each name begins with a number"),
        ('["0: apple", "1: plum"]', "01", "each name begins with a number"),
    ],
)
def test_names_whose_order_is_not_sure_are_refused(content: str, classes: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text(content)
    with pytest.raises(BadInput, match=said):
        captions.names(str(tmp_path / "names.txt"), list(classes), "x")


def test_a_number_behind_wordnets_is_no_part_of_the_name(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("n01440764 1 tench\nn01443537 2 gold_fish\n")
    found = captions.names(str(tmp_path / "names.txt"), ["n01440764", "n01443537"], "x")
    assert list(found.values()) == [["tench"], ["gold fish"]]


def test_numbers_of_wordnet_make_no_caption_without_a_file() -> None:
    with pytest.raises(BadInput, match=r"images = x: the classes are numbers, n01440764, .*; set classes to a file"):
        captions.names(None, ["n01440764"], "x")


def test_classes_called_alike_are_told_apart() -> None:
    assert captions.shown({"n1": ["crane"], "n2": ["crane", "bird"], "n3": ["owl"]}) == [
        "crane (n1)",
        "crane (n2)",
        "owl",
    ]


def test_names_decide_the_answers_and_the_key(tree: Path) -> None:
    for name, code in (("cat", "n00000001"), ("dog", "n00000002")):
        (tree / name).rename(tree / code)
    names = tree.parent / "names.txt"
    names.write_text("n00000001 three\nn00000002 eight, the number eight\n")
    result = execute(images=tree, classes=names, mc_trials=2, passes=2)
    assert set(result.records.frame["class"]) == {"three", "eight"}
    first = inputs(MontecarloInfer(images=str(tree), classes=str(names)))
    names.write_text("n00000001 eight\nn00000002 three\n")
    second = inputs(MontecarloInfer(images=str(tree), classes=str(names)))
    assert first["data"] == second["data"]
    assert first["classes"] != second["classes"]


# ---- IDX files ----

SOME = np.arange(12 * 28 * 28, dtype=np.uint32).reshape(12, 28, 28).astype(np.uint8)


def write_idx(folder: Path, part: str, count: int = 12, *, packed: bool = True) -> Path:
    """Images and labels as MNIST has them."""
    opened: Any = gzip.open if packed else open
    ending = ".gz" if packed else ""
    with opened(folder / f"{part}-images-idx3-ubyte{ending}", "wb") as stream:
        stream.write(struct.pack(">IIII", 0x0803, count, 28, 28) + SOME[:count].tobytes())
    with opened(folder / f"{part}-labels-idx1-ubyte{ending}", "wb") as stream:
        stream.write(struct.pack(">II", 0x0801, count) + bytes(i % 3 for i in range(count)))
    return folder / f"{part}-images-idx3-ubyte{ending}"


@pytest.mark.parametrize("packed", [True, False])
def test_idx_files_are_read_one_by_one_or_as_a_folder(packed: bool, tmp_path: Path) -> None:
    test = write_idx(tmp_path, "t10k", packed=packed)
    write_idx(tmp_path, "train", 4, packed=packed)
    items = images.find(str(test), 5)
    assert [item.name for item in items] == [f"t10k/{i:05d}" for i in (0, 3, 6, 8, 11)]
    assert [item.label for item in items] == ["0", "0", "0", "2", "2"]
    np.testing.assert_array_equal(np.asarray(items[1].decode().image)[..., 2], SOME[3])
    assert len(images.find(str(tmp_path))) == 16
    before = images.digest(items)
    write_idx(tmp_path, "t10k", 11, packed=packed)
    assert images.digest(images.find(str(test), 5)) != before


def test_idx_files_have_labels_all_or_none_and_no_images_beside_them(tmp_path: Path) -> None:
    write_idx(tmp_path, "t10k")
    write_idx(tmp_path, "train")
    (tmp_path / "train-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(BadInput, match=r"no labels beside train-images-idx3-ubyte\.gz, but beside the others"):
        images.find(str(tmp_path))
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    assert {item.label for item in images.find(str(tmp_path))} == {None}
    Image.fromarray(RGB).save(tmp_path / "a.png")
    with pytest.raises(BadInput, match=r"IDX files \(t10k-.*\) and images \(a\.png\) lie side by side"):
        images.find(str(tmp_path))


def test_idx_files_run_with_a_list_of_names_and_are_refused_without(tmp_path: Path) -> None:
    given = write_idx(tmp_path, "t10k")
    (tmp_path / "names.txt").write_text("zero\none\ntwo\n")
    result = execute(images=given, classes=tmp_path / "names.txt", mc_trials=2, passes=2)
    assert set(result.records.frame["class"]) == {"zero", "one", "two"}
    with pytest.raises(BadInput, match=r"the classes are numbers, 0, 1, 2, that make no caption; set classes"):
        execute(images=given)
    (tmp_path / "names.txt").write_text("zero\none\n")
    with pytest.raises(BadInput, match="says nothing of 2"):
        execute(images=given, classes=tmp_path / "names.txt")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no IDX file of bytes in 3 dimensions"),
        (struct.pack(">IIII", 0x0801, 1, 28, 28), "no IDX file of bytes in 3 dimensions"),
        (struct.pack(">IIII", 0x0803, 2, 28, 28) + bytes(800), "2 x 28 x 28 bytes, and there are only 800"),
        (struct.pack(">IIII", 0x0803, 1, 28, 28) + bytes(800), "1 x 28 x 28 bytes, and there are more"),
        (struct.pack(">IIII", 0x0803, 2**32 - 1, 2**32 - 1, 2**32 - 1), "at most 1,073,741,824 are read"),
        (struct.pack(">IIII", 0x0803, 9, 0, 28), "0 x 28 pixels"),
    ],
)
@pytest.mark.parametrize("packed", [True, False])
def test_an_idx_file_that_is_not_what_its_header_says_is_refused(
    packed: bool, content: bytes, said: str, tmp_path: Path
) -> None:
    path = tmp_path / "t10k-images-idx3-ubyte"
    path.write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(BadInput, match=said):
        images.find(str(path))


def test_a_damaged_gzip_and_labels_of_another_number_are_refused(tmp_path: Path) -> None:
    path = write_idx(tmp_path, "train")
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(struct.pack(">II", 0x0801, 1) + b"\0"))
    with pytest.raises(BadInput, match=r"holds 12 images, and train-labels-idx1-ubyte.gz 1 labels"):
        images.find(str(path))
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(BadInput, match="cannot be read"):
        images.find(str(path))


def test_the_script_takes_fashion_mnist_from_its_files(tmp_path: Path) -> None:
    write_idx(tmp_path, "train")
    with pytest.raises(BadInput, match="lacks images or labels of train or t10k"):
        train_digits_clip.fashion(tmp_path).load("held_out")
    write_idx(tmp_path, "t10k", 4)
    found, labels = train_digits_clip.fashion(tmp_path).load("held_out")
    assert found.shape == (4, 28, 28)
    assert labels.tolist() == [0, 1, 2, 0]
    assert idx.part(idx.found(tmp_path)[0]) == "t10k"


# ---- decoded once ----


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Path]:
    """A cache of its own, and every file that is decoded."""
    monkeypatch.setenv("RIGSWEEP_CACHE", str(tmp_path / "cache"))
    opened: list[Path] = []
    plain = decoding.decode

    def decode(path: Path) -> decoding.Decoded:
        opened.append(path)
        return plain(path)

    monkeypatch.setattr(decoding, "decode", decode)
    return opened


def test_the_next_encoder_finds_the_images_decoded_bit_for_bit(tree: Path, counted: list[Path]) -> None:
    few = {"images": tree, "mc_trials": 2, "passes": 2, "ablation": 2}
    first, second = execute(**few), execute(**few, batch_images=1)
    assert len(counted) == 2
    assert first.records.origin["decoded_before"] == 0
    assert second.records.origin["decoded_before"] == 2
    assert "images_decoded_before" in {finding.code for finding in second.audit.findings}
    assert first.records.frame["thumbnail"].equals(second.records.frame["thumbnail"])
    again = execute(**few, decode="every_run")
    assert len(counted) == 4
    assert again.records.frame["u_trace_pre"].equals(first.records.frame["u_trace_pre"])


def test_notes_are_kept_and_a_changed_image_is_decoded_again(tree: Path, counted: list[Path]) -> None:
    Image.fromarray(np.dstack([RGB, GREY])).save(tree / "cat" / "a.png")
    (tree / "cat" / "broken.png").write_bytes(b"?")
    few = {"images": tree, "mc_trials": 2, "passes": 2}
    for _ in range(2):
        counts = execute(**few).records.origin["counts"]
        assert (counts["transparent"], counts["errors"]) == (1, 1)
    Image.fromarray(255 - RGB).save(tree / "cat" / "a.png")
    assert execute(**few).records.origin["decoded_before"] == 0


def test_what_does_not_fit_or_is_damaged_is_decoded_again(
    tree: Path, counted: list[Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    few = {"images": tree, "mc_trials": 2, "passes": 2}
    monkeypatch.setattr(kept, "_MOST_BYTES", RGB.size + 2000)  # one image
    assert [execute(**few).records.origin["decoded_before"] for _ in range(2)] == [0, 1]
    (stored,) = (tmp_path / "cache" / "decoded").glob("*/pixels")
    stored.write_bytes(b"cut")
    assert execute(**few).records.origin["decoded_before"] == 0
    assert not list((tmp_path / "cache" / "decoded").glob(".*"))


def test_what_another_process_lets_go_of_is_decoded_again(
    tree: Path, counted: list[Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = vision.load("builtin", "open_clip", None, "fp32", "cpu")
    items = images.find(str(tree))
    with pixels.decoded(items, [], model, "device", 1, keep=True):
        pass
    plain = kept.Kept.get

    def get(self: kept.Kept, item: images.Item) -> kept.Opened | None:
        for stored in (tmp_path / "cache" / "decoded").glob("*/pixels"):
            stored.unlink()
        return plain(self, item)

    monkeypatch.setattr(kept.Kept, "get", get)
    with pixels.decoded(items, [], model, "device", 1, keep=True) as again:
        assert (again.broken, again.decoded_before, len(again.views)) == ({}, 0, 2)


def test_what_a_killed_run_left_half_done_is_removed_and_what_another_writes_is_not(
    tree: Path, counted: list[Path], tmp_path: Path
) -> None:
    folder = tmp_path / "cache" / "decoded"
    for name in ("a" * 64, "b" * 64):
        (folder / f".{name}").mkdir(parents=True)
        (folder / f".{name}" / "pixels").write_bytes(b"?")
    with FileLock(folder / f"{'b' * 64}.lock"), kept.found(images.find(str(tree))):
        assert not (folder / f".{'a' * 64}").exists()
        assert (folder / f".{'b' * 64}" / "pixels").exists()


def test_what_reads_heic_is_in_the_keys(tree: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RIGSWEEP_CACHE", str(tmp_path / "cache"))
    given, keys, stored = MontecarloInfer(images=str(tree)), [], tmp_path / "cache" / "decoded"
    for version in (None, "1.0.0", "1.1.0"):
        monkeypatch.setattr(decoding, "HEIF", version)
        keys.append(inputs(given))
        with kept.found(images.find(str(tree))) as there:
            assert isinstance(there, kept.Keeping)
    assert keys[0] != keys[1] != keys[2]
    assert len(list(stored.glob("*[0-9a-f]"))) == 3


def test_a_row_of_the_benchmark_says_what_is_saved_and_that_pixels_are_the_same() -> None:
    model = vision.load("builtin", "open_clip", None, "fp32", "cpu")
    row = bench.run(bench.Case("png", 3, 40, 30), model, 1)
    assert row["bit_identical"]
    assert row["ratio"] == pytest.approx(row["decoded_again_seconds"] / row["later_seconds"])


def test_pixels_are_left_out_of_the_cache_unless_asked_for(tree: Path, counted: list[Path], tmp_path: Path) -> None:
    model = vision.load("builtin", "open_clip", None, "fp32", "cpu")
    with pixels.decoded(images.find(str(tree)), [], model, "device", 1):
        assert not (tmp_path / "cache" / "decoded").exists()
