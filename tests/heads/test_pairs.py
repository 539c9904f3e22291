"""The classifier of pairs of spans against Eq. 19."""

import numpy
import torch

from spacy_mmib.heads.pairs import RelationHead


def make_relation_head(seed: int = 0) -> RelationHead:
    torch.manual_seed(seed)
    return RelationHead(width=3, n_labels=4).double()


def test_relation_head_is_equation_19():
    head = make_relation_head()
    context = torch.randn(2, 5, 3, dtype=torch.float64)
    pooling = torch.zeros(2, 3, 5)
    pooling[0, 0, 1:3] = 1 / 2
    pooling[0, 1, 4] = 1.0
    pooling[1, 0, 0:3] = 1 / 3
    pairs = torch.tensor([[0, 0, 1], [0, 1, 0], [1, 0, 0]])
    scores = head(context, pooling, pairs).detach().numpy()
    w = numpy.concatenate([head.head.weight.detach().numpy(), head.tail.weight.detach().numpy()], 1)
    b = head.head.bias.detach().numpy()
    c = context.numpy()
    vectors = [[c[0, 1:3].mean(0), c[0, 4]], [c[1, 0:3].mean(0)]]
    for row, (post, i, j) in zip(scores, pairs.tolist()):
        both = numpy.concatenate([vectors[post][i], vectors[post][j]])
        numpy.testing.assert_allclose(row, w @ both + b, atol=1e-12)


def test_gradients_of_the_relation_head():
    head = make_relation_head()
    context = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    pooling = torch.zeros(2, 2, 4)
    pooling[0, 0, 0:2] = 1 / 2
    pooling[0, 1, 3] = pooling[1, 0, 2] = 1.0
    pairs = torch.tensor([[0, 0, 1], [1, 0, 0]])
    assert torch.autograd.gradcheck(lambda x: head(x, pooling, pairs), context)
    weights = [p.detach().clone().requires_grad_() for p in head.parameters()]
    names = [name for name, _ in head.named_parameters()]
    call = torch.func.functional_call
    assert torch.autograd.gradcheck(
        lambda *w: call(head, dict(zip(names, w)), (context.detach(), pooling, pairs)), weights
    )


def test_a_hidden_layer():
    torch.manual_seed(0)
    head = RelationHead(width=3, n_labels=4, hidden=True, dropout=0.5).double()
    context, pooling = torch.randn(1, 2, 3).double(), torch.eye(2).unsqueeze(0)
    pairs = torch.tensor([[0, 0, 1]])
    w1 = numpy.concatenate([head.head.weight.detach().numpy(), head.tail.weight.detach().numpy()], 1)
    w2, b2 = head.output.weight.detach().numpy(), head.output.bias.detach().numpy()
    assert w1.shape == (6, 6)
    hidden = w1 @ context[0].numpy().ravel() + head.head.bias.detach().numpy()
    numpy.testing.assert_allclose(head(context, pooling, pairs)[0].detach().numpy(), w2 @ hidden + b2)
    dropped = head(context, pooling, pairs, training=True)
    assert not torch.equal(dropped, head(context, pooling, pairs))
