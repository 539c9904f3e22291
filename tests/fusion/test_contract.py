"""What holds for every fusion, and for both heads after it: one contract for all models, ours and others'."""

import math
import re
import threading
from dataclasses import replace
from importlib.metadata import entry_points
from inspect import signature

import numpy
import pytest
import spacy
import torch
from conftest import IMG2VEC, LANGUAGE, TOK2VEC, make_examples, make_rel_examples, new_docs, train
from spacy.tokens import Doc
from spacy.util import registry
from thinc.api import ConfigValidationError

from spacy_mmib.bridge.data import FusionInput, PostVectors
from spacy_mmib.bridge.shim import get_module
from spacy_mmib.fusion.base import Fusion, FusionOutput, build_fusion, fusion_layer

TEXT, IMAGE, WIDTH = 6, 5, 8
SETTINGS = {
    "spacy-mmib.MMIB.v1": [
        {"heads": 2},
        {"heads": 2, "feed_forward": "linear", "discriminator": "vector", "alignment_pooling": "first"},
    ],
    "spacy-mmib.UMT.v1": [{"heads": 2}, {"heads": 2, "auxiliary": True}],
    "spacy-mmib.MAF.v1": [{"heads": 2}, {"heads": 2, "contrastive": "debiased", "as_published": True}],
    "spacy-mmib.UMGF.v1": [
        {"heads": 2, "inner_width": 12, "layers": 2, "feed_forward": 6},
        {"heads": 2, "inner_width": 12, "layers": 1, "normalize": True, "keep_whole": False},
    ],
    "spacy-mmib.Gated.v1": [{}, {"gate": "scalar", "pooling": "first"}],
    "spacy-mmib.Concat.v1": [{}, {"pooling": "sum"}],
    "spacy-mmib.TextLayer.v1": [
        {"heads": 2, "image_width": 5, "like": {"@architectures": "spacy-mmib.UMT.v1", "heads": 2}}
    ],
    "spacy-mmib.GVATT.v1": [{}, {"query": "states"}],
    "spacy-mmib.AdapCoAtt.v1": [{}, {"additive": True}],
}
"""Where the defaults don't fit a small width. A fusion that isn't here is tested with its defaults."""


SEES = {
    "spacy-mmib.UMGF.v1": lambda settings, text, image: len(image) > (not settings.get("keep_whole", True)),
    "spacy-mmib.MEGASemantic.v1": lambda settings, text, image: len(text) > 1 and len(image) > 0,
}
"""Where a model sees anything in a picture, if that isn't everywhere: UMGF without the whole picture in its
objects, and MEGA, whose objects weigh tokens, where there is more than one."""


def find_fusions() -> list[str]:
    """RETURNS (List[str]): Every architecture from our room of fusions."""
    return sorted(
        point.name
        for point in entry_points(group="spacy_architectures")
        if point.value.startswith("spacy_mmib.fusion.")
    )


CASES = [(name, settings) for name in find_fusions() for settings in SETTINGS.get(name, [{}])]
every_fusion = pytest.mark.parametrize(
    ("name", "settings"), CASES, ids=[f"{n.split('.')[1]}{i}" for i, (n, _) in enumerate(CASES)]
)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def make_layer(name, settings, **widths):
    layer = registry.resolve({"fusion": {"@architectures": name, **settings}})["fusion"]
    build_fusion(layer, **{"text_width": TEXT, "image_width": IMAGE, "width": WIDTH, **widths})
    return layer


def make_batch(lengths=(5, 2, 1, 4), rows=(3, 0, 1, 2), seed=0) -> FusionInput:
    """Posts with several objects, without a picture, of one token and without objects, and with an object."""
    rng = numpy.random.default_rng(seed)
    normal = lambda *shape: rng.normal(size=shape).astype("float32")
    return FusionInput(
        text=[normal(n, TEXT) for n in lengths],
        image=[normal(m, IMAGE) for m in rows],
        image_keys=[f"picture {i}" if m else None for i, m in enumerate(rows)],
        text_keys=[f"text {i}" for i in range(len(lengths))],
    )


def part_of(X: FusionInput, posts) -> FusionInput:
    return FusionInput(
        *([values[i] for i in posts] for values in (X.text, X.image, X.image_keys, X.text_keys))
    )


