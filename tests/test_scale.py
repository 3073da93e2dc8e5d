"""Many pictures: lists, results in parts that go on where they stopped, and Ray's actors."""

import csv
import json
import os
import signal
import sys
from argparse import Namespace
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from conftest import read_json
from PIL import Image

import predict
from counting import parts as parts_module
from counting import scale
from counting.begun import Begun
from counting.parts import Failure, PartsError, open_parts
from counting.readings import Reading
from counting.scale import (
    PictureCounter,
    ScaleError,
    count_picture,
    name_pictures,
    running_ray,
)
from counting.sources import SourceError, find_sources
from deploy import many
from models.counter import read_counter
from utils.files import WriteError

FACTS = {"weights": "a", "engine": "eager"}


@pytest.fixture
def pictures(tmp_path):
    """Four pictures, of which one is none."""
    folder, rng = tmp_path / "pictures", np.random.default_rng(0)
    folder.mkdir()
    for name in ("a.png", "b.png", "c.png"):
        Image.fromarray(rng.integers(0, 256, (40, 56, 3), dtype=np.uint8)).save(folder / name)
    (folder / "text.png").write_text("no picture")
    return folder


@pytest.fixture
def one_thread():
    """Lets this process compute as actors do: other threads add in another order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(params=[".csv", ".parquet"])
def ending(request):
    if request.param == ".parquet":
        pytest.importorskip("pyarrow", reason="pyarrow of requirements-scale.txt is missing")
    return request.param


def reading(name, count=1.0, notes=()):
    return Reading(name, None, None, count, None, notes, {"door": 0.5})


def opened(folder, ending=".csv", facts=FACTS):
    return open_parts(folder, ending, ["door"], facts)


def rows(folder, kind="part"):
    files = sorted(folder.glob(f"{kind}-*.csv"))
    return [row for file in files for row in csv.DictReader(file.open())]


def test_a_list_names_pictures_beside_it_in_its_order_and_looks_for_none(tmp_path):
    (tmp_path / "list.txt").write_text("\ufeffb.jpg\r\n\r\n/x/a.jpg\nfilm.mp4\n", encoding="utf-8")
    (tmp_path / "list.json").write_text(json.dumps(["b.jpg", {"image": "a.jpg", "density": "d"}]))
    found = find_sources(str(tmp_path / "list.txt"))
    assert [source.name for source in found] == [
        *(f"{tmp_path}/b.jpg", "/x/a.jpg", f"{tmp_path}/film.mp4")
    ]
    assert [source.is_video for source in found] == [False, False, True]
    found = find_sources(str(tmp_path / "list.json"))
    assert [source.name for source in found] == [f"{tmp_path}/b.jpg", f"{tmp_path}/a.jpg"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"\n \n", "a.txt names no picture"),
        ("a.txt", b"\xff\xfe", "a.txt is not text in UTF-8"),
        ("a.json", b"[", "list .*a.json is not JSON"),
        ("a.json", b"[]", "a.json must be a JSON list of at least one image"),
        ("a.json", b"[3]", "a.json: an entry must be a path or"),
    ],
)
def test_a_bad_list_is_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match=message):
        find_sources(str(tmp_path / name))


def test_lists_are_counted_without_ray_too_and_never_overwritten(run, pictures, tmp_path):
    (tmp_path / "list.txt").write_text("pictures/b.png\npictures/gone.png\npictures/a.png\n")
    code, lines, errors = run(tmp_path / "list.txt", "--json", tmp_path / "a.json")
    assert code == 1 and [line.split(":")[0][-5:] for line in lines] == ["b.png", "a.png"]
    assert errors == [f"error: {pictures}/gone.png cannot be read (No such file or directory)"]
    with pytest.raises(WriteError, match="--csv .*list.txt would overwrite what is read"):
        run(tmp_path / "list.txt", "--csv", tmp_path / "list.txt")


def test_parts_have_the_columns_of_a_csv_and_errors_are_rows(tmp_path):
    with opened(tmp_path / "out") as parts:
        parts.add(reading("a", 1 / 3, ("alarm", "unlike")))
        parts.add(Failure("b", "b is broken"))
    (row,), (failed,) = rows(tmp_path / "out"), rows(tmp_path / "out", "errors")
    assert list(row) == list(failed)
    assert list(row) == [*predict.COLUMNS, "door", "error"]
    assert list(row.values()) == ["a", "", "", "0.3333", "", "alarm unlike", "0.5000", ""]
    assert list(failed.values()) == ["b", "", "", "", "", "", "", "b is broken"]


def test_a_restart_lacks_what_has_no_count_and_tries_errors_again(tmp_path, ending):
    names = ["a", os.fsdecode(b"pla\xe7a"), 'q",\n'] if ending == ".csv" else ["a", "\u00e7", "q"]
    with opened(tmp_path, ending) as parts:
        for name in names:
            parts.add(reading(name, notes=("alarm",) if name == "a" else ()))
        parts.add(Failure("bad", "broken"))
    assert len(list(tmp_path.glob("errors-*"))) == 1
    with opened(tmp_path, ending) as parts:
        assert [n for n in [*names, "bad", "new"] if parts.lacks(n)] == ["bad", "new"]
        assert parts.alarms == 1 and not list(tmp_path.glob("errors-*"))
        parts.add(reading("new"))
    with opened(tmp_path, ending) as parts:
        assert not parts.lacks("new") and not parts.lacks("a")
    assert sorted(path.name for path in tmp_path.glob("[!._]*")) == [
        *(f"part-000001{ending}", f"part-000002{ending}")
    ]


def test_parquet_holds_counts_bit_for_bit(tmp_path):
    parquet = pytest.importorskip(
        "pyarrow.parquet", reason="pyarrow of requirements-scale.txt is missing"
    )
    with opened(tmp_path, ".parquet") as parts:
        parts.add(reading("a", 1 / 3))
        parts.add(Failure("b", "broken"))
    (row,) = parquet.read_table(tmp_path / "part-000001.parquet").to_pylist()
    assert (row["count"], row["door"], row["error"], row["frame"]) == (1 / 3, 0.5, None, None)
    names = [row["name"] for row in parquet.read_table(tmp_path).to_pylist()]  # of the folder
    assert sorted(names) == ["a", "b"]


def test_a_part_is_written_when_it_is_full_or_old(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(parts_module, "PART_ROWS", 3)
    monkeypatch.setattr(parts_module, "monotonic", lambda: now[0])
    with opened(tmp_path) as parts:
        assert [parts.add(reading(name)) for name in "abcd"] == [False, False, True, False]
        now[0] = parts_module.PART_S + 1
        assert parts.add(reading("e"))
        assert [row["name"] for row in rows(tmp_path)] == list("abcde")


def test_what_is_counted_is_written_after_an_exception(tmp_path):
    with pytest.raises(KeyboardInterrupt), opened(tmp_path) as parts:
        parts.add(reading("a"))
        raise KeyboardInterrupt
    assert [row["name"] for row in rows(tmp_path)] == ["a"]


def test_results_of_two_models_do_not_mix(tmp_path):
    with opened(tmp_path / "out") as parts:
        parts.add(reading("a"))
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    for ending, facts, message in (
        (".csv", FACTS | {"weights": "b"}, "counts of weights a, these are of weights b; name an"),
        (".csv", FACTS | {"roi": {}}, "counts of roi None, these are of roi {}"),
        (".parquet", FACTS, "counts of format .csv, these are of format .parquet"),
    ):
        with pytest.raises(PartsError, match=message), opened(tmp_path / "out", ending, facts):
            pass
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_a_folder_that_is_no_place_for_parts_is_refused(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged/_about.json").write_text("{")
    for folder, message in (
        (tmp_path / "file", "file is a file; --ray writes parts into a folder"),
        (tmp_path, "holds other files; --ray needs a folder of its own"),
        (tmp_path / "damaged", "_about.json is not JSON.*; name another folder"),
    ):
        with pytest.raises(PartsError, match=message), opened(folder):
            pass
    with opened(tmp_path / "out"):
        with pytest.raises(PartsError, match="another program adds to"), opened(tmp_path / "out"):
            pass


@pytest.mark.parametrize("content", [b"name\na", b"name,notes\na\n", b"\xff", b"PAR1"])
def test_a_damaged_part_is_named(tmp_path, ending, content):
    with opened(tmp_path, ending):
        (tmp_path / f"part-000001{ending}").write_bytes(content)
    with pytest.raises(PartsError, match="part-000001.* is damaged .* remove it, and its"):
        with opened(tmp_path, ending):
            pass


def test_a_video_is_refused(tmp_path):
    sources = find_sources("camera:0")
    with pytest.raises(ScaleError, match="camera:0 is no picture, and --ray counts pictures"):
        name_pictures(sources)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--ray", "local"], "--ray needs --csv FOLDER or --parquet FOLDER, one of them"),
        (["--ray", "local", "--csv", "a", "--parquet", "b"], "one of them"),
        (["--ray", "local", "--csv", "a", "--out", "b"], "--out does not go with --ray"),
        (["--ray", "local", "--csv", "a", "--json", "b"], "--json does not go with --ray"),
        (["--ray", "local", "--csv", "a", "--gpu", "0"], "--gpu does not go with --ray"),
        (["--ray", "local", "--csv", "a", "--every", "2"], "--every is for videos"),
        (["--ray", "", "--csv", "a"], "--ray needs an address: local, auto, or HOST:PORT of a cl"),
        (["--parquet", "a"], "--parquet needs --ray"),
        (["--actors", "2"], "--actors needs --ray"),
        (["--ray", "local", "--csv", "a", "--actors", "0"], "--actors: must be a whole number of"),
        (["--roi", "error:0,0 1,0 1,1"], "--roi: error is another column's name"),
    ],
)
def test_wrong_options_end_in_one_line(options, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["predict.py", "a.jpg", *options])
    with pytest.raises(SystemExit) as ended:
        predict.parse_args()
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line and ended.value.code == 2


def test_without_ray_a_line_says_how_to_get_it(run, pictures, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ScaleError, match="package ray is missing: pip install -r requirements-sc"):
        run(pictures, "--ray", "local", "--csv", tmp_path / "out")


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1"])
def test_a_cluster_that_does_not_answer_is_named_at_once(address, monkeypatch):
    for name in ("ray", "ray.data"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    with pytest.raises(ScaleError, match=f"--ray {address} cannot be reached: .*refused"):
        with running_ray(address, None):
            pass


def test_what_keeps_an_actor_from_beginning_reaches_the_user(monkeypatch):
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)

    def build(device):
        raise RuntimeError("openvino is missing:\npip install it")

    outcomes, lines, problem = scale.pickle.loads(
        PictureCounter(build, "cpu", ".", None)({"item": [b"a"]})["counted"][0]
    )
    assert outcomes == lines == []
    assert problem.endswith(" cannot begin: openvino is missing: pip install it")


class Local:
    """What an actor uses of Ray, in this process: methods with `remote`, and `get`."""

    def __init__(self, actor):
        for name in ("begin", "end"):
            method = getattr(actor, name)
            setattr(self, name, type("Method", (), {"remote": staticmethod(method)}))

    @staticmethod
    def get(value):
        return value


def test_a_picture_at_which_actors_die_becomes_an_error_and_spares_its_chunk(monkeypatch):
    class Died(BaseException):
        pass

    def count(_, name):
        if name == "b":
            raise Died
        return reading(name)

    begun = Local(Begun())
    monkeypatch.setitem(sys.modules, "ray", Local)
    monkeypatch.setattr(scale, "count_picture", count)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    chunk = {"item": [b"a", b"b", b"c"]}
    for _ in range(scale.TRIES):
        with pytest.raises(Died):
            PictureCounter(lambda device: None, "cpu", ".", begun)(chunk)
    counter = PictureCounter(lambda device: None, "cpu", ".", begun)
    counted = scale.pickle.loads(counter(chunk)["counted"][0])[0]
    assert counted == [reading("a"), Failure("b", "b: 3 processes died counting it"), reading("c")]


def test_whatever_a_picture_raises_is_its_error(pictures):
    class Predictor:
        def read(self, image, name):
            raise RuntimeError("CUDA out of memory.\nTried to allocate")

    name = str(pictures / "a.png")
    failure = Failure(name, f"{name}: CUDA out of memory. Tried to allocate")
    assert count_picture(Predictor(), name) == failure


def test_actors_count_bit_for_bit_as_without_and_go_on_where_they_stopped(
    run, pictures, student, tmp_path, one_thread
):
    pytest.importorskip("ray.data", reason="Ray of requirements-scale.txt is missing")
    from pyarrow import parquet

    with Image.open(pictures / "a.png") as image:
        image.save(pictures / "pages.tif", save_all=True, append_images=[image])
    run(pictures, "--json", tmp_path / "a.json")
    expected = {record["name"]: record["count"] for record in read_json(tmp_path / "a.json")}
    out = tmp_path / "out"
    with open_parts(out, ".parquet", [], facts_of(student)) as parts:
        parts.add(Reading(str(pictures / "b.png"), None, None, 7.0, None, (), {}))
    code, lines, errors = run(pictures, "--ray", "local", "--actors", 1, "--parquet", out)
    assert code == 1 and lines == [f"4 of 5 pictures are counted, in {out}"]
    assert len(errors) == 1 and "text.png is not a readable image" in errors[0]
    found = {row["name"]: row["count"] for row in parquet.read_table(out).to_pylist()}
    assert found == expected | {str(pictures / "b.png"): 7.0, str(pictures / "text.png"): None}


def facts_of(student):
    """Returns what predict.py notes of the counts of this student."""
    args = Namespace(engine="eager", roi=[], alarm=None, max_side="auto")
    return many.describe_counts(args, read_counter(student))


def test_counting_at_scale_without_actors(run, pictures, tmp_path, monkeypatch):
    """All that predict.py does beside Ray: restart, alarm, exit codes, Ctrl-C."""
    counted = []

    def count_here(names, build, actors, use_gpus, tell):
        predictor = build(torch.device("cpu"))
        for name in names:
            counted.append(Path(name).name)
            yield count_picture(predictor, name)

    monkeypatch.setattr(many, "count_pictures", count_here)
    monkeypatch.setattr(many, "running_ray", lambda *_: nullcontext())
    options = ["--ray", "local", "--csv", tmp_path / "out"]
    code, lines, errors = run(pictures, *options)
    assert code == 1 and len(errors) == 1 and lines[-1].startswith("3 of 4 pictures are counted")
    assert counted == ["a.png", "b.png", "c.png", "text.png"]
    (pictures / "text.png").unlink()
    assert run(pictures, pictures / "a.png", *options)[0] == 0 and len(counted) == 4
    assert not rows(tmp_path / "out", "errors")
    with pytest.raises(PartsError, match="counts of alarm None, these are of alarm 0.0"):
        run(pictures, *options, "--alarm", 0)

    def interrupted(*arguments):
        for outcome in count_here(*arguments):
            os.kill(os.getpid(), signal.SIGINT)
            yield outcome

    options = ["--ray", "local", "--csv", tmp_path / "alarms", "--alarm", 0]
    with monkeypatch.context() as patch:
        patch.setattr(many, "count_pictures", interrupted)
        code, lines, _ = run(pictures, *options)
        assert code == 130 and lines[0].endswith("ALARM") and len(lines) == 2
        assert len(rows(tmp_path / "alarms")) == 1
    code, lines, _ = run(pictures, *options)
    assert code == 3 and len(rows(tmp_path / "alarms")) == 3
    assert run(pictures, *options)[0] == 3  # what is in the folder has alarms
