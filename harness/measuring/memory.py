"""How much memory processes and devices hold, and held at their peak, in bytes."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil

from harness.measuring.cost import highest

PAUSE = 0.25  # seconds between two looks at memory, at least
RARELY = 300  # and so many times what a look takes, a third of a percent,
RAREST = 5.0  # but no longer than this


class Memory:
    """Peaks found by looking again and again, in bytes, and the processor time that looking took."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.forget()

    def forget(self) -> None:
        """Leave out of the peaks what was held until now."""
        self.of_all = 0
        self.allocated: dict[str, int] = {}
        self.on_device: dict[str, int] = {}

    def watch(self, stop: threading.Event) -> None:
        """Look until told to stop, so rarely that it costs next to nothing, and a last time then."""
        started = time.thread_time()
        if cuda():
            driver_view(set())  # the first question to the driver takes longest
        pause, stopped = PAUSE, False
        while not stopped:
            stopped = stop.wait(pause)
            before = time.thread_time()
            self.look()
            pause = min(RAREST, max(PAUSE, RARELY * (time.thread_time() - before)))
        self.seconds += time.thread_time() - started

    def look(self) -> None:
        """Look once, and keep what is higher than before."""
        processes = _family()
        self.of_all = max(self.of_all, sum(map(_resident, processes)))
        if device := mps():
            self.allocated = highest([self.allocated, {"mps": device.driver_allocated_memory()}])
        if cuda():
            self.on_device = highest([self.on_device, driver_view({process.pid for process in processes})])


def cuda() -> Any:
    """torch.cuda where a stage has loaded torch and there is a GPU, else None."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_available() else None


def mps() -> Any:
    """torch.mps, likewise."""
    torch = sys.modules.get("torch")
    return torch.mps if torch is not None and torch.backends.mps.is_available() else None


def allocated() -> dict[str, int]:
    """The peaks that allocators keep themselves."""
    peaks: dict[str, int] = {}
    if gpus := cuda():
        peaks |= {f"cuda:{i}": gpus.max_memory_allocated(i) for i in range(gpus.device_count())}
    if mlx := sys.modules.get("mlx.core"):
        peaks["mlx"] = mlx.get_peak_memory()
    return peaks


def driver_view(pids: set[int]) -> dict[str, int]:
    """What NVML says that these processes hold of each GPU; nothing where it does not answer, or not about them.

    A container may see other process numbers than the driver does.
    """
    try:
        import pynvml
    except ImportError:
        return {}
    held: dict[str, int] = {}
    try:
        pynvml.nvmlInit()
        for i in range(cuda().device_count()):
            gpu = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{cuda().get_device_properties(i).uuid}")
            running = pynvml.nvmlDeviceGetComputeRunningProcesses(gpu)
            ours = [process.usedGpuMemory for process in running if process.pid in pids]
            if told := [size for size in ours if size is not None]:
                held[f"cuda:{i}"] = sum(told)
    except pynvml.NVMLError:
        return {}
    return held


def _family() -> list[psutil.Process]:
    """This process and all that it, or one of them, has started."""
    own = psutil.Process()
    return [own, *own.children(recursive=True)]


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:  # it has ended since it was listed
        return 0


def reset_peak_rss() -> None:
    """Forget the peak reached before this inference (Linux; elsewhere the peak is the whole process's)."""
    clear_refs = Path("/proc/self/clear_refs")
    if clear_refs.exists():
        try:
            clear_refs.write_text("5")
        except OSError:  # a container may forbid it; the peak then covers the process's whole life
            return


def peak_rss() -> int:
    """Highest resident size in bytes; not ru_maxrss on Linux, which a child inherits from its parent."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