def assert_same(one: PostVectors, other: PostVectors, posts=None):
    for k, i in enumerate(range(len(one.context)) if posts is None else posts):
        numpy.testing.assert_allclose(one.context[k], other.context[i], atol=2e-6)
        if other.borders:
            numpy.testing.assert_allclose(one.borders[k], other.borders[i], atol=2e-6)
        if other.weights:
            numpy.testing.assert_allclose(one.weights[k], other.weights[i], atol=2e-6)


def test_every_fusion_is_found():
    assert {"spacy-mmib.MMIB.v1", "spacy-mmib.NoFusion.v1", "spacy-mmib.Gated.v1", "spacy-mmib.UMT.v1"} <= {
        *find_fusions()
    }


@every_fusion
def test_output(name, settings):
    layer, X = make_layer(name, settings), make_batch()
    Y = layer.predict(X)
    assert [v.shape for v in Y.context] == [(len(t), layer.get_dim("nO")) for t in X.text]
    assert all(numpy.isfinite(v).all() and v.dtype == numpy.float32 for v in Y.context)
    assert Y.losses == {}
    for weights, text, image in zip(Y.weights, X.text, X.image):
        assert weights.shape == (len(text), len(image))
        if len(image):
            numpy.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-5)


@every_fusion
def test_batch_order_and_padding_change_nothing(name, settings):
    layer, X = make_layer(name, settings), make_batch()
    together = layer.predict(X)
    for i in range(len(X.text)):
        assert_same(layer.predict(part_of(X, [i])), together, [i])
    order = [3, 1, 0, 2]
    assert_same(layer.predict(part_of(X, order)), together, order)
    longer = make_batch((9,), (5,), seed=1)
    padded = FusionInput(*(a + b for a, b in zip(vars(X).values(), vars(longer).values())))
    Y = layer.predict(padded)
    assert_same(replace(Y, context=Y.context[:4], borders=Y.borders[:4], weights=Y.weights[:4]), together)


@every_fusion
def test_what_padding_holds_changes_nothing(name, settings):
    """Garbage where the masks are False: in training, with the same noise, and at inference."""
    module = get_module(make_layer(name, settings)).double()
    text, image = torch.randn(3, 4, TEXT).double(), torch.randn(3, 2, IMAGE).double()
    text_mask = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0], [1, 1, 0, 0]]).bool()
    image_mask = torch.tensor([[1, 1], [0, 0], [1, 0]]).bool()
    ids = torch.tensor([0, -1, 1])
    for training in (False, True):
        outputs = []
        for garbage in (0.0, 1e3):
            torch.manual_seed(1)
            x = torch.where(text_mask.unsqueeze(-1), text, garbage)
            v = torch.where(image_mask.unsqueeze(-1), image, -garbage)
            outputs.append(module(x, text_mask, v, image_mask, ids, training=training))
        torch.testing.assert_close(outputs[0].context[text_mask], outputs[1].context[text_mask])
        torch.testing.assert_close(outputs[0].losses, outputs[1].losses)


@every_fusion
def test_posts_without_pictures(name, settings):
    layer = make_layer(name, settings)
    X = make_batch(rows=(0, 0, 0, 0))
    Y, backprop = layer(X, True)
    assert set(Y.losses) == set(layer.attrs["losses"])
    assert all(numpy.isfinite(loss).all() for loss in Y.losses.values())
    d_text, d_image = backprop(PostVectors(Y.context, {k: numpy.ones_like(v) for k, v in Y.losses.items()}))
    assert [d.shape for d in d_text] == [x.shape for x in X.text]
    assert [d.shape for d in d_image] == [(0, IMAGE)] * 4
    assert_same(layer.predict(X), layer.predict(part_of(X, [0, 1, 2, 3])))


@every_fusion
def test_a_long_post(name, settings):
    layer = make_layer(name, settings)
    for is_train in (False, True):
        Y, backprop = layer(make_batch((3000, 1), (2, 1)), is_train)
        assert Y.context[0].shape == (3000, layer.get_dim("nO"))
        assert all(numpy.isfinite(v).all() for v in Y.context)
    d_text, _ = backprop(PostVectors(Y.context, {}))
    assert numpy.isfinite(d_text[0]).all()


