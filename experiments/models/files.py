"""Contents of files as one digest, which follows what is in them and not where they lie."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path


def digest(files: Iterable[tuple[str, Path]]) -> str:
    """SHA-256 over the names given and the contents of the files, in the order given."""
    total = hashlib.sha256()
    for name, path in files:
        with path.open("rb") as stream:
            total.update(name.encode() + hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()


def digest_folder(folder: Path) -> str:
    """SHA-256 over the files that lie in a folder itself, whatever order it lists them in."""
    return digest((path.name, path) for path in sorted(folder.iterdir()) if path.is_file())
