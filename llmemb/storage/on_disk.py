"""Arrays on a local disk."""

import math
import os
import tempfile
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from llmemb.errors import InputError


def zeros_on_disk(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """An array in a nameless temporary file, gone with its process: what of it is not in use needs no memory.

    Raises:
        InputError: the disk has no room for it.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if not size:  # which cannot be mapped
        return np.zeros(shape, dtype)
    try:
        with tempfile.TemporaryFile(prefix="llmemb-") as file:
            # All of it now: a page that finds no room when it is written ends the process without a word.
            os.posix_fallocate(file.fileno(), 0, size)
            return np.memmap(file, dtype=dtype, mode="r+", shape=shape).view(np.ndarray)
    except OSError as error:
        raise InputError(
            f"{tempfile.gettempdir()}: no room for an array of {size / 2**30:.1f} GiB ({error.strerror}); TMPDIR "
            "names another folder"
        ) from error
