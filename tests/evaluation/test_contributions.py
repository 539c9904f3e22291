"""What of text and picture reaches the latents (§V-B)."""

import json
from dataclasses import FrozenInstanceError

import numpy
import pytest
import spacy
import torch
from commands import run, save_pairs
from conftest import (
    IMG2VEC,
    MODEL,
    PAIRS,
    REL_MODEL,
    TOK2VEC,
    make_examples,
    make_rel_examples,
    make_rel_nlp,
    train,
)
from spacy.tokens import Span

from spacy_mmib.bridge.shim import get_module
from spacy_mmib.evaluation.contributions import find_component, get_contributions, shares
from spacy_mmib.fusion.mmib import MMIB
from spacy_mmib.models.inspection import inspect_posts

pytestmark = pytest.mark.filterwarnings("ignore::spacy_mmib.util.MMIBWarning")

PICTURE = numpy.random.RandomState(0).randint(0, 255, (60, 80, 3)).astype("uint8")
BOXES = [(0, 0, 40, 30), (30, 20, 80, 60), (10, 10, 60, 50)]
OUTSIDE = (500, 500, 600, 600)


def make_post(nlp, text="Rob had dinner with us", image=PICTURE, regions=BOXES):
    doc = nlp.make_doc(text)
    doc._.image = image
    doc._.regions = regions
    return doc


@pytest.mark.parametrize("widths", [(12, 12), (10, 7)])
def test_core_inspect_is_what_forward_does(widths):
    """X, Z, B and C made again of the core's parts; other posts of the batch and padding don't matter."""
    torch.manual_seed(0)
    text_width, image_width = widths
    core = MMIB(text_width=text_width, image_width=image_width, width=12, heads=3)
    text, image = torch.randn(3, 5, text_width), torch.randn(3, 4, image_width)
    text_mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0]]).bool()
    image_mask = torch.tensor([[1, 1, 1, 1], [0, 0, 0, 0], [1, 1, 0, 0]]).bool()
    found = core.inspect(text, text_mask, image, image_mask)
    x_text, z_text, x_image, z_image, weights = found
    assert not any(tensor.requires_grad for tensor in found)
    for i, (n, m) in enumerate([(5, 4), (2, 0), (3, 2)]):
        x = core.text_projection(text[i : i + 1, :n])
        z, _ = core.text_encoder.mu(x, x, torch.ones(1, n).bool(), training=False)
        torch.testing.assert_close(x_text[i, :n], x[0])
        torch.testing.assert_close(z_text[i, :n], z[0], atol=1e-5, rtol=1e-5)
        if m:
            v = core.image_projection(image[i : i + 1, :m])
            z_i, _ = core.image_encoder.mu(v, v, torch.ones(1, m).bool(), training=False)
            torch.testing.assert_close(x_image[i, :m], v[0])
            torch.testing.assert_close(z_image[i, :m], z_i[0], atol=1e-5, rtol=1e-5)
        else:
            torch.testing.assert_close(z_image[i, 0], core.no_picture.detach())
    ids = torch.tensor([0, -1, 1])
    output = core(text, text_mask, image, image_mask, ids, training=False)
    torch.testing.assert_close(weights, output.weights)
    none = core.inspect(text, text_mask, image[:, :0], image_mask[:, :0])
    assert not any(tensor.requires_grad for tensor in none)
    torch.testing.assert_close(none[3][0, 0], core.no_picture.detach())


def by_hand(nlp, doc, component="mmib_ner"):
    """A = X Z^T as a matrix, and the sums of its rows."""
    (found,) = inspect_posts(nlp.get_pipe(component).model, [doc])
    sums = []
    for x, z in ((found.text, found.z_text), (found.image, found.z_image)):
        a = [[sum(float(p) * float(q) for p, q in zip(row, other)) for other in z] for row in x]
        sums.append([sum(row) for row in a])
    return sums


def test_they_are_the_row_sums_of_the_paper(trained):
    doc = make_post(trained)
    tokens, regions = by_hand(trained, make_post(trained))
    (found,) = get_contributions(trained, [doc])
    assert found.component == "mmib_ner"
    numpy.testing.assert_allclose(found.tokens, tokens, rtol=1e-5)
    numpy.testing.assert_allclose(found.regions, regions, rtol=1e-5)
    assert (len(found.tokens), len(found.regions)) == (len(doc), 1 + len(BOXES))
    assert all(type(x) is float for x in [*found.tokens, *found.regions])
    with pytest.raises(FrozenInstanceError):
        found.tokens = []


def test_inspected_x_is_projected(trained):
    core = get_module(trained.get_pipe("mmib_ner").model.get_ref("fusion"))
    (found,) = inspect_posts(trained.get_pipe("mmib_ner").model, [make_post(trained)])
    assert found.text.shape == found.z_text.shape == (5, core.width)
    assert found.image.shape == found.z_image.shape == (4, core.width)
    vectors = trained.get_pipe("mmib_ner").model.get_ref("img2vec").predict([make_post(trained)])[0]
    weight = core.image_projection.weight.detach().numpy()
    bias = core.image_projection.bias.detach().numpy()
    numpy.testing.assert_allclose(found.image, vectors @ weight.T + bias, atol=1e-5)


