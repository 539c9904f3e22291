"""Each equation of MMIB against an independent computation."""

import itertools
import math

import numpy
import pytest
import torch

from spacy_mmib.fusion.attention import AttentivePropagationEncoder, _attend
from spacy_mmib.fusion.mmib import MMIBCore
from spacy_mmib.fusion.regularizers import (
    AlignmentDiscriminator,
    kl_to_standard_normal,
    masked_mean,
    pool,
    reduce_kl,
)
from spacy_mmib.fusion.variational import VariationalEncoder
from spacy_mmib.heads.crf import NERHead
from spacy_mmib.heads.pairs import RelationHead

B, N, D = 3, 5, 8
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0]]).bool()


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def make_core(**settings) -> MMIBCore:
    settings = {
        "text_width": D,
        "image_width": 6,
        "width": D,
        "heads": 2,
        "dropout": 0.0,
    } | settings
    return MMIBCore(**settings).double()


def make_inputs():
    """Three posts: two regions, no picture, one region; the pictures differ."""
    text = torch.randn(B, N, D, dtype=torch.float64)
    image = torch.randn(B, 2, 6, dtype=torch.float64)
    image_mask = torch.tensor([[1, 1], [0, 0], [1, 0]]).bool()
    return text, MASK, image, image_mask, torch.tensor([0, -1, 1])


# Attention (Eq. 4-5)


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
    result = encoder(query, keys, mask, training=False)[0].detach().numpy()

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
    again, shown = encoder.attend(query, keys, mask)
    numpy.testing.assert_allclose(again[0].detach().numpy(), expected, atol=1e-10)
    assert shown[0, :, [2, 4]].abs().max() == 0
    torch.testing.assert_close(shown.sum(-1), torch.ones(1, 4).double())


def test_attention_in_parts_is_attention_as_a_whole(monkeypatch):
    """A long post in training: forward, gradients and the noise of dropout."""
    encoder = AttentivePropagationEncoder(D, heads=2, dropout=0.3).double()
    query = torch.randn(B, 9, D, dtype=torch.float64, requires_grad=True)
    keys = torch.randn(B, N, D, dtype=torch.float64, requires_grad=True)

    def run(at_once):
        monkeypatch.setattr("spacy_mmib.fusion.attention.BUFFER", at_once * B * 2 * N)
        q, k, v = encoder._project(query, keys)
        torch.manual_seed(5)
        result = _attend(q, k, v, MASK[:, None, None], 0.3)
        torch.manual_seed(6)  # what the backward pass computes again has the noise of the forward pass
        return result, torch.autograd.grad(result.square().sum(), (query, keys))

    torch.manual_seed(5)
    q, k, v = encoder._project(query, keys)
    kernel = torch.nn.functional.scaled_dot_product_attention
    expected = torch.cat([kernel(part, k, v, MASK[:, None, None], 0.3) for part in q.split(2, 2)], 2)
    result, gradients = run(2)
    torch.testing.assert_close(result, expected)
    expected_gradients = torch.autograd.grad(expected.square().sum(), (query, keys))
    torch.testing.assert_close(gradients, expected_gradients)
    assert not torch.equal(run(1)[0], run(9)[0])  # there is noise


@pytest.mark.parametrize("training", [False, True])
def test_attention_of_a_long_post_has_no_square_buffer(monkeypatch, training):
    """3,000 x 3,000 weights of 2 heads are 72 MB."""
    monkeypatch.setattr("spacy_mmib.fusion.attention.BUFFER", 2**19)
    encoder = AttentivePropagationEncoder(D, heads=2, dropout=0.1)
    x, mask = torch.randn(1, 3000, D, requires_grad=training), torch.ones(1, 3000).bool()
    with torch.profiler.profile(profile_memory=True) as profile:
        result = encoder(x, x, mask, training=training)
        if training:
            result.sum().backward()
    assert max(event.cpu_memory_usage for event in profile.events()) < 10 * 2**20


def test_heads_have_to_divide_the_width():
    with pytest.raises(ValueError, match=r"heads \(12\) has to divide the hidden size \(100\)"):
        AttentivePropagationEncoder(100, heads=12)
    with pytest.raises(ValueError, match="feed_forward is 'transformer' or 'linear'"):
        AttentivePropagationEncoder(8, heads=2, feed_forward="relu")


# Variational encoding (Eq. 6-9)


