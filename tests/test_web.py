"""The page that counts in a browser: as predict.py counts, offline, and usable by everyone."""

import csv
import json
import shutil
import tarfile
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from browser import (
    build,
    chromium,
    fetch_npm,
    run_node,
    serving,
    wait_for_count,
    wait_for_counts,
    wait_until,
)
from conftest import PROJECT, need_packages, plain_guard, save_student
from PIL import Image

import report.web
from counting.regions import Region, region_weights
from deploy import onnx_format
from deploy.deployed import Deployed
from models.counter import read_counter
from preprocess.synthetic import draw_scene
from utils.checkpoint import SHIPPED, read_deployed, save_weights

ORT, AXE = "onnxruntime-web@1.30.0", "axe-core@4.14.1"
CLOSE = 1e-3  # of a count: WASM and PyTorch add up in another order
SIDE = 480  # to which this model's pictures are shrunk
REGIONS = {"door": [[0.1, 0.2], [0.55, 0.25], [0.3, 0.9]], "all": [[0, 0], [1, 0], [1, 1], [0, 1]]}


# Pure functions, in Node.js


def test_every_text_is_in_both_languages_and_is_used():
    texts = json.loads(
        run_node("import { TEXTS } from './texts.js'; console.log(JSON.stringify(TEXTS));")
    )
    assert list(texts["en"]) == list(texts["zh"])
    for key, english in texts["en"].items():
        names = set(part.split("}")[0] for part in english.split("{")[1:])
        assert names == set(part.split("}")[0] for part in texts["zh"][key].split("{")[1:]), key
    files = [*(PROJECT / "web").glob("*.js"), PROJECT / "web/index.html"]
    code = "".join(path.read_text() for path in files if path.name != "texts.js")
    indirect = {"flatShort", "unlikeShort"}  # the names of notes with an ending
    unused = [
        k for k in texts["en"] if k not in indirect and not any(f"{q}{k}{q}" in code for q in "'\"")
    ]
    assert unused == ["int8"]  # a precision, named by models.json


