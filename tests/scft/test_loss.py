import pytest
import torch

from llmemb import contrastive
from llmemb.scft.config import LossConfig
from llmemb.scft.loss import MIN_TEMPERATURE, TemperedLoss

torch.manual_seed(0)
FIRST, SECOND = torch.randn(4, 3), torch.randn(4, 3)
EQUAL = torch.eye(4, dtype=torch.bool)


@pytest.mark.parametrize("kind", ["soft_targets", "info_nce", "paper"])
def test_a_fixed_temperature_is_the_pure_function_and_is_not_trained(kind):
    loss = TemperedLoss(LossConfig.model_validate({"kind": kind, "temperature": 0.5}))
    value = loss(FIRST, SECOND, equal=EQUAL)
    torch.testing.assert_close(value, getattr(contrastive, kind)(FIRST, SECOND, temperature=0.5))
    assert loss.trainable == []
    loss.step(0.1)
    assert float(loss.temperature) == pytest.approx(0.5)


def test_a_trained_temperature_goes_down_its_gradient_and_not_below_its_least():
    loss = TemperedLoss(LossConfig(kind="info_nce", temperature=0.5, learn_temperature=True))
    aligned = torch.eye(4)
    values = []
    for _ in range(3):
        value = loss(aligned, aligned, equal=EQUAL)
        value.backward()
        loss.step(3.0)
        values.append(float(value.detach()))
    assert values[1] < values[0]
    assert float(loss.temperature) == pytest.approx(MIN_TEMPERATURE)
