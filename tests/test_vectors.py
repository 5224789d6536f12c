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