def test_sampling_only_in_training():
    encoder = VariationalEncoder(D, heads=2, dropout=0.0).double()
    x = torch.randn(B, N, D).double()
    first, second = encoder(x, MASK, training=True), encoder(x, MASK, training=True)
    assert not torch.equal(first.z, second.z)
    assert torch.equal(first.mu, second.mu)
    evaluated = encoder.train()(x, MASK, training=False)  # the mode of the module says nothing
    assert torch.equal(evaluated.z, evaluated.mu)
    assert evaluated.log_var is None


def test_samples_have_the_mean_and_variance_they_claim():
    encoder = VariationalEncoder(D, heads=2, dropout=0.0).double()
    x = torch.randn(1, 2, D).double()
    mask = torch.ones(1, 2).bool()
    with torch.no_grad():
        draws = torch.stack([encoder(x, mask, training=True).z for _ in range(4000)])
        latent = encoder(x, mask, training=True)
    sigma = latent.log_var.exp().sqrt()
    # five standard errors of a mean and of a variance of 4000 draws
    assert ((draws.mean(0) - latent.mu).abs() < 5 * sigma / 4000**0.5).all()
    assert ((draws.var(0) / sigma**2 - 1).abs() < 5 * (2 / 4000) ** 0.5).all()


def test_initial_log_var_sets_where_it_starts():
    encoder = VariationalEncoder(64, heads=2, dropout=0.0, initial_log_var=-4.0)
    latent = encoder(torch.randn(2, 3, 64), torch.ones(2, 3).bool(), training=True)
    assert latent.log_var.mean().item() == pytest.approx(-4.0, abs=0.05)


# KL (Eq. 20-21)


def reference_kl(mu, log_var):
    posterior = torch.distributions.Normal(mu, (0.5 * log_var).exp())
    prior = torch.distributions.Normal(torch.zeros_like(mu), torch.ones_like(mu))
    return torch.distributions.kl_divergence(posterior, prior)


def posterior_kl(encoder, x, mask):
    return reference_kl(*(half(x, x, mask, training=False) for half in (encoder.mu, encoder.log_var)))


def test_kl_equals_torch_distributions():
    mu, log_var = torch.randn(B, N, D).double(), torch.randn(B, N, D).double()
    kl = kl_to_standard_normal(mu, log_var, MASK)
    expected = reference_kl(mu, log_var)
    torch.testing.assert_close(kl[MASK], expected.sum(-1)[MASK])
    assert (kl[~MASK] == 0).all()
    torch.testing.assert_close(reduce_kl(kl, MASK, D, "mean"), expected[MASK].mean().reshape(1))
    posts = [expected[i][MASK[i]].sum() for i in range(B)]
    torch.testing.assert_close(reduce_kl(kl, MASK, D, "sum"), torch.stack(posts).mean().reshape(1))
    by_position = torch.stack([expected[i][MASK[i]].mean(-1).sum() for i in range(B)])
    torch.testing.assert_close(reduce_kl(kl, MASK, D, "position"), by_position.mean().reshape(1))
    with pytest.raises(ValueError, match="kl_reduction"):
        reduce_kl(kl, MASK, D, "max")


def test_kl_by_position_grows_with_the_length_and_not_with_the_width():
    """As the likelihood of the tags does; a post without rows, such as one without a picture, is no post."""
    for rows, width in ((1, 4), (5, 4), (5, 64)):
        mask = torch.zeros(2, 5).bool()
        mask[0, :rows] = True
        kl = kl_to_standard_normal(torch.ones(2, 5, width), torch.zeros(2, 5, width), mask)
        assert reduce_kl(kl, mask, width, "position").item() == pytest.approx(0.5 * rows)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_regularizers_and_head_leave_half_precision(dtype):
    """exp(log_var) overflows float16 at log_var > 11, and sums lose their digits."""
    mu, log_var = torch.zeros(1, 1, D, dtype=dtype), torch.full((1, 1, D), 12.0, dtype=dtype)
    kl = kl_to_standard_normal(mu, log_var, torch.ones(1, 1).bool())
    assert kl.dtype == torch.float32
    assert kl.item() == pytest.approx(D * 0.5 * (math.exp(12) - 13), rel=1e-5)
    head = NERHead(width=D, n_labels=2)
    loss = head(torch.zeros(1, 2, D, dtype=dtype), torch.ones(1, 2).bool(), torch.tensor([[1, 0]]))
    assert loss.dtype == torch.float32


def test_kl_of_nothing_is_zero():
    empty = torch.zeros(2, 3).bool()
    kl = kl_to_standard_normal(torch.ones(2, 3, D), torch.ones(2, 3, D), empty)
    for reduction in ("mean", "position", "sum"):
        assert reduce_kl(kl, empty, D, reduction).item() == 0


