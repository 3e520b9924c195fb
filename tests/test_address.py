"""An address of an endpoint is logged, so it holds no secret; one that is none is refused with what is right."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

import pytest

from experiments.models import address
from experiments.models.address import without_secrets
from experiments.rag import RAG
from harness import __main__ as command_line
from harness.running.hardware import load_profiles
from harness.running.settings import resolve
from harness.stage import BadInput
from harness.sweeping import space
from tests import tiny

CANARY = "hunter2-7c1f2e9d"
SECRET = [
    f"http://ann:{CANARY}@host/v1",
    f"http://{CANARY}@host:8000/v1",
    f"http://ann:a/{CANARY}@host/v1",
    f"http://ann:a#{CANARY}@host/v1",
    f"http://ann:a?{CANARY}@host/v1",
    f"https://host/v1?api_key={CANARY}",
    f"https://host/v1?{CANARY}",
    f"https://host/v1?key=a@{CANARY}",
    f"https://host/v1#{CANARY}",
    f"https://host/{CANARY}/v1",  # which is the key in the environment
    f"ann:{CANARY}@host/v1",
    f"ftp://ann:{CANARY}@host",
    f"http://[ann:{CANARY}@host",
]


def refusal(**settings: Any) -> str:
    with pytest.raises(BadInput) as caught:
        resolve(RAG, settings, load_profiles())
    return str(caught.value)


@pytest.mark.parametrize("name", ["endpoint", "judge_endpoint"])
@pytest.mark.parametrize("address", SECRET)
def test_an_address_with_a_secret_is_refused_and_shown_without_it(
    address: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RIGSWEEP_API_KEY", CANARY)
    told = refusal(**{name: address})
    assert told.startswith(f"rag: {name} = ")
    assert CANARY not in told
    assert CANARY not in without_secrets(address)


def test_a_part_that_reads_like_a_key_is_one_and_an_id_is_none() -> None:
    key = "sk-proj-Abcdefgh12345678ijkl"
    told = refusal(endpoint=f"https://host/{key}/v1")
    assert "endpoint = https://host/***/v1 (given): must be an address without user, password or key" in told
    assert key not in told
    for path in ("v1/0123456789abcdef0123456789abcdef/gateway/openai", "openai/deployments/gpt-35-turbo-16k-east/v1"):
        plan = resolve(RAG, {"endpoint": f"https://host/{path}/", "model": "m"}, load_profiles())
        assert plan.settings["endpoint"] == f"https://host/{path}"


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("localhost:8000", "an address; it reads like http://localhost:8000/v1"),
        ("http://", "an address; it reads like"),
        ("http://host:99999/v1", "an address; it reads like"),
        ("http://host/v1/chat/completions", "to which /chat/completions is added: http://host/v1"),
        ("http://host/v1?api-version=1", "a base address, without what begins with ? or #: http://host/v1"),
    ],
)
def test_what_is_no_base_address_is_refused_with_one_that_is(address: str, said: str) -> None:
    assert said in refusal(endpoint=address)


def test_neither_console_nor_store_nor_cache_see_the_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tiny.new_store(tmp_path))
    monkeypatch.setenv("RIGSWEEP_CACHE", str(tmp_path / "cache"))
    words = ["rag", "--model", "m", "--endpoint", SECRET[0]]
    assert command_line.main(words) == 2
    with pytest.raises(BadInput) as caught:
        command_line.main([*words, "--debug"])
    assert CANARY not in "".join([*traceback.format_exception(caught.value), *capfd.readouterr()])
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or CANARY.encode() not in path.read_bytes()


def test_a_space_that_holds_a_secret_is_refused_without_it(tmp_path: Path) -> None:
    file = tmp_path / "space.yaml"
    file.write_text(f'stage: rag\nfields:\n  judge_endpoint: ["{SECRET[0]}", "http://host/v1"]\n')
    with pytest.raises(BadInput, match=r"judge_endpoint = http://host/v1: must be an address without user") as caught:
        space.load(str(file), RAG, {})
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize(
    ("part", "secret"),
    [
        ("AIzaSyA1234567890abcdefghijklmnopqr", True),
        ("sk-proj-abcDEF-1234_ghijklmnopqrstuvwx", True),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc123", True),
        ("gpt-4o-mini-2024-07-18-deployment", False),
        ("550e8400-e29b-41d4-a716-446655440000", False),
        ("0123456789abcdef0123456789abcdef", False),  # an account's id
    ],
)
def test_a_part_of_a_path_that_may_be_a_key_is_refused_and_masked(part: str, secret: bool) -> None:
    given = f"https://host/{part}/v1"
    if not secret:
        assert address.require(given) == given
        return
    with pytest.raises(ValueError, match="without user, password or key") as refused:
        address.require(given)
    assert part not in str(refused.value)
