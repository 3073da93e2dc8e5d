"""Annotation files of each data set -> head points. The only place that knows .mat keys."""

from pathlib import Path

import numpy as np
import scipy.io

from datasets.splits import DataError


def read_shanghaitech_points(path: Path) -> np.ndarray:
    """Returns the heads of a ShanghaiTech `GT_IMG_n.mat`, (N, 2) float32, x then y in pixels.

    Raises:
        DataError: the file is not a readable .mat or lacks `image_info[0,0][0,0][0]`.
    """
    mat = _load_mat(path, key="image_info")
    try:
        points = mat["image_info"][0, 0][0, 0][0]
    except (IndexError, TypeError):
        raise DataError(f"{path}: image_info[0,0][0,0][0] is missing") from None
    return _as_points(points, path)


def read_ucf_points(path: Path) -> np.ndarray:
    """Returns the heads of a UCF-QNRF or UCF_CC_50 `*_ann.mat`, (N, 2) float32, x then y in pixels.

    Points may lie outside the image.

    Raises:
        DataError: the file is not a readable .mat or lacks `annPoints`.
    """
    return _as_points(_load_mat(path, key="annPoints")["annPoints"], path)


def write_shanghaitech_points(path: Path, points: np.ndarray) -> None:
    """Writes (N, 2) points, x then y in pixels, in the form of ShanghaiTech's `GT_IMG_n.mat`."""
    cell = np.empty((1, 1), dtype=object)
    location = np.asarray(points, np.float64).reshape(-1, 2)
    cell[0, 0] = {"location": location, "number": float(len(points))}
    scipy.io.savemat(path, {"image_info": cell})


def write_ucf_points(path: Path, points: np.ndarray) -> None:
    """Writes (N, 2) points, x then y in pixels, in the form of UCF-QNRF's `*_ann.mat`."""
    with path.open("wb") as file:  # under any name
        scipy.io.savemat(file, {"annPoints": np.asarray(points, np.float64).reshape(-1, 2)})


def _load_mat(path: Path, key: str) -> dict:
    try:
        mat = scipy.io.loadmat(path)
    except FileNotFoundError:
        raise
    except NotImplementedError:  # scipy's word for MATLAB 7.3 files, which are HDF5
        raise DataError(f"{path} is a MATLAB 7.3 file; save it again with -v7") from None
    except Exception as error:  # scipy raises whatever the damaged bytes lead to
        raise DataError(f"{path} is not a readable .mat file ({error})") from None
    if key not in mat:
        found = ", ".join(k for k in mat if not k.startswith("__")) or "nothing"
        raise DataError(f"{path} has no key {key!r}, found {found}")
    return mat


def _as_points(values: np.ndarray, path: Path) -> np.ndarray:
    values = np.asarray(values)
    if values.size == 0:
        return np.zeros((0, 2), np.float32)
    if values.ndim != 2 or values.shape[1] < 2 or not np.issubdtype(values.dtype, np.number):
        raise DataError(f"{path}: points must be an N x 2 array, got {values.shape}")
    points = values[:, :2].astype(np.float32)
    if not np.isfinite(points).all():
        raise DataError(f"{path}: a point is not a finite number")
    return points