@pytest.mark.parametrize("reduction", ["mean", "position", "sum"])
def test_both_kls_of_the_core(reduction):
    core = make_core(kl_reduction=reduction)
    text, text_mask, image, image_mask, ids = make_inputs()
    output = core(text, text_mask, image, image_mask, ids, training=True)
    # the posteriors don't depend on the noise, so they can be computed again, post by post
    text_kls, image_kls = [], []
    for i in range(B):
        x = text[i : i + 1, text_mask[i]]
        full = torch.ones(1, x.shape[1]).bool()
        text_kls.append(posterior_kl(core.text_encoder, x, full))
        if image_mask[i].any():
            v = core.image_projection(image[i : i + 1, image_mask[i]])
            full = torch.ones(1, v.shape[1]).bool()
            image_kls.append(posterior_kl(core.image_encoder, v, full))
    for kls, got, name in (
        (text_kls, output.kl_text, "kl_text"),
        (image_kls, output.kl_image, "kl_image"),
    ):
        per_dim = torch.cat([kl.flatten() for kl in kls]).mean()
        posts = torch.stack([kl.sum() for kl in kls]).mean()
        expected = {"mean": per_dim, "position": posts / D, "sum": posts}[reduction]
        torch.testing.assert_close(got, expected.reshape(1))
        torch.testing.assert_close(output.kl_per_dim[name], per_dim.reshape(1).detach())


# Alignment (Eq. 24-26)


def test_alignment_by_hand_for_a_batch_of_three():
    discriminator = AlignmentDiscriminator(D).double()
    text, image = torch.randn(3, D).double(), torch.randn(3, D).double()

    def probability(t, v):
        hidden = torch.relu(
            discriminator.text.weight @ t + discriminator.text.bias + discriminator.image.weight @ v
        )
        return torch.sigmoid(discriminator.output[1].weight @ hidden + discriminator.output[1].bias)

    def expected(negatives, posts=(0, 1, 2)):
        loss = -torch.stack([probability(text[i], image[i]).log() for i in posts]).mean()
        if negatives:
            loss -= torch.stack([(1 - probability(text[i], image[j])).log() for i, j in negatives]).mean()
        return loss.reshape(1)

    everyone = [(i, j) for i in range(3) for j in range(3) if i != j]
    torch.testing.assert_close(discriminator(text, image, torch.tensor([0, 1, 2])), expected(everyone))
    # posts 0 and 2 have the same picture: they are no negatives of each other
    same = [(i, j) for i, j in everyone if {i, j} != {0, 2}]
    torch.testing.assert_close(discriminator(text, image, torch.tensor([5, 1, 5])), expected(same))
    # post 1 has no picture
    torch.testing.assert_close(
        discriminator(text, image, torch.tensor([0, -1, 2])),
        expected([(0, 2), (2, 0)], posts=(0, 2)),
    )
    # no negative, no negative term
    torch.testing.assert_close(discriminator(text, image, torch.tensor([7, 7, 7])), expected([]))
    torch.testing.assert_close(
        discriminator(text, image, torch.tensor([-1, 4, -1])), expected([], posts=(1,))
    )
    assert discriminator(text, image, torch.tensor([-1, -1, -1])).item() == 0


def test_number_of_negatives_is_bounded():
    discriminator = AlignmentDiscriminator(D, max_negatives=1)
    seen = []
    discriminator.output.register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    discriminator(torch.randn(5, D), torch.randn(5, D), torch.arange(5))
    assert seen == [5, 5]  # own pairs, then one negative each


def test_vector_discriminator_scores_every_dimension():
    discriminator = AlignmentDiscriminator(D, kind="vector").double()
    text, image = torch.randn(2, D).double(), torch.randn(2, D).double()
    joint = torch.cat([discriminator.text.weight, discriminator.image.weight], 1)
    pair = lambda i, j: torch.sigmoid(joint @ torch.cat([text[i], image[j]]) + discriminator.text.bias)
    expected = -torch.cat([pair(0, 0), pair(1, 1)]).log().mean()
    expected -= (1 - torch.cat([pair(0, 1), pair(1, 0)])).log().mean()
    torch.testing.assert_close(discriminator(text, image, torch.tensor([0, 1])), expected.reshape(1))


def test_alignment_pools_real_rows_only():
    x = torch.randn(B, N, D)
    pooled = masked_mean(x, MASK)
    for i in range(B):
        torch.testing.assert_close(pooled[i], x[i][MASK[i]].mean(0))
        assert torch.equal(pool(x, MASK, "mean")[i], pooled[i])
        assert torch.equal(pool(x, MASK, "first")[i], x[i, 0])
    with pytest.raises(ValueError, match="alignment_pooling is 'mean' or 'first', not 'max'"):
        pool(x, MASK, "max")


