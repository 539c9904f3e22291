"""The CRF head against enumeration of all tag sequences."""

import itertools

import pytest
import torch

from spacy_mmib.heads.crf import NERHead

D = 8


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def make_head(n_labels=2) -> NERHead:
    head = NERHead(width=D, n_labels=n_labels).double()
    for parameter in (head.crf.transitions, head.crf.start_transitions, head.crf.end_transitions):
        torch.nn.init.normal_(parameter)
    head.constrain()
    return head


def is_wellformed(path) -> bool:
    return all(tag == 0 or tag % 2 or (i > 0 and path[i - 1] in (tag, tag - 1)) for i, tag in enumerate(path))


def path_score(head, emissions, path):
    score = head.crf.start_transitions[path[0]] + head.crf.end_transitions[path[-1]]
    score = score + sum(emissions[i, tag] for i, tag in enumerate(path))
    return score + sum(head.crf.transitions[a, b] for a, b in itertools.pairwise(path))


def all_paths(head, length):
    return [p for p in itertools.product(range(head.n_tags), repeat=length) if is_wellformed(p)]


def test_crf_likelihood_by_brute_force():
    head = make_head()
    emissions = torch.randn(2, 4, head.n_tags).double()
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]).bool()
    tags = torch.tensor([[0, 1, 2, 3], [3, 4, 0, 0]])
    nll = head.negative_log_likelihood(emissions, mask, tags)
    for i, length in enumerate((4, 3)):
        scores = torch.stack([path_score(head, emissions[i], p) for p in all_paths(head, length)])
        gold = path_score(head, emissions[i], tags[i, :length].tolist())
        torch.testing.assert_close(nll[i], torch.logsumexp(scores, 0) - gold)


@pytest.mark.parametrize("scale", [0.1, 3.0, 100.0])
@pytest.mark.parametrize("n_labels", [1, 4])
def test_likelihood_and_gradients_are_those_of_torchcrf(n_labels, scale):
    head = make_head(n_labels)
    lengths = torch.tensor([1, 33, 2, 32, 17, 9])
    mask = torch.arange(33) < lengths.unsqueeze(1)
    emissions = (scale * torch.randn(6, 33, head.n_tags, dtype=torch.float64)).requires_grad_()
    tags = head.find_best_paths(torch.randn(6, 33, head.n_tags, dtype=torch.float64), mask)
    inputs = (emissions, *head.crf.parameters())
    ours = head.negative_log_likelihood(emissions, mask, tags)
    theirs = -head.crf(emissions, tags, mask, reduction="none")
    torch.testing.assert_close(ours, theirs)
    weights = torch.randn(6, dtype=torch.float64)  # of posts, so that none gets another's gradient
    gradients, expected = (torch.autograd.grad(loss @ weights, inputs) for loss in (ours, theirs))
    torch.testing.assert_close(gradients, expected)
    assert gradients[0][~mask].abs().max() == 0


def test_padding_means_nothing_to_the_likelihood():
    head = make_head()
    emissions = torch.randn(1, 5, head.n_tags).double()
    tags = torch.tensor([[0, 1, 2, -1, 3]])
    alone = head.negative_log_likelihood(emissions, torch.ones(1, 5).bool(), tags)
    padded = torch.nn.functional.pad(emissions, (0, 0, 0, 6), value=50.0)
    mask = torch.arange(11).unsqueeze(0) < 5
    for value in (0, 3, -1):
        more = torch.nn.functional.pad(tags, (0, 6), value=value)
        torch.testing.assert_close(head.negative_log_likelihood(padded, mask, more), alone)


def test_a_long_post_takes_few_rounds_and_loses_no_digits():
    head = NERHead(width=D, n_labels=4)
    emissions = torch.randn(1, 3000, head.n_tags, requires_grad=True)
    mask = torch.ones(1, 3000).bool()
    tags = head.find_best_paths(torch.randn(1, 3000, head.n_tags), mask)
    with torch.profiler.profile() as profile:
        loss = head.negative_log_likelihood(emissions, mask, tags)
        loss.sum().backward()
    assert sum(event.count for event in profile.key_averages()) < emissions.shape[1]
    exact = -head.double().crf(emissions.detach().double(), tags, mask)
    torch.testing.assert_close(loss[0], exact, rtol=1e-12, atol=0)
    assert emissions.grad.isfinite().all()


def test_unknown_tags_are_summed_over():
    head = make_head()
    emissions = torch.randn(1, 4, head.n_tags).double()
    mask = torch.ones(1, 4).bool()
    for gold in ([-1, 1, 2, 0], [0, -1, 2, 0], [-1, -1, 4, -1], [1, -1, -1, 0]):
        nll = head.negative_log_likelihood(emissions, mask, torch.tensor([gold]))
        paths = all_paths(head, 4)
        agreeing = [p for p in paths if all(g in (-1, t) for g, t in zip(gold, p))]
        total = torch.logsumexp(torch.stack([path_score(head, emissions[0], p) for p in paths]), 0)
        part = torch.logsumexp(torch.stack([path_score(head, emissions[0], p) for p in agreeing]), 0)
        torch.testing.assert_close(nll[0], total - part)


def test_nothing_is_learned_where_everything_is_unknown():
    head = make_head()
    emissions = torch.randn(1, 3, head.n_tags, dtype=torch.float64, requires_grad=True)
    nll = head.negative_log_likelihood(emissions, torch.ones(1, 3).bool(), torch.full((1, 3), -1))
    nll.sum().backward()
    assert nll.item() == pytest.approx(0, abs=1e-9)
    assert emissions.grad.abs().max() < 1e-9