@pytest.mark.parametrize(
    "size, to",
    [((60, 80), (30, 40)), ((60, 80), (20, 20)), ((613, 407), (160, 106)), ((37, 90), (20, 48))],
)
def test_pictures_shrink_as_with_opencv(size, to, tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    image.tofile(tmp_path / "in")
    run_node(f"""
        import fs from 'node:fs';
        import {{ shrink }} from './pixels.js';
        const rgb = new Uint8Array(fs.readFileSync('{tmp_path}/in'));
        fs.writeFileSync('{tmp_path}/out', shrink(rgb, {list(size)}, {list(to)}));
    """)
    found = np.fromfile(tmp_path / "out", np.uint8).reshape(*to, 3)
    np.testing.assert_array_equal(found, cv2.resize(image, to[::-1], interpolation=cv2.INTER_AREA))


def test_regions_weigh_cells_as_in_python(tmp_path):
    size, rng = (203, 317), np.random.default_rng(1)
    star = rng.random((9, 2)).tolist()  # crosses itself
    found = json.loads(
        run_node(f"""
        import {{ regionWeights }} from './pixels.js';
        const regions = {json.dumps([star, *REGIONS.values()])};
        const weights = regions.map((corners) => [...regionWeights({list(size)}, corners).weights]);
        console.log(JSON.stringify(weights));
    """)
    )
    for corners, weights in zip([star, *REGIONS.values()], found, strict=True):
        expected = region_weights(Region("a", tuple(map(tuple, corners))), size)
        np.testing.assert_array_equal(np.float32(weights), expected.ravel())


@pytest.mark.parametrize("slow, engine", [("fetch", "webgpu"), ("open", "wasm")])
def test_webgpu_may_take_long_to_fetch_but_not_to_start(slow, engine):
    found = run_node(f"""
        import {{ Counter }} from './counter.js';
        globalThis.self = globalThis;
        Object.defineProperty(globalThis, 'navigator', {{ value: {{}} }});  // some Node.js have one
        globalThis.ImageBitmap = class {{}};
        globalThis.Worker = class {{
          postMessage({{ id, task, engine }}) {{
            const wait = task === '{slow}' && engine === 'webgpu' ? 1000 : 0;
            this.timer = setTimeout(() => this.onmessage({{ data: {{ id, result: 1 }} }}), wait);
          }}
          terminate() {{ clearTimeout(this.timer); }}
        }};
        const counter = new Counter({{ engine: 'webgpu', idleSeconds: 0, patience: 0.2 }});
        counter.found = {{ runtime: {{}}, check: {{}} }};
        await counter.count({{ precision: 'float32', file: 'a.onnx' }}, null);
        console.log(counter.engine);
    """)
    assert found.strip() == engine


def test_the_densest_square_is_the_one_with_most_people():
    density = np.zeros((20, 30), np.float32)
    density[3, 4], density[10:12, 20:22] = 1, 0.5
    found = json.loads(
        run_node(f"""
        import {{ densestSquare }} from './pixels.js';
        const density = Float32Array.from({density.ravel().tolist()});
        console.log(JSON.stringify(densestSquare(density, [157, 240])));
    """)
    )
    assert found["count"] == 2 and found["width"] == found["height"] == 64
    assert found["x"] <= 160 < 176 <= found["x"] + 64 and found["y"] <= 80 < 96 <= found["y"] + 64


def test_an_archive_that_is_not_the_pinned_one_is_refused(tmp_path):
    other = tmp_path / "onnxruntime-web-1.30.0.tgz"
    other.write_bytes(b"other")
    with pytest.raises(AssertionError, match="its SHA-512 differs"):
        build(tmp_path / "site", other)
    assert not (tmp_path / "site/vendor").exists()


def test_builds_that_cannot_work_change_nothing(tmp_path):
    site = tmp_path / "site"
    site.mkdir()
    (site / "index.html").write_text("my home page")
    for settings, message in (
        ({}, "index.html is another page: set another SITE"),
        ({"STEPS": "wrong"}, "STEPS are runtime, models, describe, archive, not wrong"),
        ({"SITE": tmp_path / "new", "LIST": "no.json"}, "no.json does not exist"),
    ):
        with pytest.raises(AssertionError, match=message):
            build(site, **({"STEPS": "models"} | settings))
    assert [path.name for path in site.iterdir()] == ["index.html"]
    assert (site / "index.html").read_text() == "my home page" and not (tmp_path / "new").exists()


def test_weights_of_one_name_and_folders_of_others_are_refused(tmp_path):
    with pytest.raises(AssertionError, match="two files are called model; rename one"):
        build(tmp_path / "site", WEIGHTS="a/model.safetensors b/model.pth")
    precious = tmp_path / "site/models/plane.stl"
    precious.parent.mkdir(parents=True)
    precious.touch()
    with pytest.raises(AssertionError, match="plane.stl is none of the page's: set another SITE"):
        build(tmp_path / "site", STEPS="models")
    assert precious.exists()


def test_errors_are_those_of_the_pages_of_results():
    errors = report.web.published_errors("skt_mobile_s_sha")
    assert errors["validation"]["mae"] == 89.34 and errors["test"] == {"mae": 70.21, "rmse": 106.37}
    fingerprint = read_counter(SHIPPED / "skt_mobile_s_sha.safetensors").fingerprint()
    assert report.web.is_shipped("skt_mobile_s_sha", fingerprint)
    assert not report.web.is_shipped("mobile_s_sha", fingerprint)
    assert not report.web.is_shipped("mine", fingerprint)
    facts = {"mae": "89.79, in float32 89.29, over the 59 images of A_val.json, each counted whole"}
    facts |= {"calibration": "32 images of A_train.json", "weights_sha256": "e96f5c56..."}
    errors = report.web.int8_errors(Path("skt_csrnet_sha_int8.onnx"), facts)
    assert errors["validation"]["mae"] == 89.79 and errors["test"]["mae"] == 77.64
    other = report.web.int8_errors(Path("skt_csrnet_sha_int8.onnx"), facts | {"calibration": "x"})
    assert other["test"] is None  # an INT8 file of other ranges


# The page, in Chromium


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = save_student(tmp_path_factory.mktemp("w") / "tiny.safetensors", guard=plain_guard(28.3))
    save_weights(path, read_deployed(path)[0], {"max_side": str(SIDE)})
    return path


@pytest.fixture(scope="module")
def site(tmp_path_factory, weights):
    """The page with a random model, in a folder."""
    need_packages(".onnx")
    folder = tmp_path_factory.mktemp("site")
    build(folder, fetch_npm(ORT, folder))
    (folder / "models").mkdir()
    counter = read_counter(weights)
    network = Deployed(counter.network, preprocess=True, guard=counter.guard)
    path = folder / "models/tiny.onnx"
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a fiftieth of the time of export.py, which has its tests
        torch.onnx.export(
            network,
            (network.example(),),
            path,
            dynamo=False,
            input_names=["pixels"],
            output_names=list(network.outputs),
            dynamic_axes={"pixels": network.axes},
        )
    facts = {
        "model": "tiny",
        "precision": "float32",
        "preprocessing": "inside",
        "checkpoint": weights.name,
        "weights_sha256": counter.fingerprint(),
        "unlikeness": "yes",
        "max_side": str(counter.max_side),
    }
    onnx = pytest.importorskip("onnx")
    onnx_format.save(onnx.load(path), path, facts)
    picture = folder / "drawn.png"
    write_crowd(picture, (160, 240), 3)
    run_report(folder, "--example", picture, "--heads", 9, "--runtime", "vendor/ort-1.30.0")
    return folder


def run_report(*arguments):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["web.py", *map(str, arguments)])
        report.web.main(report.web.parse_args())


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture
def open_page(browser, site):
    """Opens the page as a visitor does; without the service worker unless `whole`."""
    contexts = []

    def open_page(address, whole=False, **options):
        options |= {} if whole else {"service_workers": "block"}
        context = browser.new_context(**{"locale": "en"} | options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.errors = []
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        page.goto(f"{address}?threads=1")
        wait_until(page, "!document.getElementById('needs-server')")
        return page

    with serving(site) as address:
        open_page.address = address
        yield open_page
    for context in contexts:
        context.close()


def write_crowd(path, size, seed, **options):
    picture = Image.fromarray(draw_scene(np.random.default_rng(seed), size)[0])
    if path.stem == "transparent":
        alpha = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
        picture.putalpha(Image.fromarray(alpha))
    picture.save(path, **options)
    return path


def write_pictures(folder):
    """Writes pictures that are odd in one way each."""
    folder.mkdir()
    turned = Image.Exif()
    turned[0x0112] = 6
    write_crowd(folder / "plain.png", (203, 317), 1)
    write_crowd(folder / "large.png", (700, 1001), 2)  # is shrunk
    write_crowd(folder / "transparent.png", (150, 200), 3)
    write_crowd(folder / "turned.jpg", (160, 240), 4, exif=turned, quality=95)
    Image.new("RGB", (90, 70), (9, 9, 9)).save(folder / "flat.png")
    Image.new("L", (90, 70)).save(folder / "grey.png")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(
        folder / "noise.png"
    )
    return sorted(folder.iterdir())


def download_csv(page):
    with page.expect_download() as download:
        page.click("#csv")
    with open(download.value.path(), newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def add_region(page, corners):
    """Draws a free outline on the picture with the mouse."""
    page.select_option("#shape", "outline")
    wait_until(page, "document.getElementById('frame').getBoundingClientRect().height > 0")
    box = page.locator("#frame").bounding_box()
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in corners]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place)
    page.mouse.up()


