"""Data in whatever form it comes: told by its content, all its faults told, and nothing taken that is in doubt."""

from __future__ import annotations

import csv
import gzip
import io
import json
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from experiments.detect import DETECT
from experiments.detect.inference import formats
from experiments.detect.inference.data import Data, read
from harness.stage import BadInput

Json = dict[str, Any]

ROWS: list[Json] = [
    {"id": "a", "prompt": "Who, and\nwhy?", "response": 'Ann "wrote" it; née 日本.', "labels": [[5, 10]], "split": "x"},
    {"id": "b", "prompt": "Who?", "response": "Bo.", "labels": 1, "split": None},
    {"id": "7", "prompt": "Who?", "response": "Cy.", "labels": 0, "split": "y"},
    {"id": "8", "prompt": "Who?", "response": "Di.", "labels": None, "split": "y"},
]


def as_jsonl(rows: list[Json]) -> bytes:
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode()


def as_csv(rows: list[Json], delimiter: str = ",") -> bytes:
    file = io.StringIO()
    writer = csv.writer(file, delimiter=delimiter)
    writer.writerow(rows[0])
    for row in rows:
        writer.writerow([json.dumps(value) if isinstance(value, list) else value for value in row.values()])
    return file.getvalue().encode()


def as_parquet(rows: list[Json]) -> bytes:
    whole = [[[0, len(row["response"])]] if row["labels"] == 1 else row["labels"] or None for row in rows]
    frame = pd.DataFrame(rows).assign(labels=whole)
    return frame.to_parquet(index=False)


def given(folder: Path, content: bytes, **settings: Any) -> Data:
    path = folder / "data.bin"
    path.write_bytes(content)
    return read(path, **settings)


def refused(folder: Path, content: bytes, **settings: Any) -> str:
    with pytest.raises(BadInput) as caught:
        given(folder, content, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


FORMS: dict[str, Callable[[list[Json]], bytes]] = {
    "JSON array": lambda rows: json.dumps(rows, indent=1).encode(),
    "gzip": lambda rows: gzip.compress(as_jsonl(rows), mtime=0),
    "UTF-16": lambda rows: as_jsonl(rows).decode().encode("utf-16"),
    "UTF-16, big end first": lambda rows: b"\xfe\xff" + as_jsonl(rows).decode().encode("utf-16-be"),
    "CSV": as_csv,
    "CSV with semicolons, as spreadsheets save it": lambda rows: b"\xef\xbb\xbf" + as_csv(rows, ";"),
    "tabs in UTF-16": lambda rows: as_csv(rows, "\t").decode().encode("utf-16"),
    "packed CSV": lambda rows: gzip.compress(as_csv(rows), mtime=0),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_what_a_file_holds_does_not_depend_on_its_form(tmp_path: Path, form: Callable[[list[Json]], bytes]) -> None:
    assert given(tmp_path, form(ROWS)) == given(tmp_path, as_jsonl(ROWS))


def test_parquet_is_read_with_its_lists_and_columns_that_are_not_known_are_named(tmp_path: Path) -> None:
    rows = [row | {"labels": [] if row["labels"] == 0 else row["labels"]} for row in ROWS]
    frame = pd.read_parquet(io.BytesIO(as_parquet(rows))).assign(zzz=1)
    found, expected = given(tmp_path, frame.to_parquet(index=False)), given(tmp_path, as_jsonl(ROWS))
    assert found.unknown_columns == ["zzz"]
    assert [each.response for each in found.samples] == [each.response for each in expected.samples]
    assert [each.spans for each in found.samples] == [((5, 10),), ((0, 3),), None, None]


def test_a_prompt_of_any_length_may_stand_in_a_csv(tmp_path: Path) -> None:
    rows = [ROWS[0] | {"prompt": "word " * 60_000}]
    assert given(tmp_path, as_csv(rows)).samples[0].prompt == rows[0]["prompt"]


def archive(make: Callable[[Any], Any], name: str) -> bytes:
    file = io.BytesIO()
    with make(file) as packed:
        if isinstance(packed, zipfile.ZipFile):
            packed.writestr(name, "{}")
        else:
            packed.addfile(tarfile.TarInfo(name))
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (archive(lambda file: zipfile.ZipFile(file, "w"), "a.jsonl"), "is a ZIP archive"),
        (archive(lambda file: tarfile.open(fileobj=file, mode="w"), "a.jsonl"), "is a tar archive"),  # noqa: SIM115
        (b"%PDF-1.7 ...", "is a PDF"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "is a pointer of Git LFS"),
        (b"\x80\x04\x95\x00.", "is a pickle"),
        ('{"id": "a"}'.encode("utf-16-le"), "is no text, or UTF-16 without a byte order mark"),
        (b"\xff\xfe{\x00\x00", "is not UTF-16 as its first bytes say"),
        (gzip.compress(b"{}", mtime=0)[:-6], "cannot be unpacked by gzip"),
        (gzip.compress(gzip.compress(b"{}", mtime=0), mtime=0), "is packed by gzip twice"),
        (b"PAR1 and no more PAR1", "not Parquet as its first bytes say"),
        (b'[{"id": "a"', "not JSON"),
        (b"id,prompt,response,id\n", "line 1: a column stands there twice"),
        (b'id,prompt,response\na,"b,c\n', "not CSV"),
        (b"id,prompt,response\na,b,c\nd,e\n", "line 3: 2 cells under 3 columns"),
        (b"id,prompt,response\na,b,\xe9\n", "line 2: is not UTF-8"),
        (b"id,prompt,response,labels\na,b,c,'x'\n", "line 2: 'labels' should be 0, 1 or a list of spans"),
        (b"[[1]]", "entry 1: this should be an object"),
        (b"nothing of the kind", "line 1: not JSON"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, content: bytes, said: str) -> None:
    message = refused(tmp_path, content)
    assert said in message
    assert message.startswith(str(tmp_path / "data.bin"))


def test_what_comes_to_too_much_when_unpacked_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "_MOST", 2**20)
    long = [row | {"prompt": "word " * 1000} for row in ROWS]
    assert "when unpacked" in refused(tmp_path, gzip.compress(b" " * (2**20 + 1), mtime=0))
    repeated = pd.DataFrame([long[0] | {"id": str(i), "labels": None} for i in range(1000)])
    packed = repeated.to_parquet(index=False)
    assert len(packed) < 2**16
    assert "when unpacked" in refused(tmp_path, packed)
    assert len(given(tmp_path, gzip.compress(as_jsonl(long), mtime=0)).samples) == 4


# --- labels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("response", "label", "said"),
    [
        ("Ada lives in Rome.", (0, 3, "Rome"), "[0, 3] marks 'Ada', and its text is 'Rome'; that stands at [13, 17]"),
        ("🙂 in Rome.", (6, 10, "Rome"), "marks 'ome.', and its text is 'Rome'; the offsets count UTF-16 code units, in"
         " characters they are [5, 9]"),
        ("née in Rome.", (8, 12, "Rome"), "the offsets count bytes of UTF-8, in characters they are [7, 11]"),
        ("日本 Rome", (7, 11, "Rome"), "is outside its response or empty, and its text is 'Rome'; the offsets"),
        ("It is so.", (0, 2, "No"), "that stands 0 times in the response"),
        ("so so so", (0, 3, "so"), "that stands 3 times in the response"),
        ("It is so.", (0, 2, ""), "and its text is ''"),
    ],
)  # fmt: skip
def test_a_label_must_stand_where_it_says(
    tmp_path: Path, response: str, label: tuple[int, int, str], said: str
) -> None:
    marked = dict(zip(("start", "end", "text"), label, strict=True))
    rows = [ROWS[1], ROWS[0] | {"response": response, "labels": [marked]}]
    message = refused(tmp_path, as_jsonl(rows))
    assert "line 2: id 'a': label" in message
    assert said in message
    left = given(tmp_path, as_jsonl(rows), skip_bad=True)
    assert [each.id for each in left.samples] == ["b"]
    assert left.counts["skipped"] == 1


