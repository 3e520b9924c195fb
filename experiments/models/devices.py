"""What a device can compute in, and with how many threads it does best."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_SMALL = 10_000_000  # parameters


def has_bf16(device: str) -> bool:
    """Whether a device really computes in bf16: GPUs before Ampere only pretend to."""
    return not device.startswith("cuda") or torch.cuda.get_device_capability()[0] >= 8


def spare_threads(network: nn.Module, device: str) -> None:
    """Compute a small model on the processor with one thread.

    More gain it nothing, and where cores are shared they wait for each other: a hundred times slower.
    """
    if device == "cpu" and sum(parameter.numel() for parameter in network.parameters()) < _SMALL:
        torch.set_num_threads(1)


@contextmanager
def exact() -> Iterator[None]:
    """Within it, products of fp32 are those of fp32, even where a hardware profile trades their last bits for speed."""
    products, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    try:
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.allow_tf32 = False
        yield
    finally:
        torch.set_float32_matmul_precision(products)
        torch.backends.cudnn.allow_tf32 = convolutions
