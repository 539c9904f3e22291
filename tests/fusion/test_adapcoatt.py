"""AdapCoAtt against its equations as they are published: a token, a row and a pair at a time, with every matrix."""

import math

import numpy
import pytest
import torch

from spacy_mmib.fusion.adapcoatt import AdapCoAtt

TEXT, IMAGE, D = 6, 5, 4


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def attend(queries, keys, combine):
    """RETURNS: For each query the weights of the keys, and their weighted sum."""
    every = []
    for q in queries:
        scores = numpy.array([math.exp(combine(q, k)) for k in keys])
        weights = scores / scores.sum()
        every.append((weights, sum(a * k for a, k in zip(weights, keys))))
    return every


def sigmoid(x):
    return 1 / (1 + numpy.exp(-x))


@pytest.mark.parametrize("additive", [False, True])
@pytest.mark.parametrize("rows", [3, 1, 0])
def test_equations(additive, rows):
    module = AdapCoAtt(text_width=TEXT, image_width=IMAGE, width=D, additive=additive).double()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)
    text, image = torch.randn(1, 6, TEXT).double(), torch.randn(1, 4, IMAGE).double()
    masks = torch.arange(6)[None] < 4, torch.arange(4)[None] < rows
    output = module(text, masks[0], image, masks[1], torch.tensor([0]), training=False)
    p = {name: parameter.detach().numpy() for name, parameter in module.named_parameters()}

    def linear(name, x):
        return p[f"{name}.weight"] @ x + p[f"{name}.bias"]

    rng = numpy.random.default_rng(0)

    def score(name):
        w, key = p[f"{name}.score.weight"][0], lambda k: linear(f"{name}.key", k)
        if additive:
            return lambda q, k: w @ numpy.tanh(p[f"{name}.query.weight"] @ q + key(k))
        # What is left out of the module, whatever it is: W_h or W'_v and their half of the scores' weights.
        W, half = rng.normal(size=(D, D)), rng.normal(size=D)
        w = numpy.concatenate([half, w])
        return lambda q, k: w @ numpy.tanh(numpy.concatenate([W @ q, key(k)]))

    h = [linear("text_projection", x) for x in text[0, :4].numpy()]
    v = [numpy.tanh(linear("image_projection", x)) for x in image[0, :rows].numpy()] or [p["no_picture"]]
    seen = attend(h, v, score("image_attention"))
    read = attend([v_hat for _, v_hat in seen], h, score("text_attention"))
    # The filtration gate with two matrices of its own, which are the module's w_s if multiplied by it.
    W_3, W_4 = rng.normal(size=(2, D, D))
    of_h, of_m = p["filter.weight"][0].reshape(2, D)
    w_s = numpy.concatenate([of_h @ numpy.linalg.inv(W_3), of_m @ numpy.linalg.inv(W_4)])
    for t in range(4):
        v_t = numpy.tanh(linear("attended_image", seen[t][1]))
        h_t = numpy.tanh(linear("attended_text", read[t][1]))
        g = sigmoid(linear("gate", numpy.concatenate([v_t, h_t])))
        m = g * v_t + (1 - g) * h_t
        s = sigmoid(w_s @ numpy.concatenate([W_3 @ h[t], W_4 @ m]) + p["filter.bias"])
        expected = numpy.concatenate([h[t], s * numpy.tanh(linear("filtered", m))])
        numpy.testing.assert_allclose(output.context[0, t].detach().numpy(), expected, atol=1e-9)
        shown = output.weights[0, t].detach().numpy()
        numpy.testing.assert_allclose(shown[: len(v)], seen[t][0], atol=1e-9)
        assert not shown[len(v) :].any()


def test_as_published_only_the_last_gate_tells_the_tokens_of_a_post_apart():
    text, image = torch.randn(1, 5, TEXT), torch.randn(1, 3, IMAGE)
    masks = torch.ones(1, 5).bool(), torch.ones(1, 3).bool()
    for additive in (False, True):
        module = AdapCoAtt(text_width=TEXT, image_width=IMAGE, width=D, additive=additive)
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter)
        context = module(text, masks[0], image, masks[1], torch.tensor([0]), training=False).context
        u = context[0, :, D:].detach()
        # s_t is a number, so all u_t have one direction.
        assert (torch.linalg.matrix_rank(u, rtol=1e-4) == 1) == (not additive)