def test_viterbi_by_brute_force_and_never_malformed():
    head = make_head()
    for _ in range(20):
        emissions = 3 * torch.randn(1, 4, head.n_tags).double()
        mask = torch.ones(1, 4).bool()
        best = max(all_paths(head, 4), key=lambda p: path_score(head, emissions[0], p).item())
        decoded = head.decode(emissions, mask)[0]
        expected = []
        for i, tag in enumerate(best):
            if tag % 2:
                expected.append([i, i + 1, tag // 2])
            elif tag:
                expected[-1][1] = i + 1
        assert [list(x) for x in zip(decoded.starts, decoded.ends, decoded.labels)] == expected


def test_malformed_sequences_stay_impossible_whatever_the_optimizer_does():
    head = NERHead(width=D, n_labels=2)
    with torch.no_grad():
        head.crf.transitions.fill_(50.0)
        head.crf.start_transitions.fill_(50.0)
        head.emission.weight.zero_()
        head.emission.bias.copy_(torch.tensor([-9.0, -9.0, 9.0, -9.0, 9.0]))  # I wherever possible
    head.constrain()  # as the shim does after each step
    paths = head.find_best_paths(head.emission(torch.zeros(1, 6, D)), torch.ones(1, 6).bool())
    assert is_wellformed(paths[0].tolist())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_best_paths_are_those_of_torchcrf(dtype):
    head = make_head(4).to(dtype)
    lengths = torch.tensor([1, 40, 2, 39, 17, 40])
    mask = torch.arange(40) < lengths.unsqueeze(1)
    emissions = 3 * torch.randn(6, 40, head.n_tags, dtype=dtype)
    emissions[~mask] = 50.0  # padding means nothing
    paths = [path[:n] for path, n in zip(head.find_best_paths(emissions, mask).tolist(), lengths)]
    assert paths == head.crf.decode(emissions, mask)
    # No post depends on its neighbours, not even in rounding.
    spans = [
        (post, *span)
        for post, x in enumerate(head.decode(emissions, mask))
        for span in zip(x.starts, x.ends, x.labels)
    ]
    assert len(spans) > 20
    alone = [
        head.entity_probabilities(emissions[[i], :n], mask[[i], :n], [(0, *span[1:])])[0]
        for span in spans
        for i, n in [(span[0], int(lengths[span[0]]))]
    ]
    assert head.entity_probabilities(emissions, mask, spans) == alone
    assert head.entity_probabilities(emissions, mask, spans[::-1]) == alone[::-1]


def test_entity_probability_by_brute_force():
    head = make_head()
    emissions = torch.randn(2, 4, head.n_tags).double()
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]).bool()
    spans = [(0, 0, 2, 1), (0, 3, 4, 0), (1, 1, 3, 0), (1, 0, 1, 1)]
    for (post, start, end, label), got in zip(spans, head.entity_probabilities(emissions, mask, spans)):
        length = int(mask[post].sum())
        paths = all_paths(head, length)
        wanted = [2 * label + 1] + [2 * label + 2] * (end - start - 1)
        having = [
            p for p in paths if list(p[start:end]) == wanted and (end == length or p[end] != 2 * label + 2)
        ]
        weight = lambda some: sum(path_score(head, emissions[post], p).exp().item() for p in some)
        assert got == pytest.approx(weight(having) / weight(paths), abs=1e-9)


@torch.no_grad()
def test_tag_probabilities_by_brute_force():
    head = make_head()
    emissions = torch.randn(2, 4, head.n_tags).double()
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]).bool()
    found = head.tag_probabilities(emissions, mask)
    for i, length in enumerate((4, 3)):
        paths = all_paths(head, length)
        shares = torch.stack([path_score(head, emissions[i], p) for p in paths]).softmax(0)
        for token in range(length):
            of_tags = [
                sum(share for share, path in zip(shares, paths) if path[token] == tag)
                for tag in range(head.n_tags)
            ]
            assert found[i, token].tolist() == pytest.approx([float(share) for share in of_tags], abs=1e-9)


def test_confidences_belong_to_the_decoded_entities():
    head = make_head()
    emissions = 2 * torch.randn(6, 7, head.n_tags).double()
    mask = torch.arange(7) < torch.tensor([7, 1, 3, 7, 5, 2]).unsqueeze(1)
    for post, found in enumerate(head.decode(emissions, mask)):
        spans = [(post, *span) for span in zip(found.starts, found.ends, found.labels)]
        assert found.confidences == pytest.approx(head.entity_probabilities(emissions, mask, spans))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_loss_is_computed_in_float32(dtype):
    head = NERHead(width=D, n_labels=2)
    loss = head(torch.zeros(1, 2, D, dtype=dtype), torch.ones(1, 2).bool(), torch.tensor([[1, 0]]))
    assert loss.dtype == torch.float32


def test_gradients_of_the_head():
    head = make_head()
    context = torch.randn(2, 3, D, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]]).bool()
    for tags in ([[1, 2, 0], [3, 0, 0]], [[1, -1, 0], [-1, 4, 0]]):
        loss = lambda c, tags=tags: head(c, mask, torch.tensor(tags))
        assert torch.autograd.gradcheck(loss, (context,))
    parameters = (head.emission.weight, head.crf.transitions)
    allowed = ~head.forbidden
    head(context, mask, torch.tensor([[1, 2, 0], [3, 0, 0]])).backward()
    assert all(p.grad is not None for p in parameters)
    assert head.crf.transitions.grad[allowed].abs().sum() > 0
    assert head.crf.transitions.grad[~allowed].abs().max() == 0
