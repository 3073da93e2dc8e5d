"""Measures whether predict.py's peak memory grows from 10 to 60 seconds of 720p video.

`python report/benchmarks/video.py [options of predict.py]` draws the clips, in which a window moves
over the demonstration crowd at 25 frames a second. It prints the peaks and predict.py's output.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from utils.start import PROJECT

import cv2
import numpy as np

from preprocess.synthetic import draw_scene  # noqa: E402

FPS, SIZE, SCENE = 25, (720, 1280), (900, 1600)
LENGTHS = (10, 60)  # seconds


def write_clip(path: Path, scene: np.ndarray, seconds: int) -> None:
    """Writes a clip of a window that circles in a scene, once in 10 seconds."""
    (height, width), spare = SIZE, np.subtract(SCENE, SIZE) // 2
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), FPS, SIZE[::-1])
    for frame in range(seconds * FPS):
        angle = 2 * np.pi * frame / (10 * FPS)
        top, left = (spare * (1 + np.array([np.cos(angle), np.sin(angle)]))).astype(int)
        writer.write(np.ascontiguousarray(scene[top : top + height, left : left + width, ::-1]))
    writer.release()


def measure_peak(command: list[str]) -> int:
    """Runs a program to its end, and returns its peak memory in bytes."""
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    if os.waitstatus_to_exitcode(status) not in (0, 3):  # 3: an alarm
        sys.exit("error: predict.py failed, see above")
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main(options: list[str]) -> None:
    scene, _ = draw_scene(np.random.default_rng(7), SCENE)
    peaks = []
    with tempfile.TemporaryDirectory() as folder:
        for seconds in LENGTHS:
            clip = Path(folder) / f"{seconds}s.mp4"
            write_clip(clip, scene, seconds)
            command = [sys.executable, PROJECT / "predict.py", clip, "--out", folder, *options]
            peaks.append(measure_peak(list(map(str, command))))
            if not any(path != clip for path in Path(folder).glob(f"{clip.stem}*.mp4")):
                sys.exit("error: predict.py drew no video; are these options of counting?")
            print(f"{seconds} s of {SIZE[1]}x{SIZE[0]}: peak {peaks[-1] / 1e6:.0f} MB")
    print(f"the longer one's is {100 * (peaks[1] / peaks[0] - 1):+.1f} %")


if __name__ == "__main__":
    main(sys.argv[1:])
