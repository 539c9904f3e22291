"""Each equation of MMIB against an independent computation."""

import math

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from spacy_mmib.fusion.bottleneck import (
    AlignmentDiscriminator,
    VariationalEncoder,
    kl_to_standard_normal,
    reduce_kl,
)
from spacy_mmib.fusion.mmib import MMIB

B, N, D = 3, 5, 8
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0]]).bool()


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def make_core(**settings) -> MMIB:
    settings = {"text_width": D, "image_width": 6, "width": D, "heads": 2, "dropout": 0.0} | settings
    return MMIB(**settings).double()


def make_inputs():
    """Three posts: two regions, no picture, one region; the pictures differ."""
    text = torch.randn(B, N, D, dtype=torch.float64)
    image = torch.randn(B, 2, 6, dtype=torch.float64)
    image_mask = torch.tensor([[1, 1], [0, 0], [1, 0]]).bool()
    return text, MASK, image, image_mask, torch.tensor([0, -1, 1])


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
    return reference_kl(*(half(x, x, mask, training=False)[0] for half in (encoder.mu, encoder.log_var)))


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
def test_kl_leaves_half_precision(dtype):
    """exp(log_var) overflows float16 at log_var > 11, and sums lose their digits."""
    mu, log_var = torch.zeros(1, 1, D, dtype=dtype), torch.full((1, 1, D), 12.0, dtype=dtype)
    kl = kl_to_standard_normal(mu, log_var, torch.ones(1, 1).bool())
    assert kl.dtype == torch.float32
    assert kl.item() == pytest.approx(D * 0.5 * (math.exp(12) - 13), rel=1e-5)


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
        (text_kls, output.losses["kl_text"], "kl_text"),
        (image_kls, output.losses["kl_image"], "kl_image"),
    ):
        per_dim = torch.cat([kl.flatten() for kl in kls]).mean()
        posts = torch.stack([kl.sum() for kl in kls]).mean()
        expected = {"mean": per_dim, "position": posts / D, "sum": posts}[reduction]
        torch.testing.assert_close(got, expected.reshape(1))
        torch.testing.assert_close(output.logs[name], per_dim.reshape(1).detach())


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
        discriminator(text, image, torch.tensor([0, -1, 2])), expected([(0, 2), (2, 0)], posts=(0, 2))
    )
    # no negative, no negative term
    torch.testing.assert_close(discriminator(text, image, torch.tensor([7, 7, 7])), expected([]))
    torch.testing.assert_close(
        discriminator(text, image, torch.tensor([-1, 4, -1])), expected([], posts=(1,))
    )
    assert discriminator(text, image, torch.tensor([-1, -1, -1])).item() == 0


def test_training_looks_at_no_numbers_on_a_gpu():
    """Of one that isn't there: its tensors have shapes only, and what depends on a number raises."""
    with FakeTensorMode(), torch.device("cuda"):
        core = MMIB(text_width=6, image_width=5, width=D, heads=2)
        text, image = torch.randn(4, 7, 6), torch.randn(4, 3, 5)
        masks = torch.ones(4, 7).bool(), torch.ones(4, 3).bool()
        output = core(text, masks[0], image, masks[1], torch.arange(4), training=True)
    assert {loss.shape for loss in output.losses.values()} == {(1,)}


def test_number_of_negatives_is_bounded():
    discriminator = AlignmentDiscriminator(D, max_negatives=1)
    seen = []
    discriminator.output.register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    discriminator(torch.randn(5, D), torch.randn(5, D), torch.arange(5))
    assert seen == [(5, 2, 1)]  # of each its own pair and one negative


def test_vector_discriminator_scores_every_dimension():
    discriminator = AlignmentDiscriminator(D, kind="vector").double()
    text, image = torch.randn(2, D).double(), torch.randn(2, D).double()
    joint = torch.cat([discriminator.text.weight, discriminator.image.weight], 1)
    pair = lambda i, j: torch.sigmoid(joint @ torch.cat([text[i], image[j]]) + discriminator.text.bias)
    expected = -torch.cat([pair(0, 0), pair(1, 1)]).log().mean()
    expected -= (1 - torch.cat([pair(0, 1), pair(1, 0)])).log().mean()
    torch.testing.assert_close(discriminator(text, image, torch.tensor([0, 1])), expected.reshape(1))


