"""Arrays on a disk: whole or one line."""

import errno
import os
import tempfile

import numpy as np
import pytest

from llmemb import storage
from llmemb.errors import InputError


@pytest.mark.parametrize("shape", [(3, 2), (5,), (0,), (0, 4)])
def test_it_is_an_array_like_others(shape):
    array = storage.zeros_on_disk(shape, "float16")
    assert (type(array), array.shape, array.dtype) == (np.ndarray, shape, np.float16)
    array += 1
    assert (array == 1).all()


def test_no_room_for_an_array_is_one_line(monkeypatch):
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(InputError, match=r"no room for an array of 2\.0 GiB \(No space left on device\); TMPDIR"):
        storage.zeros_on_disk((2**28, 4), "float16")


def test_a_folder_for_it_that_is_not_there_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(InputError, match=r"gone: no room for .* \(No such file or directory\); TMPDIR"):
        storage.zeros_on_disk((2, 2), "float16")
