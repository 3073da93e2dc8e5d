"""One reader of pictures: the same pixels from any depth, good pixels beside bad metadata."""

import os
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from datasets import pictures
from datasets.pictures import is_turned, read_image, read_size
from datasets.splits import DataError
from utils import progress


@pytest.fixture
def grey():
    """(48, 64) uint8 values, black and white among them."""
    values = np.random.default_rng(0).integers(0, 256, (48, 64), dtype=np.uint8)
    values[0, :2] = 0, 255
    return values


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch):
    monkeypatch.setattr(progress, "SAID", set())


def rgb(grey):
    return np.stack([grey] * 3, axis=-1)


@pytest.mark.parametrize(
    ("scale", "dtype", "ending", "said"),
    [
        (257, np.uint16, "png", ""),
        (4095 / 255, np.uint16, "png", "values up to 4095 are read as 12 bits"),
        (1, np.uint16, "tif", "values up to 255 are read as 8 bits"),
        (257, np.int32, "tif", ""),
        (1, np.int32, "tif", "values up to 255 are read as 8 bits"),
        (1 / 255, np.float32, "tif", "values up to 1 are read as shares of 1"),
        (1, np.float32, "tif", "values up to 255 are read as 8 bits"),
        (257, np.float32, "tif", ""),
    ],
)
def test_deep_grey_pictures_have_the_pixels_of_the_8_bit_original(
    grey, tmp_path, capfd, scale, dtype, ending, said
):
    path = tmp_path / f"deep.{ending}"
    values = grey.astype(np.float32) * np.float32(scale)
    Image.fromarray((values if dtype == np.float32 else values.round()).astype(dtype)).save(path)
    assert np.abs(read_image(path).astype(int) - rgb(grey)).max() <= 1
    assert read_size(path) == (48, 64)
    read_image(path)
    lines = capfd.readouterr().err.splitlines()
    assert [said in line and str(path) in line for line in lines] == ([True] if said else [])


@pytest.mark.parametrize("bits", [12, 16])
@pytest.mark.parametrize("ending", ["png", "tif"])
def test_deep_colours_are_scaled_too(tmp_path, bits, ending):
    cv2 = pytest.importorskip("cv2")
    colours = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    colours[0, 0] = 255
    deep = (colours * ((2**bits - 1) / 255)).round().astype(np.uint16)
    cv2.imwrite(str(tmp_path / f"deep.{ending}"), deep[..., ::-1])
    found = read_image(tmp_path / f"deep.{ending}")
    assert np.abs(found.astype(int) - colours).max() <= 1


@pytest.mark.parametrize("value", [np.nan, -1.0, np.inf, 1e30])
def test_values_that_are_no_brightness_are_refused(grey, tmp_path, value):
    values = grey.astype(np.float32)
    values[3, 3] = value
    Image.fromarray(values).save(tmp_path / "height.tif")
    with pytest.raises(DataError, match="height.tif has values from"):
        read_image(tmp_path / "height.tif")


@pytest.mark.parametrize("ending", ["tif", "gif", "webp", "png"])
def test_pages_and_frames_beside_the_first_are_named(grey, tmp_path, capfd, ending):
    frames = [Image.fromarray(rgb(grey)).rotate(angle) for angle in (0, 90, 180)]
    path = tmp_path / f"three.{ending}"
    frames[0].save(path, save_all=True, append_images=frames[1:], lossless=True)
    assert np.abs(read_image(path).astype(int) - rgb(grey)).max() <= 1
    assert f"{path}: only the first of its 3 pages or frames" in capfd.readouterr().err


def chunk(kind: bytes, data: bytes) -> bytes:
    body = kind + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))


@pytest.mark.parametrize(
    "extra",
    [
        chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(10**8))),
        chunk(b"eXIf", b"MM\0*\xff\xff\xff\xff"),
        chunk(b"tEXt", b"a\0b")[:-1] + b"?",  # its checksum is wrong
    ],
    ids=["long text", "broken EXIF", "wrong checksum"],
)
def test_good_pixels_beside_bad_metadata_of_a_png(grey, tmp_path, extra):
    path = tmp_path / "a.png"
    Image.fromarray(rgb(grey)).save(path)
    data, head = path.read_bytes(), 8 + 25
    path.write_bytes(data[:head] + extra + data[head:])
    for upright in (False, True):
        assert np.array_equal(read_image(path, upright), rgb(grey))
    assert read_size(path) == (48, 64)


