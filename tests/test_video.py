"""Video files: counted as their frames are, at their times, and whole wherever they end."""

import csv
import socket
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch
from conftest import plain_guard, read_json, run_program, save_student
from servers import http_file

from counting import video
from counting.outputs import Outputs
from counting.protocols import count_image, predict_whole
from counting.readings import Reading
from counting.video import Frame, Video, VideoError, VideoWriter
from models.counter import read_counter
from utils.pixels import as_batch

FRAMES, FPS, SIZE = 24, 12, (64, 96)


def noise(number):
    """Soft noise, which survives being compressed."""
    patches = np.random.default_rng(number).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    return cv2.resize(patches, SIZE[::-1])


def write_clip(path, times=None, codec="mpeg4", **options):
    """Writes frames, by default FRAMES at FPS, that begin at these seconds."""
    with av.open(str(path), "w", options=options) as file:
        stream = file.add_stream(codec, rate=FPS)
        stream.height, stream.width = SIZE
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for number in range(FRAMES if times is None else len(times)):
            frame = av.VideoFrame.from_ndarray(noise(number), "bgr24")
            frame.pts = number if times is None else round(1000 * times[number])
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


def cut(source, path, first):
    """Copies a video's packets from number `first` on, as `ffmpeg -c copy` does."""
    with av.open(str(source)) as file, av.open(str(path), "w") as copy:
        stream = file.streams.video[0]
        twin = copy.add_stream_from_template(stream)
        packets = [packet for packet in file.demux(stream) if packet.dts is not None][first:]
        start = packets[0].dts
        for packet in packets:
            packet.pts, packet.dts, packet.stream = packet.pts - start, packet.dts - start, twin
            copy.mux(packet)
    return path


def play(path):
    """Returns the seconds at which a video's frames are shown, and its length."""
    with av.open(str(path.absolute())) as file:
        times = [picture.time for picture in file.decode(file.streams.video[0])]
        return times, file.duration / av.time_base


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
                expected.append(count_image(network, frame, predict_whole, torch.device("cpu"))[0])
    records = read_json(tmp_path / "a.json")
    assert [record["count"] for record in records] == pytest.approx(expected, rel=1e-5)
    assert [record["frame"] for record in records] == list(range(0, FRAMES, every))
    assert records[-1]["seconds"] == records[-1]["frame"] / FPS
    with (tmp_path / "a.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(expected)
    most, mean = max(expected), sum(expected) / len(expected)
    assert line.startswith(f"{clip}: {mean:.1f} people on average, at most {most:.1f} (at ")
    assert f"{len(expected)} frames" in line
    maps = {path.name for path in (tmp_path / "maps/clip").iterdir()}
    assert maps == {f"{number:06}.npy" for number in range(0, FRAMES, every)}
    times, length = play(tmp_path / "out/clip_density.mp4")
    assert times == pytest.approx(np.arange(0, FRAMES, every) / FPS)
    assert length == pytest.approx(len(expected) * every / FPS, abs=2e-3)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"clip_density.mp4", "clip_counts.png"}


def test_a_name_begins_no_formula_in_a_plot(student, clip, tmp_path):
    name = tmp_path / "a$_$b, 人群.mp4"
    name.write_bytes(clip.read_bytes())
    options = ["-c", student, "--cpu", "--every", 9, "--out", tmp_path / "out"]
    result = run_program("predict.py", name, *options, PYTHONWARNINGS="default")
    assert (result.returncode, result.stderr) == (0, "")
    assert (tmp_path / f"out/{name.stem}_counts.png").exists()


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


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4", "a.webm"])
def test_frames_are_at_their_own_times(run, tmp_path, name):
    times = [0, 0.04, 0.08, 0.5, 2, 2.04]  # as a phone or a screen recorder keeps them
    codec = "libvpx-vp9" if name == "a.webm" else "mpeg4"
    path = write_clip(tmp_path / name, times, codec)
    code, _, errors = run(path, "--json", tmp_path / "a.json", "--out", tmp_path / "out")
    assert code == 0 and not errors
    records = read_json(tmp_path / "a.json")
    assert [record["seconds"] for record in records] == pytest.approx(times, abs=1e-3)
    shown, length = play(tmp_path / "out/a_density.mp4")
    assert shown == pytest.approx(times, abs=1e-3)
    assert (
        times[-1] < length < times[-1] + 0.15
    )  # the rate, which the last one is shown for, is a guess


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4", "a.avi"])
@pytest.mark.parametrize("first", [12, 17])  # frame 12 can be decoded without others, 17 not
def test_what_was_cut_out_of_a_video_is_whole(tmp_path, name, first):
    path = write_clip(tmp_path / "whole.mkv", np.arange(60) / FPS)
    frames = list(Video(cut(path, tmp_path / name, first)).read(1))
    assert 30 < len(frames) <= 60 - first
    seconds = [frame.seconds for frame in frames]
    assert seconds == pytest.approx(np.arange(len(frames)) / FPS, abs=2e-3)


