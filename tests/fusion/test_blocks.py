"""Blocks of fusions against independent computations."""

import math

import numpy
import pytest
import torch

from spacy_mmib.fusion.blocks import (
    AdditiveAttention,
    AttentivePropagationEncoder,
    fill_mask,
    fill_no_picture,
    pool,
)

B, N, D = 3, 5, 8
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0]]).bool()


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def layer_norm(x, norm):
    mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / numpy.sqrt(var + norm.eps) * norm.weight.detach().numpy() + norm.bias.detach().numpy()


@pytest.mark.parametrize("feed_forward", ["transformer", "linear"])
def test_attention_encoder_is_equations_4_and_5(feed_forward):
    encoder = AttentivePropagationEncoder(D, heads=2, dropout=0.0, feed_forward=feed_forward).double()
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    query, keys = torch.randn(1, 4, D).double(), torch.randn(1, N, D).double()
    mask = torch.tensor([[1, 1, 0, 1, 0]]).bool()
    result = encoder(query, keys, mask, training=False)[0][0].detach().numpy()

    def linear(x, layer):
        return x @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()

    q, k = query[0].numpy(), keys[0][mask[0]].numpy()  # masked keys simply aren't there
    weights = encoder.attention.in_proj_weight.detach().numpy().reshape(3, D, D)
    biases = encoder.attention.in_proj_bias.detach().numpy().reshape(3, D)
    heads = []
    for h in range(2):
        part = slice(h * D // 2, (h + 1) * D // 2)
        qh = q @ weights[0][part].T + biases[0][part]
        kh = k @ weights[1][part].T + biases[1][part]
        vh = k @ weights[2][part].T + biases[2][part]
        scores = numpy.exp(qh @ kh.T / math.sqrt(D / 2))
        heads.append(scores / scores.sum(-1, keepdims=True) @ vh)
    attended = linear(numpy.concatenate(heads, -1), encoder.attention.out_proj)
    hidden = layer_norm(q + attended, encoder.attention_norm)
    if feed_forward == "linear":
        forwarded = linear(hidden, encoder.feed_forward)
    else:
        inner = linear(hidden, encoder.feed_forward[0])
        gelu = inner * 0.5 * (1 + numpy.vectorize(math.erf)(inner / math.sqrt(2)))
        forwarded = linear(gelu, encoder.feed_forward[2])
    expected = layer_norm(hidden + forwarded, encoder.feed_forward_norm)
    numpy.testing.assert_allclose(result, expected, atol=1e-10)
    again, shown = encoder(query, keys, mask, training=False, need_weights=True)
    numpy.testing.assert_allclose(again[0].detach().numpy(), expected, atol=1e-10)
    assert shown[0, :, [2, 4]].abs().max() == 0
    torch.testing.assert_close(shown.sum(-1), torch.ones(1, 4).double())


def test_attention_in_parts_is_attention_as_a_whole(monkeypatch):
    """A long post in training: forward, gradients and the noise of dropout."""
    query = torch.randn(B, 9, D, dtype=torch.float64, requires_grad=True)
    keys = torch.randn(B, N, D, dtype=torch.float64, requires_grad=True)

    def run(at_once, dropout):
        monkeypatch.setattr("spacy_mmib.fusion.blocks.BUFFER", at_once * B * 2 * N)
        encoder.dropout = dropout
        torch.manual_seed(5)
        result, _ = encoder(query, keys, MASK, training=True)
        torch.manual_seed(6)  # what the backward pass computes again has the noise of the forward pass
        return result, torch.autograd.grad(result.square().sum(), (query, keys))

    encoder = AttentivePropagationEncoder(D, heads=2, residual_dropout=0.0).double()
    torch.testing.assert_close(run(2, 1e-12), run(9, 1e-12))
    in_parts = run(2, 0.3)
    assert not torch.equal(run(1, 0.3)[0], in_parts[0])  # there is noise
    monkeypatch.setattr("spacy_mmib.fusion.blocks.checkpoint", lambda f, *x, use_reentrant: f(*x))
    torch.testing.assert_close(in_parts, run(2, 0.3))


@pytest.mark.parametrize("training", [False, True])
def test_attention_of_a_long_post_has_no_square_buffer(monkeypatch, training):
    """3,000 x 3,000 weights of 2 heads are 72 MB."""
    monkeypatch.setattr("spacy_mmib.fusion.blocks.BUFFER", 2**19)
    encoder = AttentivePropagationEncoder(D, heads=2, dropout=0.1)
    x, mask = torch.randn(1, 3000, D, requires_grad=training), torch.ones(1, 3000).bool()
    with torch.profiler.profile(profile_memory=True) as profile:
        result, _ = encoder(x, x, mask, training=training)
        if training:
            result.sum().backward()
    assert max(event.cpu_memory_usage for event in profile.events()) < 10 * 2**20


@pytest.mark.parametrize("queries", [True, False])
def test_additive_attention_in_parts_is_attention_as_a_whole(monkeypatch, queries):
    attention = AdditiveAttention(4, D, 6 if queries else None).double()
    query = torch.randn(B, 9, 6, dtype=torch.float64, requires_grad=True)
    keys = torch.randn(B, N, D, dtype=torch.float64, requires_grad=True)
    inputs = (query, keys) if queries else (keys,)

    def run(at_once):
        monkeypatch.setattr("spacy_mmib.fusion.blocks.BUFFER", at_once * B * N * 4)
        result, weights = attention(query, keys, MASK, need_weights=True)
        return result, weights, *torch.autograd.grad(result.square().sum(), inputs)

    whole = run(9)
    torch.testing.assert_close(run(2), whole)
    assert whole[1].shape == (B, 9 if queries else 1, N)
    assert whole[1].masked_select(~MASK[:, None]).abs().sum() == 0
    torch.testing.assert_close(whole[1] @ keys, whole[0])
    assert attention(query, keys, MASK)[1] is None


@pytest.mark.parametrize("training", [False, True])
def test_additive_attention_of_a_long_post_has_no_square_buffer(monkeypatch, training):
    """1,000 x 1,000 x 8 numbers are 32 MB."""
    monkeypatch.setattr("spacy_mmib.fusion.blocks.BUFFER", 2**18)
    attention = AdditiveAttention(D, D, D)
    x, mask = torch.randn(1, 1000, D, requires_grad=training), torch.ones(1, 1000).bool()
    with torch.profiler.profile(profile_memory=True) as profile:
        result, _ = attention(x, x, mask)
        if training:
            result.sum().backward()
    assert max(event.cpu_memory_usage for event in profile.events()) < 10 * 2**20


def test_heads_have_to_divide_the_width():
    with pytest.raises(ValueError, match=r"heads \(12\) has to divide the hidden size \(100\)"):
        AttentivePropagationEncoder(100, heads=12)
    with pytest.raises(ValueError, match="feed_forward is 'transformer' or 'linear'"):
        AttentivePropagationEncoder(8, heads=2, feed_forward="relu")


def test_pooling_takes_real_rows_only():
    x = torch.randn(B, N, D)
    pooled = pool(x, MASK, "mean")
    for i in range(B):
        torch.testing.assert_close(pooled[i], x[i][MASK[i]].mean(0))
        torch.testing.assert_close(pool(x, MASK, "sum")[i], x[i][MASK[i]].sum(0))
        assert torch.equal(pool(x, MASK, "first")[i], x[i, 0])
    with pytest.raises(ValueError, match="pooling is 'mean' or 'first' or 'sum', not 'max'"):
        pool(x, MASK, "max")


def test_a_learned_row_in_the_place_of_a_missing_picture():
    rows, row = torch.randn(2, 3, D), torch.randn(D)
    mask = torch.tensor([[1, 0, 1], [0, 0, 0]]).bool()
    filled, real = fill_no_picture(row, rows, mask), fill_mask(mask)
    assert torch.equal(filled[0], rows[0])
    assert torch.equal(filled[1, 0], row)
    assert real.tolist() == [[True, False, True], [True, False, False]]
    filled, real = fill_no_picture(row, rows[:, :0], mask[:, :0]), fill_mask(mask[:, :0])
    assert torch.equal(filled, row.expand(2, 1, D))
    assert real.all()
