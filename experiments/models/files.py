"""Where models lie, and the contents of files as one digest; nothing here loads a model or what one needs."""

from __future__ import annotations

import hashlib
import json
import re
import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from harness.progress import working
from harness.stage import BadInput, some

LANGUAGE, NLI, ENCODER = (Path(__file__).with_name(name) for name in ("reference", "nli", "digits_clip"))  # built in
_MB = 2**20
_OF_OTHERS = ["onnx/*", "openvino/*", "*.onnx", "*.h5", "*.msgpack", "*.ot", "*.tflite"]  # weights for other libraries
_WEIGHTS = ("*.safetensors", "*.bin")
_TOKENIZERS = ("tokenizer.json", "vocab.*", "*.model", "*.tiktoken")
_CONFIGS = {"open_clip": "open_clip_config.json", "transformers": "config.json"}
ENCODERS = {"clip": "CLIP", "metaclip_2": "MetaCLIP 2", "siglip": "SigLIP, and SigLIP2 of a fixed resolution"}


def digest(files: Iterable[tuple[str, Path]]) -> str:
    """SHA-256 over the names given and the contents of the files, in the order given: one at least."""
    named, total = list(files), hashlib.sha256()
    assert named, "the digest of nothing would stand for anything"
    size = sum(path.stat().st_size for _, path in named)
    with working("read what the key is made of", size // _MB, "MB") as advance:
        for name, path in named:
            content = hashlib.sha256()
            with path.open("rb") as stream:
                while chunk := stream.read(_MB):
                    content.update(chunk)
                    advance(1)
            total.update(name.encode() + content.digest())
    return total.hexdigest()


def digest_folder(folder: Path, pattern: str = "*") -> str:
    """SHA-256 over the files that lie in a folder itself, whatever order it lists them in; `**/*`: those below, too."""
    return digest((str(path.relative_to(folder)), path) for path in sorted(folder.glob(pattern)) if path.is_file())


def digest_sentence_encoder(setting: str, name: str) -> str:
    """Content digest of a sentence-transformers model, whose modules have folders of their own, or its hub commit."""
    folder = Path(name).expanduser()
    if not folder.is_dir():
        folder = _from_hub(name if "/" in name else f"sentence-transformers/{name}", f"{setting} =")
    if folder.parent.name == "snapshots":
        return folder.name
    if not any(path.is_file() for path in folder.glob("**/*")):
        raise BadInput(f"{setting} = {name}: the folder holds no file; a sentence-transformers model is needed")
    return digest_folder(folder, "**/*")


def brief(error: BaseException) -> str:
    """What a library says of a model that it cannot read, in 200 characters."""
    return textwrap.shorten(str(error), 200, placeholder=" …") or type(error).__name__


# --- of transformers: language models and cross-encoders -------------------------------------------------------------


def locate_model(name: str) -> Path:
    """The folder that holds a model, or its GGUF file; BadInput where there is none or it lacks a part."""
    folder = LANGUAGE if name == "builtin" else Path(name).expanduser()
    if folder.is_file():
        return _gguf(name, folder)
    if not folder.is_dir():
        folder = _from_hub(name)
    if not (folder / "config.json").is_file() and (found := sorted(folder.glob("*.gguf"))):
        if len(found) > 1:
            raise BadInput(
                f"model {name}: the folder has {len(found)} GGUF files, {some(f.name for f in found)}; name one"
            )
        return _gguf(name, found[0])
    if not (folder / "config.json").is_file():
        raise BadInput(f"model {name}: the folder has no config.json; a Hugging Face model folder is needed")
    for what, patterns in (("weights", _WEIGHTS), ("tokenizer", _TOKENIZERS)):
        if not any(next(folder.glob(pattern), None) for pattern in patterns):
            raise BadInput(f"model {name}: the folder has no {what}; one of {', '.join(patterns)} is needed")
    return folder


def _gguf(name: str, file: Path) -> Path:
    with file.open("rb") as stream:
        if stream.read(4) != b"GGUF":
            raise BadInput(
                f"model {name}: no GGUF file; a Hugging Face model folder, a GGUF file or `builtin` is needed"
            )
    if re.search(r"-\d+-of-\d+$", file.stem):
        raise BadInput(f"model {name}: one of several parts; llama.cpp's gguf-split --merge makes one file of them")
    return file


def as_named(located: Path) -> tuple[Path, dict[str, str]]:
    """What locate_model has found as transformers wants it named: a folder, and which GGUF file in it."""
    return (located.parent, {"gguf_file": located.name}) if located.is_file() else (located, {})


def digest_model(name: str) -> str:
    """Content digest of a model: its hub commit, or SHA-256 over the files of its folder, or its GGUF file."""
    folder = locate_model(name)
    if folder.is_file():
        return digest([(folder.name, folder)])
    if folder.parent.name == "snapshots":  # the hub's own cache names a snapshot by its commit
        return folder.name
    return digest_folder(folder)


def nli(name: str) -> str:
    """The folder or hub name of a cross-encoder, of which another than the language model is built in."""
    return str(NLI) if name == "builtin" else name


def _from_hub(name: str, what: str = "model") -> Path:
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise BadInput(f"{what} {name}: no such folder; a folder, `owner/name` of the Hugging Face hub or `builtin`")
    from huggingface_hub import errors, snapshot_download

    faults = (
        errors.HFValidationError, errors.HfHubHTTPError, errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled,
        OSError,
    )  # fmt: skip
    try:
        return Path(snapshot_download(name, ignore_patterns=_OF_OTHERS))
    except faults as error:
        raise BadInput(f"{what} {name}: neither a folder nor to be had from the hub: {brief(error)}") from error


# --- of vision encoders ----------------------------------------------------------------------------------------------


def locate_encoder(name: str, library: str) -> Path | None:
    """The folder that holds an encoder, None for a name; BadInput where it is another library's."""
    folder = ENCODER if name == "builtin" else Path(name).expanduser()
    if not folder.is_dir():
        if name.startswith((".", "/", "~")):
            raise BadInput(f"encoder = {name}: no such folder")
        return None
    wanted = _CONFIGS[library]
    if not (folder / wanted).is_file():
        other = next((each for each, file in _CONFIGS.items() if each != library and (folder / file).is_file()), None)
        if other == "transformers":
            require_encoder(name, _config(name, folder / _CONFIGS[other]))
        hint = f"; library={other} may read it" if other else ""
        raise BadInput(f"encoder = {name}: library={library} needs its {wanted}, which the folder has not{hint}")
    config = _config(name, folder / wanted)
    if library == "transformers":
        require_encoder(name, config)
    elif not isinstance(config.get("model_cfg"), dict):
        raise BadInput(f"encoder = {name}: {wanted} holds no model_cfg")
    return folder


def _config(name: str, file: Path) -> dict[str, Any]:
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"encoder = {name}: {file.name} is no JSON: {brief(error)}") from error
    if not isinstance(config, dict):
        raise BadInput(f"encoder = {name}: {file.name} holds no settings")
    return config


def require_encoder(name: str, config: Mapping[str, Any]) -> None:
    """BadInput for a configuration of transformers that is no image and text encoder which it can be asked for."""
    kind = config.get("model_type")
    if kind not in ENCODERS:
        raise BadInput(
            f"encoder = {name}: model_type {kind} of transformers is not supported; allowed: {told_encoders()};"
            f" library=open_clip has others, and wants a folder with {_CONFIGS['open_clip']}"
        )


def told_encoders() -> str:
    """What transformers may load, in words."""
    return ", ".join(f"{kind} ({words})" for kind, words in ENCODERS.items())


def digest_encoder(name: str, library: str, pretrained: str | None) -> str:
    """Content digest of an encoder: of its folder's files, or its name, its tag and the content of a weights file."""
    if folder := locate_encoder(name, library):
        return digest_folder(folder)
    weights = Path(pretrained).expanduser() if pretrained else None
    return digest([(f"{name} {pretrained}", weights)]) if weights and weights.is_file() else f"{name} {pretrained}"