@pytest.mark.parametrize("name", ["a.avi", "a.mkv", "a.mp4", "a.flv"])
def test_a_truncated_video_is_reported_with_what_there_was(run, tmp_path, name):
    options = {"movflags": "faststart"} if name == "a.mp4" else {}
    codec = {"a.avi": "mjpeg", "a.flv": "flv"}.get(name, "mpeg4")
    path = write_clip(tmp_path / name, None, codec, **options)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    options = ["--out", tmp_path / "out"] if name == "a.avi" else []
    code, lines, (error,) = run(path, "--json", tmp_path / "a.json", *options)
    seen = len(read_json(tmp_path / "a.json"))
    assert code == 1 and 5 < seen < FRAMES and f"{seen} frames" in lines[0]
    assert f"{name} is damaged; {seen} frames were read; " in error
    if options:
        assert len(play(tmp_path / "out/a_density.mp4")[0]) == seen


def test_damage_in_the_middle_is_reported_and_the_rest_is_read(tmp_path):
    content = bytearray(write_clip(tmp_path / "a.mp4", movflags="faststart").read_bytes())
    middle = len(content) // 2
    content[middle : middle + 2000] = np.random.default_rng(0).bytes(2000)
    (tmp_path / "a.mp4").write_bytes(content)
    frames = Video(tmp_path / "a.mp4").read(1)
    seconds = []
    with pytest.raises(VideoError, match=r"a.mp4 is damaged; \d+ frames were read; damaged parts"):
        seconds.extend(frame.seconds for frame in frames)
    assert seconds[-1] == (FRAMES - 1) / FPS


def test_what_is_no_video_is_told_from_a_codec_without_decoder(run, tmp_path):
    content = write_clip(tmp_path / "codec.mkv").read_bytes()
    (tmp_path / "codec.mkv").write_bytes(content.replace(b"V_MPEG4", b"V_MPEG9"))
    with av.open(str(tmp_path / "sound.mp4"), "w") as file:
        stream = file.add_stream("aac", rate=8000)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        silence.sample_rate = 8000
        file.mux(stream.encode(silence))
        file.mux(stream.encode())
    (tmp_path / "text.mp4").write_text("no video")
    names = ("codec.mkv", "sound.mp4", "text.mp4")
    code, lines, errors = run(*(tmp_path / name for name in names))
    assert code == 1 and not lines and len(errors) == 3
    assert "codec.mkv: no decoder for this codec" in errors[0]
    assert "sound.mp4 holds no video" in errors[1]
    assert "text.mp4 is not a readable video: Invalid data found" in errors[2]


