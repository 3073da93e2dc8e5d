"""Which folder may import which: imports go one way."""

import ast
import subprocess
import sys
from collections.abc import Iterator

import pytest
from conftest import PROJECT

MAY_IMPORT = {  # of the rooms below; each may import itself, and the programs may import all
    "utils": set(),
    "datasets": {"utils"},
    "models": {"utils"},
    "preprocess": {"utils", "datasets"},
    "counting": {"utils", "datasets", "models"},
    "deploy": {"utils", "datasets", "models", "counting"},
    "training": {"utils", "datasets", "models", "counting.protocols"},
    "report": {"utils", "datasets", "models", "counting", "deploy", "training"},
    # Its benchmarks time the preprocessing.
    "report/benchmarks": {
        *{"utils", "datasets", "models", "counting", "deploy", "training", "report"},
        "preprocess",
    },
}


def imported(room: str) -> Iterator[tuple[str, str]]:
    """Yields each file of a room, and each of our modules that it imports."""
    names = {path.name for path in PROJECT.iterdir() if path.is_dir()}
    programs = {path.stem for path in PROJECT.glob("*.py")}
    for path in (PROJECT / room).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                modules = [f"{node.module}.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            else:
                continue
            for module in modules:
                if module.split(".")[0] in names | programs:
                    yield path.name, module


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_no_import_climbs(room: str):
    allowed = {room.replace("/", "."), *MAY_IMPORT[room]}
    climbing = [
        f"{file}: {module}"
        for file, module in imported(room)
        if not any(f"{module}.".startswith(f"{other}.") for other in allowed)
    ]
    assert not climbing


def test_every_room_with_code_is_in_the_table():
    rooms = {
        path.parent.relative_to(PROJECT).as_posix() for path in PROJECT.glob("[!.]*/**/__init__.py")
    }
    assert rooms == set(MAY_IMPORT)


def test_preparing_data_waits_for_no_pytorch():
    modules = [f"preprocess.{path.stem}" for path in (PROJECT / "preprocess").glob("[!_]*.py")]
    command = f"import sys, report.closing, {', '.join(modules)}; print('torch' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", command], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    assert result.stdout == "False\n"