@pytest.mark.parametrize("max_batch_tokens", [8192, 1])
def test_odd_posts_and_batches(trained, max_batch_tokens, tmp_path, monkeypatch):
    monkeypatch.setattr(trained.get_pipe("mmib_ner"), "max_batch_tokens", max_batch_tokens)
    docs = [
        make_post(trained),
        trained.make_doc(""),
        make_post(trained, "no picture", None, []),
        make_post(trained, "broken", str(tmp_path / "missing.png"), []),
        make_post(trained, "we saw Mia in the city and it was late", regions=[OUTSIDE, *BOXES]),
        make_post(trained, regions=[]),
    ]
    found = get_contributions(trained, docs)
    assert found[1] is None
    assert [len(c.regions) for c in found if c] == [4, 0, 0, 5, 1]
    assert [len(c.tokens) for c in found if c] == [len(doc) for doc in docs if len(doc)]
    assert found[4].regions[1] == 0.0
    assert 0.0 not in found[4].regions[2:]
    assert "region 0" in docs[4]._.image_error
    assert "no such file" in docs[3]._.image_error
    for doc, together in zip(docs, found):
        (alone,) = get_contributions(trained, [doc])
        if together is not None:
            numpy.testing.assert_allclose(alone.tokens, together.tokens, rtol=1e-4)
            numpy.testing.assert_allclose(alone.regions, together.regions, rtol=1e-4)
    assert get_contributions(trained, []) == []


def test_docs_stay_as_they_are(trained_joint):
    doc = make_post(trained_joint, "Rob met Mia in Oslo")
    doc.ents = [Span(doc, 4, 5, label="MINE")]
    before = doc.to_bytes()
    get_contributions(trained_joint, [doc], "mmib_rel")
    assert doc.to_bytes() == before
    assert trained_joint.pipe_names == ["mmib_img2vec", "mmib_ner", "mmib_rel"]


def test_listeners(trained_joint):
    """The component that is listened to runs first; shared and own vectors give the same."""
    alone = make_rel_nlp(joint=True).from_bytes(trained_joint.to_bytes())
    for name in ("mmib_ner", "mmib_rel"):
        alone.replace_listeners("mmib_img2vec", name, ["model.img2vec"])
    alone.remove_pipe("mmib_img2vec")
    docs = [
        make_post(trained_joint, "Rob met Mia in Oslo", regions=[OUTSIDE, *BOXES]),
        make_post(trained_joint),
    ]
    for name in ("mmib_ner", "mmib_rel"):
        shared = get_contributions(trained_joint, docs, name)
        own = get_contributions(alone, docs, name)
        for a, b in zip(shared, own, strict=True):
            assert a.component == b.component == name
            numpy.testing.assert_allclose(a.tokens, b.tokens, rtol=1e-4)
            numpy.testing.assert_allclose(a.regions, b.regions, rtol=1e-4)
    assert get_contributions(trained_joint, docs)[0].component == "mmib_ner"


def test_text_listeners():
    nlp = spacy.blank("en")
    nlp.add_pipe("tok2vec", config={"model": TOK2VEC})
    text = {"@architectures": "spacy.Tok2VecListener.v1", "width": 24}
    nlp.add_pipe("mmib_ner", config={"model": {**MODEL, "tok2vec": text}})
    train(nlp, make_examples(nlp), steps=2)
    (found,) = get_contributions(nlp, [make_post(nlp)])
    assert len(found.tokens) == 5


def test_regions_that_an_encoder_finds():
    img2vec = {**IMG2VEC, "get_regions": {"@region_getters": "spacy-mmib.grid.v1", "k": 2}}
    nlp = spacy.blank("en")
    nlp.add_pipe("mmib_ner", config={"model": {**MODEL, "img2vec": img2vec}})
    train(nlp, make_examples(nlp), steps=2)
    doc = make_post(nlp, regions=[])
    (found,) = get_contributions(nlp, [doc])
    assert len(doc._.regions) == 4
    assert len(found.regions) == 5


def test_relations_of_given_pairs(trained_rel):
    docs = [example.predicted for example in make_rel_examples(trained_rel)]
    found = get_contributions(trained_rel, docs)
    assert {c.component for c in found} == {"mmib_rel"}
    assert [len(c.regions) for c in found] == [2, 2, 2, 2, 2, 2, 0]


# --- what can't be looked into --------------------------------------------------------------------


def make_text_nlp():
    nlp = spacy.blank("en")
    text = {"@architectures": "spacy-mmib.Text_NER.v1", "tok2vec": TOK2VEC}
    nlp.add_pipe("mmib_ner", config={"model": text})
    train(nlp, make_examples(nlp), steps=2)
    return nlp


