"""Heads with a CRF for borders, against enumeration of what a post may hold."""

import itertools
import math

import numpy
import pytest
import spacy
import torch
from conftest import IMG2VEC, TOK2VEC, make_examples, new_docs, train

from spacy_mmib.bridge.shim import get_module
from spacy_mmib.heads.borders import BorderBias, BorderFirst

LABELS, WIDTH, BORDER_WIDTH = 2, 6, 5


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def make_head(head_class):
    head = head_class(width=WIDTH, n_labels=LABELS, border_width=BORDER_WIDTH).double()
    for name, parameter in head.named_parameters():
        if "transitions" in name:
            torch.nn.init.normal_(parameter)
    head.constrain()
    return head


def make_input(*lengths):
    mask = torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)
    normal = lambda width: torch.randn(len(lengths), max(lengths), width).double()
    return normal(WIDTH), mask, normal(BORDER_WIDTH)


def list_posts(n):
    """YIELDS (List[Tuple[int, int]]): Every way to have entities without types in a post of n tokens."""
    spans = [(a, b) for a in range(n) for b in range(a + 1, n + 1)]
    for k in range(n + 1):
        for chosen in itertools.combinations(spans, k):
            if all(x[1] <= y[0] for x, y in itertools.pairwise(chosen)):
                yield list(chosen)


def score_borders(crf, emissions, spans):
    tags = [0] * len(emissions)
    for start, end in spans:
        tags[start:end] = [1] + [2] * (end - start - 1)
    score = float(crf.start_transitions[tags[0]] + crf.end_transitions[tags[-1]])
    score += sum(float(emissions[i, tag]) for i, tag in enumerate(tags))
    return score + sum(float(crf.transitions[a, b]) for a, b in itertools.pairwise(tags))


@torch.no_grad()
def enumerate_posts(head, context, borders):
    """RETURNS (Dict[Tuple, float]): The probability of each set of typed entities, by BorderFirst's formula."""
    emissions = head.borders.emission(borders)
    posts = list(list_posts(len(context)))
    scores = torch.tensor([score_borders(head.borders.crf, emissions, spans) for spans in posts])
    weight, bias = head.types.weight.numpy(), head.types.bias.numpy()
    found = {}
    for spans, p in zip(posts, scores.softmax(0).tolist()):
        for labels in itertools.product(range(LABELS), repeat=len(spans)):
            of_types = 1.0
            for (start, end), label in zip(spans, labels):
                logits = weight @ context[start:end].numpy().mean(0) + bias
                of_types *= numpy.exp(logits[label]) / numpy.exp(logits).sum()
            found[tuple((*span, label) for span, label in zip(spans, labels))] = p * of_types
    return found


def test_two_stages_are_a_distribution_over_posts():
    head = make_head(BorderFirst)
    context, mask, borders = make_input(4, 3)
    tags = torch.tensor([[1, 2, 0, 3], [0, 3, 4, 0]])
    gold = [((0, 2, 0), (3, 4, 1)), ((1, 3, 1),)]
    loss = head(context, mask, tags, borders=borders)
    expected = []
    decoded = head(context, mask, borders=borders)
    for i, n in enumerate((4, 3)):
        posts = enumerate_posts(head, context[i, :n], borders[i, :n])
        assert sum(posts.values()) == pytest.approx(1)
        expected.append(-math.log(posts[gold[i]]))
        by_borders = {}
        for post, p in posts.items():
            by_borders.setdefault(tuple(x[:2] for x in post), []).append((p, post))
        best = max(by_borders.values(), key=lambda rows: sum(p for p, _ in rows))
        found = decoded[i]
        assert tuple(zip(*found[:3])) == max(best)[1]
        spans = [(i, *span, label) for span in zip(*found[:2]) for label in range(LABELS)]
        for (_, *entity), p in zip(spans, head(context, mask, None, spans, borders)):
            assert p == pytest.approx(sum(q for post, q in posts.items() if tuple(entity) in post))
        for entity, p in zip(zip(*found[:3]), found.confidences):
            assert p == pytest.approx(sum(q for post, q in posts.items() if entity in post))
    assert loss.item() == pytest.approx(sum(expected) / 2)


