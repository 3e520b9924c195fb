"""Which profile a machine gets, what is said when none fits, and what profiles may set."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from experiments import STAGES
from experiments.models import devices
from harness.running import gpus, work
from harness.running.hardware import Machine, Profile, choose_profile, find_machine, load_profiles
from harness.stage import BadInput

INTEL = Machine(("cpu",), "Xeon Gold 6130", "x86_64", 1, 64)
GRACE = Machine(("cpu",), "Neoverse-V2", "aarch64", 1, 480)
GPU = Machine(("cuda", "cpu"), "NVIDIA A100-SXM4-80GB", "x86_64", 8, 80)
MAC = Machine(("mps", "cpu"), "Apple M3", "arm64", 1, 36)
ABACUS = Machine(("cpu",), "Abacus", "beads", 1, 0)
PROFILES = load_profiles()
ROOT = Path(__file__).parent.parent
PLANNED = {"detect", "rag", "adapters", "filter", "montecarlo"}


def allows(kind: TypeAdapter[Any], value: object) -> bool:
    try:
        return bool(kind.validate_python(value) == value)
    except ValidationError:
        return False


def write(folder: Path, text: str) -> Path:
    (folder / "mine.yaml").write_text(text, encoding="latin-1")
    return folder


def gpu(name: str, memory: float, count: int = 1) -> Machine:
    return Machine(("cuda", "cpu"), name, "x86_64", count, memory)


@pytest.mark.parametrize(
    ("machine", "tag"),
    [
        (INTEL, "cpu-x86_64"),
        (GRACE, "cpu-arm64"),
        (GPU, "cuda"),
        (MAC, "apple-silicon"),
        (Machine(("mps", "cpu"), "Apple M3 Ultra", "arm64", 1, 256), "m3-ultra"),
        (gpu("Tesla T4", 15, 2), "kaggle-t4x2"),
        (gpu("Tesla T4", 15), "colab-t4"),
        (gpu("NVIDIA A100-SXM4-40GB", 39), "colab-a100"),
        (gpu("NVIDIA GeForce RTX 4090", 24), "rtx-4090"),
        (gpu("NVIDIA RTX 5000 Ada Generation", 32), "rtx-5000-ada"),
        (gpu("NVIDIA H200", 140), "h200"),
        (gpu("NVIDIA L4", 22), "cuda"),
    ],
)
def test_auto_takes_the_profile_of_the_best_device_found(machine: Machine, tag: str) -> None:
    assert choose_profile("auto", machine, PROFILES).tag == tag
    assert choose_profile("auto", machine, PROFILES[::-1]).tag == tag


def test_auto_prefers_a_profile_that_names_the_device_to_a_generic_one(tmp_path: Path) -> None:
    text = "{tag: a100, description: ours, match: {device: cuda, name: 'a100.*80gb'}, defaults: {detect: {m: 1}}}"
    named = load_profiles(write(tmp_path, text))
    assert choose_profile("auto", GPU, [*PROFILES, *named]).tag == "a100"
    other = Machine(("cuda", "cpu"), "NVIDIA L4", "x86_64", 1, 24)
    assert choose_profile("auto", other, [*PROFILES, *named]).tag == "cuda"


def test_a_tag_may_be_taken_at_its_word_where_its_device_is_there() -> None:
    assert choose_profile("rtx-4090", GPU, PROFILES, unchecked=True).tag == "rtx-4090"
    with pytest.raises(BadInput, match="hardware = rtx-4090: this machine is Xeon"):
        choose_profile("rtx-4090", INTEL, PROFILES, unchecked=True)


def test_what_a_machine_cannot_do_is_refused_with_the_reason() -> None:
    (t4,) = [profile for profile in PROFILES if profile.tag == "colab-t4"]
    t4.require({"attention": "sdpa", "precision": "nf4"}, {})
    with pytest.raises(BadInput, match=r"precision = bf16 \(given\): colab-t4 cannot: a T4 has no bf16"):
        t4.require({"precision": "bf16"}, {"precision": "given"})
    (mac,) = [profile for profile in PROFILES if profile.tag == "apple-silicon"]
    mac.require({"workers": 1}, {})
    with pytest.raises(BadInput, match=r"workers = 2 \(given\): apple-silicon cannot"):
        mac.require({"workers": 2}, {"workers": "given"})


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.tag)
def test_a_profile_can_do_what_it_sets_and_its_limits_are_of_settings_that_exist(profile: Profile) -> None:
    for defaults in profile.defaults.values():
        profile.require(defaults, dict.fromkeys(defaults, "hardware"))
    models: list[Any] = [model for stage in STAGES for model in (stage.infer_params, stage.score_params)]
    for name, limit in profile.cannot.items():
        having = [TypeAdapter(model.model_fields[name].annotation) for model in models if name in model.model_fields]
        for value in limit.values or (limit.above + 1,):
            assert limit.forbids(value)
            assert any(allows(kind, value) for kind in having)


def test_the_environment_of_a_profile_gives_way_to_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    (mac,) = [profile for profile in PROFILES if profile.tag == "apple-silicon"]
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setenv("PYTORCH_MPS_HIGH_WATERMARK_RATIO", "")
    monkeypatch.delenv("PYTORCH_MPS_HIGH_WATERMARK_RATIO")
    threads = torch.get_num_threads()
    mac.apply()
    assert (os.environ["OMP_NUM_THREADS"], os.environ["PYTORCH_MPS_HIGH_WATERMARK_RATIO"]) == ("7", "0.0")
    assert torch.get_num_threads() == threads
    monkeypatch.delenv("OMP_NUM_THREADS")
    try:
        mac.apply()
        assert (os.environ["OMP_NUM_THREADS"], torch.get_num_threads()) == ("2", 2)
    finally:
        torch.set_num_threads(threads)


CUDA = [profile for profile in PROFILES if profile.match.device == "cuda"]


def test_every_cuda_profile_and_no_other_trades_precision_of_fp32_for_speed() -> None:
    assert len(CUDA) > 5
    assert [profile.tag for profile in PROFILES if profile.tf32] == [profile.tag for profile in CUDA]


@pytest.mark.parametrize("profile", CUDA, ids=lambda profile: profile.tag)
def test_a_cuda_profile_sets_tf32_and_has_cudnn_try_its_kernels(profile: Profile) -> None:
    cudnn = torch.backends.cudnn
    before = torch.get_float32_matmul_precision(), cudnn.benchmark, torch.backends.cuda.matmul.allow_tf32
    torch.set_float32_matmul_precision("highest")
    cudnn.benchmark = False
    try:
        profile.apply()
        assert (torch.get_float32_matmul_precision(), cudnn.benchmark, cudnn.allow_tf32) == ("high", True, True)
        assert torch.backends.cuda.matmul.allow_tf32
        with devices.exact():  # where a proof or a comparison means fp32
            assert (torch.get_float32_matmul_precision(), cudnn.allow_tf32) == ("highest", False)
        assert (torch.get_float32_matmul_precision(), cudnn.allow_tf32) == ("high", True)
    finally:
        torch.set_float32_matmul_precision(before[0])
        cudnn.benchmark = before[1]


def test_a_worker_process_computes_as_its_profile_says(monkeypatch: pytest.MonkeyPatch) -> None:
    applied: list[str] = []
    monkeypatch.setattr(Profile, "apply", lambda self: applied.append(self.tag))
    monkeypatch.setattr(work, "die_with_parent", lambda: None)
    monkeypatch.setattr(work, "_loaded", {})

    class Job:
        def load(self, device: str) -> Any:
            assert applied == ["cuda"]

    job = Job()
    for _ in range(2):
        work._load(job, "cpu", "cuda")
    assert applied == ["cuda"]


def test_a_cpu_profile_may_be_asked_for_on_a_machine_that_has_a_gpu() -> None:
    assert choose_profile("cpu-x86_64", GPU, PROFILES).match.device == "cpu"


@pytest.mark.parametrize(
    ("tag", "machine", "said"),
    [
        ("auto", ABACUS, ["no profile fits", "Abacus", "hardware/"]),
        ("cuda", INTEL, ["hardware = cuda", "Xeon Gold 6130", "x86_64", "hardware=auto"]),
        ("cpu-arm64", INTEL, ["hardware = cpu-arm64", "Xeon Gold 6130"]),
        ("cpu-x86-64", INTEL, ["no such profile", "did you mean cpu-x86_64?"]),
        ("qqq", INTEL, ["no such profile", ", ".join(["auto", *(profile.tag for profile in PROFILES)])]),
    ],
)
def test_a_profile_that_does_not_fit_is_refused_in_one_line_that_says_what_was_found(
    tag: str, machine: Machine, said: list[str]
) -> None:
    with pytest.raises(BadInput) as caught:
        choose_profile(tag, machine, PROFILES)
    message = str(caught.value)
    assert "\n" not in message
    assert [word for word in said if word not in message] == []
    assert ("did you mean" in message) == (tag == "cpu-x86-64")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tag: [unclosed", "expected"),
        ("", "valid dictionary"),
        ("tag: \xff\xfe", "mine.yaml"),  # not UTF-8
        ("{tag: x, description: y, match: {device: tpu}}", "'cpu', 'cuda' or 'mps'"),
        ("{tag: x, description: y, match: {device: cpu, name: '(unclosed'}}", "regular expression"),
        ("{tag: x, description: y, match: {device: cpu}, default: {}}", "default"),
        ("{description: y, match: {device: cpu}}", "tag"),
    ],
)
def test_a_malformed_profile_is_named_in_one_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(BadInput) as caught:
        load_profiles(write(tmp_path, text))
    assert str(caught.value).startswith("hardware profile mine.yaml: ")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("cuda", "mps", "devices"), [(2, False, ("cuda", "cpu")), (0, True, ("mps", "cpu")), (0, False, ("cpu",))]
)
def test_a_machine_is_described_by_its_best_device(
    monkeypatch: pytest.MonkeyPatch, cuda: int, mps: bool, devices: tuple[str, ...]
) -> None:
    gpus = SimpleNamespace(
        is_available=lambda: cuda > 0,
        device_count=lambda: cuda,
        get_device_properties=lambda index: SimpleNamespace(name="NVIDIA T4", total_memory=16 * 2**30),
    )
    backends = SimpleNamespace(mps=SimpleNamespace(is_available=lambda: mps))
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=gpus, backends=backends))
    machine = find_machine()
    assert machine.devices == devices
    assert machine.memory_gb > 0
    assert (machine.name == "NVIDIA T4") == (cuda > 0)
    assert machine.count == max(1, cuda)


def test_the_driver_is_asked_where_torch_is_not_loaded_and_says_the_same_of_this_machine() -> None:
    code = (
        "import sys; from harness.running.hardware import find_machine; machine = find_machine();"
        "print(machine, 'torch' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert ran.stdout.strip() == f"{find_machine()} False"


class Driver(SimpleNamespace):
    """A stand-in for pynvml with GPUs of these names."""

    class NVMLError(Exception):
        pass

    nvmlMemory_v2 = 2  # noqa: N815 - its name there

    def __init__(self, *names: str, driver: int = 12040, parted: bool = False) -> None:
        super().__init__(
            nvmlInit=lambda: None,
            nvmlSystemGetCudaDriverVersion=lambda: driver,
            nvmlDeviceGetCount=lambda: len(names),
            nvmlDeviceGetHandleByIndex=lambda i: i,
            nvmlDeviceGetName=lambda i: names[i],
            nvmlDeviceGetUUID=lambda i: f"GPU-{i}a",
            nvmlDeviceGetMemoryInfo=lambda i, version: SimpleNamespace(total=(16 + i) * 2**30, reserved=2**29),
            nvmlDeviceGetMigMode=lambda i: [int(parted), 0],
        )


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch) -> Callable[..., gpus.Gpus | None]:
    """What a driver says where torch is built for CUDA 12."""

    def asked(driver: Driver, visible: str | None = None) -> gpus.Gpus | None:
        monkeypatch.setitem(sys.modules, "pynvml", driver)
        monkeypatch.setattr(gpus, "_cuda_of_torch", lambda: 12)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if visible is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        return gpus.seen_by_driver()

    return asked


@pytest.mark.parametrize(
    ("visible", "count", "memory"),
    [
        (None, 3, 15.5),
        ("", 0, 0),
        ("-1", 0, 0),
        ("2,1", 2, 17.5),
        ("GPU-1a", 1, 16.5),
        ("1,9,0", 1, 16.5),  # what follows a GPU that there is not is lost
        ("1,1", 0, 0),
    ],
)
def test_of_the_gpus_those_count_that_cuda_lets_through(
    ask: Callable[..., gpus.Gpus | None], visible: str | None, count: int, memory: float
) -> None:
    found = ask(Driver(*["NVIDIA T4"] * 3), visible)
    assert found == (gpus.Gpus("NVIDIA T4", count, memory) if count else None)


def test_a_driver_too_old_for_torch_or_none_at_all_is_no_gpu(
    ask: Callable[..., gpus.Gpus | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise Driver.NVMLError

    assert ask(Driver("NVIDIA T4", driver=11080)) is None
    absent = Driver("NVIDIA T4")
    absent.nvmlInit = fail
    assert ask(absent) is None
    monkeypatch.setattr(gpus, "_cuda_of_torch", lambda: None)
    assert gpus.seen_by_driver() is None


def test_what_the_driver_cannot_tell_torch_is_asked(ask: Callable[..., gpus.Gpus | None]) -> None:
    with pytest.raises(gpus.Unclear):
        ask(Driver("NVIDIA T4", "NVIDIA L4"))
    with pytest.raises(gpus.Unclear):
        ask(Driver("NVIDIA H100", parted=True))
    with pytest.raises(gpus.Unclear):
        ask(Driver("NVIDIA H100"), "MIG-a")


@pytest.mark.parametrize(
    ("text", "major"),
    [
        ("cuda: Optional[str] = '12.6'\nhip: Optional[str] = None\n", 12),
        ("cuda: Optional[str] = None\nhip: Optional[str] = None\n", None),
        ("cuda = '11.8'\n", 11),
    ],
)
def test_what_torch_is_built_for_is_read_from_its_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, major: int | None
) -> None:
    (tmp_path / "version.py").write_text(text)
    spec = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(gpus, "find_spec", lambda _: spec)
    assert gpus._cuda_of_torch() == major
    (tmp_path / "version.py").write_text("cuda = None\nhip = '6.2'\n")
    with pytest.raises(gpus.Unclear):
        gpus._cuda_of_torch()


def test_only_a_profile_that_sets_something_of_torchs_loads_it() -> None:
    code = (
        "import sys; from harness.running.hardware import load_profiles\n"
        "for profile in load_profiles():\n"
        "    if not profile.tf32 and 'OMP_NUM_THREADS' not in profile.environment: profile.apply()\n"
        "print('torch' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert ran.stdout == "False\n"


def test_tags_are_distinct() -> None:
    assert len({profile.tag for profile in PROFILES}) == len(PROFILES)


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.tag)
def test_what_has_been_published_is_of_a_stage_of_ours_and_says_its_source(profile: Profile) -> None:
    for published in profile.published:
        assert published.stage in PLANNED
        assert published.figures
        assert published.source
