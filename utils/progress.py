"""Progress bars."""

import sys
from typing import Any

from tqdm import tqdm


class Bar(tqdm):
    """tqdm's bar on a terminal; elsewhere none, as a log would keep every step of its motion."""

    def __init__(self, *args: Any, disable: bool = False, **options: Any):
        super().__init__(*args, disable=disable or not sys.stderr.isatty(), **options)
