"""Lines of a file that somebody else has written, one at a time and none of them without an end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from harness.stage import BadInput

Row = TypeVar("Row", bound=BaseModel)
_LONGEST = 16 * 2**20  # bytes of a line


def lines(path: Path, allowed: str) -> Iterator[tuple[str, bytes]]:
    """Each line's place and content, but for empty ones; BadInput where there is no such file, or no end to a line."""
    if not path.is_file():
        raise BadInput(f"dataset {path.parent}: no such file or folder: {path.name}; {allowed}")
    with path.open("rb") as stream:
        number = 0
        while line := stream.readline(_LONGEST + 1):
            number += 1
            if len(line) > _LONGEST:
                raise BadInput(f"{path}, line {number}: longer than {_LONGEST // 2**20} MB, which no line may be")
            if line.strip():
                yield f"{path}, line {number}", line


def rows(path: Path, model: type[Row], allowed: str) -> Iterator[tuple[str, Row]]:
    """Each line's place and its checked content, of JSON lines."""
    for place, line in lines(path, allowed):
        try:
            content = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise BadInput(f"{place}: not JSON: {error}") from error
        try:
            yield place, model.model_validate(content)
        except ValidationError as error:
            fault = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in fault["loc"])
            raise BadInput(f"{place}: {where}: {fault['msg'].lower()}; {allowed}") from error
