import pytest
import ray
import torch

from llmemb.compute.devices import check_gpu, has_gpus, own_device
from llmemb.errors import InputError


@pytest.mark.parametrize(("device", "gpus", "expected"), [("auto", 0, False), ("auto", 1, True), ("gpu", 0, True)])
def test_a_cluster_that_has_no_gpu_yet_can_say_that_it_will(monkeypatch, device, gpus, expected):
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"GPU": gpus} if gpus else {})
    monkeypatch.setenv("LLMEMB_DEVICE", device)
    assert has_gpus() is expected


@pytest.mark.parametrize(
    ("wanted", "seen", "expected"), [("auto", True, "cuda"), ("cpu", True, "cpu"), ("gpu", False, "cpu")]
)
def test_a_process_leaves_its_gpu_alone_where_that_is_asked_for(monkeypatch, wanted, seen, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: seen)
    monkeypatch.setenv("LLMEMB_DEVICE", wanted)
    assert own_device() == expected


def test_another_device_is_a_mistake(monkeypatch):
    monkeypatch.setenv("LLMEMB_DEVICE", "tpu")
    with pytest.raises(InputError, match="LLMEMB_DEVICE: expected one of auto, cpu, gpu, got 'tpu'"):
        has_gpus()
    with pytest.raises(InputError, match="LLMEMB_DEVICE: expected one of auto, cpu, gpu, got 'tpu'"):
        own_device()


def test_a_gpu_that_pytorch_does_not_see_is_one_line(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    check_gpu()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match=r"Ray counts a GPU that PyTorch does not see; expected NVIDIA's driver .*$"):
        check_gpu()
