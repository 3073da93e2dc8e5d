"""Videos and cameras: counted as their frames are, as streams, and whole wherever they end."""

import csv

import cv2
import numpy as np
import pytest
import torch
from conftest import plain_guard, read_json, save_student

from counting import video
from counting.protocols import count_image, predict_whole
from counting.video import Video, VideoError, VideoWriter
from models.counter import read_counter
from utils.pixels import as_batch

FRAMES, FPS, SIZE = 24, 12, (64, 96)


def noise(number):
    """Soft noise, which survives being compressed."""
    patches = np.random.default_rng(number).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    return cv2.resize(patches, SIZE[::-1])


def write_clip(path, code="mp4v"):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*code), FPS, SIZE[::-1])
    for number in range(FRAMES):
        writer.write(noise(number))
    writer.release()
    return path


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4")


@pytest.mark.parametrize("every", [1, 5])
def test_a_videos_counts_are_those_of_its_frames(run, student, clip, tmp_path, every):
    options = ["--every", every, "--out", tmp_path / "out", "--npy", tmp_path / "maps"]
    options += ["--json", tmp_path / "a.json", "--csv", tmp_path / "a.csv"]
    code, (line, last), errors = run(clip, *options)
    assert last == f"overlays are in {tmp_path / 'out'}"
    assert code == 0 and not errors
    network = read_counter(student).network.eval()
    capture, expected = cv2.VideoCapture(str(clip)), []
    for number in range(FRAMES):
        _, pixels = capture.read()
        if number % every == 0:
            with torch.no_grad():
                frame = as_batch(np.ascontiguousarray(pixels[..., ::-1]))
                expected.append(count_image(network, frame, predict_whole)[0])
    records = read_json(tmp_path / "a.json")
    assert [record["count"] for record in records] == pytest.approx(expected, rel=1e-5)
    assert [record["frame"] for record in records] == list(range(0, FRAMES, every))
    assert records[-1]["seconds"] == records[-1]["frame"] / FPS
    with (tmp_path / "a.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(expected)
    most, mean = max(expected), sum(expected) / len(expected)
    assert line.startswith(f"{clip}: {mean:.1f} people on average, at most {most:.1f} (at ")
    assert f"{len(expected)} frames" in line
    assert len(list((tmp_path / "maps").iterdir())) == len(expected)
    overlay = Video(tmp_path / "out/clip_density.mp4")
    assert overlay.frames == len(expected) and overlay.fps == pytest.approx(FPS / every)
    assert len(list(overlay.read(1))) == len(expected)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"clip_density.mp4", "clip_counts.png"}


def test_an_alarm_says_when_it_begins(run, clip, tmp_path):
    run(clip, "--json", tmp_path / "a.json")
    counts = [record["count"] for record in read_json(tmp_path / "a.json")]
    limit = sorted(counts)[FRAMES // 2]
    code, lines, _ = run(clip, "--alarm", limit)
    above = [count > limit for count in counts]
    begins = [i for i in range(FRAMES) if above[i] and not (i and above[i - 1])]
    assert code == 3 and len(lines) == len(begins) + 1
    assert lines[0].endswith(f"ALARM at {begins[0] / FPS:.1f} s")
    assert f"{FRAMES} frames, ALARM in {sum(above)}, counted" in lines[-1]


def test_a_videos_line_has_the_mean_of_every_region(run, clip, tmp_path):
    region = "left:0,0 0.5,0 0.5,1 0,1"
    _, (line,), _ = run(clip, "--roi", region, "--json", tmp_path / "a.json")
    people = [record["regions"]["left"] for record in read_json(tmp_path / "a.json")]
    assert f" on average, left {sum(people) / len(people):.1f}, at most" in line


def test_a_videos_line_says_how_many_frames_were_odd(run, clip, tmp_path):
    guarded = save_student(tmp_path / "guarded.safetensors", guard=plain_guard(1e-3))
    _, (line,), _ = run(clip, weights=guarded)
    assert f"{FRAMES} frames, unlike the training pictures in {FRAMES}, counted" in line


def test_a_truncated_video_is_reported_with_what_there_was(run, tmp_path):
    path = write_clip(tmp_path / "clip.avi", "MJPG")
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    code, lines, (error,) = run(path, "--json", tmp_path / "a.json", "--out", tmp_path / "out")
    seen = len(read_json(tmp_path / "a.json"))
    assert code == 1 and 5 < seen < FRAMES and f"{seen} frames" in lines[0]
    assert f"clip.avi ended, or is damaged, after {seen} of" in error
    assert len(list(Video(tmp_path / "out/clip_density.mp4").read(1))) == seen


class Camera:
    """A fake OpenCV camera: ten pictures, four per second, and then no more."""

    def __init__(self, place):
        self.place, self.taken = place, 0

    def isOpened(self):
        return self.place == 0

    def get(self, _):
        return -1.0

    def grab(self):
        self.taken += 1
        return self.taken <= 10

    def retrieve(self):
        return True, noise(self.taken)

    def release(self):
        self.place = None


@pytest.fixture
def camera(monkeypatch):
    clock = iter(np.arange(0, 100, 0.25))
    monkeypatch.setattr(video.cv2, "VideoCapture", Camera)
    monkeypatch.setattr(video.time, "monotonic", lambda: next(clock))


def test_a_cameras_overlay_plays_as_fast_as_it_happened(camera, run, tmp_path, monkeypatch):
    code, lines, errors = run("camera:0", "camera:1", "--out", tmp_path)
    assert code == 1 and "10 frames" in lines[0]
    assert "camera:0 ended, or is damaged, after 10 frames" in errors[0]
    assert "camera:1 cannot be opened" in errors[1]
    monkeypatch.undo()
    overlay = Video(tmp_path / "camera0_density.mp4")
    assert overlay.fps == video.CAMERA_FPS
    assert overlay.frames / overlay.fps == pytest.approx(10 * 0.25, abs=0.3)


def test_a_video_that_cannot_be_written_is_named(tmp_path):
    writer = VideoWriter(tmp_path / "no" / "clip.mp4", FPS)
    with pytest.raises(VideoError, match="clip.mp4 cannot be written"):
        writer.write(noise(0), 0.0)
    assert not writer.close()
