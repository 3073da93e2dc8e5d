"""Reads a user's text and JSON files, and finds files by names that were written elsewhere."""

import json
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

Named = TypeVar("Named")
# The types of a JSON object's values, for `check_fields`.
NUMBER, OPTIONAL_NUMBER = (int, float), (int, float, type(None))
LARGEST = 1e300  # a number beyond it overflows where it is computed with


class DataError(ValueError):
    """A data set, an annotation or a list is invalid; the message is for the user."""


def check_regular(path: Path) -> None:
    """Raises DataError if `path` is something else than a file, such as a pipe, which never ends.

    Raises:
        FileNotFoundError: there is nothing.
    """
    if not path.is_file():
        path.stat()
        raise DataError(f"{path} is {'a folder' if path.is_dir() else 'no regular file'}")


def read_text_file(path: Path) -> str:
    """Returns the content of a text file in UTF-8, without a byte order mark.

    Raises:
        DataError: it is no regular file, or not in UTF-8.
    """
    check_regular(path)
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{path} is not text in UTF-8") from None


def read_json_file(path: Path) -> Any:
    """Returns the content of a JSON file.

    Raises:
        DataError: it is no regular file, not in UTF-8 or not JSON, or Python cannot hold it.
    """
    text = read_text_file(path)
    try:
        return json.loads(text)
    except RecursionError:
        raise DataError(f"{path} is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise DataError(f"{path} is not JSON ({error})") from None
    except ValueError:  # Python refuses whole numbers of more than 4,300 digits
        raise DataError(f"{path} is not JSON (a number has thousands of digits)") from None


def read_json_lines(path: Path, kinds: Mapping[str, tuple[type, ...]]) -> list[dict[str, Any]]:
    """Returns the objects of a file that has one in every line, as a training's log.

    A last line that was cut off, as a killed program leaves it, is not read.

    Args:
        kinds: of their values, see `check_fields`; all others must be numbers.

    Raises:
        DataError: as `read_text_file`; or a line is not such an object.
    """
    objects = []
    for number, line in enumerate(read_text_file(path).splitlines(keepends=True), start=1):
        if line.endswith("\n"):
            where = f"{path}, line {number}"
            try:
                value = json.loads(line)
            except (ValueError, RecursionError):
                raise DataError(f"{where} is not JSON") from None
            others = dict.fromkeys(value, NUMBER) if isinstance(value, dict) else {}
            objects.append(check_fields(value, others | dict(kinds), where))
    return objects


def check_fields(
    found: Any, kinds: Mapping[str, tuple[type, ...]], where: object
) -> dict[str, Any]:
    """Returns `found` if it is a JSON object with these keys, and with values of these types.

    Raises:
        DataError: it is not, or a number is not finite or too large to compute with; the message
            begins with `where`.
    """
    if not isinstance(found, dict):
        raise DataError(f"{where} is no JSON object with {', '.join(kinds)}")
    for key, types in kinds.items():
        if key not in found:
            raise DataError(f"{where} has no {key}")
        value = found[key]
        is_number = isinstance(value, int | float)
        if type(value) not in types or (is_number and not abs(value) <= LARGEST):
            named = " or ".join(kind.__name__ for kind in types)
            raise DataError(f"{where}: {key} must be of the type {named}, got {value!r:.40}")
    return found


def fold_name(name: str) -> str:
    """Returns what spellings of a name share: macOS decomposes letters, cameras write .JPG."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def closest_names(name: str, others: Iterable[tuple[str, Named]]) -> list[Named]:
    """Returns what bears a name: as it is, or else decomposed, or else in other case.

    Args:
        others: pairs of a name and what bears it.
    """
    others = [(other, named) for other, named in others if fold_name(other) == fold_name(name)]
    for spell in (str, lambda text: unicodedata.normalize("NFC", text)):
        if same := [named for other, named in others if spell(other) == spell(name)]:
            return same
    return [named for _, named in others]