@every_fusion
def test_losses_are_named_and_gradients_reach_all_parameters(name, settings):
    layer, X = make_layer(name, settings), make_batch()
    Y, backprop = layer(X, True)
    assert set(Y.losses) == set(layer.attrs["losses"])
    assert all(loss.shape == (1,) and math.isfinite(loss[0]) for loss in Y.losses.values())
    assert all(value.shape == (1,) and math.isfinite(value[0]) for value in Y.logs.values())
    rng = numpy.random.default_rng(1)
    d_context = [rng.normal(size=v.shape).astype("float32") for v in Y.context]
    d_borders = [rng.normal(size=v.shape).astype("float32") for v in Y.borders]
    d_losses = {k: numpy.ones_like(v) for k, v in Y.losses.items()}
    d_text, d_image = backprop(PostVectors(d_context, d_losses, borders=d_borders))
    assert all(numpy.abs(d).sum() > 0 for d in d_text)
    module = get_module(layer)
    if module.uses_pictures:
        sees = SEES.get(name, lambda settings, text, image: len(image) > 0)
        for d, t, v in zip(d_image, X.text, X.image):
            assert (numpy.abs(d).sum() > 0) == sees(settings, t, v)
    for key, parameter in module.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.abs().max() > 1e-5, key  # more than rounding leaves of what cancels


@every_fusion
def test_inference_is_deterministic_and_leaves_the_random_state(name, settings):
    layer, X = make_layer(name, settings), make_batch()
    before = torch.get_rng_state()
    first = layer.predict(X)
    assert torch.equal(torch.get_rng_state(), before)
    get_module(layer).train()  # the mode of the module says nothing
    second = layer.predict(X)
    for one, other in zip(first.context, second.context):
        assert numpy.array_equal(one, other)


@every_fusion
def test_saved_and_loaded(name, settings):
    layer, X = make_layer(name, settings), make_batch()
    loaded = registry.resolve({"fusion": {"@architectures": name, **settings}})["fusion"]
    loaded.from_bytes(layer.to_bytes())
    assert_same(loaded.predict(X), layer.predict(X))
    assert loaded.get_dim("nO") == layer.get_dim("nO")
    assert loaded.to_bytes() == layer.to_bytes()


@every_fusion
def test_threads(name, settings):
    """Some predict, one trains a layer of its own; each gets what it gets alone."""
    layer, batches = make_layer(name, settings), [make_batch(seed=seed) for seed in range(8)]
    expected = [layer.predict(X) for X in batches]
    found, stop = {}, threading.Event()

    def train_another():
        other = make_layer(name, settings)
        while not stop.is_set():
            other(batches[0], True)

    trainer = threading.Thread(target=train_another)
    trainer.start()
    threads = [
        threading.Thread(target=lambda i=i: found.update({i: [layer.predict(batches[i]) for _ in range(5)]}))
        for i in range(len(batches))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stop.set()
    trainer.join()
    for i, results in found.items():
        for result in results:
            assert_same(result, expected[i])
    assert len(found) == len(batches)


@every_fusion
def test_gradients(name, settings):
    module = get_module(make_layer(name, {**settings})).double()
    text = torch.randn(2, 3, TEXT, dtype=torch.float64, requires_grad=True)
    image = torch.randn(2, 2, IMAGE, dtype=torch.float64, requires_grad=True)
    text_mask = torch.tensor([[1, 1, 1], [1, 1, 0]]).bool()
    image_mask = torch.tensor([[1, 1], [1, 0]]).bool()
    ids = torch.tensor([0, 1])

    def run(text, image):
        torch.manual_seed(3)  # the same noise at every evaluation
        output = module(text, text_mask, image, image_mask, ids, training=True)
        borders = [] if output.borders is None else [output.borders[text_mask]]
        return output.context[text_mask], *borders, *output.losses.values()

    assert torch.autograd.gradcheck(run, (text, image))


@every_fusion
def test_other_widths(name, settings):
    layer = make_layer(name, settings, width=12)
    assert layer.get_dim("nO") in (12, 24)
    same = make_layer(name, settings, text_width=8, width=8)
    X = make_batch()
    Y = same.predict(replace(X, text=[numpy.pad(t, ((0, 0), (0, 2))) for t in X.text]))
    assert Y.context[0].shape[1] == same.get_dim("nO")


@every_fusion
def test_pictures_count_if_they_are_used(name, settings):
    layer, X = make_layer(name, settings), make_batch((5, 2, 4), (3, 0, 2))
    uses_pictures = get_module(layer).uses_pictures
    others = make_batch((5, 2, 4), (3, 0, 2), seed=1).image
    for image, keys in ((others, X.image_keys), ([v[:0] for v in X.image], [None] * 3)):
        Y = layer.predict(replace(X, image=image, image_keys=keys))
        for one, other, v in zip(layer.predict(X).context, Y.context, X.image):
            assert numpy.allclose(one, other, atol=1e-5) != (uses_pictures and len(v) > 0)


def make_tensors():
    """Three posts, one of them without a picture, and with padding: text, image, their masks, which pictures."""
    text, image = torch.randn(3, 4, TEXT), torch.randn(3, 3, IMAGE)
    text_mask = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 0, 0]]).bool()
    image_mask = torch.tensor([[1, 1, 0], [0, 0, 0], [1, 0, 0]]).bool()
    return text, text_mask, image, image_mask, torch.tensor([0, -1, 1])


