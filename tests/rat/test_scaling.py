import numpy as np
import pytest
import torch
from sklearn.covariance import LedoitWolf

from llmemb.rat import scaling as scaling_module
from llmemb.rat.scaling import Scaler, Scaling, rows_to_fit

EMBEDDINGS = torch.from_numpy(
    np.random.default_rng(0).normal(size=(50, 6)) @ np.diag([5.0, 3.0, 2.0, 1.0, 0.5, 0.1]) + 7.0
).float()


def scale(embeddings: torch.Tensor, scaling: Scaling) -> torch.Tensor:
    return Scaler.fit(embeddings, scaling).table(embeddings)


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


def test_whitening_is_the_same_whatever_the_rounding_where_few_texts_are_many_items():
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(5, 12, generator=generator)[torch.arange(40) % 5]
    rounded = vectors * (1 + 1e-7 * torch.randn(vectors.shape, generator=generator))
    whitened = scale(vectors, "whiten")
    torch.testing.assert_close(scale(rounded, "whiten"), whitened, rtol=0, atol=1e-4)
    assert ((whitened == 0).all(0) == (scale(rounded, "whiten") == 0).all(0)).all()
    assert (whitened == 0).all(0).sum() == 12 - 4


def test_no_scaling_leaves_the_table_as_it_is():
    torch.testing.assert_close(scale(EMBEDDINGS, "none"), EMBEDDINGS, rtol=0, atol=0)


@pytest.mark.parametrize("scaling", ["standardise", "whiten"])
def test_a_table_in_float16_is_scaled_as_its_values_are_in_float64(scaling, monkeypatch):
    monkeypatch.setattr(scaling_module, "ROWS_PER_CHUNK", 7)
    half = EMBEDDINGS.half()
    mean = half.double().mean(0)
    centred = half.double() - mean
    expected = centred / centred.square().mean(0).sqrt()
    if scaling == "whiten":
        variance, axes = np.linalg.eigh(LedoitWolf(assume_centered=True).fit(centred.numpy()).covariance_)
        axes *= np.sign(axes[np.abs(axes).argmax(0), range(6)])
        expected = centred @ torch.from_numpy(axes / np.sqrt(variance))
    torch.testing.assert_close(scale(half, scaling).double(), expected, rtol=1e-4, atol=1e-4)
    assert scale(half, scaling).dtype == torch.float32


def test_rows_are_scaled_alike_alone_and_in_the_table():
    scaler = Scaler.fit(EMBEDDINGS, "whiten")
    torch.testing.assert_close(scaler(EMBEDDINGS[[4, 2]]), scaler(EMBEDDINGS)[[4, 2]])
    assert scaler.state_dict() == {}


@pytest.mark.parametrize(("shape", "most"), [((1_000_000, 384), 2**17), ((1_000_000, 4096), 2**15), ((9, 4096), 9)])
def test_a_covariance_is_fitted_to_a_bounded_part_of_a_large_table(shape, most):
    rows = rows_to_fit(torch.empty(shape, device="meta"))
    assert min(shape[0], most / 2) < len(rows) <= most