def test_pictures_move_no_border_in_two_stages():
    head = make_head(BorderFirst)
    context, mask, borders = make_input(5, 5)
    one, other = (
        head(context, mask, borders=borders),
        head(torch.randn_like(context) * 9, mask, borders=borders),
    )
    assert [x[:2] for x in one] == [x[:2] for x in other]
    assert head(context, mask, torch.tensor([[-1] * 5] * 2), borders=borders).item() == pytest.approx(
        0, abs=1e-9
    )
    # An entity whose end isn't known has no type to learn; its beginning is learned.
    tags = torch.tensor([[1, -1, 0, 0, 0], [0] * 5])
    context.requires_grad_()
    loss = head(context, mask, tags, borders=borders)
    assert loss.item() > 0
    assert torch.autograd.grad(loss, context)[0].abs().sum() == 0


def test_bias_is_half_of_both_emissions():
    head = make_head(BorderBias)
    context, mask, borders = make_input(4, 2)
    with torch.no_grad():
        emissions, auxiliary = head.emission(context), head.auxiliary.emission(borders)
    for i, j in numpy.ndindex(2, 4):
        o, b, inside = auxiliary[i, j].tolist()
        emissions[i, j] += torch.tensor([o, *[b / LABELS, inside / LABELS] * LABELS])
    emissions /= 2
    tags = torch.tensor([[3, 4, 0, -1], [0, 1, 0, 0]])
    both = head(context, mask, tags, borders=borders)
    untyped = torch.tensor([[1, 2, 0, -1], [0, 1, 0, 0]])
    likelihoods = head.auxiliary.negative_log_likelihood(head.auxiliary.emission(borders), mask, untyped)
    assert both.shape == (2,)
    assert both[1].item() == pytest.approx(likelihoods.mean().item())
    plain = head.negative_log_likelihood(emissions, mask, tags)
    assert both[0].item() == pytest.approx(plain.mean().item())
    for found, expected in zip(head(context, mask, borders=borders), head.decode(emissions, mask)):
        assert found[:3] == expected[:3]
        assert found.confidences == pytest.approx(expected.confidences)


@pytest.mark.parametrize("head_class", [BorderBias, BorderFirst])
def test_gradients(head_class):
    head = make_head(head_class)
    context, mask, borders = make_input(3, 2)
    tags = torch.tensor([[1, 2, 3], [0, 3, 0]])
    run = lambda c, b: head(c, mask, tags, borders=b)
    assert torch.autograd.gradcheck(run, (context.requires_grad_(), borders.requires_grad_()))


@pytest.mark.parametrize("borders", ["bias", "decide"])
def test_in_a_pipeline(borders):
    nlp = spacy.blank("en")
    model = {
        "@architectures": "spacy-mmib.NER.v1",
        "tok2vec": TOK2VEC,
        "img2vec": IMG2VEC,
        "fusion": {"@architectures": "spacy-mmib.Gated.v1"},
        "head": {"@architectures": "spacy-mmib.CRF.v1", "borders": borders},
    }
    nlp.add_pipe("mmib_ner", config={"model": model})
    examples = make_examples(nlp)
    first = train(nlp, examples, steps=1)
    losses = train(nlp, examples, steps=30)
    assert losses["mmib_ner_task"] < first["mmib_ner_task"] / 2
    if borders == "bias":
        weighted = losses["mmib_ner_task"] + 0.5 * losses["mmib_ner_borders"]
        assert losses["mmib_ner"] == pytest.approx(weighted)
    docs = list(nlp.pipe(new_docs(nlp)))
    assert any(doc.ents for doc in docs)
    assert all(0 <= ent._.confidence <= 1 for doc in docs for ent in doc.ents)
    loaded = spacy.blank(nlp.lang).from_config(nlp.config).from_bytes(nlp.to_bytes())
    for doc, other in zip(docs, loaded.pipe(new_docs(loaded))):
        assert [(e.text, e.label_, e._.confidence) for e in doc.ents] == [
            (e.text, e.label_, e._.confidence) for e in other.ents
        ]
    head = get_module(nlp.get_pipe("mmib_ner").model.get_ref("head"))
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in head.parameters())


def test_a_setting_that_there_is_not():
    model = {"@architectures": "spacy-mmib.NER.v1", "tok2vec": TOK2VEC, "fusion": None}
    model["head"] = {"@architectures": "spacy-mmib.CRF.v1", "borders": "both"}
    with pytest.raises(Exception, match=r"borders|bias"):
        spacy.blank("en").add_pipe("mmib_ner", config={"model": model})