def test_without_a_core():
    nlp = make_text_nlp()
    for name in (None, "mmib_ner"):
        with pytest.raises(ValueError, match="'mmib_ner' has no bottleneck to look into"):
            get_contributions(nlp, [make_post(nlp)], name)
    with pytest.raises(ValueError, match="no component 'x'.*It has: mmib_ner"):
        get_contributions(nlp, [], "x")
    with pytest.raises(ValueError, match="neither mmib_ner nor mmib_rel"):
        get_contributions(spacy.blank("en"), [])


def test_markers():
    nlp = make_text_nlp()
    nlp.add_pipe("mmib_rel", config={"model": {**REL_MODEL, "entity_repr": "marker"}})
    with pytest.raises(ValueError, match='entity_repr = "pool"'):
        find_component(nlp)
    with pytest.raises(ValueError, match='entity_repr = "pool"'):
        find_component(nlp, "mmib_rel")


def test_the_first_that_can_be():
    nlp = make_text_nlp()
    nlp.add_pipe("mmib_rel", config={"model": REL_MODEL})
    for name in (None, "mmib_rel"):
        with pytest.raises(ValueError, match="'mmib_rel' has no weights yet"):
            find_component(nlp, name)
    train(nlp, make_rel_examples(nlp), steps=1)
    assert find_component(nlp) == "mmib_rel"


# --- shades ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], []),
        ([3.0], [0.5]),
        ([2.0, 2.0], [0.5, 0.5]),
        ([-1.0, 0.0, 3.0], [0.0, 0.25, 1.0]),
        ([5, 1, 3], [1.0, 0.0, 0.5]),
    ],
)
def test_shares(values, expected):
    assert shares(values) == expected


# --- spacy mmib contributions ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(trained_joint, trained_rel, tmp_path_factory):
    path = tmp_path_factory.mktemp("contributions")
    trained_joint.to_disk(path / "joint")
    trained_rel.to_disk(path / "rel")
    make_text_nlp().to_disk(path / "text")
    save_pairs(path / "test.spacy")
    return path


@pytest.mark.parametrize(("limit", "n"), [(3, 3), (0, 7)])
def test_command_json(folder, limit, n):
    output = folder / "new" / "out.jsonl"
    result = run(
        "contributions", folder / "joint", folder / "test.spacy", "--output", output, "--limit", limit
    )
    assert result.exit_code == 0, (result.output, result.exception)
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert [line["text"] for line in lines] == [text for text, _, _ in PAIRS[:n]]
    assert [token["text"] for token in lines[0]["tokens"]] == ["Rob", "met", "Mia", "in", "Oslo"]
    assert [len(line["regions"]) for line in lines] == [2, 2, 2, 2, 2, 2, 0][:n]
    assert lines[0]["regions"][0]["region"] is None
    assert lines[0]["regions"][1]["region"]["box"] == [0, 0, 20, 20]
    shades = [token["share"] for token in lines[0]["tokens"]]
    assert (min(shades), max(shades)) == (0, 1)
    assert all(type(token["score"]) is float for token in lines[0]["tokens"])


def test_command_compares(folder):
    output = folder / "out.jsonl"
    args = (folder / "joint", folder / "test.spacy", "--compare", folder / "rel", "--output", output)
    result = run("contributions", *args, "--component", "mmib_rel", "--limit", 2)
    assert result.exit_code == 0, (result.output, result.exception)
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    models = [line["model"].rsplit("/", 1)[-1] for line in lines]
    assert models == ["joint", "rel", "joint", "rel"]
    assert {line["component"] for line in lines} == {"mmib_rel"}


@pytest.mark.parametrize("compare", [False, True])
def test_command_page(folder, compare):
    output = folder / "out.html"
    more = ("--compare", folder / "rel") if compare else ()
    result = run("contributions", folder / "joint", folder / "test.spacy", "--output", output, *more)
    assert result.exit_code == 0, (result.output, result.exception)
    html = output.read_text(encoding="utf8")
    assert html.startswith("<!DOCTYPE html>")
    assert html.count("<html") == html.count("</html>") == 1
    assert html.count("<article") == len(PAIRS) * (2 if compare else 1)
    assert ("/rel</h2>" in html) == compare
    assert "http" not in html.replace("http-equiv", "").replace("http://www.w3.org", "")


@pytest.mark.parametrize(
    ("model", "output", "message"),
    [
        ("text", "x.html", "has no bottleneck to look into"),
        ("nothing", "x.html", "Can't load the pipeline"),
        ("joint", "x.png", "has to end in .html or .jsonl"),
    ],
)
def test_command_says_what_is_wrong(folder, model, output, message):
    result = run("contributions", folder / model, folder / "test.spacy", "--output", folder / output)
    assert result.exit_code == 1
    assert message in result.output
