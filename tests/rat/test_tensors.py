import pytest
import torch

from llmemb.errors import InputError
from llmemb.rat import tensors


def test_notes_come_back_and_the_same_contents_are_the_same_bytes(tmp_path):
    contents = {"a": torch.arange(6.0).reshape(2, 3).T, "b": torch.tensor([1, 2])}
    notes = {"losses": [0.1, 2e-30], "of": "é", "none": None, "words": {"z": 1, "a": 2}}
    written = set()
    for number in range(8):
        file = tmp_path / f"{number}.safetensors"
        tensors.write(str(file), contents, dict(reversed(notes.items())) if number % 2 else notes)
        written.add(file.read_bytes())
    assert len(written) == 1
    read, read_notes = tensors.read(str(tmp_path / "0.safetensors"))
    assert read_notes == notes
    assert {name: tensor.tolist() for name, tensor in read.items()} == {"a": [[0, 3], [1, 4], [2, 5]], "b": [1, 2]}


@pytest.mark.parametrize("content", [b"", b"epochs: 3\n", bytes(100), (2).to_bytes(8, "little") + b"[]"])
def test_what_is_no_file_of_tensors_is_one_line(tmp_path, content):
    file = tmp_path / "maps.safetensors"
    file.write_bytes(content)
    with pytest.raises(InputError, match=f"^{file}: expected a safetensors file: "):
        tensors.read(str(file))
