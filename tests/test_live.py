"""Cameras and network streams: read as they come, opened again after a loss, stopped at once."""

import csv
import os
import signal
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cv2
import numpy as np
import pytest
from conftest import collect_lines, read_json
from servers import http_camera, rtsp_camera, serve
from test_video import FPS, noise, play, write_clip

from counting import live, video
from counting.live import LIVE_FPS, Stream, open_video
from counting.sources import find_sources, hide_secrets
from counting.video import VideoError
from utils.interrupt import StopRequest


class Camera:
    """A fake OpenCV camera: ten pictures, four per second, and then no more."""

    def __init__(self, place):
        self.place, self.taken = place, 0

    def isOpened(self):
        return self.place == 0

    def grab(self):
        self.taken += 1
        return self.taken <= 10

    def retrieve(self):
        return True, noise(self.taken)

    def release(self):
        self.place = None


def test_a_cameras_overlay_plays_as_fast_as_it_happened(run, tmp_path, monkeypatch):
    clock = iter(np.arange(0, 100, 0.25))
    monkeypatch.setattr(live.cv2, "VideoCapture", Camera)
    monkeypatch.setattr(live.time, "monotonic", lambda: next(clock))
    code, lines, errors = run("camera:0", "camera:1", "--out", tmp_path)
    assert code == 1 and "10 frames" in lines[0]
    assert "camera:0 ended after 10 frames" in errors[0]
    assert "camera:1 cannot be opened" in errors[1]
    times, length = play(tmp_path / "camera0_density.mp4")
    assert np.diff(times) == pytest.approx([0.25] * 9)
    assert length == pytest.approx(9 * 0.25 + 1 / LIVE_FPS, abs=2e-3)


def test_ctrl_c_ends_a_camera_between_two_counted_frames(run, monkeypatch):
    class Stopped(Camera):
        def grab(self):
            if self.taken == 2:
                os.kill(os.getpid(), signal.SIGINT)
            return super().grab()

    monkeypatch.setattr(live.cv2, "VideoCapture", Stopped)
    code, lines, errors = run("camera:0", "--every", 9)
    assert code == 130 and not errors and " 1 frames," in lines[0]


@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_a_picture_at_a_url_is_no_stream(run, ending):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(cv2.imencode(f".{ending}", noise(1))[1].tobytes())

        def log_message(self, *_):
            pass

    with serve(ThreadingHTTPServer, Handler) as port:
        code, _, (error,) = run(url := f"http://127.0.0.1:{port}/a.{ending}")
        assert code == 1 and error == f"error: {url} is a picture: save it, and count the file"


def interrupt():
    """Presses Ctrl-C as soon as a server comes to this."""
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.5)  # so that it is not for want of frames that counting ends
    yield from ()