@pytest.mark.slow
def test_the_table_is_what_predict_writes(open_page, run, weights, tmp_path, monkeypatch):
    pictures, table = write_pictures(tmp_path / "pictures"), tmp_path / "counts.csv"
    page = open_page(open_page.address)
    page.set_input_files("#files", pictures)
    wait_for_counts(page, len(pictures))
    page.click("#add-region")
    page.keyboard.press("+")
    for key in ("ArrowLeft", "ArrowUp", "ArrowUp"):
        page.keyboard.press(key)
    found = download_csv(page)
    corners = "0.325,0.315 0.655,0.315 0.655,0.645 0.325,0.645"
    monkeypatch.chdir(tmp_path / "pictures")
    names = [picture.name for picture in pictures]
    assert run(*names, "--csv", table, "--roi", f"region 1:{corners}", weights=weights)[0] == 0
    with table.open(newline="") as file:
        expected = list(csv.DictReader(file))
    assert list(found[0]) == list(expected[0])
    for ours, theirs in zip(found, expected, strict=True):
        assert ours["name"] == theirs["name"]
        assert ours["notes"] == theirs["notes"], ours["name"]
        for column in ("count", "unlikeness", "region 1"):
            near = pytest.approx(float(theirs[column]), rel=CLOSE, abs=2e-3)
            assert float(ours[column]) == near, (ours["name"], column)
    assert {row["notes"] for row in found} == {"", "flat", "unlike"}
    assert not page.errors


