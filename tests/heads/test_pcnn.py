"""The piecewise convolution against loops."""

import numpy
import pytest
import torch

from spacy_mmib.heads.pcnn import FURTHEST, PCNN

WIDTH = 4


@pytest.fixture
def head():
    torch.manual_seed(0)
    return PCNN(width=WIDTH, n_labels=3, filters=5, position_width=2).double()


def pool_by_hand(head, c, h, u):
    """RETURNS (numpy.ndarray): Three maxima of each filter, of one post (n, d) and one pair."""
    p, q = (x.weight.detach().numpy() for x in (head.head_distances, head.tail_distances))
    weight, bias = head.convolution.weight.detach().numpy(), head.convolution.bias.detach().numpy()
    n = len(c)
    clip = lambda x: min(max(x, -FURTHEST), FURTHEST) + FURTHEST
    x = [numpy.concatenate([c[t], p[clip(t - h)], q[clip(t - u)]]) for t in range(n)]
    x = [numpy.zeros_like(x[0]), *x, numpy.zeros_like(x[0])]
    y = [sum(weight[:, :, k] @ x[t + k] for k in range(3)) + bias for t in range(n)]
    first, second = sorted((h, u))
    pieces = [range(first + 1), range(first + 1, second + 1), range(second + 1, n)]
    return numpy.concatenate(
        [numpy.max([numpy.zeros(5), *(y[t] for t in piece)], axis=0) for piece in pieces]
    )


def test_piecewise_pooling(head, monkeypatch):
    lengths, pairs = (6, 3), [(0, 1, 4), (0, 4, 1), (0, 5, 5), (1, 0, 2), (1, 2, 2)]
    context = torch.randn(2, 6, WIDTH).double()
    mask = torch.arange(6) < torch.tensor(lengths).unsqueeze(1)
    expected = []
    for post, h, u in pairs:
        pooled = pool_by_hand(head, context[post, : lengths[post]].numpy(), h, u)
        expected.append(
            head.classifier.weight.detach().numpy() @ pooled + head.classifier.bias.detach().numpy()
        )
    found = head(context, mask, torch.tensor(pairs))
    numpy.testing.assert_allclose(found.detach().numpy(), expected, atol=1e-12)
    garbage = torch.where(mask.unsqueeze(-1), context, 1e3)
    torch.testing.assert_close(head(garbage, mask, torch.tensor(pairs)), found)
    monkeypatch.setattr("spacy_mmib.heads.pcnn.BUFFER", 60)  # two pairs at a time
    torch.testing.assert_close(head(context, mask, torch.tensor(pairs)), found)


def test_far_tokens_have_the_furthest_distance(head):
    context = torch.randn(1, 300, WIDTH).double()
    found = head(context, torch.ones(1, 300).bool(), torch.tensor([[0, 2, 290]]))
    pooled = pool_by_hand(head, context[0].numpy(), 2, 290)
    expected = head.classifier.weight.detach().numpy() @ pooled + head.classifier.bias.detach().numpy()
    numpy.testing.assert_allclose(found[0].detach().numpy(), expected, atol=1e-12)


def test_gradients(head):
    head.dropout = 0.0
    context = torch.randn(1, 4, WIDTH, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[True, True, True, False]])
    pairs = torch.tensor([[0, 0, 2], [0, 1, 0]])
    assert torch.autograd.gradcheck(lambda x: head(x, mask, pairs, training=True), context)


def test_a_window_without_a_middle():
    with pytest.raises(ValueError, match="window is an odd number of tokens, not 2"):
        PCNN(width=WIDTH, n_labels=3, window=2)
