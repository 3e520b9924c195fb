"""Hardware profiles: what this machine is, which profile fits it, and the defaults that come with it."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from harness.running import gpus
from harness.stage import BadInput, one_line, suggest

FOLDER = Path(__file__).parents[2] / "hardware"
Device = Literal["cpu", "cuda", "mps"]


@dataclass(frozen=True)
class Machine:
    """What was found: devices best first, the accelerator's (else the processor's) name, how many, its memory."""

    devices: tuple[Device, ...]
    name: str
    processor: str
    count: int
    memory_gb: float

    def __str__(self) -> str:
        return f"{self.name} ({'/'.join(self.devices)}, {self.processor}, {self.count} x {self.memory_gb:.0f} GiB)"


class Match(BaseModel):
    """How a profile recognises its machine; what is left out fits any."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    device: Device
    processors: tuple[str, ...] = ()
    name: re.Pattern[str] | None = None  # searched in the device's name, in any case
    count: int | None = None
    memory_gb: tuple[float, float] | None = None  # of one device, from and to

    @property
    def rules(self) -> int:
        """How many things it looks at: the more, the more particular a machine it means."""
        return len(self.model_fields_set - {"device"})


class Limit(BaseModel):
    """Values of a setting that a machine cannot run with, and why."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    values: tuple[bool | int | float | str, ...] = ()
    above: int | None = None  # numbers larger than this
    reason: str

    def forbids(self, value: object) -> bool:
        """Whether `value` is one that the machine cannot run with."""
        return value in self.values or (self.above is not None and isinstance(value, int) and value > self.above)


class Published(BaseModel):
    """What someone has reported from such a machine, to compare with; nothing is computed from it."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    stage: str
    figures: str
    source: str


class Profile(BaseModel):
    """One machine, or one kind: its tag, how it is recognised, and by stage its defaults for settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    tag: str
    description: str
    match: Match
    defaults: dict[str, dict[str, bool | int | float | str]] = {}
    environment: dict[str, str] = {}
    tf32: bool = False  # fp32 products with 10-bit mantissas, and cuDNN's kernels chosen by trying them
    cannot: dict[str, Limit] = {}
    published: tuple[Published, ...] = ()

    def fits(self, machine: Machine) -> bool:
        """Whether `machine` is of this profile's kind."""
        match = self.match
        low, high = match.memory_gb or (0, float("inf"))
        return (
            match.device in machine.devices
            and (not match.processors or machine.processor in match.processors)
            and (match.name is None or re.search(match.name.pattern, machine.name, re.IGNORECASE) is not None)
            and match.count in {None, machine.count}
            and low <= machine.memory_gb <= high
        )

    def require(self, settings: Mapping[str, object], origins: Mapping[str, str]) -> None:
        """BadInput for the first setting that this machine cannot run with."""
        for name, limit in self.cannot.items():
            if name in settings and limit.forbids(settings[name]):
                raise BadInput(f"{name} = {settings[name]} ({origins[name]}): {self.tag} cannot: {limit.reason}")

    def apply(self) -> None:
        """Set the environment and the arithmetic that this machine wants, but for what the user has set.

        Torch, which reads the number of threads only while it loads, may have been loaded by then.
        """
        threads = self.environment.get("OMP_NUM_THREADS") if "OMP_NUM_THREADS" not in os.environ else None
        for name, value in self.environment.items():
            os.environ.setdefault(name, value)
        if threads is None and not self.tf32:
            return
        import torch

        if threads is not None:
            torch.set_num_threads(int(threads))
        if self.tf32:
            torch.set_float32_matmul_precision("high")
            torch.backends.cudnn.benchmark = True


def load_profiles(folder: Path = FOLDER) -> list[Profile]:
    """Every profile of the folder, by file name; BadInput names the file that does not validate."""
    profiles = []
    for file in sorted(folder.glob("*.yaml")):
        try:
            profiles.append(Profile.model_validate(yaml.safe_load(file.read_bytes())))
        except (ValidationError, yaml.YAMLError) as error:
            raise BadInput(f"hardware profile {file.name}: {one_line(error)}") from error
    return profiles


def find_machine() -> Machine:
    """Look at this machine: CUDA before MPS before the processor; through torch only where that is loaded already."""
    import psutil

    processor = platform.machine()
    if accelerators := _find_gpus():
        return Machine(("cuda", "cpu"), accelerators.name, processor, accelerators.count, accelerators.memory_gb)
    memory = psutil.virtual_memory().total / 2**30
    devices: tuple[Device, ...] = ("mps", "cpu") if _has_mps() else ("cpu",)
    return Machine(devices, _processor_name(), processor, 1, memory)


def choose_profile(tag: str, machine: Machine, profiles: list[Profile], *, unchecked: bool = False) -> Profile:
    """The profile of that tag, or for `auto` the first that fits: better devices first, particular before generic.

    `unchecked` takes a tag's word for it, as long as its device is there.
    """
    if tag == "auto":
        ranked = sorted(profiles, key=lambda p: (_rank(p, machine), -p.match.rules, p.tag))
        if fitting := [profile for profile in ranked if profile.fits(machine)]:
            return fitting[0]
        raise BadInput(f"hardware = auto: no profile fits {machine}; add one to {FOLDER.name}/")
    by_tag = {profile.tag: profile for profile in profiles}
    if tag not in by_tag:
        raise BadInput(f"hardware = {tag}: no such profile; {suggest(tag, ['auto', *by_tag])}")
    profile = by_tag[tag]
    if profile.match.device not in machine.devices or not (unchecked or profile.fits(machine)):
        raise BadInput(f"hardware = {tag}: this machine is {machine}; use hardware=auto")
    return profile


def _rank(profile: Profile, machine: Machine) -> int:
    devices = machine.devices
    return devices.index(profile.match.device) if profile.match.device in devices else len(devices)


def _find_gpus() -> gpus.Gpus | None:
    if "torch" in sys.modules:
        return gpus.seen_by_torch()
    try:
        return gpus.seen_by_driver()
    except gpus.Unclear:
        return gpus.seen_by_torch()


def _has_mps() -> bool:
    """Whether there is one of Apple's GPUs, which every processor of its own has."""
    if torch := sys.modules.get("torch"):
        return bool(torch.backends.mps.is_available())
    return platform.system() == "Darwin" and platform.machine() == "arm64"


def _processor_name() -> str:
    if platform.system() == "Darwin":
        brand = subprocess.run(
            ["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, check=False
        )
        return brand.stdout.strip() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
