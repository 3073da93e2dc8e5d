"""Describes the models of the page that counts in a browser, for the page: web/models.json.

`python report/web.py web --example drawn.jpg --heads 232 --runtime vendor/ort-1.30.0`
"""

import argparse
import hashlib
import json
import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import utils.start  # noqa: F401

import numpy as np
from PIL import Image

from deploy.deployed import EngineError  # noqa: E402
from deploy.exported import ExportError  # noqa: E402
from deploy.onnx_format import open_model  # noqa: E402
from models.counter import read_counter  # noqa: E402
from utils.checkpoint import SHIPPED  # noqa: E402
from utils.files import write_json, written_whole  # noqa: E402
from utils.options import Parser, fail  # noqa: E402
from utils.version import VERSION  # noqa: E402

PROJECT = Path(__file__).resolve().parents[1]
IMAGES = {"validation": 59, "test": 182}  # of Part A
LICENCE = "for research only: trained on ShanghaiTech Part A"
ERRORS = r"\| `{}` \|[^|]*\| ([\d.]+) / ([\d.]+) \| ([\d.]+) / ([\d.]+) \|"  # weights/README.md
GLUE = "ort-wasm-simd-threaded{}.{}"
RUNTIMES = {"wasm": "", "webgpu": ".asyncify"}
PRECISIONS = ("float32", "int8")


def parse_args() -> argparse.Namespace:
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add("site", type=Path, help="folder with index.html and models/*.onnx; models.json is written")
    add("--example", type=Path, required=True, help="drawn picture, which becomes example.png")
    add("--heads", type=int, required=True, help="how many heads are drawn on it")
    add("--runtime", required=True, help="folder of ONNX Runtime Web, seen from the site")
    return parser.parse_args()


def describe_model(path: Path, site: Path, picture: np.ndarray) -> dict[str, Any]:
    """Returns what the page needs to know about an exported file.

    Args:
        picture: (H, W, 3) uint8 RGB; its count is noted, for a browser's engine to be checked.

    Raises:
        EngineError: it cannot be opened.
        ExportError: it was exported without --preprocess.
    """
    run, facts = open_model(path)
    if facts.get("preprocessing") != "inside":
        raise ExportError(f"{path} must be exported with --preprocess")
    name, precision, content = Path(facts["checkpoint"]).stem, facts["precision"], path.read_bytes()
    density, *_ = run(picture[np.newaxis])
    shipped = is_shipped(name, facts["weights_sha256"])
    measured = dict.fromkeys(IMAGES)
    if shipped:
        measured = published_errors(name) if precision == "float32" else int8_errors(path, facts)
    return {
        "name": name,
        "label": facts["model"],
        "precision": precision,
        "file": path.relative_to(site).as_posix(),
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "weights_sha256": facts["weights_sha256"],
        **measured,
        "max_side": int(facts["max_side"]) if "max_side" in facts else None,
        "guard": "unlikeness" in facts,
        "check": max(0.0, float(density.sum(dtype=np.float64))),
        "licence": LICENCE if shipped else None,
    }


def is_shipped(name: str, fingerprint: str) -> bool:
    """Returns whether weights are those that come with the project under this name."""
    path = SHIPPED / f"{name}.safetensors"
    return path.is_file() and read_counter(path).fingerprint() == fingerprint


def published_errors(name: str) -> dict[str, Any]:
    """Returns the errors of shipped weights as weights/README.md has them."""
    table = (SHIPPED / "README.md").read_text(encoding="utf-8")
    values = list(map(float, re.search(ERRORS.format(re.escape(name)), table).groups()))
    pairs = {"validation": values[:2], "test": values[2:]}
    return {split: {"mae": mae, "rmse": rmse} for split, (mae, rmse) in pairs.items()}


def int8_errors(path: Path, facts: dict[str, str]) -> dict[str, Any]:
    """Returns an INT8 file's validation error, which it notes, and its test error, if measured."""
    found = re.match(r"([\d.]+), .*, over the (\d+) images of A_val", facts.get("mae", ""))
    errors = {"validation": {"mae": float(found[1])} if found else None, "test": None}
    label = f"{path.name.removeprefix('skt_')}:"
    for results in sorted((PROJECT / "results/deployment").glob("*.json")):
        table = json.loads(results.read_text(encoding="utf-8"))
        same = f"(weights {facts['weights_sha256'][:8]}), its ranges of {facts['calibration']}"
        noted = any(same in note for note in table["notes"])
        for row in table["rows"] if noted and table["title"].startswith("A_test") else []:
            if row["label"].startswith(label):
                errors["test"] = {"mae": round(row["mae"], 2), "rmse": round(row["rmse"], 2)}
    return errors


def main(args: argparse.Namespace) -> None:
    picture = np.asarray(Image.open(args.example).convert("RGB"))
    with written_whole(args.site / "example.png") as path:
        Image.fromarray(picture).save(path, optimize=True)
    files = (args.site / "models").glob("*.onnx")
    models = [describe_model(file, args.site, picture) for file in files]
    if not models:
        raise ExportError(f"{args.site}/models holds no .onnx file")
    models.sort(key=lambda m: (m["validation"] is None, m["name"] != "skt_mobile_s_sha", m["name"]))
    models.sort(key=lambda m: PRECISIONS.index(m["precision"]))
    runtime = {
        engine: {
            "module": f"{args.runtime}/ort.{engine}.min.mjs",
            "glue": f"{args.runtime}/{GLUE.format(kind, 'mjs')}",
            "wasm": f"{args.runtime}/{GLUE.format(kind, 'wasm')}",
        }
        for engine, kind in RUNTIMES.items()
    }
    kept = [f"{model['file']}?{model['sha256'][:16]}" for model in models]
    catalogue = {
        "version": VERSION,
        "runtime_version": args.runtime.rpartition("-")[2],
        "runtime": runtime,
        "check": {"file": "example.png", "heads": args.heads, "size": picture.shape[:2]},
        "images": IMAGES,
        "models": models,
        "offline": ["example.png", *runtime["wasm"].values(), *kept],  # kept by the first visit
    }
    write_json(args.site / "models.json", catalogue)
    for model in models:
        print(f"{model['file']}: {model['bytes']:,} bytes, {model['check']:.2f} on example.png")


if __name__ == "__main__":
    try:
        main(parse_args())
    except (EngineError, ExportError, OSError) as error:
        fail(error)
