import pytest
import torch

from llmemb.srs.dropout import Dropout


def test_what_is_kept_is_scaled_so_that_the_mean_stays():
    torch.manual_seed(0)
    kept = Dropout(0.3)(torch.ones(1000, 301))  # not a multiple of the four draws that are made at once
    assert kept.unique().tolist() == pytest.approx([0.0, 1 / 0.7], rel=1e-4)
    # A share of 301,000 draws has a deviation of .0008.
    assert float((kept == 0).float().mean()) == pytest.approx(0.3, abs=0.004)
    assert float(kept.mean()) == pytest.approx(1.0, abs=0.006)


def test_elements_are_dropped_independently():
    torch.manual_seed(0)
    dropped = (Dropout(0.5)(torch.ones(400_000)) == 0).double()
    for distance in (1, 2, 3, 4, 8):  # four elements share a draw
        both = (dropped[:-distance] * dropped[distance:]).mean()
        assert float(both) == pytest.approx(0.25, abs=0.004)


def test_the_gradient_has_the_mask_of_the_values():
    values = torch.randn(50, 7, requires_grad=True)
    result = Dropout(0.4)(values)
    result.sum().backward()
    assert 0 < int((result == 0).sum()) < values.numel()
    torch.testing.assert_close(values.grad * values, result)


def test_a_seed_gives_its_mask_and_no_other_seed_does():
    masks = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        masks.append(Dropout(0.5)(torch.ones(100)))
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])


@pytest.mark.parametrize(("rate", "expected"), [(0.0, 1.0), (1e-9, 1.0), (1.0, 0.0)])
def test_all_or_nothing(rate, expected):
    assert torch.equal(Dropout(rate)(torch.ones(5)), torch.full((5,), expected))


def test_nothing_is_dropped_in_evaluation_and_the_precision_stays():
    assert torch.equal(Dropout(0.5).eval()(torch.ones(5)), torch.ones(5))
    assert Dropout(0.5)(torch.ones(5, dtype=torch.bfloat16)).dtype == torch.bfloat16