@every_fusion
def test_no_post_looks_at_another_or_at_padding_in_training(name, settings):
    """If it did, a gradient would get there."""
    if settings.get("as_published"):
        pytest.skip("as published, posts swap what they have seen within a batch in training")
    module = get_module(make_layer(name, settings))
    text, text_mask, image, image_mask, ids = make_tensors()
    x, v = text.requires_grad_(), image.requires_grad_()
    context = module(x, text_mask, v, image_mask, ids, training=True).context
    for post in range(3):
        own = context[post][text_mask[post]]
        grads = torch.autograd.grad(
            (own * torch.randn_like(own)).sum(), (x, v), None, True, allow_unused=True
        )
        for gradient, mask in zip(grads, (text_mask, image_mask)):
            allowed = torch.zeros_like(mask)
            allowed[post] = mask[post]
            assert gradient is None or not gradient[~allowed].any()


@every_fusion
def test_more_padding_changes_no_training(name, settings, monkeypatch):
    """Without noise, whose draws depend on the padding."""
    monkeypatch.setattr(torch, "randn_like", torch.zeros_like)
    monkeypatch.setattr(torch.nn.functional, "dropout", lambda x, *args: x)
    if "dropout" in signature(registry.architectures.get(name)).parameters:
        settings = {**settings, "dropout": 0.0}
    module = get_module(make_layer(name, settings)).double()
    text, text_mask, image, image_mask, ids = make_tensors()
    pad = lambda x: torch.nn.functional.pad(x, (0, 0, 0, 2), value=9.0)
    pad_mask = lambda mask: torch.nn.functional.pad(mask, (0, 2), value=False)
    outputs = []
    for x, x_mask, v, v_mask in (
        (text, text_mask, image, image_mask),
        (pad(text), pad_mask(text_mask), pad(image), pad_mask(image_mask)),
    ):
        torch.manual_seed(1)
        outputs.append(module(x.double(), x_mask, v.double(), v_mask, ids, training=True))
    torch.testing.assert_close(outputs[1].context[pad_mask(text_mask)], outputs[0].context[text_mask])
    torch.testing.assert_close(outputs[1].losses, outputs[0].losses)


@every_fusion
def test_half_precision(name, settings):
    """What `autocast` does: no types that don't fit, and nearly the same vectors."""
    module = get_module(make_layer(name, settings))
    text, text_mask, image, image_mask, ids = make_tensors()
    inputs = (text, text_mask, image, image_mask, ids)
    exact = module(*inputs, training=False).context
    with torch.autocast("cpu", torch.bfloat16):
        found = module(*inputs, training=False).context
        output = module(*inputs, training=True)
    torch.testing.assert_close(found[text_mask].float(), exact[text_mask], atol=0.1, rtol=0.1)
    assert {x.dtype for x in (*output.losses.values(), *output.logs.values())} <= {torch.float32}
    sum((value.float().sum() for value in output.losses.values()), output.context.float().sum()).backward()
    assert all(p.grad.isfinite().all() for p in module.parameters() if p.grad is not None)


# In a pipeline


