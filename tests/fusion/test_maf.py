"""MAF's matching, and both contrastive losses, against computations by hand."""

import math

import numpy
import pytest
import torch

from spacy_mmib.fusion.maf import MAF, contrast

N, D, IMAGE = 3, 4, 5
TEXT_MASK = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 1, 1], [1, 0, 0], [1, 1, 0]]).bool()
IMAGE_MASK = torch.tensor([[1, 1], [1, 0], [0, 0], [1, 1], [1, 1]]).bool()
IDS = torch.tensor([0, 1, -1, 0, 2])  # the first and the fourth have equal pictures


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def inputs():
    text, image = torch.randn(5, N, D).double(), torch.randn(5, 2, IMAGE).double()
    image[3] = image[0]
    return text, TEXT_MASK, image, IMAGE_MASK, IDS


def make_module(**settings) -> MAF:
    settings = {"text_width": D, "image_width": IMAGE, "width": D, "heads": 2, "dropout": 0.0} | settings
    return MAF(**settings).double()


def linear(x, layer):
    return x @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()


def sigmoid(x):
    return 1 / (1 + numpy.exp(-x))


def attend(module, h, image):
    """RETURNS (numpy.ndarray): T of one post, its rows of text in the picture's context."""
    v = module.image_projection(image).unsqueeze(0)
    t, _ = module.text_to_image(h.unsqueeze(0), v, torch.ones(1, len(image)).bool(), training=False)
    return t[0].detach().numpy()


def match(module, h, t):
    """RETURNS (float): The probability that text and picture belong together."""
    mean = numpy.concatenate([h, t], 1).mean(0)
    no, yes = linear(mean, module.matcher)
    return math.exp(yes) / (math.exp(no) + math.exp(yes))


def make_context(module, h, t, p):
    t = p * t
    gate = sigmoid(linear(numpy.concatenate([h, t], 1), module.gate))
    return numpy.concatenate([h, gate * t], 1)


def draw(monkeypatch, posts, others):
    """Let these posts, counted among those with a picture, get the pictures of those."""
    monkeypatch.setattr(torch, "randperm", lambda n, **kwargs: torch.tensor([*posts, *range(n)]))
    monkeypatch.setattr(torch, "multinomial", lambda p, n: torch.tensor(others).unsqueeze(1))


def test_context(inputs):
    module = make_module()
    context = module(*inputs, training=False).context.detach().numpy()
    text, _, image, *_ = inputs
    for i in range(5):
        h = text[i][TEXT_MASK[i]]
        if not IMAGE_MASK[i].any():  # nothing is added to its text
            expected = numpy.concatenate([h.numpy(), 0 * h.numpy()], 1)
        else:
            t = attend(module, h, image[i][IMAGE_MASK[i]])
            expected = make_context(module, h.numpy(), t, match(module, h.numpy(), t))
        numpy.testing.assert_allclose(context[i][TEXT_MASK[i]], expected, atol=1e-12)


def test_matching_sees_swapped_pictures_and_the_context_the_right_ones(inputs, monkeypatch):
    """The fifth post, number 3 with a picture, gets the picture of the second, which has one row."""
    module = make_module()
    at_inference = module(*inputs, training=False)
    draw(monkeypatch, [3], [1])
    output = module(*inputs, training=True)
    text, _, image, *_ = inputs
    losses = []
    for i, picture in ((0, 0), (1, 1), (3, 3), (4, 1)):
        h = text[i][TEXT_MASK[i]]
        p = match(module, h.numpy(), attend(module, h, image[picture][IMAGE_MASK[picture]]))
        losses.append(-math.log(p if i == picture else 1 - p))
    assert output.losses["matching"].item() == pytest.approx(numpy.mean(losses))
    torch.testing.assert_close(output.context[TEXT_MASK], at_inference.context[TEXT_MASK])


def test_as_published_swaps_outputs_and_the_context_gets_them(inputs, monkeypatch):
    """The fifth post, of two tokens, gets what cross-attention makes of the fourth, of one."""
    module = make_module(as_published=True)
    at_inference = module(*inputs, training=False).context
    draw(monkeypatch, [3], [2])
    output = module(*inputs, training=True)
    text, _, image, *_ = inputs
    losses = []
    for i in (0, 1, 3, 4):
        h, t = text[i][TEXT_MASK[i]], attend(module, text[i][TEXT_MASK[i]], image[i][IMAGE_MASK[i]])
        if i == 4:
            theirs = attend(module, text[3][:1], image[3])
            t = numpy.concatenate([theirs, numpy.zeros((1, D))])
        p = match(module, h.numpy(), t)
        losses.append(-math.log(1 - p if i == 4 else p))
        expected = make_context(module, h.numpy(), t, p)
        numpy.testing.assert_allclose(output.context[i][TEXT_MASK[i]].detach().numpy(), expected, atol=1e-12)
    assert output.losses["matching"].item() == pytest.approx(numpy.mean(losses))
    assert not torch.allclose(output.context[4, :2], at_inference[4, :2])


def test_nobody_gets_a_picture_like_its_own(inputs, monkeypatch):
    """Nor one of a post without; and as many are swapped as the setting says, one at least."""
    seen = []
    monkeypatch.setattr(
        torch, "multinomial", lambda p, n, real=torch.multinomial: seen.append(p) or real(p, n)
    )
    for negatives, count in ((0.01, 1), (0.25, 1), (0.5, 2), (0.9, 4)):
        make_module(negatives=negatives)(*inputs, training=True)
        assert len(seen[-1]) == count
    others = {tuple(row.tolist()) for row in seen[-1]}
    assert others == {(0, 1, 0, 1), (1, 0, 1, 1), (1, 1, 1, 0)}