@pytest.mark.parametrize("pooling", ["mean", "first"])
def test_what_the_core_aligns(pooling):
    """Posts 0 and 2 have different pictures and so are each other's negatives; post 1 has none, and which row
    stands in its place takes no part.
    """
    core = make_core(alignment_pooling=pooling, discriminator="vector")
    inputs = make_inputs()
    torch.manual_seed(1)
    output = core(*inputs, terms=("alignment",), training=True)
    assert (output.kl_text, output.kl_image) == (None, None)
    text, text_mask, image, image_mask, _ = inputs
    torch.manual_seed(1)  # the same noise: text first, then the pictures of posts that have one
    z_text = core.text_encoder(text, text_mask, training=True).z
    rows = [0, 2]
    v = core.image_projection(image[rows])
    z_image = core.image_encoder(v, image_mask[rows], training=True).z
    if pooling == "first":
        texts, pictures = z_text[rows, 0], z_image[:, 0]
    else:
        texts = torch.stack([z_text[i, text_mask[i]].mean(0) for i in rows])
        pictures = torch.stack([z[image_mask[i]].mean(0) for i, z in zip(rows, z_image)])
    probability = lambda t, v: torch.sigmoid(core.discriminator.logits(t, v))
    expected = -probability(texts, pictures).log().mean()
    expected -= (1 - probability(texts, pictures.flip(0))).log().mean()
    torch.testing.assert_close(output.alignment, expected.reshape(1))
    none = torch.zeros_like(image_mask), torch.full((B,), -1)
    without = core(text, text_mask, image, *none, training=True)
    assert without.alignment.item() == 0


def test_settings_that_are_none():
    with pytest.raises(ValueError, match="kl_reduction is 'mean', 'position' or 'sum', not 'max'"):
        make_core(kl_reduction="max")
    with pytest.raises(ValueError, match="alignment_pooling"):
        make_core(alignment_pooling="cls")


def test_dropout_on_residual_branches_is_a_setting_of_its_own():
    """0 with dropout on attention weights, as in the released code; with none of the latter, one that attends to
    a single key has no dropout at all.
    """
    query, mask = torch.randn(4, 1, D), torch.ones(4, 1).bool()
    for dropout, residual, differ in (
        (0.5, 0.0, True),
        (0.0, 0.5, True),
        (0.5, None, True),
        (0.0, None, False),
        (0.0, 0.0, False),
    ):
        encoder = make_core(dropout=dropout, residual_dropout=residual).float().text_encoder.mu
        first, second = (encoder(query, query, mask, training=True) for _ in range(2))
        assert torch.equal(first, second) != differ, (dropout, residual)


def test_posteriors_on_the_way_are_without_dropout_and_change_nothing():
    core = make_core(dropout=0.5)
    inputs = make_inputs()
    outputs = []
    for watch in (False, True):
        torch.manual_seed(1)
        outputs.append(core(*inputs, watch=watch, training=True))
    assert outputs[0].posteriors is None
    assert torch.equal(outputs[0].context, outputs[1].context)
    text, text_mask, image, image_mask, _ = inputs
    for name, encoder, x, real in (
        ("text", core.text_encoder, text, text_mask),
        ("image", core.image_encoder, core.image_projection(image), image_mask),
    ):
        mu, variance = outputs[1].posteriors[name]
        assert not mu.requires_grad
        for i in range(B):
            if real[i].any():
                rows = x[i : i + 1, real[i]]
                full = torch.ones(1, rows.shape[1]).bool()
                part = lambda half: half(rows, rows, full, training=False)[0]
                torch.testing.assert_close(mu[i, real[i]], part(encoder.mu))
                torch.testing.assert_close(variance[i, real[i]], part(encoder.log_var).exp())
    none = image[:, :0], image_mask[:, :0], torch.full((B,), -1)
    nothing = core(text, text_mask, *none, watch=True, training=True)
    assert list(nothing.posteriors) == ["text"]


# CRF (Eq. 18, 27)


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
    paths = head.crf.decode(head.emission(torch.zeros(1, 6, D)), torch.ones(1, 6).bool())
    assert is_wellformed(paths[0])


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


def test_confidences_belong_to_the_decoded_entities():
    head = make_head()
    emissions = 2 * torch.randn(6, 7, head.n_tags).double()
    mask = torch.arange(7) < torch.tensor([7, 1, 3, 7, 5, 2]).unsqueeze(1)
    for post, found in enumerate(head.decode(emissions, mask)):
        spans = [(post, *span) for span in zip(found.starts, found.ends, found.labels)]
        assert found.confidences == pytest.approx(head.entity_probabilities(emissions, mask, spans))