def test_a_jpeg_with_a_broken_exif_rational_counts_as_stored(grey, tmp_path):
    path, exif = tmp_path / "a.jpg", Image.Exif()
    exif[0x0112], exif[0x011A] = 6, 72.0
    Image.fromarray(rgb(grey)).save(path, exif=exif, quality=95)
    assert is_turned(path) and read_image(path, upright=True).shape == (64, 48, 3)
    assert read_image(path).shape == (48, 64, 3)
    data = path.read_bytes()
    at = data.index(b"\x01\x1a\x00\x05") + 8
    path.write_bytes(data[:at] + b"\xff\xff\xff\xf0" + data[at + 4 :])  # where the rational lies
    assert read_image(path, upright=True).shape in ((64, 48, 3), (48, 64, 3))
    path.write_bytes(data.replace(b"Exif\0\0MM\0*", b"Exif\0\0MM\xff\xff"))
    assert read_image(path, upright=True).shape == (48, 64, 3)


@pytest.mark.parametrize("ending", ["png", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_turned_as_pillow_does(grey, tmp_path, orientation, ending):
    path, exif = tmp_path / f"a.{ending}", Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(rgb(grey)).save(path, exif=exif)
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    assert np.array_equal(read_image(path, upright=True), expected)
    if ending == "tif":  # a decoder turns it, so nobody else must
        assert np.array_equal(read_image(path), expected) and not is_turned(path)
        assert read_size(path) == expected.shape[:2]


def test_16_bits_of_all_channels_together_are_not_deep(tmp_path):
    file = struct.pack("<2sIHHI", b"BM", 74, 0, 0, 66)
    file += struct.pack("<IiiHHIIiiII", 40, 2, 2, 1, 16, 3, 8, 0, 0, 0, 0)
    file += struct.pack("<3I", 0xF800, 0x07E0, 0x001F) + struct.pack("<4H", 0xF800, 0x07E0, 0, 0x1F)
    (tmp_path / "a.bmp").write_bytes(file)
    rows = [[[0, 0, 0], [0, 0, 255]], [[255, 0, 0], [0, 255, 0]]]  # the lowest one is first there
    assert read_image(tmp_path / "a.bmp").tolist() == rows


@pytest.mark.parametrize("orientation", range(1, 9))
def test_deep_tiffs_are_turned_once(grey, tmp_path, orientation):
    deep = rgb(grey).astype(np.uint16) * 257
    path = tmp_path / "a.tif"
    cv2.imwrite(str(path), deep, [cv2.IMWRITE_TIFF_COMPRESSION, 1])
    data = bytearray(path.read_bytes())
    order = "<" if data[:2] == b"II" else ">"
    (place,) = struct.unpack(f"{order}I", data[4:8])
    (entries,) = struct.unpack(f"{order}H", data[place : place + 2])
    table = data[place + 2 : place + 2 + 12 * entries]
    tags = [table[12 * i : 12 * i + 12] for i in range(entries)]
    tags = [tag for tag in tags if struct.unpack(f"{order}H", tag[:2])[0] != 0x0112]
    tags.append(struct.pack(f"{order}HHIHH", 0x0112, 3, 1, orientation, 0))
    tags.sort(key=lambda tag: struct.unpack(f"{order}H", tag[:2]))
    written = struct.pack(f"{order}H", len(tags)) + b"".join(tags) + bytes(4)
    data[4:8] = struct.pack(f"{order}I", len(data))
    path.write_bytes(data + written)
    turn = pictures.TURNS.get(orientation, lambda pixels: pixels)
    assert np.array_equal(read_image(path, upright=True), turn(rgb(grey)))


def test_a_header_that_claims_too_much_is_refused(grey, tmp_path, monkeypatch):
    path = tmp_path / "huge.png"
    Image.fromarray(grey).save(path)
    data = path.read_bytes()
    head = chunk(b"IHDR", struct.pack(">II", 60000, 60000) + data[24:29])
    path.write_bytes(data[:8] + head + data[33:])
    monkeypatch.setattr(pictures, "free_ram", lambda: 8 * 10**9)
    with pytest.raises(DataError, match="huge.png has 60000x60000 pixels.* 25.2 GB, and 8 are"):
        read_image(path)


def test_whatever_a_decoder_raises_names_the_file(grey, tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    Image.fromarray(grey).save(path)
    for error in (struct.error("bad"), KeyError(3), MemoryError(), OverflowError("too large")):

        def fail(_, error=error):
            raise error

        monkeypatch.setattr(Image, "open", fail)
        with pytest.raises(DataError, match=r"a.png (is not a readable image|needs more memory)"):
            read_image(path)


def test_what_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    for path in (tmp_path / "pipe.jpg", tmp_path):
        with pytest.raises(DataError, match="is (no regular file|a folder)"):
            read_image(path)
