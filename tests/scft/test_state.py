import torch

from llmemb.scft.config import LossConfig
from llmemb.scft.loss import TemperedLoss
from llmemb.scft.state import _load_temperature


def test_the_temperatures_moments_are_where_it_is_itself():
    loss = TemperedLoss(LossConfig(learn_temperature=True), device="meta")
    for key in ("exp_avg", "exp_avg_sq", "step"):
        _load_temperature(loss, f"log_temperature.{key}", torch.tensor(1.0))
    found = {key: value.device.type for key, value in loss.optimizer.state[loss.log_temperature].items()}
    assert found == {"exp_avg": "meta", "exp_avg_sq": "meta", "step": "cpu"}