def test_a_file_is_a_file_whatever_its_name_says(run, clip, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        names = ["2024-05-01T12:30:00.mp4", f"tcp:{address}?x=.mp4"]
        for name in names:
            Path(name).write_bytes(clip.read_bytes())
        Path("list.mp4").write_text(f"#EXTM3U\n#EXTINF:1,\nhttp://{address}/a.ts\n")
        code, (*lines, _), errors = run(*names, "list.mp4", "--out", ".")
        server.settimeout(0.1)
        with pytest.raises(TimeoutError):
            server.accept()
    assert [line.startswith(f"{name}: ") for line, name in zip(lines, names, strict=True)]
    assert code == 1 and len(errors) == 1 and "list.mp4" in errors[0]
    for name in names:
        assert len(play(Path(name.replace(".mp4", "_density.mp4")))[0]) == FRAMES


def test_a_file_at_a_url_is_counted_to_its_end(run, tmp_path):
    content = write_clip(tmp_path / "a.mkv").read_bytes()
    with http_file(content) as port:
        code, lines, errors = run(f"http://127.0.0.1:{port}/a.mkv", "--out", tmp_path / "out")
    assert code == 0 and not errors and f"{FRAMES} frames, counted" in lines[0]
    assert (tmp_path / f"out/127.0.0.1_{port}_a.mkv_density.mp4").is_file()
    with http_file(content[: len(content) // 2]) as port:
        assert run(f"http://127.0.0.1:{port}/a.mkv")[0] == 1


def test_a_video_of_a_turned_phone_is_upright(clip, tmp_path):
    plain, turned = (  # transformations, as MP4 stores them
        (np.array(matrix) << [16, 16, 30] * 3).astype(">i4").tobytes()
        for matrix in ([1, 0, 0, 0, 1, 0, 0, 0, 1], [0, 1, 0, -1, 0, 0, 0, 0, 1])
    )
    whole, track, rest = clip.read_bytes().split(plain)
    (tmp_path / "a.mp4").write_bytes(whole + plain + track + turned + rest)
    (lying, *_), (upright, *_) = (list(Video(path).read(1)) for path in (clip, tmp_path / "a.mp4"))
    np.testing.assert_array_equal(upright.image, np.rot90(lying.image, -1))


def test_a_film_of_one_frame_of_many(run, clip, tmp_path):
    code, _, errors = run(clip, "--every", 10**6, "--out", tmp_path / "out")
    assert code == 0 and not errors and play(tmp_path / "out/clip_density.mp4")[0] == [0]


@pytest.mark.parametrize("encoder", ["libx264", "mpeg4"])
def test_an_overlay_is_h264_where_that_can_be_made(tmp_path, monkeypatch, encoder):
    assert encoder in video.ENCODERS
    if encoder not in av.codecs_available:
        pytest.skip(f"FFmpeg was built without {encoder}")
    monkeypatch.setattr(video, "ENCODERS", (encoder,))
    writer, times = VideoWriter(tmp_path / "a.mp4", 10), [0, 0.5, 0.6, 4]
    for number, seconds in enumerate(times):
        size = (SIZE[0] * (1 + number % 2), SIZE[1])  # a stream may change it
        writer.write(cv2.resize(noise(number), size[::-1]), seconds)
    assert writer.close()
    with av.open(str(tmp_path / "a.mp4")) as file:
        context = file.streams.video[0].codec_context
        assert context.name == {"libx264": "h264"}.get(encoder, encoder)
        assert (context.height, context.width, context.pix_fmt) == (*SIZE, "yuv420p")
        pictures = [picture.to_ndarray(format="rgb24") for picture in file.decode(video=0)]
    shown, length = play(tmp_path / "a.mp4")
    assert shown == pytest.approx(times) and length == pytest.approx(4.1, abs=2e-3)
    for number in (0, 2):
        assert np.abs(pictures[number] - noise(number).astype(float)).mean() < 12


def test_a_video_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "no").write_text("a file where a folder should be")
    writer = VideoWriter(tmp_path / "no" / "clip.mp4", FPS)
    with pytest.raises(VideoError, match="clip.mp4 cannot be written"):
        writer.write(noise(0), 0.0)
    assert not writer.close()

    def fill(*_, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(video.av, "open", fill)
    with (
        pytest.raises(VideoError, match="/a_density.mp4 cannot be written: No space"),
        Outputs(tmp_path, None, ()).film("a", FPS) as film,
    ):
        film.add(
            Frame(0, 0.0, noise(0)),
            np.ones((8, 12), np.float32),
            Reading("a", 0, 0.0, 1.0, None, (), {}),
        )
