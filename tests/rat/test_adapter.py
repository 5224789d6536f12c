import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from llmemb.rat.adapter import make_adapter, principal_components
from llmemb.rat.scaling import Scaler

EMBEDDINGS = torch.from_numpy(
    np.random.default_rng(0).normal(size=(50, 6)) @ np.diag([5.0, 3.0, 2.0, 1.0, 0.5, 0.1]) + 7.0
).float()
AS_THEY_ARE = Scaler.fit(EMBEDDINGS, "none")


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_adapters_start_as_a_pca(kind):
    scaler = Scaler.fit(EMBEDDINGS, "standardise")
    scaled = scaler(EMBEDDINGS)
    adapted = make_adapter(kind, EMBEDDINGS, scaler, 3, length=0.5)(scaled).detach().numpy()
    expected = PCA(n_components=3).fit_transform(scaled.numpy())
    assert adapted.shape == (50, 3)
    assert np.mean((adapted**2).sum(axis=1)) == pytest.approx(0.5**2, rel=1e-4)
    for column in range(3):  # the sign of a component is arbitrary, the scale is ours
        assert abs(np.corrcoef(adapted[:, column], expected[:, column])[0, 1]) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_adapters_may_start_at_random_as_long(kind):
    torch.manual_seed(0)
    scaler = Scaler.fit(EMBEDDINGS, "standardise")
    made = [make_adapter(kind, EMBEDDINGS, scaler, 3, start="random", length=0.5) for _ in range(2)]
    first, second = (adapter(scaler(EMBEDDINGS)).detach() for adapter in made)
    assert float(first.square().sum(1).mean()) == pytest.approx(0.5**2, rel=1e-4)
    assert (first - second).abs().max() > 0.1


def test_the_papers_adapter_is_two_linear_layers():
    adapter = make_adapter("paper", EMBEDDINGS, AS_THEY_ARE, 2, length=1.0)
    assert [tuple(parameter.shape) for parameter in adapter.parameters()] == [(3, 6), (3,), (2, 3), (2,)]


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_an_adapter_may_be_wider_than_the_embeddings_and_starts_as_their_pca_all_the_same(kind):
    adapted = make_adapter(kind, EMBEDDINGS, AS_THEY_ARE, 9, length=0.5)(EMBEDDINGS).detach()
    assert adapted.shape == (50, 9)
    assert float(adapted.square().sum(1).mean()) == pytest.approx(0.5**2, rel=1e-4)
    assert not adapted[:, 6:].any()


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_what_all_embeddings_share_is_no_part_of_the_start(kind):
    shared = EMBEDDINGS + 100.0
    adapted = make_adapter(kind, shared, AS_THEY_ARE, 3, length=0.5)(shared).detach()
    torch.testing.assert_close(adapted.mean(0), torch.zeros(3), atol=1e-3, rtol=0)
    assert float(adapted.square().sum(1).mean()) == pytest.approx(0.5**2, rel=1e-3)
    reduced = principal_components(shared, AS_THEY_ARE, 3, length=0.5)
    torch.testing.assert_close(reduced.abs(), adapted.abs(), atol=1e-4, rtol=0)
