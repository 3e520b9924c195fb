"""The environment is named once, and the commands in the README exist."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from harness.__main__ import main

ROOT = Path(__file__).parent.parent
LINUX = {"sys_platform": "linux", "platform_machine": "x86_64", "platform_system": "Linux", "os_name": "posix"}
MACOS = {"sys_platform": "darwin", "platform_machine": "arm64", "platform_system": "Darwin", "os_name": "posix"}


def requirements(name: str) -> list[Requirement]:
    lines = (ROOT / name).read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def pins(found: list[Requirement], machine: dict[str, str]) -> dict[str, str]:
    """The version of each package on a machine; a pin is `==` and nothing else."""
    on = {**default_environment(), **machine}
    wanted = [item for item in found if item.marker is None or item.marker.evaluate(dict(on))]
    assert all(re.fullmatch(r"==[\w.]+", str(item.specifier)) for item in wanted)
    pinned = {canonicalize_name(item.name): str(item.specifier)[2:] for item in wanted}
    assert len(pinned) == len(wanted), "a package is pinned twice"
    return pinned


def load(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text())


# ---- one environment ----


def test_conda_and_python_env_name_the_same_python_build_tools_and_lock() -> None:
    python_env, conda = load("python_env.yaml"), load("conda.yaml")["dependencies"]
    python, *tools = (item.replace("=", "==") for item in conda[:-1])
    assert python == f"python=={python_env['python']}"
    assert tools == python_env["build_dependencies"]
    assert conda[-1] == {"pip": python_env["dependencies"]} == {"pip": ["-r requirements.lock"]}
    assert load("MLproject")["python_env"] == "python_env.yaml"


def test_build_tools_are_the_locks_where_the_lock_names_them() -> None:
    locked = pins(requirements("requirements.lock"), LINUX)
    tools = [Requirement(item) for item in load("python_env.yaml")["build_dependencies"]]
    assert {tool.name: locked.get(tool.name, str(tool.specifier)[2:]) for tool in tools} == pins(tools, LINUX)


@pytest.mark.parametrize("machine", [LINUX, MACOS], ids=["linux", "macos"])
def test_lock_pins_what_is_required_directly(machine: dict[str, str]) -> None:
    direct, locked = (pins(requirements(f"requirements.{kind}"), machine) for kind in ("in", "lock"))
    assert direct == {name: locked.get(name) for name in direct}


def test_every_package_that_users_expect_is_required() -> None:
    expected = "mlflow optuna torch transformers bitsandbytes ragas scikit-learn open-clip-torch mlx-lm joblib"
    assert set(expected.split()) <= pins(requirements("requirements.in"), LINUX).keys()


def test_lock_names_no_place_and_no_build_of_torch() -> None:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    assert not [line for line in lines if not re.fullmatch(r"#.*|[\w.-]+==[\w.]+( ; [^/@]+)?", line)]


def test_tests_run_in_the_locked_environment() -> None:
    locked = pins(requirements("requirements.lock"), {})
    found = {name: version(name).partition("+")[0] for name in locked}
    assert found == locked


# ---- commands ----


def commands_in_readme() -> set[str]:
    """Every `mlflow run . -e X …` of the README, without its comment."""
    return {line.strip() for line in re.findall(r"mlflow run \. -e [^#`\n]+", (ROOT / "README.md").read_text())}


def test_entry_points_in_the_readme_exist() -> None:
    named = {command.split()[4] for command in commands_in_readme()}
    assert {"detect", "test"} <= named <= load("MLproject")["entry_points"].keys()


def test_continuous_integration_runs_the_readmes_two_commands() -> None:
    script, readme = (ROOT / ".ci" / "run").read_text(), (ROOT / "README.md").read_text()
    for command in ("bash setup.sh", "mlflow run . -e test"):
        assert re.search(rf"^{re.escape(command)}\b", script, re.MULTILINE)
        assert re.search(rf"^{re.escape(command)}\b", readme, re.MULTILINE)


@pytest.mark.parametrize("name", sorted(load("MLproject")["entry_points"].keys() - {"test"}))
def test_entry_point_is_a_subcommand(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert load("MLproject")["entry_points"][name] == {"command": f"python -m harness {name}"}
    with pytest.raises(SystemExit) as stopped:
        main([name, "--help"])
    assert stopped.value.code == 0
    assert f"python -m harness {name}" in capsys.readouterr().out


# ---- setup.sh ----

STUB = """#!/bin/sh
case "$*" in
  "-m pip config list") cat "$SETTINGS" ;;
  "-m "*) ;;
  *) exec "{python}" "$@" ;;
esac
"""


def set_up(folder: Path, commands: dict[str, str], **environment: str) -> subprocess.CompletedProcess[str]:
    """Run setup.sh with nothing but a few system commands and stand-ins on the PATH."""
    for name, text in commands.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    for name in ("bash", "sh", "cat", "dirname", "sed"):
        (folder / name).symlink_to(f"/bin/{name}" if Path(f"/bin/{name}").exists() else f"/usr/bin/{name}")
    clean = {"PATH": str(folder), "HOME": str(folder)}
    return subprocess.run(
        ["bash", ROOT / "setup.sh"], env=clean | environment, cwd=folder, capture_output=True, text=True, check=False
    )


def test_setup_without_python_311_says_so_in_one_line(tmp_path: Path) -> None:
    done = set_up(tmp_path, {"python3": "#!/bin/sh\nexit 1\n"})
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "setup.sh: needs Python 3.11, and none of python, python3, python3.11 on the PATH is that version"
    ]


def test_setup_hands_pips_settings_to_uv_and_runs_detect(tmp_path: Path) -> None:
    settings = tmp_path / "settings"
    settings.write_text(
        ":env:.default-timeout='180'\n:env:.find-links='/a /b'\nglobal.cert='/ca.pem'\nglobal.extra-index-url='\\nhttps://one/s\\nhttps://two/s'\n"
        "global.find-links='/ignored'\nglobal.index-url='https://zero/s'\n"
    )
    mlflow = (
        '#!/bin/sh\necho "mlflow $*; $UV_FIND_LINKS; $UV_DEFAULT_INDEX; $UV_INDEX; $SSL_CERT_FILE; $UV_HTTP_TIMEOUT"\n'
    )
    stubs = {"python": STUB.format(python=sys.executable), "mlflow": mlflow, "uv": "#!/bin/sh\n"}
    done = set_up(tmp_path, stubs, SETTINGS=str(settings), UV_DEFAULT_INDEX="https://mine/s")
    assert done.returncode == 0, done.stderr
    ran = "mlflow run . -e detect --env-manager uv; /a,/b; https://mine/s; https://one/s https://two/s; /ca.pem; 180"
    assert done.stdout.splitlines()[0] == ran
    assert "mlflow ui --backend-store-uri sqlite:///mlflow.db" in done.stdout


# ---- surroundings ----


def test_no_run_is_inherited_from_the_runner() -> None:
    assert not {"MLFLOW_RUN_ID", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_ID"} & os.environ.keys()