def make_model(name, settings, kind):
    model = {
        "@architectures": f"spacy-mmib.{kind}.v1",
        "tok2vec": TOK2VEC,
        "img2vec": IMG2VEC,
        "fusion": {"@architectures": name, **settings},
    }
    if settings.get("auxiliary"):
        model["head"] = {"@architectures": "spacy-mmib.CRF.v1", "borders": "bias"}
    return model


def make_pipeline(name, settings, kind, **config):
    nlp = spacy.blank(LANGUAGE)
    if kind == "REL":
        config["get_instances"] = {"@misc": "spacy-mmib.given_pairs.v1"}
    config["model"] = make_model(name, {**settings, **({"heads": 4} if "heads" in settings else {})}, kind)
    nlp.add_pipe(f"mmib_{kind.lower()}", config=config)
    return nlp


def predict(nlp, kind):
    if kind == "NER":
        return [
            [(e.text, e.label_, round(e._.confidence, 5)) for e in doc.ents]
            for doc in nlp.pipe(new_docs(nlp))
        ]
    docs = [eg.predicted for eg in make_rel_examples(nlp, ask=True)]
    return [[(r.head.text, r.label, round(r.score, 5)) for r in doc._.relations] for doc in nlp.pipe(docs)]


@every_fusion
@pytest.mark.parametrize("kind", ["NER", "REL"])
def test_in_a_pipeline(name, settings, kind, tmp_path):
    if kind == "REL":
        settings = {key: value for key, value in settings.items() if key != "auxiliary"}
    nlp = make_pipeline(name, settings, kind)
    examples = make_examples(nlp) if kind == "NER" else make_rel_examples(nlp)
    first = train(nlp, examples, steps=1)
    losses = train(nlp, examples, steps=10)
    pipe = f"mmib_{kind.lower()}"
    assert losses[f"{pipe}_task"] < first[f"{pipe}_task"]
    head = {"borders"} if settings.get("auxiliary") else set()
    assert {key.removeprefix(f"{pipe}_") for key in losses} - {pipe, "task"} == {
        *get_fusion(nlp).attrs["losses"],
        *head,
    }
    nlp.to_disk(tmp_path)
    expected = predict(nlp, kind)
    assert predict(spacy.load(tmp_path), kind) == expected
    from_bytes = spacy.blank(LANGUAGE).from_config(nlp.config).from_bytes(nlp.to_bytes())
    assert predict(from_bytes, kind) == expected


def get_fusion(nlp):
    return nlp.pipeline[-1][1].model.get_ref("fusion")


def test_loss_weights():
    nlp = make_pipeline(
        "spacy-mmib.MMIB.v1", {"heads": 2}, "NER", loss_weights={"kl_text": 0.5, "alignment": 0}
    )
    losses = train(nlp, make_examples(nlp), steps=1)
    expected = losses["mmib_ner_task"] + 0.5 * losses["mmib_ner_kl_text"] + 0.1 * losses["mmib_ner_kl_image"]
    assert losses["mmib_ner"] == pytest.approx(expected)
    assert "mmib_ner_alignment" not in losses
    schedule = {"@schedules": "spacy-mmib.warmup.v1", "initial": 0.0, "final": 1.0, "steps": 2}
    nlp = make_pipeline("spacy-mmib.MMIB.v1", {"heads": 2}, "NER", loss_weights={"kl_text": schedule})
    assert "mmib_ner_kl_text" not in train(nlp, make_examples(nlp), steps=1)
    assert "mmib_ner_kl_text" in train(nlp, make_examples(nlp), steps=2)


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("UMT", {"loss_weights": {"kl_text": 0.1}}, "names 'kl_text', but the model's fusion has no losses"),
        ("MMIB", {"loss_weights": {"kl": 0.1}}, "the model's fusion has kl_text, kl_image, alignment"),
        ("MMIB", {"loss_weights": {"kl_text": -1.0}}, "loss_weights.kl_text has to be 0 or more"),
        ("MMIB", {"loss_weights": {"kl_text": 0.1}, "beta1": 0.1}, "beta1 and loss_weights.kl_text are"),
    ],
)
def test_loss_weights_that_are_wrong(name, config, message):
    with pytest.raises(ValueError, match=message):
        make_pipeline(f"spacy-mmib.{name}.v1", {"heads": 4}, "NER", **config)