def test_a_stream_is_counted_and_opened_again_after_a_loss(run, tmp_path, monkeypatch):
    monkeypatch.setattr(live, "PAUSES_S", (0.2, 1))
    told = []
    collect_lines(monkeypatch, told.append)
    pictures = [noise(number) for number in range(10)]
    large = [cv2.resize(noise(number), (256, 128)) for number in range(10)]
    with http_camera([pictures, large, interrupt()], gap_s=0.05) as port:
        url = f"http://me:secret@127.0.0.1:{port}/live?channel=2&password=secret"
        options = ["--csv", tmp_path / "a.csv", "--json", tmp_path / "a.json", "--alarm", 0]
        code, _, errors = run(url, "--out", tmp_path / "out", *options)
    name = f"http://***@127.0.0.1:{port}/live?channel=2&password=***"
    assert code == 130 and not errors
    assert [line for line in told if " is lost " in line][0].startswith(
        f"{name} is lost after 10 frames: "
    )
    assert [line.startswith(f"{name} is back after ") for line in told].count(True) >= 1
    assert told[0].startswith(f"{name}: ") and " ALARM at 0.0 s" in told[0]
    assert told[-2].startswith(f"{name}: ") and " frames, ALARM in " in told[-2]
    assert told[-1] == f"overlays are in {tmp_path / 'out'}"
    records = read_json(tmp_path / "a.json")
    frames, seconds = ([record[key] for record in records] for key in ("frame", "seconds"))
    assert {record["name"] for record in records} == {name}
    assert frames == sorted(set(frames)) and frames[0] < 10 <= frames[-1] < 20
    assert seconds[0] == 0 and 0.2 < seconds[-1] < 20
    stem = f"127.0.0.1_{port}_live_channel_2_password"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        f"{stem}_density.mp4",
        f"{stem}_counts.png",
    }
    assert play(tmp_path / f"out/{stem}_density.mp4")[0] == pytest.approx(seconds, abs=1e-3)
    with (tmp_path / "a.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(records)
    written = [(tmp_path / file).read_text() for file in ("a.csv", "a.json")]
    assert "secret" not in "".join([*told, *written])


def test_every_nth_frame_of_a_stream():
    stop = StopRequest()
    with http_camera([[noise(0)] * 3000], gap_s=0.02) as port:
        stream = open_video(f"http://127.0.0.1:{port}/", stop, lambda line: None)
        numbers = []
        for frame in stream.read(4):
            numbers.append(frame.number)
            stop.requested = len(numbers) == 4
    assert min(np.diff(numbers)) >= 4


def test_a_stream_does_not_lag_behind():
    stop, seconds = StopRequest(), []
    with http_camera([[noise(0)] * 3000], gap_s=0.02) as port:
        stream, began = open_video(f"http://127.0.0.1:{port}/", stop, lambda line: None), None
        for frame in stream.read(1):
            began = began or time.monotonic()
            seconds.append(time.monotonic() - began - frame.seconds)
            time.sleep(0.2)  # as if counting took ten times as long as a frame lasts
            stop.requested = len(seconds) == 4
    assert seconds == pytest.approx([0] * 4, abs=0.15)


def test_a_stream_by_rtsp_is_opened_again_after_a_loss(tmp_path, monkeypatch):
    monkeypatch.setattr(live, "PAUSES_S", (0.05, 1))
    clip = write_clip(tmp_path / "a.ts", np.arange(40) / FPS, "mpeg4")
    stop, told, numbers = StopRequest(), [], []
    with rtsp_camera(clip.read_bytes()) as port:
        url = f"rtsp://me:secret@127.0.0.1:{port}/live"
        for frame in open_video(url, stop, told.append).read(1):
            assert frame.image.shape == (64, 96, 3)
            numbers.append(frame.number)
            stop.requested = frame.number >= 40
    assert f"rtsp://***@127.0.0.1:{port}/live is lost after " in told[0]
    assert " is back after " in told[1] and numbers[0] < 40


def test_a_stream_that_falls_silent_is_lost(monkeypatch):
    monkeypatch.setattr(live, "PAUSES_S", (0.05, 1))
    monkeypatch.setattr(video, "TIMEOUT_S", 0.5)
    stop, told = StopRequest(), []

    def fall_silent():
        yield from [noise(0)] * 5
        time.sleep(1.5)

    with http_camera([fall_silent(), [noise(0)] * 3000], gap_s=0.05) as port:
        for frame in open_video(f"http://127.0.0.1:{port}/", stop, told.append).read(1):
            stop.requested = frame.number >= 5
    assert " frames: no answer in 0.5 s; trying to open it again" in told[0]
    assert " is back after " in told[1]


def test_ctrl_c_ends_a_pause_at_once(run, monkeypatch):
    monkeypatch.setattr(live, "PAUSES_S", (60, 60))
    say = []

    def stop_when_lost(line):
        say.append(line)
        if " is lost " in line:
            os.kill(os.getpid(), signal.SIGTERM)

    collect_lines(monkeypatch, stop_when_lost)
    with http_camera([[noise(0)] * 5]) as port:
        began = time.monotonic()
        assert run(f"http://127.0.0.1:{port}/")[0] == 130
    assert time.monotonic() - began < 10 and " on average" in say[-1]


def test_pauses_grow_until_a_stream_is_back(monkeypatch):
    class Clock:
        def wait(self, seconds):
            pauses.append(seconds)
            return False

    def fail_eight_times(url):
        if len(pauses) < 9:
            raise VideoError("no")
        return "opened"

    pauses = []
    monkeypatch.setattr(live, "Video", fail_eight_times)
    stream = Stream.__new__(Stream)
    stream._done, stream._url = Clock(), "rtsp://127.0.0.1/"
    assert stream._reconnect(1.0) == ("opened", 60)
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]


@pytest.mark.parametrize("scheme", ["rtsp", "http"])
def test_a_stream_that_cannot_be_opened_is_named_without_its_password(run, scheme):
    with http_camera([]) as port:
        pass  # nobody listens there any more
    code, lines, (error,) = run(f"{scheme}://me:secret@127.0.0.1:{port}/live")
    name = f"{scheme}://***@127.0.0.1:{port}/live"
    assert code == 1 and not lines
    assert error == f"error: {name} cannot be opened: Connection refused"


@pytest.mark.parametrize(
    ("url", "name", "stem"),
    [
        ("rtsp://10.0.0.5:554/cam/1", "rtsp://10.0.0.5:554/cam/1", "10.0.0.5_554_cam_1"),
        ("RTSP://me:p@ss/w@cam/../x", "RTSP://***@cam/../x", "cam_.._x"),
        ("http://cam/a?ch=1&user_pwd=x", "http://cam/a?ch=1&user_pwd=***", "cam_a_ch_1_user_pwd"),
        ("https://cam/?token=abc", "https://cam/?token=***", "cam_token"),
    ],
)
def test_a_streams_names_hold_no_secrets_and_suit_files(url, name, stem):
    (source,) = find_sources(url)
    assert (source.place, source.is_video, source.name, source.stem) == (url, True, name, stem)


def test_only_addresses_hide_something():
    assert hide_secrets("photos/me@home?token=1.jpg") == "photos/me@home?token=1.jpg"
    assert hide_secrets("rtsp:/me:secret@cam/1") == "rtsp:/***@cam/1"