@pytest.mark.slow
def test_pictures_are_pasted_and_dropped(open_page):
    page = open_page(open_page.address)
    page.evaluate("""async () => {
        const blob = await (await fetch('example.png')).blob();
        for (const [name, kind, key] of [
            ['pasted.png', ClipboardEvent, 'clipboardData'],
            ['dropped.png', DragEvent, 'dataTransfer'],
        ]) {
            const data = new DataTransfer();
            data.items.add(new File([blob], name, { type: 'image/png' }));
            const event = kind === DragEvent ? 'drop' : 'paste';
            document.body.dispatchEvent(new kind(event, { bubbles: true, [key]: data }));
        }
    }""")
    wait_for_counts(page, 2)
    rows = download_csv(page)
    assert [row["name"] for row in rows] == ["pasted.png", "dropped.png"]
    assert rows[0]["count"] == rows[1]["count"]
    assert not page.errors


@pytest.mark.slow
def test_regions_are_drawn_moved_and_removed(open_page, tmp_path):
    page = open_page(open_page.address)
    page.set_input_files("#files", write_crowd(tmp_path / "a.png", (240, 320), 1))
    count = wait_for_count(page)
    add_region(page, [(0.01, 0.01), (0.99, 0.01), (0.99, 0.99), (0.01, 0.99)])
    drawn = float(page.inner_text("#regions output"))
    assert 0.9 * count < drawn < count
    page.click("#add-region")  # by keys alone from here
    before = page.inner_text("#regions li:last-child output")
    for _ in range(20):
        page.keyboard.press("ArrowRight")
    assert page.inner_text("#regions li:last-child output") != before
    assert "region 2: " in page.inner_text("#spoken")
    page.keyboard.press("Delete")
    assert page.locator("#regions li").count() == 1
    assert page.evaluate("document.activeElement.id") == "add-region"
    assert not page.errors


