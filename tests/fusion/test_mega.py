"""MEGA's semantic half against loops over objects, and why the linear head after it is the paper's."""

import numpy
import pytest
import torch

from spacy_mmib.fusion.mega import MEGASemantic
from spacy_mmib.heads.pairs import RelationHead

N, D, IMAGE = 4, 6, 5
TEXT_MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]]).bool()
IMAGE_MASK = torch.tensor([[1, 1, 1], [1, 0, 0], [0, 0, 0]]).bool()


@pytest.fixture
def module():
    torch.manual_seed(0)
    return MEGASemantic(text_width=D, image_width=IMAGE, width=D).double()


@pytest.fixture
def context(module):
    torch.manual_seed(1)
    text, image = torch.randn(3, N, D).double(), torch.randn(3, 3, IMAGE).double()
    context = module(text, TEXT_MASK, image, IMAGE_MASK, torch.tensor([0, 1, -1]), training=False).context
    return text.numpy(), image.numpy(), context.detach()


def linear(x, layer):
    return x @ layer.weight.detach().numpy().T + (0 if layer.bias is None else layer.bias.detach().numpy())


def test_what_objects_select_from_the_text(module, context):
    text, image, context = context
    for i in range(3):
        h = text[i][TEXT_MASK[i]]
        tokens = linear(h, module.tokens)
        total = numpy.zeros(2 * D)
        for o in image[i][IMAGE_MASK[i]]:
            query = linear(linear(o, module.objects), module.query)
            weights = numpy.exp([query @ linear(t, module.key) / (2 * D) ** 0.5 for t in tokens])
            selected = sum(w * linear(t, module.value) for w, t in zip(weights / weights.sum(), tokens))
            total += 1 / (1 + numpy.exp(-selected))
        m = numpy.tile(linear(total, module.output), (len(h), 1))
        expected = numpy.concatenate([h, m], 1)
        numpy.testing.assert_allclose(context[i][TEXT_MASK[i]].numpy(), expected, atol=1e-12)
    assert not context[2, :, D:].any()  # without a picture


def test_the_linear_head_after_it_is_the_papers(context):
    """Linear(Linear([x; m])) of the paper, x the first tokens of two entities, is a setting of our head."""
    context = context[-1]
    head, tail, m = context[0, 0, :D], context[0, 2, :D], context[0, 0, D:]
    inner, classifier = torch.nn.Linear(3 * D, 3 * D).double(), torch.nn.Linear(3 * D, 7).double()
    expected = classifier(inner(torch.cat([head, tail, m])))
    ours = RelationHead(width=2 * D, n_labels=7).double()
    with torch.no_grad():
        of_head, of_tail, of_m = (classifier.weight @ inner.weight).chunk(3, 1)
        ours.head.weight.copy_(torch.cat([of_head, of_m], 1))
        ours.tail.weight.copy_(torch.cat([of_tail, 0 * of_m], 1))
        ours.head.bias.copy_(classifier.weight @ inner.bias + classifier.bias)
    spans = torch.eye(N).double()[[0, 2]].unsqueeze(0)
    torch.testing.assert_close(ours(context[:1], spans, torch.tensor([[0, 0, 1]]))[0], expected)


def test_all_tokens_get_the_same_dropout_of_the_picture(module):
    text, image = torch.randn(1, N, D).double(), torch.randn(1, 3, IMAGE).double()
    ones = torch.ones(1, N).bool(), torch.ones(1, 3).bool()
    context = module(text, ones[0], image, ones[1], torch.tensor([0]), training=True).context
    assert torch.equal(context[0, :, D:], context[0, :1, D:].expand(N, D))
    assert (context == 0).any()