# Fusion (Eq. 16-17), masks, gradients


def test_fusion_is_equations_16_and_17():
    core = make_core()
    text, text_mask, image, image_mask, ids = make_inputs()
    context = core(text, text_mask, image, image_mask, ids, training=False).context
    for i in range(B):  # each post alone, without padding
        x = text[i : i + 1, text_mask[i]]
        full = torch.ones(1, x.shape[1]).bool()
        z_text = core.text_encoder.mu(x, x, full, training=False)
        if image_mask[i].any():
            v = core.image_projection(image[i : i + 1, image_mask[i]])
            z_image = core.image_encoder.mu(v, v, torch.ones(1, v.shape[1]).bool(), training=False)
        else:
            z_image = core.no_picture.reshape(1, 1, D)
        fused = core.image_to_text(z_image, z_text, full, training=False)
        keys_mask = torch.ones(1, z_image.shape[1]).bool()
        alone = core.text_to_image(z_text, fused, keys_mask, training=False)
        torch.testing.assert_close(context[i, text_mask[i]], alone[0])


def test_what_padding_holds_changes_nothing():
    core = make_core()
    text, text_mask, image, image_mask, ids = make_inputs()
    changed_text = torch.where(text_mask.unsqueeze(-1), text, 1e3)
    changed_image = torch.where(image_mask.unsqueeze(-1), image, -1e3)
    outputs = []
    for t, v in ((text, image), (changed_text, changed_image)):
        torch.manual_seed(1)
        outputs.append(core(t, text_mask, v, image_mask, ids, training=True))
    torch.testing.assert_close(outputs[0].context[text_mask], outputs[1].context[text_mask])
    for name in ("kl_text", "kl_image", "alignment"):
        torch.testing.assert_close(getattr(outputs[0], name), getattr(outputs[1], name))


def test_a_batch_without_any_picture():
    core = make_core()
    text, text_mask, *_ = make_inputs()
    no_pictures = text.new_zeros(B, 0, 6), torch.zeros(B, 0).bool(), torch.full((B,), -1)
    output = core(text, text_mask, *no_pictures, training=True)
    assert output.kl_image.item() == 0
    assert output.alignment.item() == 0
    assert "kl_image" not in output.kl_per_dim
    assert torch.isfinite(output.context).all()
    output.context.sum().backward()
    assert core.no_picture.grad.abs().sum() > 0


def test_terms_that_are_switched_off_are_not_computed(monkeypatch):
    core = make_core()
    inputs = make_inputs()
    assert core(*inputs, terms=("alignment",), training=True).kl_text is None
    assert core(*inputs, terms=("kl_text",), training=True).alignment is None

    def fail(*args, **kwargs):
        raise AssertionError("computed")

    monkeypatch.setattr("spacy_mmib.fusion.mmib.kl_to_standard_normal", fail)
    monkeypatch.setattr(core.discriminator, "forward", fail)
    output = core(*inputs, terms=(), training=True)
    assert (output.kl_text, output.kl_image, output.alignment) == (None, None, None)
    # at inference no term and no variance is computed, whatever was asked for
    monkeypatch.setattr(core.text_encoder.log_var, "forward", fail)
    assert core(*inputs, training=False).kl_text is None


def test_other_text_widths_are_projected():
    core = MMIBCore(text_width=10, image_width=6, width=8, heads=2)
    context = core(
        torch.randn(1, 3, 10),
        torch.ones(1, 3).bool(),
        torch.randn(1, 1, 6),
        torch.ones(1, 1).bool(),
        torch.tensor([0]),
        training=False,
    ).context
    assert context.shape == (1, 3, 8)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"feed_forward": "linear", "discriminator": "vector", "kl_reduction": "sum"},
        {"alignment_pooling": "first", "kl_reduction": "position"},
    ],
)
def test_gradients_of_the_core(settings):
    core = make_core(**settings)
    text, text_mask, image, image_mask, ids = make_inputs()

    def outputs(text, image, row):
        torch.manual_seed(3)  # the same noise at every evaluation
        core.no_picture.data = row.data
        out = torch.func.functional_call(
            core,
            {"no_picture": row},
            (text, text_mask, image, image_mask, ids),
            {"training": True},
        )
        return out.context[text_mask], out.kl_text, out.kl_image, out.alignment

    args = (
        text.requires_grad_(),
        image.requires_grad_(),
        core.no_picture.detach().clone().requires_grad_(),
    )
    assert torch.autograd.gradcheck(outputs, args)


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


# Relations


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