@pytest.mark.slow
def test_what_cannot_be_counted_takes_one_sentence(open_page, site, tmp_path):
    pictures = {
        "words.txt": b"no picture",
        "empty.png": b"",
        "phone.heic": b"\0\0\0\x18ftypheic" + bytes(80),
        "clip.mp4": b"no video",
    }
    for name, content in pictures.items():
        (tmp_path / name).write_bytes(content)
    write_crowd(tmp_path / "good.png", (96, 96), 1)
    names = ["words.txt", "empty.png", "phone.heic", "good.png", "clip.mp4"]
    page = open_page(open_page.address)
    page.set_input_files("#files", [tmp_path / name for name in names])
    wait_for_counts(page, 5)
    said = page.locator("#rows tr td:last-child").all_inner_texts()
    assert said[:2] == ["This file is not a picture that this browser can read."] * 2
    assert said[2] == "This browser cannot read HEIC pictures: save it as JPEG first."
    assert said[4] == "This file is not a video that this browser can play."
    assert [row["name"] for row in download_csv(page)] == ["good.png"]

    model = site / "models/tiny.onnx"
    shutil.copy(model, tmp_path)
    try:
        model.write_bytes(model.read_bytes()[:-1])
        page = open_page(open_page.address)
        page.click("#example")
        assert page.locator("#licence").is_hidden()  # of weights of one's own nothing is known
        damaged = "The model file models/tiny.onnx is damaged: build the page again with build.sh."
        wait_until(page, f"document.getElementById('failure').textContent === {damaged!r}")
    finally:
        shutil.copy(tmp_path / "tiny.onnx", model)

    example = (site / "example.png").rename(tmp_path / "example.png")
    try:
        page = open_page(open_page.address)
        page.click("#example")
        missing = "The example example.png is missing: build the page again with build.sh."
        wait_until(page, f"document.getElementById('failure').textContent === {missing!r}")
    finally:
        shutil.copy(example, site)
    assert not page.errors


@pytest.mark.slow
def test_a_damaged_answer_is_not_kept(open_page, site, tmp_path):
    model = site / "models/tiny.onnx"
    shutil.copy(model, tmp_path)
    try:
        model.write_bytes(b"<html>Please log in</html>")
        page = open_page(open_page.address, whole=True)
        wait_until(page, "document.getElementById('kept')?.hidden === false")
        page.click("#example")
        wait_until(page, "document.getElementById('failure').textContent.includes('is damaged')")
    finally:
        shutil.copy(tmp_path / "tiny.onnx", model)
    page.click("#example")
    wait_until(page, "!document.getElementById('counted').hidden")
    assert page.locator("#failure").is_hidden() and not page.errors


@pytest.mark.slow
def test_it_asks_its_own_host_alone_and_works_offline(browser, site):
    context, asked = browser.new_context(locale="en"), []
    context.on("request", lambda request: asked.append(request.url))
    with serving(site) as address:
        page = context.new_page()
        page.goto(f"{address}?threads=2")
        wait_until(page, "self.crossOriginIsolated")  # after one reload
        wait_until(page, "document.getElementById('kept')?.hidden === false")
        page.click("#example")
        count = wait_for_count(page)
        assert "2 threads" in page.inner_text("#took")
    assert {url for url in asked if not url.startswith(address)} <= {
        url for url in asked if url.startswith(f"blob:{address}")
    }
    page.reload()  # nobody serves it now
    wait_until(page, "!document.getElementById('needs-server')")
    page.click("#example")
    assert wait_for_count(page) == count
    context.close()


@pytest.mark.slow
def test_a_large_picture_does_not_freeze_the_page_and_its_memory_returns(open_page, tmp_path):
    picture = cv2.resize(draw_scene(np.random.default_rng(1), (300, 400))[0], (4000, 3000))
    Image.fromarray(picture).save(tmp_path / "12.jpg")
    page = open_page(open_page.address)
    page.evaluate("""() => {
        window.longest = 0;
        let last = performance.now();
        requestAnimationFrame(function frame(now) {
            window.longest = Math.max(window.longest, now - last);
            last = now;
            requestAnimationFrame(frame);
        });
    }""")
    page.set_input_files("#files", tmp_path / "12.jpg")
    wait_for_count(page)
    assert "Brought from 4,000 × 3,000 to 480 × 360" in page.inner_text("#scale-note")
    # Milliseconds, beside other tests; counted on the page itself it would take seconds.
    assert page.evaluate("window.longest") < 500
    left = page.evaluate("""async () => {
        const { Counter } = await import('./counter.js');
        const counter = new Counter({ engine: 'wasm', threads: 1, idleSeconds: 1 });
        const { models, check } = await counter.catalogue();
        await counter.count(models[0], await (await fetch(check.file)).blob());
        return true;
    }""")
    assert left and len(page.workers) == 2  # the page's own and this one
    for _ in range(100):
        if len(page.workers) == 1:  # its own
            break
        page.wait_for_timeout(100)
    assert len(page.workers) == 1


