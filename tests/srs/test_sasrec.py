import torch

from llmemb.srs.sasrec import SASRec

DIM, LENGTH = 8, 5


def trained_like_backbone() -> SASRec:
    """Without the zeros of the start, which would hide what blocks do."""
    torch.manual_seed(0)
    backbone = SASRec(hidden_dim=DIM, num_blocks=2, num_heads=2, max_seq_len=7, dropout=0.0)
    for parameter in backbone.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return backbone.eval()


def test_a_later_item_never_changes_an_earlier_state():
    backbone, vectors = trained_like_backbone(), torch.randn(2, LENGTH, DIM)
    mask = torch.ones(2, LENGTH, dtype=torch.bool)
    states = backbone(vectors, mask)
    for changed in range(LENGTH):
        other = vectors.clone()
        other[:, changed] = torch.randn(DIM)  # not a shift, which the layer norms would hide
        difference = (backbone(other, mask) - states).abs().amax(dim=(0, 2))
        assert (difference[:changed] == 0).all()
        assert (difference[changed:] > 1e-3).all()


def test_padding_side_and_amount_do_not_matter():
    backbone, vectors = trained_like_backbone(), torch.randn(1, 3, DIM)
    alone = backbone(vectors, torch.ones(1, 3, dtype=torch.bool))
    for left, right in [(0, 2), (2, 0), (1, 3), (4, 0)]:
        noise = torch.randn(2, 1, DIM) * 9
        padded = torch.cat([noise[:1].expand(1, left, DIM), vectors, noise[1:].expand(1, right, DIM)], dim=1)
        mask = torch.tensor([[False] * left + [True] * 3 + [False] * right])
        torch.testing.assert_close(backbone(padded, mask)[:, left : left + 3], alone)


def test_padding_gives_no_nan_gradient():
    backbone, vectors = trained_like_backbone(), torch.randn(1, 4, DIM, requires_grad=True)
    mask = torch.tensor([[False, False, True, True]])
    backbone(vectors, mask)[mask].sum().backward()
    assert vectors.grad is not None
    assert torch.isfinite(vectors.grad).all()
    assert (vectors.grad[0, :2] == 0).all()


def test_an_untrained_backbone_returns_its_input():
    backbone = SASRec(hidden_dim=DIM, num_blocks=2, num_heads=2, max_seq_len=LENGTH, dropout=0.5).eval()
    vectors = torch.randn(3, LENGTH, DIM)
    torch.testing.assert_close(backbone(vectors, torch.ones(3, LENGTH, dtype=torch.bool)), vectors)
