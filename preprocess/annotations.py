"""Reads head points from annotation files; only this module and *formats.py know formats."""

import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import scipy.io

from datasets.splits import DataError
from preprocess.formats import Annotation, as_points, read_table
from preprocess.json_formats import read_json
from utils.inputs import check_regular

TABLES = (".csv", ".tsv", ".txt")
ANNOTATION_ENDINGS = (".mat", ".json", *TABLES)


def read_annotations(
    path: Path, labels: Iterable[str] | None = None, allow_empty: bool = False
) -> list[Annotation]:
    """Returns the annotations in a file of any known format, one for each image.

    Args:
        labels: LabelMe labels or COCO categories that are heads; None: the only one in the file.
        allow_empty: whether a COCO file may have images but no annotations.

    Raises:
        DataError: the format is unknown or the content invalid; the message says where.
    """
    ending = path.suffix.lower()
    if ending == ".json":
        return read_json(path, labels, allow_empty)
    if ending in TABLES:
        return read_table(path)
    if ending != ".mat":
        raise DataError(f"{path}: annotations end in {', '.join(ANNOTATION_ENDINGS)}")
    if "image_info" in _load_mat(path):
        return [Annotation(read_shanghaitech_points(path))]
    return [Annotation(read_ucf_points(path))]


def read_annotation(path: Path) -> Annotation:
    """Returns the annotation in a file that annotates a single image.

    Raises:
        DataError: as `read_annotations`, or the file does not annotate exactly one image.
    """
    annotations = read_annotations(path, allow_empty=True)
    if len(annotations) != 1:
        raise DataError(
            f"{path} annotates {len(annotations)} images, not one; make_dataset.py --annotations "
            "makes a data set of it"
        )
    return annotations[0]


def read_points(path: Path) -> np.ndarray:
    """Returns `read_annotation`'s heads, (N, 2) float32, x then y in pixels."""
    return read_annotation(path).points


def read_shanghaitech_points(path: Path) -> np.ndarray:
    """Returns the heads of a ShanghaiTech `GT_IMG_n.mat`, (N, 2) float32, x then y in pixels.

    Raises:
        DataError: the file is not a readable .mat, or its `image_info` is no struct with the points
            in its field `location`, or in its first one. The struct may lie in a cell.
    """
    info = _load_mat(path, key="image_info")["image_info"]
    while isinstance(info, np.ndarray) and info.dtype == object and info.size == 1:
        info = info.item()  # of a cell
    fields = info.dtype.names if isinstance(info, np.ndarray) and info.size == 1 else None
    if not fields:
        raise DataError(f"{path}: image_info is no struct with the points in its field location")
    return as_points(info["location" if "location" in fields else fields[0]].item(), path)


def read_ucf_points(path: Path) -> np.ndarray:
    """Returns the heads of a UCF-QNRF or UCF_CC_50 `*_ann.mat`, (N, 2) float32, x then y in pixels.

    Points may lie outside the image.

    Raises:
        DataError: the file is not a readable .mat or lacks `annPoints`.
    """
    return as_points(_load_mat(path, key="annPoints")["annPoints"], path)


READERS = {  # by layout
    "shanghaitech": read_shanghaitech_points,
    "ucf": read_ucf_points,
    "own": read_points,
}

MAT_HEADER = b"MATLAB 5.0 MAT-file"  # any text; scipy's has the time
MAT_HEADER_BYTES = 116


def write_shanghaitech_points(path: Path, points: np.ndarray) -> None:
    """Writes (N, 2) points, x then y in pixels, in the form of ShanghaiTech's `GT_IMG_n.mat`."""
    cell = np.empty((1, 1), dtype=object)
    location = np.asarray(points, np.float64).reshape(-1, 2)
    cell[0, 0] = {"location": location, "number": float(len(points))}
    _write_mat(path, {"image_info": cell})


def write_ucf_points(path: Path, points: np.ndarray, source: str = "") -> None:
    """Writes (N, 2) points, x then y in pixels, in the form of UCF-QNRF's `*_ann.mat`.

    Args:
        source: stored as well, for `read_source`.
    """
    content = {"annPoints": np.asarray(points, np.float64).reshape(-1, 2)}
    content |= {"source": source} if source else {}
    _write_mat(path, content)


def _write_mat(path: Path, content: dict) -> None:
    """Writes the same bytes at any time: what is made of a file made again stays up to date."""
    with path.open("wb") as file:  # savemat appends .mat to a bare path
        scipy.io.savemat(file, content)
        file.seek(0)
        file.write(MAT_HEADER.ljust(MAT_HEADER_BYTES))


def read_source(path: Path) -> str:
    """Returns what `write_ucf_points` was given as `source`, "" if nothing.

    Raises:
        DataError: the file is not a readable .mat.
    """
    return "".join(map(str, np.ravel(_load_mat(path).get("source", ""))))


def _load_mat(path: Path, key: str | None = None) -> dict:
    check_regular(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            mat = scipy.io.loadmat(path)
    except NotImplementedError:  # how scipy refuses MATLAB 7.3 files, which are HDF5
        raise DataError(f"{path} is a MATLAB 7.3 file; save it again with -v7") from None
    except Exception as error:  # damaged bytes can make scipy raise anything
        reason = " ".join(str(error).split())
        raise DataError(f"{path} is not a readable .mat file ({reason})") from None
    if key is not None and key not in mat:
        found = ", ".join(k for k in mat if not k.startswith("__")) or "nothing"
        raise DataError(f"{path} has no key {key!r}, found {found}")
    return mat
