import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from llmemb.rat.adapter import make_adapter, scale

EMBEDDINGS = torch.from_numpy(
    np.random.default_rng(0).normal(size=(50, 6)) @ np.diag([5.0, 3.0, 2.0, 1.0, 0.5, 0.1]) + 7.0
).float()


def test_standardised_dimensions_have_mean_0_and_deviation_1():
    scaled = scale(EMBEDDINGS, "standardise")
    torch.testing.assert_close(scaled.mean(0), torch.zeros(6), atol=1e-5, rtol=0)
    torch.testing.assert_close(scaled.std(0, correction=0), torch.ones(6))


def test_whitened_dimensions_are_uncorrelated_with_deviation_1():
    torch.manual_seed(0)
    many = (
        torch.randn(4000, 6) * torch.tensor([3.0, 2.0, 2.0, 1.0, 1.0, 0.8]) @ torch.linalg.qr(torch.randn(6, 6))[0] + 3
    )
    torch.testing.assert_close(torch.cov(scale(many, "whiten").T, correction=0), torch.eye(6), atol=0.05, rtol=0)


def test_whitening_few_items_does_not_blow_chance_up():
    few = torch.cat([torch.randn(8, 3) * 5, torch.randn(8, 20) * 1e-3], dim=1)
    covariance = torch.cov(scale(few, "whiten").T, correction=0)
    assert (covariance - covariance.diag().diag()).abs().max() < 1e-4  # still uncorrelated
    assert covariance.diag().sort().values[:20].max() < 0.1  # what hardly varies hardly counts
    assert covariance.diag().max() < 1.5


def test_a_dimension_without_variance_becomes_zero_and_not_noise():
    constant = EMBEDDINGS.clone()
    constant[:, 2] = 3.0
    assert (scale(constant, "standardise")[:, 2] == 0).all()
    assert torch.isfinite(scale(constant, "whiten")).all()
    assert scale(constant, "whiten").abs().max() < 10


def test_no_scaling_leaves_the_table_as_it_is():
    assert scale(EMBEDDINGS, "none") is EMBEDDINGS


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_adapters_start_as_a_pca(kind):
    scaled = scale(EMBEDDINGS, "standardise")
    adapted = make_adapter(kind, scaled, 3, length=0.5)(scaled).detach().numpy()
    expected = PCA(n_components=3).fit_transform(scaled.numpy())
    assert adapted.shape == (50, 3)
    assert np.mean((adapted**2).sum(axis=1)) == pytest.approx(0.5**2, rel=1e-4)
    for column in range(3):  # the sign of a component is arbitrary, the scale is ours
        assert abs(np.corrcoef(adapted[:, column], expected[:, column])[0, 1]) == pytest.approx(1.0, abs=1e-4)


def test_the_papers_adapter_is_two_linear_layers():
    adapter = make_adapter("paper", EMBEDDINGS, 2, length=1.0)
    assert [tuple(parameter.shape) for parameter in adapter.parameters()] == [(3, 6), (3,), (2, 3), (2,)]


def test_an_adapter_may_be_wider_than_the_embeddings():
    assert make_adapter("linear", EMBEDDINGS, 9, length=1.0)(EMBEDDINGS).shape == (50, 9)