@pytest.mark.parametrize("pooling", ["mean", "first"])
def test_what_the_core_aligns(pooling):
    """Posts 0 and 2 have different pictures and so are each other's negatives; post 1 has none, and which row
    stands in its place takes no part.
    """
    core = make_core(alignment_pooling=pooling, discriminator="vector")
    inputs = make_inputs()
    torch.manual_seed(1)
    output = core(*inputs, training=True)
    text, text_mask, image, image_mask, _ = inputs
    torch.manual_seed(1)  # the same noise: text first, then pictures
    z_text = core.text_encoder(text, text_mask, training=True).z
    rows = [0, 2]
    v = core.image_projection(image)
    z_image = core.image_encoder(v, image_mask | ~image_mask.any(-1, keepdim=True), training=True).z[rows]
    if pooling == "first":
        texts, pictures = z_text[rows, 0], z_image[:, 0]
    else:
        texts = torch.stack([z_text[i, text_mask[i]].mean(0) for i in rows])
        pictures = torch.stack([z[image_mask[i]].mean(0) for i, z in zip(rows, z_image)])
    score = core.discriminator
    probability = lambda t, v: torch.sigmoid(score.output(score.text(t) + score.image(v)))
    expected = -probability(texts, pictures).log().mean()
    expected -= (1 - probability(texts, pictures.flip(0))).log().mean()
    torch.testing.assert_close(output.losses["alignment"], expected.reshape(1))
    none = torch.zeros_like(image_mask), torch.full((B,), -1)
    without = core(text, text_mask, image, *none, training=True)
    assert without.losses["alignment"].item() == 0


def test_settings_that_are_none():
    with pytest.raises(ValueError, match="kl_reduction is 'mean', 'position' or 'sum', not 'max'"):
        make_core(kl_reduction="max")
    with pytest.raises(ValueError, match="pooling is 'mean' or 'first' or 'sum', not 'cls'"):
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
        first, second = (encoder(query, query, mask, training=True)[0] for _ in range(2))
        assert torch.equal(first, second) != differ, (dropout, residual)


def test_posteriors_are_without_dropout():
    core = make_core(dropout=0.5)
    text, text_mask, image, image_mask, _ = make_inputs()
    state = torch.get_rng_state()
    posteriors = core.get_posteriors(text, text_mask, image, image_mask)
    assert torch.equal(torch.get_rng_state(), state)
    for name, encoder, x, real in (
        ("text", core.text_encoder, text, text_mask),
        ("image", core.image_encoder, core.image_projection(image), image_mask),
    ):
        mu, variance = posteriors[name]
        assert not mu.requires_grad
        for i in range(B):
            if real[i].any():
                rows = x[i : i + 1, real[i]]
                full = torch.ones(1, rows.shape[1]).bool()
                part = lambda half: half(rows, rows, full, training=False)[0][0]
                torch.testing.assert_close(mu[i, real[i]], part(encoder.mu))
                torch.testing.assert_close(variance[i, real[i]], part(encoder.log_var).exp())
    assert list(core.get_posteriors(text, text_mask, image[:, :0], image_mask[:, :0])) == ["text"]


# Fusion (Eq. 16-17)


def test_fusion_is_equations_16_and_17():
    core = make_core()
    text, text_mask, image, image_mask, ids = make_inputs()
    context = core(text, text_mask, image, image_mask, ids, training=False).context
    for i in range(B):  # each post alone, without padding
        x = text[i : i + 1, text_mask[i]]
        full = torch.ones(1, x.shape[1]).bool()
        z_text = core.text_encoder.mu(x, x, full, training=False)[0]
        if image_mask[i].any():
            v = core.image_projection(image[i : i + 1, image_mask[i]])
            z_image = core.image_encoder.mu(v, v, torch.ones(1, v.shape[1]).bool(), training=False)[0]
        else:
            z_image = core.no_picture.reshape(1, 1, D)
        fused = core.image_to_text(z_image, z_text, full, training=False)[0]
        keys_mask = torch.ones(1, z_image.shape[1]).bool()
        alone = core.text_to_image(z_text, fused, keys_mask, training=False)[0]
        torch.testing.assert_close(context[i, text_mask[i]], alone[0])


def test_a_batch_without_any_picture():
    core = make_core()
    text, text_mask, *_ = make_inputs()
    no_pictures = text.new_zeros(B, 0, 6), torch.zeros(B, 0).bool(), torch.full((B,), -1)
    output = core(text, text_mask, *no_pictures, training=True)
    assert output.losses["kl_image"].item() == 0
    assert output.losses["alignment"].item() == 0
    assert "kl_image" not in output.logs
    assert torch.isfinite(output.context).all()
    output.context.sum().backward()
    assert core.no_picture.grad.abs().sum() > 0


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
            core, {"no_picture": row}, (text, text_mask, image, image_mask, ids), {"training": True}
        )
        return out.context[text_mask], *out.losses.values()

    args = (text.requires_grad_(), image.requires_grad_(), core.no_picture.detach().clone().requires_grad_())
    assert torch.autograd.gradcheck(outputs, args)
