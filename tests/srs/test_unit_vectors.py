import pytest
import torch
from torch.nn.functional import normalize

from llmemb.srs.unit_vectors import unit

SHORT = 0.01


@pytest.mark.parametrize("shape", [(6, 3), (2, 3, 5)])
def test_values_and_gradients_are_those_of_torch(shape):
    torch.manual_seed(0)
    values = torch.randn(shape, dtype=torch.float64)
    values[0] *= SHORT / 10  # shorter than the least length: divided by that
    values[1] = 0
    wanted = torch.randn(shape, dtype=torch.float64)
    results, gradients = [], []
    for function in (lambda x: unit(x, min_length=SHORT), lambda x: normalize(x, dim=-1, eps=SHORT)):
        rows = values.clone().requires_grad_()
        results.append(function(rows))
        (results[-1] * wanted).sum().backward()
        gradients.append(rows.grad)
    torch.testing.assert_close(results[0], results[1])
    torch.testing.assert_close(gradients[0], gradients[1])


def test_the_gradient_is_that_of_finite_differences():
    torch.manual_seed(0)
    rows = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(unit, (rows,))
