"""A run opened in the MLflow UI, in a real browser, shows what was run and what came out."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By

from harness.measuring.cost import Cost
from harness.running.records import write_records
from harness.stage import Records

ROOT = Path(__file__).parent.parent
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
PATIENCE = 60  # seconds for a page that takes two on an idle machine
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --disable-dev-shm-usage --no-first-run --disable-sync "
    "--disable-background-networking --disable-component-update --window-size=1600,3000"
)

SPEEDS = {"cpu-x86_64": 4.0, "rtx-4090": 0.5}  # seconds for the same work on two machines

pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="no chromium and chromedriver on the PATH (Debian: chromium, chromium-driver)"
)


def wait(what: str, ready: Callable[[], Any]) -> Any:
    """What `ready` returns as soon as that is anything."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        with suppress(OSError, WebDriverException):
            if found := ready():
                return found
        time.sleep(0.2)
    pytest.fail(f"waited {PATIENCE} s for {what}")


def records(path: Path, hardware: str, seconds: float) -> Path:
    """Features of forty responses, drawn so that half of them are told apart, with what they cost to get where."""
    rng = np.random.default_rng(0)
    rows = [{"group": f"r{i}", "source": f"s{i}", "item": 0, "label": i % 2, "length": 40 + i % 7} for i in range(40)]
    frame = pd.DataFrame(rows).assign(task="QA")
    for name, sign in {"ecs_0_0": -1, "ecs_1_0": -1, "pks_0": 1, "pks_1": 1}.items():
        frame[name] = np.clip(0.3 + 0.1 * sign * frame["label"] + rng.normal(0, 0.1, len(frame)), 0, 0.69)
    cost = Cost(hardware, "cpu", 40, seconds, 1.0, 100.0, 110.0, 120.0, 40, 2000, 0, 1.0, 0.5)
    write_records(Records(frame, cost, {"digests": {"data": "made up"}, "counts": {"kept": 40}}), path)
    return path


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of an MLflow UI whose store holds two runs of `detect` on the same data, from different machines.

    Which they are, `compare` has said, in a file beside the store.
    """
    folder = tmp_path_factory.mktemp("ui")
    store = f"sqlite:///{folder / 'mlflow.db'}"
    environment = os.environ | {"MLFLOW_TRACKING_URI": store, "PYTHONPATH": str(ROOT)}
    harness = [sys.executable, "-m", "harness"]
    for tag, seconds in SPEEDS.items():
        settings = ["--records", str(records(folder / f"{tag}.parquet", tag, seconds))]
        subprocess.run([*harness, "detect", *settings], cwd=folder, env=environment, check=True, capture_output=True)
    compare = [*harness, "compare", "detect"]
    shown = subprocess.run(compare, cwd=folder, env=environment, check=True, capture_output=True, text=True).stdout
    assert [line for line in shown.splitlines() if any(tag in line for tag in SPEEDS)] != []
    (folder / "compared").write_text(shown)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store, "--workers", "1"]
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)], cwd=folder, stdout=log, stderr=subprocess.STDOUT
        )
    address = f"http://127.0.0.1:{port}"
    try:
        wait(f"the server (see {log.name})", lambda: urllib.request.urlopen(f"{address}/health").status == 200)
        yield address
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in [*FLAGS.split(), f"--user-data-dir={tmp_path / 'profile'}"]:
        options.add_argument(flag)
    driver = webdriver.Chrome(options, Service(DRIVER))
    yield driver
    driver.quit()


def ask(server: str, what: str, query: dict[str, Any] | None = None, **fields: str) -> Any:
    """One answer of MLflow's REST interface, which is what the UI itself asks."""
    url = f"{server}/api/2.0/mlflow/{what}?{urllib.parse.urlencode(fields)}"
    body = json.dumps(query).encode() if query else None
    with urllib.request.urlopen(urllib.request.Request(url, body, {"Content-Type": "application/json"})) as answer:
        return json.load(answer)


def runs(server: str) -> dict[str, Any]:
    """The runs of the stage by hardware tag."""
    found = ask(server, "runs/search", {"experiment_ids": ["0"], "filter": "tags.kind = 'run'"})["runs"]
    return {tag["value"]: run for run in found for tag in run["data"]["tags"] if tag["key"] == "hardware"}


def test_a_run_shows_its_parameters_metrics_tags_and_figures(
    server: str, browser: webdriver.Chrome, tmp_path: Path
) -> None:
    run = runs(server)["cpu-x86_64"]
    params, metrics, tags = (
        {item["key"]: item["value"] for item in run["data"][k]} for k in ("params", "metrics", "tags")
    )
    page = f"{server}/#/experiments/0/runs/{run['info']['run_id']}"

    def text() -> str:
        return " ".join(browser.find_element(By.TAG_NAME, "body").text.split())

    browser.get(page)
    wait("the run's page", lambda: f"Parameters ({len(params)})" in text() and "audit" in text())
    shown = text()
    browser.save_screenshot(str(tmp_path / "run.png"))
    assert {"alpha", "top_n", "scorer"} <= params.keys()
    assert [name for name, value in params.items() if f"{name} {value}" not in shown] == []
    assert f"auc {metrics['auc']} " in shown
    assert [name for name in metrics if f" {name} " not in shown] == []
    assert [name for name in ("stage", "hardware", "audit") if f"{name} : {tags[name]}" not in shown] == []

    figures = ask(server, "artifacts/list", run_id=run["info"]["run_id"], path="figures")["files"]
    browser.get(f"{page}/artifacts/{figures[0]['path']}")
    script = "return [...document.images].filter(i => i.src.startsWith('blob:')).map(i => i.naturalWidth)"
    widths = wait("the figure", lambda: [width for width in browser.execute_script(script) if width])
    browser.save_screenshot(str(tmp_path / "figure.png"))
    assert widths[0] >= 300


def test_runs_from_two_machines_stand_side_by_side(server: str, browser: webdriver.Chrome, tmp_path: Path) -> None:
    found = runs(server)
    assert found.keys() == SPEEDS.keys()
    ids = [found[tag]["info"]["run_id"] for tag in SPEEDS]
    query = {"runs": json.dumps(ids, separators=(",", ":")), "experiments": '["0"]'}
    browser.get(f"{server}/#/compare-runs?{urllib.parse.urlencode(query)}")

    def text() -> str:
        return " ".join(browser.find_element(By.TAG_NAME, "body").text.split())

    wait("the comparison", lambda: "Run details" in text() and "alpha" in text())
    for toggle in browser.find_elements(By.CSS_SELECTOR, "[role=switch]"):  # show only what differs
        toggle.click()

    wait("the differences", lambda: "alpha" not in text() and "samples_per_min" in text())
    browser.execute_script("arguments[0].scrollIntoView()", browser.find_element(By.CSS_SELECTOR, "[role=switch]"))
    browser.save_screenshot(str(tmp_path / "compare.png"))
    parameters, metrics, tags = text().split("Show diff only")[1:]
    assert "hardware cpu-x86_64 rtx-4090" in parameters
    assert "hardware cpu-x86_64 rtx-4090" in tags
    assert metrics.strip().startswith("samples_per_min seconds")
    assert "600 4800 4 0.5" in metrics
