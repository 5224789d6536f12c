import pytest
import torch
import torch.nn.functional as F

from llmemb.srs import loss as loss_module
from llmemb.srs.loss import Pairs, binary_cross_entropy, full_softmax


def naive(
    states: torch.Tensor,
    table: torch.Tensor,
    targets: torch.Tensor,
    offsets: torch.Tensor | None = None,
    passed_over: Pairs | None = None,
) -> torch.Tensor:
    logits = states.double() @ table.double().T
    if offsets is not None:
        logits = logits + offsets.double()
    if passed_over is not None:
        logits = logits.index_put(passed_over, torch.tensor(-torch.inf, dtype=torch.float64))
    return (torch.logsumexp(logits, dim=1) - logits[torch.arange(len(targets)), targets]).sum()


# Of the first position, of neighbours, one pair twice, and none of the last two positions.
PASSED_OVER = torch.tensor([0, 0, 2, 3, 4, 4, 4]), torch.tensor([4, 10, 0, 9, 1, 1, 2])


@pytest.mark.parametrize("passed_over", [None, PASSED_OVER])
@pytest.mark.parametrize("with_offsets", [False, True])
@pytest.mark.parametrize(("length", "bounded"), [(1.0, True), (30.0, False)])
def test_loss_and_gradients_equal_a_float64_reference_whatever_the_chunk(length, bounded, with_offsets, passed_over):
    torch.manual_seed(0)
    states, table = torch.randn(7, 4), torch.randn(11, 4) * length
    targets = torch.tensor([0, 10, 3, 3, 5, 1, 9])
    offsets = torch.randn(11) * 2 if with_offsets else None
    assert loss_module._is_bounded(states, table, offsets) == bounded
    expected_inputs = [states.double().requires_grad_(), table.double().requires_grad_()]
    expected = naive(*expected_inputs, targets, offsets, passed_over)
    (2 * expected).backward()
    for chunk in (1, 3, 7, 100):
        inputs = [states.clone().requires_grad_(), table.clone().requires_grad_()]
        settings = {"logit_offsets": offsets, "passed_over": passed_over, "chunk_positions": chunk}
        loss = full_softmax(*inputs, targets, **settings)
        (2 * loss).backward()
        torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=0)
        for actual, wanted in zip(inputs, expected_inputs, strict=True):
            torch.testing.assert_close(actual.grad.double(), wanted.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("length", [1.0, 30.0])
def test_a_frozen_table_gets_no_gradient_and_the_states_the_same(length):
    torch.manual_seed(0)
    table, targets = torch.randn(9, 4) * length, torch.tensor([2, 8, 2])
    states = [torch.ones(3, 4, requires_grad=True) for _ in range(2)]
    full_softmax(states[0], table, targets, chunk_positions=2).backward()
    trained = table.clone().requires_grad_()
    full_softmax(states[1], trained, targets, chunk_positions=2).backward()
    assert table.grad is None
    assert trained.grad is not None
    torch.testing.assert_close(states[0].grad, states[1].grad)


def test_huge_logits_stay_finite():
    states, table = torch.tensor([[300.0]]), torch.tensor([[1.0], [-1.0]])
    assert full_softmax(states, table, torch.tensor([0])).item() == 0.0
    assert full_softmax(states, table, torch.tensor([1])).item() == 600.0


@pytest.mark.parametrize("passed_over", [None, PASSED_OVER])
@pytest.mark.parametrize(("length", "bounded"), [(1.0, True), (12.0, False)])
def test_with_bfloat16_products_loss_and_gradients_are_near_float64s(length, bounded, passed_over):
    torch.manual_seed(0)
    states, table = F.normalize(torch.randn(7, 32)) * 5, F.normalize(torch.randn(11, 32)) * length
    targets, offsets = torch.tensor([0, 10, 3, 3, 5, 1, 9]), torch.randn(11)
    assert loss_module._is_bounded(states, table, offsets) == bounded
    expected_inputs = [states.double().requires_grad_(), table.double().requires_grad_()]
    expected = naive(*expected_inputs, targets, offsets, passed_over)
    expected.backward()
    for chunk in (2, 100):
        inputs = [states.clone().requires_grad_(), table.clone().requires_grad_()]
        settings = {"logit_offsets": offsets, "passed_over": passed_over, "chunk_positions": chunk}
        loss = full_softmax(*inputs, targets, **settings, matmul_dtype=torch.bfloat16)
        loss.backward()
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss.double(), expected, rtol=2e-3, atol=0)
        for actual, wanted in zip(inputs, expected_inputs, strict=True):
            assert (actual.grad - wanted.grad).norm() < 0.01 * wanted.grad.norm()


def test_offsets_are_added_to_every_positions_logits():
    torch.manual_seed(0)
    states, table, offsets = torch.randn(5, 4), torch.randn(6, 4), torch.randn(6) * 3
    targets = torch.tensor([0, 1, 2, 5, 5])
    actual = full_softmax(states, table, targets, logit_offsets=offsets, chunk_positions=2)
    torch.testing.assert_close(actual.double(), naive(states, table, targets, offsets), rtol=1e-6, atol=0)


def test_gradients_of_shared_negatives_are_the_same_bits_with_two_threads(two_threads):
    torch.manual_seed(0)
    states, table = torch.randn(1024, 64), torch.randn(100, 64, requires_grad=True)
    targets, negatives = torch.randint(100, (1024,)), torch.randint(100, (1024, 16))
    runs = [torch.autograd.grad(binary_cross_entropy(states, table, targets, negatives), [table]) for _ in range(4)]
    for again in runs[1:]:
        assert torch.equal(runs[0][0], again[0])
