"""Chromium, the page of web/ served to it, and what its tests ask of it."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from conftest import PROJECT
from servers import serve

NAMES = ("chromium", "chromium-browser", "google-chrome")
PATIENCE_S = 60


def need(program: str, package: str) -> str:
    """Returns the path of a program, or skips the test."""
    path = shutil.which(program)
    if path is None:
        pytest.skip(f"{program} is missing: apt-get install {package}")
    return path


def run_node(code: str) -> str:
    """Returns what JavaScript prints that may import modules of web/; skips without Node.js."""
    node = need("node", "nodejs")
    result = subprocess.run(
        [node, "--input-type=module", "--eval", code],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=PROJECT / "web",
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def fetch_npm(package: str, folder: Path) -> Path:
    """Returns the archive of an npm package, NAME@VERSION; skips where there is no registry."""
    npm = need("npm", "npm")
    command = [npm, "pack", "--silent", "--pack-destination", folder, package]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=folder)
    except subprocess.TimeoutExpired:
        pytest.skip(f"npm did not fetch {package} in two minutes")
    if result.returncode:
        pytest.skip(f"npm cannot fetch {package}: no network?")
    return folder / result.stdout.split()[-1]


def build(site: Path, runtime: Path | str = "", **changes: str) -> None:
    """Copies the page to `site` as web/build.sh does, with ONNX Runtime Web."""
    settings = {"SITE": site, "ORT": runtime, "STEPS": "runtime", "OUT": site} | changes
    settings |= {"PYTHON": sys.executable, "SETUP_CHECKED": sys.executable}  # as it is running
    environment = os.environ | {name: str(value) for name, value in settings.items()}
    command = ["bash", PROJECT / "web/build.sh"]
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr


@contextmanager
def serving(site: Path) -> Iterator[str]:
    """Yields the address of a folder, served as `python -m http.server` does."""

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with serve(ThreadingHTTPServer, partial(Handler, directory=site)) as port:
        yield f"http://127.0.0.1:{port}/"


@contextmanager
def chromium() -> Iterator[Any]:
    """Yields a headless Chromium with a drawn camera, driven by Playwright; or skips the test."""
    reason = "playwright is missing: pip install playwright"
    playwright = pytest.importorskip("playwright.sync_api", reason=reason)
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip("Chromium is missing: apt-get install chromium")
    flags = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    flags += ["--no-sandbox"] if os.geteuid() == 0 else []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=flags)
        yield browser
        browser.close()


def wait_until(page: Any, expression: str) -> Any:
    """Returns the first true value of an expression.

    Playwright's own `wait_for_function` calls eval, which the page forbids.
    """
    ends = time.monotonic() + PATIENCE_S
    while time.monotonic() < ends:
        try:
            if value := page.evaluate(expression):
                return value
        except Exception as error:  # the page is loaded again
            if "context was destroyed" not in str(error):
                raise
        time.sleep(0.05)
    raise AssertionError(f"{expression} did not become true; the page says {words(page)}")


def words(page: Any) -> str:
    return json.dumps(page.inner_text("body"), ensure_ascii=False)


def wait_for_counts(page: Any, rows: int) -> None:
    """Waits until the page has that many pictures, all of them counted or failed."""
    wait_until(
        page,
        f"document.querySelectorAll('#rows tr').length === {rows}"
        " && !document.querySelector('td.waiting, td.working')",
    )


def wait_for_count(page: Any) -> float:
    """Returns the count that is shown, once there is one."""
    wait_until(page, "!document.getElementById('result').hidden")
    return float(page.inner_text("#count").replace(",", ""))
