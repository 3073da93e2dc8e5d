"""Lists and density maps that are damaged, in use, or no files at all."""

import fcntl
import json
import os
import unicodedata

import h5py
import numpy as np
import pytest
from pictures import write_sample

from datasets.files import InUseError, read_density, read_heads
from datasets.splits import DataError, Sample, read_empty, read_list

HUGE = (1_000_000, 1_000_000)  # never stored; to read it would take 4 TB


def replace(name, make):
    def change(file):
        del file[name]
        make(file)

    return change


def complex_numbers(file):
    file["density"] = np.zeros((64, 96), complex)


def compound(file):
    file["density"] = np.zeros((64, 96), [("a", "f4"), ("b", "f4")])


def external_file(file):
    size = {"shape": (64, 96), "dtype": "f4"}
    file.create_dataset("density", **size, external=[("/dev/zero", 0, 64 * 96 * 4)])


def virtual(file):
    layout = h5py.VirtualLayout((64, 96), "f4")
    layout[:] = h5py.VirtualSource("pipe.h5", "density", (64, 96))
    file.create_virtual_dataset("density", layout)


def many_points(file):
    file.create_dataset("points", (10**12, 2), "f4", chunks=(1024, 2))


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("density", lambda f: f.create_group("density"), "density is no array in this file"),
        ("density", complex_numbers, "density must have 2 axes of numbers"),
        ("density", compound, "density must have 2 axes of numbers"),
        ("density", external_file, "density is no array in this file"),
        ("density", virtual, "density is no array in this file"),
        ("density", lambda f: f.create_dataset("density", data="text"), "2 axes of numbers"),
        ("density", lambda f: f.create_dataset("density", data=[[b"a"]]), "2 axes of numbers"),
        ("density", lambda f: f.create_dataset("density", HUGE, "f4"), "its image 64x96"),
        ("points", many_points, r"must be an N x 2 array, got \(1000000000000, 2\)"),
        ("points", lambda f: f.create_dataset("points", (10**12,), "i4"), "2 axes of numbers"),
        ("points", lambda f: f.create_dataset("points", data=[[1, 2, 3]]), "N x 2 array"),
        ("points", lambda f: f.create_dataset("points", data=[[1, np.nan]]), "not a finite"),
        ("points", lambda f: f.create_group("points"), "points is no array"),
        ("distances", lambda f: f.create_dataset("distances", (10**12,), "f4"), "1 points have"),
        ("distances", lambda f: f.create_dataset("distances", data=[[5.0]]), "1 axes of numbers"),
    ],
)
def test_maps_of_wrong_types_are_refused_before_they_are_read(name, make, message, tmp_path):
    sample = write_sample(tmp_path)
    with h5py.File(sample.density, "a") as file:
        replace(name, make)(file)
    with pytest.raises(DataError, match=rf"a.h5: .*{message}"):
        read_heads(sample)


@pytest.mark.parametrize(
    "link",
    [h5py.SoftLink("/nowhere"), h5py.SoftLink("/density"), h5py.ExternalLink("pipe.h5", "/a")],
)
@pytest.mark.parametrize("name", ["density", "points", "distances"])
def test_links_out_of_a_map_are_not_followed(link, name, tmp_path):
    sample = write_sample(tmp_path)
    os.mkfifo(tmp_path / "pipe.h5")
    with h5py.File(sample.density, "a") as file:
        del file[name]
        file[name] = link
    with pytest.raises(DataError, match=f"a.h5: {name} is no array in this file"):
        read_heads(sample)


def test_a_map_that_is_being_written_is_called_so(tmp_path):
    sample = write_sample(tmp_path)
    with sample.density.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)  # as HDF5 does
        for read in (lambda: read_heads(sample), lambda: read_density(sample.density, (0,) * 4)):
            with pytest.raises(InUseError, match="a.h5 is open in another program; run this again"):
                read()
    assert len(read_heads(sample).points) == 1
    sample.density.unlink()
    with pytest.raises(DataError, match="a.h5 is not a readable density map .*No such file"):
        read_density(sample.density, (0, 0, 1, 1))


