import errno
import os

import numpy as np
import pytest

from llmemb import vectors
from llmemb.errors import InputError


@pytest.mark.parametrize("file", ["../part.parquet", "/etc/passwd", "a/b", "..", "s3://bucket/x"])
def test_a_manifest_cannot_name_a_file_outside_of_its_folder(tmp_path, file):
    table = vectors.to_table(["a"], np.ones((1, 2)), "float32")
    entry = vectors.write(f"{tmp_path}/part.parquet", table)
    assert vectors.read(str(tmp_path), entry).num_rows == 1
    with pytest.raises(InputError, match="expected a file of the folder itself"):
        vectors.read(f"{tmp_path}/inside", entry | {"file": file})


def test_no_room_for_a_table_is_one_line(monkeypatch):
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    table = vectors.zeros_on_disk((3, 2), "float16")
    assert (table == 0).all()
    assert table.dtype == np.float16
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(InputError, match=r"no room for 2\.0 GiB of embeddings \(No space left on device\); TMPDIR"):
        vectors.zeros_on_disk((2**28, 4), "float16")