@pytest.mark.slow
def test_a_video_and_the_camera_are_counted(open_page, tmp_path):
    from counting.video import VideoWriter

    writer = VideoWriter(tmp_path / "clip.mp4", 4)
    for number in range(8):
        writer.write(draw_scene(np.random.default_rng(number), (96, 128))[0], number / 4)
    writer.close()
    page = open_page(open_page.address, permissions=["camera"])
    page.evaluate("""() => {  // as in a busy browser: "seeked" comes before the frame itself
        const create = window.createImageBitmap;
        const askedAt = new WeakMap();
        window.createImageBitmap = async (source) => {
            if (!(source instanceof HTMLVideoElement)) return create(source);
            if (!askedAt.has(source)) askedAt.set(source, performance.now());
            if (performance.now() - askedAt.get(source) < 100) {
                throw new DOMException('The image source is not usable.', 'InvalidStateError');
            }
            return create(source);
        };
    }""")
    page.set_input_files("#files", tmp_path / "clip.mp4")
    wait_for_counts(page, 2)
    assert [row["seconds"] for row in download_csv(page)] == ["0.000", "1.000"]
    wait_until(page, "document.getElementById('stop').hidden")
    page.click("#camera")
    wait_until(page, "document.getElementById('shown-name').textContent.startsWith('Camera')")
    page.click("#keep")
    wait_for_counts(page, 3)
    page.click("#stop")
    wait_until(page, "document.getElementById('stop').hidden")
    page.evaluate("() => { navigator.mediaDevices.getUserMedia = () => Promise.reject(); }")
    page.click("#camera")
    refused = "There is no camera, or the browser may not use it."
    wait_until(page, f"document.getElementById('failure').textContent === '{refused}'")
    assert not page.errors


@pytest.mark.slow
def test_names_are_typed_and_rows_are_clicked_while_a_video_is_counted(open_page, tmp_path):
    from counting.video import VideoWriter

    writer = VideoWriter(tmp_path / "clip.mp4", 1)
    for number in range(120):
        writer.write(draw_scene(np.random.default_rng(0), (96, 128))[0], number)
    writer.close()
    page = open_page(open_page.address)
    page.set_input_files("#files", tmp_path / "clip.mp4")
    wait_until(page, "document.querySelectorAll('#rows .counted').length > 1")
    add_region(page, [(0.1, 0.1), (0.9, 0.1), (0.9, 0.9), (0.1, 0.9)])
    name = page.locator("#regions input")
    name.fill("")
    name.press_sequentially("door north", delay=60)
    name.press("Enter")
    assert page.locator("#columns th").all_inner_texts()[3] == "door north"
    page.click("#rows tr:nth-child(2) button", delay=200)
    assert page.inner_text("#shown-name") == "clip.mp4, 1.0 s"
    assert page.get_attribute("#rows tr:nth-child(2)", "aria-current") == "true"
    assert page.locator("#stop").is_visible()  # all this while it was counted
    page.click("#add-region")
    taken = page.locator("#regions li:last-child input")
    default = taken.input_value()
    for refused in ("door north", "count"):
        taken.fill(refused)
        taken.press("Enter")
        assert taken.input_value() == default
    assert not page.errors