def test_a_label_that_stands_where_it_says_is_taken(tmp_path: Path) -> None:
    rows = [ROWS[0] | {"response": "🙂 in Rome.", "labels": [{"start": 5, "end": 9, "text": "Rome"}]}]
    assert given(tmp_path, as_jsonl(rows)).samples[0].spans == ((5, 9),)


@pytest.mark.parametrize("labels", [{"labels": None}, {}], ids=["null", "no column"])
def test_responses_without_labels_are_read_and_counted(tmp_path: Path, labels: Json) -> None:
    plain = {name: value for name, value in ROWS[1].items() if name != "labels"} | {"id": "c"} | labels
    found = given(tmp_path, as_jsonl([ROWS[0], plain]))
    assert [each.spans for each in found.samples] == [((5, 10),), None]
    assert found.counts["unlabelled"] == 1


# --- faults and columns ----------------------------------------------------------------------------------------------


def test_all_faults_are_counted_and_the_first_five_told(tmp_path: Path) -> None:
    bad = [{"id": f"x{i}"} for i in range(4)] + [
        ROWS[1] | {"id": "a"},
        ROWS[1] | {"id": "y", "response": ""},
        {"id": 1.5},
    ]
    message = refused(tmp_path, as_jsonl([ROWS[0], *bad]))
    path = tmp_path / "data.bin"
    assert message.startswith(f"7 faults, the first 5: {path}, line 2: column 'prompt' is missing")
    assert message.count(str(path)) == 5
    assert "skip_bad=true" in message


def test_faulty_rows_are_left_out_where_that_is_asked_for_and_every_row_is_accounted_for(tmp_path: Path) -> None:
    bad = [{"id": "x"}, ROWS[1] | {"id": "y", "response": " "}, "no object", ROWS[1] | {"id": "a"}]
    content = as_jsonl([ROWS[0], *bad, *ROWS[1:]]) + b'\n{"id'  # type: ignore[list-item]
    found = given(tmp_path, content, skip_bad=True, split="y", limit=1)
    assert [each.id for each in found.samples] == ["7"]
    counts = found.counts
    assert counts["read"] == 9 == sum(counts[name] for name in ("skipped", "filtered_out", "beyond_limit", "kept"))
    assert counts["skipped"] == 4  # that without a response is of another split
    assert found.faults[0].startswith("data.bin, line 2: column 'prompt' is missing")


def test_a_file_of_nothing_but_faults_is_refused_even_so(tmp_path: Path) -> None:
    assert "3 faults: " in refused(tmp_path, as_jsonl([{"id": "x"}] * 3), skip_bad=True)
    assert "is empty" in refused(tmp_path, as_jsonl([ROWS[1] | {"response": " "}]), skip_bad=True)


def test_columns_that_are_not_known_are_listed_once(tmp_path: Path) -> None:
    found = given(tmp_path, as_jsonl([row | {"zzz": 1, "a\nb": 2} for row in ROWS]))
    assert found.unknown_columns == ["a\nb", "zzz"]
    assert found.counts["unknown_columns"] == 2


def test_which_rows_are_judged_is_no_condition_that_a_sweep_may_vary() -> None:
    assert DETECT.infer_params.yardstick()["skip_bad"] == "which samples are judged"
