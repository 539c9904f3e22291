"""GVATT against its equations, a token and a row at a time."""

import math

import numpy
import pytest
import torch

from spacy_mmib.fusion.gvatt import GVATT

TEXT, IMAGE, WIDTH = 6, 5, 4


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def sigmoid(x):
    return 1 / (1 + numpy.exp(-x))


@pytest.mark.parametrize("query", ["mean", "states"])
@pytest.mark.parametrize("rows", [3, 1, 0])
def test_equations(query, rows):
    module = GVATT(text_width=TEXT, image_width=IMAGE, width=WIDTH, query=query).double()
    text, image = torch.randn(1, 5, TEXT).double(), torch.randn(1, 4, IMAGE).double()
    text_mask, image_mask = torch.arange(5)[None] < 3, torch.arange(4)[None] < rows
    output = module(text, text_mask, image, image_mask, torch.tensor([0]), training=False)
    p = {name: parameter.detach().numpy() for name, parameter in module.named_parameters()}
    x, v = text[0, :3].numpy(), image[0, :rows].numpy()
    if not rows:
        v = p["no_picture"][None]
    q = x.mean(0) if query == "mean" else numpy.concatenate([x[2, :3], x[0, 3:]])
    scores = []
    for v_i in v:
        inner = p["attention.query.weight"] @ q + p["attention.key.weight"] @ v_i + p["attention.key.bias"]
        scores.append(math.exp(float(p["attention.score.weight"][0] @ numpy.tanh(inner))))
    a = numpy.array(scores) / sum(scores)
    v_c = sum(a_i * v_i for a_i, v_i in zip(a, v))
    for t in range(3):
        h = p["text_projection.weight"] @ x[t] + p["text_projection.bias"]
        g_v, g_w, m = (
            p["text_gates.weight"][k : k + WIDTH] @ h
            + p["image_gates.weight"][k : k + WIDTH] @ v_c
            + p["text_gates.bias"][k : k + WIDTH]
            for k in (0, WIDTH, 2 * WIDTH)
        )
        expected = sigmoid(g_w) * h + sigmoid(g_v) * numpy.tanh(m)
        numpy.testing.assert_allclose(output.context[0, t].detach().numpy(), expected, atol=1e-10)
        numpy.testing.assert_allclose(output.weights[0, t, : len(a)].detach().numpy(), a, atol=1e-10)


def test_the_query_is_the_last_states_of_a_bilstm():
    lstm = torch.nn.LSTM(7, TEXT // 2, bidirectional=True, batch_first=True)
    module = GVATT(text_width=TEXT, image_width=IMAGE, width=WIDTH, query="states")
    lengths = [4, 1, 2]
    packed = torch.nn.utils.rnn.pack_padded_sequence(
        torch.randn(3, 4, 7), lengths, batch_first=True, enforce_sorted=False
    )
    rows, (last, _) = lstm(packed)
    rows, _ = torch.nn.utils.rnn.pad_packed_sequence(rows, batch_first=True)
    query = module._make_query(rows, torch.arange(4)[None] < torch.tensor(lengths)[:, None])
    torch.testing.assert_close(query, last.transpose(0, 1).flatten(1))


def test_settings_that_make_no_sense():
    with pytest.raises(ValueError, match="width has to be even, not 7"):
        GVATT(text_width=7, image_width=IMAGE, width=WIDTH, query="states")
    with pytest.raises(ValueError, match="query is 'mean' or 'states', not 'cls'"):
        GVATT(text_width=6, image_width=IMAGE, width=WIDTH, query="cls")
