"""The rows of a file, whatever it is: told by its content, not by its name; nothing in it is run."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pydantic_core import PydanticSerializationError, from_json, to_json

from harness.stage import BadInput

READ = "JSONL, a JSON array, CSV or Parquet, in UTF-8 or UTF-16 and packed by gzip or not"
_MOST = 2**30  # bytes that what is packed may come to
_ROWS = 64  # of a Parquet file that are unpacked at once
_GZIP, _PARQUET = b"\x1f\x8b", b"PAR1"
_UTF = (
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_OTHERS = (
    (b"PK\x03\x04", "a ZIP archive, as those of Excel and NumPy are"),
    (b"%PDF", "a PDF"),
    (b"BZh", "packed by bzip2"),
    (b"\xfd7zXZ", "packed by xz"),
    (b"\x28\xb5\x2f\xfd", "packed by Zstandard"),
    (b"7z\xbc\xaf", "a 7z archive"),
    (b"SQLite format 3", "an SQLite database"),
    (b"ARROW1", "an Arrow file"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\xd0\xcf\x11\xe0", "an old Excel or Word file"),
    (b"\x80\x03", "a pickle"),
    (b"\x80\x04", "a pickle"),
    (b"\x80\x05", "a pickle"),
    (b"\x89PNG", "a picture"),
    (b"\xff\xd8\xff", "a picture"),
    (b"version https://git-lfs", "a pointer of Git LFS, whose content is yet to be fetched (git lfs pull)"),
)


class Row(NamedTuple):
    """Where in its file a row stands, and what is there: JSON, or the reason why there is none."""

    place: str
    json: bytes
    fault: str = ""


def read_bytes(path: Path) -> bytes:
    """Return the content of a file; BadInput when it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror}); allowed: a readable file") from error


def rows(path: Path, known: Collection[str], json: Collection[str] = ()) -> Iterator[Row]:
    """The rows of a file whose columns may be those `known`; a cell of CSV is text, but of the columns `json` JSON.

    Of a Parquet file, other columns are named and not read.  BadInput: the file as a whole cannot be read.
    """
    content = _unpacked(path, read_bytes(path))
    if content.startswith(_PARQUET):
        return _parquet(path, content, known)
    content = _utf8(path, content)
    start = content[:4096].lstrip()
    if start.startswith(b"["):
        return _array(path, content)
    header = content.split(b"\n", 1)[0].decode(errors="replace").rstrip("\r")
    for delimiter in ",;\t":
        if not start.startswith(b"{") and len(set(known).intersection(_cells(header, delimiter))) > 1:
            return _csv(path, content, delimiter, json)
    # Split on "\n" alone: str.splitlines also breaks at characters that JSON strings may hold unescaped.
    return (Row(f"line {number}", line.rstrip()) for number, line in enumerate(content.split(b"\n"), 1) if line.strip())


def _unpacked(path: Path, content: bytes) -> bytes:
    if not content.startswith(_GZIP):
        return content
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
            unpacked = file.read(_MOST + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise BadInput(f"{path}: cannot be unpacked by gzip ({error}); allowed: {READ}") from error
    _require_few(path, len(unpacked))
    return unpacked


def _require_few(path: Path, size: int) -> None:
    if size > _MOST:
        raise BadInput(f"{path}: comes to more than {_MOST >> 30} GiB when unpacked; allowed: up to that, or JSONL")


def _utf8(path: Path, content: bytes) -> bytes:
    """Text as UTF-8 without a byte order mark; BadInput names what is no text."""
    for mark, encoding in _UTF:
        if content.startswith(mark):
            try:
                return content.decode(encoding).encode()
            except UnicodeError as error:
                raise BadInput(f"{path}: is not {encoding.upper()} as its first bytes say; allowed: {READ}") from error
    kind = next((kind for magic, kind in _OTHERS if content.startswith(magic)), "")
    if content.startswith(_GZIP):
        kind = "packed by gzip twice"
    elif content[257:262] == b"ustar":
        kind = "a tar archive"
    elif not kind and b"\0" in content[:4096]:
        kind = "no text, or UTF-16 without a byte order mark"
    if kind:
        raise BadInput(f"{path}: is {kind}; allowed: {READ}")
    return content.removeprefix(codecs.BOM_UTF8)


def _array(path: Path, content: bytes) -> Iterator[Row]:
    try:
        entries = from_json(content)
    except ValueError as error:
        raise BadInput(f"{path}: not JSON ({error}); allowed: {READ}") from error
    return (Row(f"entry {number}", to_json(entry)) for number, entry in enumerate(entries, 1))


def _cells(line: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:
        return []


def _csv(path: Path, content: bytes, delimiter: str, json: Collection[str]) -> Iterator[Row]:
    """Each line but the first; an empty cell is null."""
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise BadInput(f"{path}, line {line}: is not UTF-8; allowed: text saved as UTF-8") from error
    csv.field_size_limit(_MOST)  # 128 KiB unless it is raised, which prompts exceed
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        header = next(reader)
        if len(set(header)) < len(header):
            raise BadInput(f"{path}, line 1: a column stands there twice; allowed: each column once")
        begins = reader.line_num + 1
        for cells in reader:
            place, begins = f"line {begins}", reader.line_num + 1
            if cells and len(cells) != len(header):
                yield Row(place, b"", f"{len(cells)} cells under {len(header)} columns")
            elif cells:
                named = zip(header, cells, strict=True)
                yield Row(place, to_json({name: _value(cell, name in json) for name, cell in named}))
    except csv.Error as error:
        raise BadInput(f"{path}, line {reader.line_num}: not CSV ({error}); allowed: {READ}") from error


def _value(cell: str, json: bool) -> Any:
    if not (json and cell):
        return cell or None
    try:
        return from_json(cell)
    except ValueError:
        return cell  # which is told by whoever expects something else


def _parquet(path: Path, content: bytes, known: Collection[str]) -> Iterator[Row]:
    import pyarrow
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(io.BytesIO(content))
        schema = file.schema_arrow
        names, text = schema.names, [each.name for each in schema if _is_text(each.type)]
        if doubled := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
            raise BadInput(f"{path}: column {doubled[0][:60]!r} stands there twice; each needs a name of its own")
        columns = [name for name in names if name in known]
        nested = [name for name in columns if name not in text and pyarrow.types.is_nested(schema.field(name).type)]
        unread = dict.fromkeys(name for name in names if name not in known)
        meta, total, number = file.metadata, 0, 0
        _require_few(path, sum(meta.row_group(i).total_byte_size for i in range(meta.num_row_groups)))
        # Strings stay in their dictionary until their row comes: a small file may repeat a long one very often.
        file = parquet.ParquetFile(io.BytesIO(content), read_dictionary=text)
        for batch in file.iter_batches(batch_size=1 if nested else _ROWS, columns=columns):
            for i in range(batch.num_rows):
                number += 1
                row = _json({name: batch.column(name)[i].as_py() for name in columns} | unread, f"row {number}")
                total += len(row.json)
                _require_few(path, total)
                yield row
    except (pyarrow.ArrowException, OSError) as error:
        said = " ".join(str(error).split())[:200]
        raise BadInput(f"{path}: not Parquet as its first bytes say ({said}); allowed: {READ}") from error


def _is_text(kind: Any) -> bool:
    from pyarrow import types

    return any(
        check(kind) for check in (types.is_string, types.is_large_string, types.is_binary, types.is_large_binary)
    )


def _json(row: dict[str, Any], place: str) -> Row:
    try:
        return Row(place, to_json(row))
    except PydanticSerializationError as error:
        return Row(place, b"", f"holds what is no JSON ({error})")