def contrast_by_hand(module, text, image, ids, debiased):
    t = numpy.stack([x / numpy.linalg.norm(x) for x in text])
    v = numpy.stack([x / numpy.linalg.norm(x) for x in image])
    tau, prior = module.temperature, module.prior
    directions = []
    for s in (t @ v.T, v @ t.T):
        losses = []
        for i in range(len(s)):
            own = math.exp(s[i, i] / tau)
            others = [math.exp(s[i, j] / tau) for j in range(len(s)) if ids[j] != ids[i]]
            rest = sum(others)
            if debiased:
                g = (numpy.mean(others) - prior * own) / (1 - prior)
                rest = len(others) * max(g, math.exp(-1 / tau))
            losses.append(-math.log(own / (own + rest)))
        directions.append(numpy.mean(losses))
    return 0.7 * directions[0] + 0.3 * directions[1]


@pytest.mark.parametrize(
    ("contrastive", "temperature", "prior"),
    [("infonce", 0.179, 0.1), ("debiased", 0.179, 0.1), ("debiased", 2.0, 0.9)],
)
def test_contrastive(inputs, contrastive, temperature, prior):
    """Of the posts with a picture, means of the text against whole pictures. With the last settings g is at
    its lower bound.
    """
    module = make_module(contrastive=contrastive, temperature=temperature, prior=prior)
    found = module(*inputs, training=True).losses["contrastive"]
    text, _, image, *_ = inputs
    real = [0, 1, 3, 4]
    texts = [module.text_mlp(text[i][TEXT_MASK[i]].mean(0)).detach().numpy() for i in real]
    images = [module.image_mlp(image[i, 0]).detach().numpy() for i in real]
    expected = contrast_by_hand(module, texts, images, IDS[real].tolist(), contrastive == "debiased")
    assert found.shape == (1,)
    assert found.item() == pytest.approx(expected)


@pytest.mark.parametrize("prior", [None, 0.1])
def test_contrast_of_a_cold_softmax_is_finite(prior):
    """e^{1 / 0.001} is more than a float64 can hold. Both sides of the maximum are met."""
    negative = ~torch.eye(3).bool()
    for own in (1.0, -1.0):
        cosines = torch.full((3, 3), -own).fill_diagonal_(own).requires_grad_()
        loss = contrast(cosines / 0.001, negative, 0.001, prior)
        loss.backward()
        assert math.isfinite(loss.item())
        assert torch.isfinite(cosines.grad).all()
        # A pair that isn't told apart: 2 / t, and for two negatives log 2; and what they weigh debiased.
        weight = math.log(2) if prior is None else math.log(2 / (1 - prior))
        assert loss.item() == pytest.approx(0.0 if own > 0 else 2000 + weight, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("ids", [[0, -1, -1], [0, 0, -1], [-1, -1, -1]])
def test_without_two_different_pictures_there_is_nothing_to_learn_from(ids):
    module, ids = make_module(), torch.tensor(ids)
    text, image = torch.randn(3, N, D).double(), torch.randn(3, 2, IMAGE).double()
    image_mask = (ids >= 0).unsqueeze(-1).expand(3, 2)
    output = module(text, torch.ones(3, N).bool(), image, image_mask, ids, training=True)
    assert set(output.losses) == {"matching", "contrastive"}
    for loss in output.losses.values():
        assert loss.tolist() == [0.0]
        assert not loss.requires_grad


def test_settings_out_of_range():
    for name, value in (
        ("contrastive", "simclr"),
        ("temperature", 0.0),
        ("share", 1.1),
        ("negatives", 0.0),
        ("prior", 1.0),
    ):
        with pytest.raises(ValueError, match=f"MAF's {name} has to be"):
            make_module(**{name: value})


@pytest.mark.slow
def test_the_matcher_learns_to_look_at_pictures_unless_as_published():
    """A word of each post goes with what its picture shows. With swapped pictures the matcher finds out; with
    swapped outputs, which differ from the right ones in their text as well, it learns other things.
    """
    words, shown = torch.randn(4, D, dtype=torch.double) * 3, torch.randn(4, IMAGE, dtype=torch.double) * 3
    kinds = torch.arange(16) % 4

    def make_batch():
        text, image = torch.randn(16, N, D).double(), 0.3 * torch.randn(16, 2, IMAGE).double()
        text[:, 0] = words[kinds]
        return text, torch.ones(16, N).bool(), image + shown[kinds, None], torch.ones(16, 2).bool()

    share = {}
    for as_published in (False, True):
        module = make_module(as_published=as_published, width=16)
        optimizer = torch.optim.Adam(module.parameters(), 3e-3)
        for _ in range(800):
            loss = module(*make_batch(), torch.arange(16), training=True).losses["matching"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        text, text_mask, image, image_mask = make_batch()
        seen = []
        match = module._match
        module._match = lambda *x: seen.append(match(*x)) or seen[-1]
        for picture in (image, image.roll(1, 0)):  # of another kind
            module(text, text_mask, picture, image_mask, torch.arange(16), training=False)
        own, other = (logits.softmax(-1)[:, 1] for logits in seen)
        share[as_published] = (own[:, None] > other).double().mean().item()
    assert share[False] > 0.95
    assert share[True] < 0.8