def test_attributes_of_other_types_are_refused(tmp_path):
    sample = write_sample(tmp_path)
    for value in (3, [1.0, 2.0], np.void(b"a"), "neither"):
        with h5py.File(sample.density, "a") as file:
            file.attrs["shrink"] = value
        with pytest.raises(DataError, match="shrink must be one of sum, bicubic"):
            read_heads(sample)


def test_pipes_among_lists_pictures_and_maps_are_never_waited_for(tmp_path):
    sample = write_sample(tmp_path)
    for name in ("list.json", "pipe.png", "pipe.h5"):
        os.mkfifo(tmp_path / name)
    with pytest.raises(DataError, match="list.json is no regular file; .*make_json"):
        read_list(tmp_path / "list.json")
    path = tmp_path / "other.json"
    for entry, message in (
        ("pipe.png", "image .*pipe.png is no file"),
        ({"image": sample.image.name, "density": "pipe.h5"}, "has no density map .*pipe.h5"),
    ):
        path.write_text(json.dumps([entry]))
        with pytest.raises(DataError, match=message):
            read_list(path)
    with pytest.raises(DataError, match="pipe.h5 is no regular file"):
        read_density(tmp_path / "pipe.h5", (0, 0, 1, 1))
    assert read_empty(tmp_path) == [Sample(sample.image, None)]  # without the pipe


def test_lists_may_have_a_byte_order_mark_and_be_spelled_otherwise(tmp_path):
    name = "caf\u00e9"
    samples = [write_sample(tmp_path, unicodedata.normalize("NFD", name)), write_sample(tmp_path)]
    path = tmp_path / "list.json"
    path.write_text(json.dumps([f"{name}.png", "A.PNG"]), encoding="utf-8-sig")
    assert read_list(path) == samples
    samples[1].image.rename(tmp_path / "A.png")
    (tmp_path / "a.PNG").write_bytes((tmp_path / "A.png").read_bytes())
    path.write_text('["a.png"]')  # which of the two?
    with pytest.raises(DataError, match="a.png does not exist"):
        read_list(path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e38, -1e38])
def test_a_density_that_no_crowd_has_is_refused(value, tmp_path):
    sample = write_sample(tmp_path)
    with h5py.File(sample.density, "a") as file:
        file["density"][40, 50] = value
    assert read_density(sample.density, (0, 0, 40, 96)).sum() == 1  # what is read is whole
    with pytest.raises(DataError, match=r"a.h5 is damaged: it has .* heads in a pixel; remove it"):
        read_density(sample.density, (40, 48, 8, 8))


@pytest.mark.parametrize("value", [np.nan, -1])
def test_distances_of_heads_inside_are_numbers_from_0_on(value, tmp_path):
    sample = write_sample(tmp_path, points=((20, 30), (40, 50)))
    with h5py.File(sample.density, "a") as file:
        file["distances"][1] = value
    with pytest.raises(DataError, match="a.h5: a head's distance to the nearest ones is not a"):
        read_heads(sample)
    with h5py.File(sample.density, "a") as file:
        file["points"][1] = -5, 3  # a head outside has none
    assert read_heads(sample).points.tolist() == [[20, 30]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[" * 100_000, "is nested too deeply"),
        (b"[" + b"9" * 5_000 + b"]", "a number has thousands of digits"),
        (b'["\xff.jpg"]', "is not text in UTF-8"),
        ('["a.jpg"]'.encode("utf-16"), "is not text in UTF-8"),
        (b"[NaN, Infinity]", "an entry must be a path"),
        (b'["a\\u0000.jpg"]', "does not exist"),
        (b'["' + b"a" * 300 + b'"]', "File name too long: .*/aaa"),
    ],
)
def test_absurd_lists_are_refused_in_one_short_line(content, message, tmp_path):
    path = tmp_path / "list.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as error:
        read_list(path)
    assert str(path) in str(error.value) and len(str(error.value).splitlines()) == 1