@pytest.mark.slow
def test_stop_ends_what_waits_for_the_browser(open_page, tmp_path):
    page = open_page(open_page.address)
    page.evaluate("() => { navigator.mediaDevices.getUserMedia = () => new Promise(() => {}); }")
    page.click("#camera")
    page.click("#stop")
    assert page.locator("#stop").is_hidden()
    make_sound(tmp_path / "sound.mp4")
    page.set_input_files("#files", tmp_path / "sound.mp4")
    refused = "This file is not a video that this browser can play."
    wait_until(page, f"document.getElementById('failure').textContent === '{refused}'")
    assert not page.errors


def make_sound(path):
    import av

    with av.open(str(path), "w") as file:
        stream = file.add_stream("aac", rate=44100)
        for number in range(44):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            frame.sample_rate, frame.pts = 44100, 1024 * number
            file.mux(stream.encode(frame))
        file.mux(stream.encode())


@pytest.mark.slow
def test_the_language_is_the_first_one_of_the_visitors_that_there_is(browser, site):
    with serving(site) as address:
        for wanted, expected in (("en-US,zh-CN", "en"), ("fr,zh-TW,en", "zh-Hans"), ("fr", "en")):
            context = browser.new_context(service_workers="block")
            languages = json.dumps(wanted.split(","))
            context.add_init_script(
                f"Object.defineProperty(navigator, 'languages', {{ get: () => {languages} }})"
            )
            page = context.new_page()
            page.goto(address)
            wait_until(page, "document.getElementById('needs-server') === null")
            assert page.evaluate("document.documentElement.lang") == expected
            context.close()


@pytest.mark.slow
def test_stop_and_clear_leave_out_the_videos_that_wait(open_page, tmp_path):
    from counting.video import VideoWriter

    clips = [tmp_path / f"{name}.mp4" for name in "ab"]
    for clip in clips:
        writer = VideoWriter(clip, 1)
        for number in range(60):
            writer.write(draw_scene(np.random.default_rng(0), (96, 128))[0], number)
        writer.close()
    page = open_page(open_page.address)
    for button in ("#stop", "#clear"):
        page.set_input_files("#files", clips)
        wait_until(page, "document.querySelectorAll('#rows .counted').length > 1")
        page.click(button)
        wait_until(page, "document.getElementById('stop').hidden")
        page.wait_for_timeout(500)
        assert page.locator("#stop").is_hidden()
        if button == "#clear":
            assert page.locator("#batch").is_hidden()
        else:
            assert set(page.locator("#rows tr th").all_inner_texts()) == {"a.mp4"}
    page.set_input_files("#files", clips)
    wait_until(page, "document.querySelectorAll('#rows .counted').length > 1")
    page.select_option("#every", "30")  # begins the first anew, and the second comes
    names = "[...document.querySelectorAll('#rows th')].map((cell) => cell.textContent).join()"
    wait_until(page, f"{names} === 'a.mp4,a.mp4,b.mp4,b.mp4'")
    assert not page.errors


@pytest.fixture(scope="module")
def axe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("axe")
    with tarfile.open(fetch_npm(AXE, folder)) as archive:
        return archive.extractfile("package/axe.min.js").read().decode()


@pytest.mark.slow
@pytest.mark.parametrize(
    "look",
    [{}, {"color_scheme": "dark"}, {"locale": "zh-CN", "viewport": {"width": 360, "height": 740}}],
    ids=["light", "dark", "Chinese on a phone"],
)
def test_axe_finds_no_violation(open_page, axe, look, tmp_path):
    page = open_page(open_page.address, **look)
    page.evaluate(axe)
    assert broken_rules(page) == []
    page.set_input_files(
        "#files", [write_crowd(tmp_path / "a.png", (120, 160), 1), __file__, __file__]
    )
    wait_for_counts(page, 3)
    page.click("#add-region")
    assert broken_rules(page) == []
    width = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    assert width <= 0, "the page is wider than the window"


def broken_rules(page):
    found = page.evaluate("axe.run()")
    return [(rule["id"], node["html"]) for rule in found["violations"] for node in rule["nodes"]]
