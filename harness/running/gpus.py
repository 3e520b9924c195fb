"""Which GPUs torch would find, asked of the driver: to import torch takes seconds."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Gpus:
    """The first one's name and memory in GiB, and how many there are."""

    name: str
    count: int
    memory_gb: float


class Unclear(Exception):
    """The driver does not say what torch would."""


def seen_by_torch() -> Gpus | None:
    """The GPUs as torch finds them; None where it finds none."""
    import torch

    if not torch.cuda.is_available():
        return None
    first = torch.cuda.get_device_properties(0)
    return Gpus(first.name, torch.cuda.device_count(), first.total_memory / 2**30)


def seen_by_driver() -> Gpus | None:
    """The GPUs that torch would find, without it; None where it would find none.

    Raises Unclear where only torch can say: there are partitions of a GPU, GPUs of several kinds, or no CUDA.
    """
    built_for = _cuda_of_torch()
    if built_for is None:
        return None
    try:
        import pynvml as nvml
    except ImportError as error:
        raise Unclear from error
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return None  # no driver, so no GPU
    try:
        if nvml.nvmlSystemGetCudaDriverVersion() // 1000 < built_for:
            return None
        every = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
        if len({nvml.nvmlDeviceGetName(gpu) for gpu in every}) > 1 or any(_parted(nvml, gpu) for gpu in every):
            raise Unclear  # CUDA has an order of its own for GPUs that differ
        visible = _visible([nvml.nvmlDeviceGetUUID(gpu) for gpu in every])
        if not visible:
            return None
        first = every[visible[0]]
        memory = nvml.nvmlDeviceGetMemoryInfo(first, version=nvml.nvmlMemory_v2)
        return Gpus(nvml.nvmlDeviceGetName(first), len(visible), (memory.total - memory.reserved) / 2**30)
    except nvml.NVMLError as error:
        raise Unclear from error


def _cuda_of_torch() -> int | None:
    """The major version of CUDA that the installed torch is built for, read from its text; None where for none."""
    spec = find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        return None
    text = (Path(spec.submodule_search_locations[0]) / "version.py").read_text()
    built_for = {kind: re.search(rf"^{kind}\b.*= '(\d+)", text, re.MULTILINE) for kind in ("cuda", "hip")}
    if built_for["hip"]:
        raise Unclear
    return int(built_for["cuda"][1]) if built_for["cuda"] else None


def _visible(uuids: list[str]) -> list[int]:
    """Which of the GPUs CUDA_VISIBLE_DEVICES lets through, in its order; what follows a word that fits none is lost."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is None:
        return list(range(len(uuids)))
    visible: list[int] = []
    for word in (word.strip() for word in listed.split(",")):
        if word.startswith("MIG"):
            raise Unclear
        fitting = [
            i for i, uuid in enumerate(uuids) if word == str(i) or (word[:4] == "GPU-" and uuid.startswith(word))
        ]
        if len(fitting) != 1:
            break
        visible += fitting
    return visible if len(set(visible)) == len(visible) else []


def _parted(nvml: Any, gpu: Any) -> bool:
    """Whether a GPU is divided into several (MIG)."""
    try:
        return bool(nvml.nvmlDeviceGetMigMode(gpu)[0])
    except nvml.NVMLError:  # of a kind that cannot be
        return False