def test_names_of_version_0_1_say_nothing_to_other_fusions():
    nlp = make_pipeline("spacy-mmib.UMT.v1", {"heads": 4}, "NER", beta1=0.1, loss_weights={"kl_text": None})
    assert set(train(nlp, make_examples(nlp), steps=1)) == {"mmib_ner", "mmib_ner_task"}


def test_a_fusion_that_needs_pictures_gets_them():
    model = {**make_model("spacy-mmib.UMT.v1", {}, "NER"), "img2vec": None}
    with pytest.raises(ValueError, match=r"The fusion UMT needs picture vectors: add a block .*img2vec"):
        spacy.blank("en").add_pipe("mmib_ner", config={"model": model})


def test_without_fusion_no_picture_is_read():
    nlp = make_pipeline("spacy-mmib.NoFusion.v1", {}, "NER")
    train(nlp, make_examples(nlp), steps=1)
    doc = Doc(nlp.vocab, words=["Mia"])
    doc._.image = b"no picture at all"
    assert nlp(doc)._.image_error is None


def test_a_saved_fusion_is_not_taken_for_another(tmp_path):
    nlp = make_pipeline("spacy-mmib.UMT.v1", {"heads": 4}, "NER")
    train(nlp, make_examples(nlp), steps=1)
    nlp.to_disk(tmp_path)
    config = (tmp_path / "config.cfg").read_text()
    assert "spacy-mmib.UMT.v1" in config
    changed = config.replace("spacy-mmib.UMT.v1", "spacy-mmib.Gated.v1")
    (tmp_path / "config.cfg").write_text(
        re.sub(r"(?m)^(heads = 4|dropout = 0.1|auxiliary = false)$", "", changed)
    )
    with pytest.raises(ValueError, match="this layer is a 'Gated', but what was saved is a 'UMT'"):
        spacy.load(tmp_path)


def test_vectors_for_borders_that_nobody_uses():
    model = make_model("spacy-mmib.UMT.v1", {"heads": 4}, "NER")
    model["fusion"]["auxiliary"] = True
    nlp = spacy.blank("en")
    nlp.add_pipe("mmib_ner", config={"model": model})
    with pytest.raises(ValueError, match='spacy-mmib.CRF.v1" with borders = "bias", or auxiliary = false'):
        nlp.initialize(lambda: make_examples(nlp))


def test_settings_that_make_no_sense():
    for name, settings, message in (
        ("UMT", {"heads": 3}, "heads .3. has to divide the hidden size .8."),
        ("Gated", {"gate": "vectors"}, "gate|vector"),
        ("GVATT", {"dropout": 1.5}, "dropout of the fusion GVATT has to be 0-1, and below 1, not 1.5"),
        ("MMIB", {"residual_dropout": -0.1}, "residual_dropout of the fusion MMIB .* not -0.1"),
    ):
        with pytest.raises((ValueError, ConfigValidationError), match=message):
            make_layer(f"spacy-mmib.{name}.v1", settings)


class Sum(Fusion):
    """The smallest fusion one can write: the mean of the picture's rows added to each token."""

    losses = {"size": 0.01}  # noqa: RUF012

    def __init__(self, *, text_width, image_width, width):
        super().__init__(width)
        self.text = torch.nn.Linear(text_width, width)
        self.image = torch.nn.Linear(image_width, width, bias=False)

    def forward(self, text, text_mask, image, image_mask, image_ids, *, training):
        count = image_mask.sum(1, keepdim=True).clamp(min=1)
        picture = (image * image_mask.unsqueeze(-1)).sum(1) / count
        context = self.text(text) + self.image(picture).unsqueeze(1)
        size = context.square().mean().reshape(1)
        return FusionOutput(context, {"size": size} if training else {}, {"size": size.detach()})


def test_a_fusion_of_somebody_else(tmp_path):
    registry.architectures.register("test.Sum.v1", func=lambda: fusion_layer(Sum))
    nlp = make_pipeline("test.Sum.v1", {}, "NER")
    losses = train(nlp, make_examples(nlp), steps=2)
    assert losses["mmib_ner"] == pytest.approx(losses["mmib_ner_task"] + 0.01 * losses["mmib_ner_size"])
    nlp.to_disk(tmp_path)
    assert predict(spacy.load(tmp_path), "NER") == predict(nlp, "NER")
