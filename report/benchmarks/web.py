"""Compares the counts of web/ with predict.py's, and times its models in Chromium.

`python report/benchmarks/web.py pictures/*.jpg` serves web/, which web/build.sh has filled, and
drives a headless Chromium with Playwright (`pip install playwright`). It prints a table of models
and the addresses that a visit asks for.
"""

import argparse
import csv
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from utils.start import PROJECT

import numpy as np

from deploy.deployed import EngineError, import_package  # noqa: E402
from utils.markdown import format_table  # noqa: E402
from utils.options import Parser, fail, whole_number  # noqa: E402

SITE = PROJECT / "web"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
THREADS = (1, 2)
SETTLING_MS = 3000

COUNT = """async ({ file, threads, names }) => {
  const { Counter } = await import('./counter.js');
  const counter = new Counter({ engine: 'wasm', threads });
  const model = (await counter.catalogue()).models.find((found) => found.file === file);
  const readings = [];
  for (const name of names) {
    const { count, ms } = await counter.count(model, await (await fetch(name)).blob());
    readings.push({ count, ms });
  }
  counter.close();
  return readings;
}"""

LARGE = """async () => {
  const canvas = new OffscreenCanvas(4000, 3000);
  const drawn = await createImageBitmap(await (await fetch('example.png')).blob());
  canvas.getContext('2d').drawImage(drawn, 0, 0, canvas.width, canvas.height);
  const picture = await canvas.convertToBlob({ type: 'image/jpeg' });
  const { Counter } = await import('./counter.js');
  const counter = (window.large = new Counter({ engine: 'wasm' }));
  const [model] = (await counter.catalogue()).models;
  let [longest, last, ended] = [0, performance.now(), false];
  requestAnimationFrame(function frame(now) {
    [longest, last] = [Math.max(longest, now - last), now];
    if (!ended) requestAnimationFrame(frame);
  });
  const began = performance.now();
  await counter.count(model, picture);
  const seconds = (performance.now() - began) / 1000;
  ended = true;
  return { seconds, longest };
}"""


def parse_args() -> argparse.Namespace:
    parser = Parser(description=__doc__)
    parser.add_argument("pictures", nargs="*", type=Path, help="what is counted here and there")
    parser.add_argument("--rounds", type=whole_number(1), default=10, help="timed pictures")
    return parser.parse_args()


class Handler(SimpleHTTPRequestHandler):
    """Serves the page, and the pictures under their numbers."""

    def __init__(self, *arguments: Any, pictures: Sequence[Path]):
        self.pictures = pictures
        super().__init__(*arguments, directory=str(SITE))

    def translate_path(self, path: str) -> str:
        folder, _, name = urlsplit(path).path.rpartition("/")
        return str(self.pictures[int(name)]) if folder == "/taken" else super().translate_path(path)

    def log_message(self, *_: Any) -> None:
        pass


def visit(browser: Any, address: str) -> tuple[Any, list[str]]:
    """Returns the page when it is kept for use offline, and what it asked for until then."""
    context, asked = browser.new_context(locale="en"), []
    context.on("request", lambda request: asked.append(request.url))
    page = context.new_page()
    page.goto(address)
    page.wait_for_selector("#kept", timeout=120_000)
    page.click("#example")
    page.wait_for_selector("#result", timeout=120_000)
    return page, list(asked)


def expected_counts(model: dict[str, Any], pictures: Sequence[Path]) -> list[float]:
    """Returns predict.py's counts: with PyTorch in float32, with the same file in INT8."""
    engine = "eager" if model["precision"] == "float32" else SITE / model["file"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "counts.csv")
        options = ["-c", model["name"], "--engine", engine, "--cpu", "--csv", path]
        command = [sys.executable, PROJECT / "predict.py", *pictures, *options]
        subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL)
        with path.open(newline="", encoding="utf-8") as file:
            return [float(row["count"]) for row in csv.DictReader(file)]


def count_large(browser: Any, page: Any) -> str:
    """Returns in words how long the page's default takes for 12 megapixels, and its memory."""

    def memory() -> float:
        """Megabytes that the renderers have in RAM."""
        found = session.send("SystemInfo.getProcessInfo")["processInfo"]
        pids = [process["id"] for process in found if process["type"] == "renderer"]
        pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids)
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    session = browser.new_browser_cdp_session()
    before, taken, held = memory(), page.evaluate(LARGE), memory()
    page.evaluate("window.large.close()")
    page.wait_for_timeout(SETTLING_MS)
    return (
        f"4000x3000 pixels: {taken['seconds']:.1f} s with the start of the model, "
        f"{taken['longest']:.0f} ms between two frames of the page at most; memory "
        f"{before:.0f} MB before, {held:.0f} MB after, {memory():.0f} MB once the worker ended"
    )


def compare(page: Any, model: dict[str, Any], pictures: Sequence[Path], rounds: int) -> list[str]:
    """Returns a row of the table."""
    names = [f"taken/{number}" for number in range(len(pictures))]
    question = {"file": model["file"], "threads": 1, "names": names}
    row = [f"{model['label']}, {model['precision']}", f"{model['bytes'] / 1e6:.2f}"]
    if pictures:
        expected = np.array(expected_counts(model, pictures))
        found = np.array([reading["count"] for reading in page.evaluate(COUNT, question)])
        parts = np.abs(found - expected) / np.maximum(expected, 1)
        row += [f"{100 * parts.max():.2g} %", f"{(parts <= 1e-3).sum()} of {len(parts)}"]
    for threads in THREADS:
        timed = {"threads": threads, "names": ["example.png"] * (2 + rounds)}  # two warm up
        times = [reading["ms"] for reading in page.evaluate(COUNT, question | timed)[2:]]
        row.append(f"{statistics.median(times):.0f} ({min(times):.0f} to {max(times):.0f})")
    return row


def main(args: argparse.Namespace) -> None:
    playwright = import_package("playwright.sync_api")
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        raise EngineError(f"none of {', '.join(BROWSERS)} was found")
    handler = partial(Handler, pictures=args.pictures)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    flags = ["--no-sandbox"] if os.geteuid() == 0 else []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=flags)
        page, asked = visit(browser, f"http://127.0.0.1:{server.server_port}/")
        models = page.evaluate("async () => (await (await fetch('models.json')).json()).models")
        rows = [compare(page, model, args.pictures, args.rounds) for model in models]
        large = count_large(browser, page)
        print(f"Chromium {browser.version}, load {os.getloadavg()[0]:.1f}")
        browser.close()
    differences = ["largest difference", "within 0.1 %"] if args.pictures else []
    print(
        format_table(["model", "MB", *differences, *(f"threads: {n} (ms)" for n in THREADS)], rows)
    )
    print(f"\n{large}")
    print("\nA visit asks for", *sorted(set(asked)), sep="\n  ")


if __name__ == "__main__":
    try:
        main(parse_args())
    except (EngineError, OSError) as error:
        fail(error)
