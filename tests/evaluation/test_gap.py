"""The modality gap (§V-D)."""

import json
import random
import sys

import numpy
import PIL.Image
import pytest
import spacy
from commands import run
from conftest import POSTS, TOK2VEC, make_examples
from spacy.tokens import DocBin, Span
from spacy.training import Example

from spacy_mmib.evaluation import MissingExtraError
from spacy_mmib.evaluation import gap as gap_module
from spacy_mmib.evaluation.gap import (
    EntityRegionPairs,
    Gap,
    _summarize,
    entity_region_vectors,
    lay_out,
    measure_gap,
    plot_gap,
    require_extra,
)
from spacy_mmib.models.inspection import Inspection

pytestmark = pytest.mark.filterwarnings("ignore::spacy_mmib.util.MMIBWarning")

RNG = numpy.random.RandomState(0)
PICTURES = [RNG.randint(0, 255, (30, 40, 3)).astype("uint8") for _ in range(8)]
BOXES = [(0, 0, 20, 15), (15, 10, 40, 30)]
OUTSIDE = (500, 500, 600, 600)
TEXTS = [f"{name} was here {i}" for i, name in enumerate(["Rob", "Mia", "Kim", "Jo"] * 2)]


def make_posts(nlp, pictures=PICTURES, texts=TEXTS, regions=BOXES):
    docs = []
    for text, picture in zip(texts, pictures):
        doc = nlp.make_doc(text)
        doc._.image = picture
        doc._.regions = regions
        docs.append(doc)
    return docs


def as_examples(docs, label="PER"):
    result = []
    for doc in docs:
        gold = doc.copy()
        gold.ents = [Span(gold, 0, 1, label=label)]
        result.append(Example(doc, gold))
    return result


def summarize(cosines, own) -> Gap:
    return _summarize("x", numpy.asarray(cosines, dtype="float64"), numpy.asarray(own))


def test_numbers_of_a_small_table():
    gap = summarize([[0.9, 0.1, 0.2], [0.8, 0.5, 0.1], [0.3, 0.2, 0.1]], [0, 1, 2])
    assert gap.paired == pytest.approx((0.9 + 0.5 + 0.1) / 3)
    assert gap.unpaired == pytest.approx((0.1 + 0.2 + 0.8 + 0.1 + 0.3 + 0.2) / 6)
    assert gap.recall_at_1 == pytest.approx(1 / 3)
    assert gap.recall_at_5 == 1
    assert (gap.chance_at_1, gap.chance_at_5) == (pytest.approx(1 / 3), 1)
    assert (gap.posts, gap.pictures) == (3, 3)


def test_posts_that_share_a_picture_rank_different_pictures():
    gap = summarize([[0.9, 0.1], [0.2, 0.1], [0.0, 0.4]], [0, 0, 1])
    assert (gap.posts, gap.pictures) == (3, 2)
    assert gap.recall_at_1 == 1
    assert gap.chance_at_1 == 0.5
    assert gap.unpaired == pytest.approx((0.1 + 0.1 + 0.0) / 3)


def test_a_model_that_has_collapsed_is_at_chance():
    """All pictures are equally near: ties are no hits, and no misses either."""
    gap = summarize(numpy.full((10, 10), 0.7), range(10))
    assert gap.recall_at_1 == pytest.approx(gap.chance_at_1) == pytest.approx(0.1)
    assert gap.recall_at_5 == pytest.approx(gap.chance_at_5) == pytest.approx(0.5)
    gap = summarize([[0.5, 0.5, 0.9]], [0])  # one is nearer, one as near
    assert gap.recall_at_1 == 0
    assert summarize([[0.5]], [0]).unpaired is None


def test_ties_by_simulation():
    """Random breaking of ties, over and over, comes out at the same recall."""
    cosines = RNG.randint(0, 4, (6, 9)) / 4
    own = [0, 1, 2, 3, 4, 4]
    rng = random.Random(0)
    hits = {1: 0, 5: 0}
    for _ in range(3000):
        for row, column in zip(cosines, own):
            order = sorted(range(9), key=lambda j: (-row[j], rng.random()))
            for k in hits:
                hits[k] += order.index(column) < k
    gap = summarize(cosines, own)
    assert gap.recall_at_1 == pytest.approx(hits[1] / 3000 / 6, abs=0.02)
    assert gap.recall_at_5 == pytest.approx(hits[5] / 3000 / 6, abs=0.02)


def test_measured_on_a_pipeline(trained):
    """By hand from what is inspected post by post."""
    from spacy_mmib.models.inspection import inspect_posts

    docs = make_posts(trained)
    docs[3]._.regions = [OUTSIDE]
    found = [inspect_posts(trained.get_pipe("mmib_ner").model, [doc])[0] for doc in docs]
    texts = [f.z_text.mean(axis=0) for f in found]
    pictures = [f.z_image.mean(axis=0) for f in found]
    table = [[float(t @ v / numpy.sqrt((t @ t) * (v @ v))) for v in pictures] for t in texts]
    expected = summarize(table, range(8))
    gap = measure_gap(trained, docs)
    assert gap.component == "mmib_ner"
    assert gap.posts == gap.pictures == 8
    assert gap.paired == pytest.approx(expected.paired, abs=1e-5)
    assert gap.unpaired == pytest.approx(expected.unpaired, abs=1e-5)
    assert gap.recall_at_1 == expected.recall_at_1
    assert gap.recall_at_5 == expected.recall_at_5


def test_posts_that_dont_count(trained, tmp_path):
    docs = make_posts(trained, [PICTURES[0], None, PICTURES[0], str(tmp_path / "no.png"), PICTURES[1]])
    docs.append(trained.make_doc(""))
    gap = measure_gap(trained, docs)
    assert (gap.posts, gap.pictures) == (3, 2)
    with pytest.raises(ValueError, match="None of these 1 posts has a picture"):
        measure_gap(trained, [docs[1]])


def test_component(trained_joint):
    docs = make_posts(trained_joint)
    assert measure_gap(trained_joint, docs).component == "mmib_ner"
    assert measure_gap(trained_joint, docs, "mmib_rel").component == "mmib_rel"


# --- entities and objects -------------------------------------------------------------------------


def inspection(weights, rows, n=3) -> Inspection:
    m = len(rows)
    z = numpy.arange(n, dtype="float32")[:, None] * numpy.ones(2, dtype="float32")
    z_image = 10 + numpy.arange(m, dtype="float32")[:, None] * numpy.ones(2, dtype="float32")
    return Inspection(z, z, z_image, z_image, numpy.asarray(weights, dtype="float32"), rows)


@pytest.mark.parametrize(
    ("weights", "rows", "expected"),
    [
        ([[0.9, 0.1, 0.0]] * 3, [0, 1, 2], 11),  # the whole picture is no object
        ([[0.1, 0.1, 0.8]] * 3, [0, 1, 3], 12),
        ([[0.0, 0.2, 0.8], [0.0, 0.9, 0.1], [0.0, 0.0, 1.0]], [0, 1, 2], 11),  # mean over tokens 0-1
        ([[1.0]] * 3, [0], 10),
        ([[0.1, 0.9]] * 3, [0, 0], 10),  # patches
    ],
)
def test_the_object_that_is_attended_to_most(trained, monkeypatch, weights, rows, expected):
    monkeypatch.setattr(gap_module, "inspect_docs", lambda *args: [inspection(weights, rows)])
    doc = trained.make_doc("New York rocks")
    gold = doc.copy()
    gold.ents = [Span(gold, 0, 2, label="LOC")]
    (pairs,) = entity_region_vectors(trained, [Example(doc, gold)])
    assert (pairs.label, pairs.found) == ("LOC", 1)
    assert pairs.entities.tolist() == [[0.5, 0.5]]
    assert pairs.regions.tolist() == [[expected] * 2]


def test_sample(trained):
    examples = as_examples(make_posts(trained), "PER") + as_examples(make_posts(trained)[:3], "ORG")
    per, org = entity_region_vectors(trained, examples, limit=5)
    assert (per.label, per.found, len(per.entities), len(per.regions)) == ("PER", 8, 5, 5)
    assert (org.label, org.found, len(org.entities)) == ("ORG", 3, 3)
    (again, nothing) = entity_region_vectors(trained, examples, ["PER", "LOC"], limit=5)
    assert again.entities.tolist() == per.entities.tolist()
    assert again.regions.tolist() == per.regions.tolist()
    assert (nothing.label, nothing.found, nothing.entities.shape) == ("LOC", 0, (0, 24))
    other = entity_region_vectors(trained, examples, ["PER"], limit=5, seed=3)[0]
    assert other.entities.tolist() != per.entities.tolist()
    assert entity_region_vectors(trained, as_examples(make_posts(trained, [None]))) == []


# --- the figure -----------------------------------------------------------------------------------


def make_pairs(label="PER", k=8) -> EntityRegionPairs:
    rng = numpy.random.RandomState(k)
    return EntityRegionPairs(label, k, rng.normal(size=(k, 6)), rng.normal(size=(k, 6)) + 30)


def test_lay_out():
    pairs = make_pairs(k=20)
    points = lay_out(pairs)
    assert points.shape == (40, 2)
    assert numpy.isfinite(points).all()
    assert points.tolist() == lay_out(pairs).tolist()
    assert points.tolist() != lay_out(pairs, seed=1).tolist()
    # Two far clouds stay apart.
    entities, regions = points[:20], points[20:]
    between = numpy.linalg.norm(entities.mean(axis=0) - regions.mean(axis=0))
    assert between > numpy.linalg.norm(entities - entities.mean(axis=0), axis=1).mean()
    assert lay_out(make_pairs(k=2)).shape == (4, 2)


def test_plot(tmp_path):
    models = [
        ("one $x$", [make_pairs(), make_pairs("ORG", 1)]),
        ("two", [make_pairs(k=5), make_pairs("ORG", 3)]),
    ]
    plot_gap(models, tmp_path / "a.png")
    plot_gap(models, tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with PIL.Image.open(tmp_path / "a.png") as image:
        assert image.width > 500
        assert image.height > 500
    plot_gap(models[:1], tmp_path / "c.svg")
    assert "<svg" in (tmp_path / "c.svg").read_text()


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"spacy-mmib\[analysis\]"):
        require_extra()


# --- spacy mmib gap -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(trained, tmp_path_factory):
    path = tmp_path_factory.mktemp("gap")
    trained.to_disk(path / "model")
    text = spacy.blank("en")
    text.add_pipe(
        "mmib_ner", config={"model": {"@architectures": "spacy-mmib.Text_NER.v1", "tok2vec": TOK2VEC}}
    )
    text.initialize(lambda: make_examples(text))
    text.to_disk(path / "text")
    docs = []
    for i, example in enumerate(as_examples(make_posts(spacy.blank("en")))):
        PIL.Image.fromarray(PICTURES[i]).save(path / f"{i}.png")
        doc = example.reference
        doc._.image, doc._.regions = f"{i}.png", BOXES
        docs.append(doc)
    DocBin(docs=docs, store_user_data=True).to_disk(path / "test.spacy")
    bare = [example.reference for example in make_examples(spacy.blank("en"), POSTS[4:5])]
    DocBin(docs=bare, store_user_data=True).to_disk(path / "bare.spacy")
    for doc in docs:
        doc.ents = []
    DocBin(docs=docs, store_user_data=True).to_disk(path / "no_entities.spacy")
    return path


def test_command(folder):
    figure, numbers = folder / "out" / "gap.png", folder / "other" / "gap.json"
    result = run(
        "gap", folder / "model", folder / "test.spacy", "--compare", folder / "model",
        "--output", figure, "--json", numbers,
    )  # fmt: skip
    assert result.exit_code == 0, (result.output, result.exception)
    assert "8 posts with a picture, 8 different pictures" in result.output
    assert "12.5" in result.output  # chance
    assert "pipeline 2" in result.output
    with PIL.Image.open(figure) as image:
        assert image.width > image.height  # one type, two pipelines
    found = json.loads(numbers.read_text())
    first, second = found["models"]
    assert first == second
    assert first["entities"] == {"PER": 8}
    assert first["posts"] == 8
    assert first["chance_at_1"] == 0.125


def test_command_numbers_only(folder):
    result = run("gap", folder / "model", folder / "no_entities.spacy")
    assert result.exit_code == 0, (result.output, result.exception)
    assert "own picture is nearest" in result.output


@pytest.mark.parametrize(
    ("model", "corpus", "more", "message"),
    [
        ("model", "no_entities.spacy", ["--output", "gap.png"], "No figure: there are no gold"),
        ("model", "bare.spacy", [], "None of these 1 posts has a picture"),
        ("text", "test.spacy", [], "has no bottleneck to look into"),
        ("nothing", "test.spacy", [], "Can't load the pipeline"),
        ("model", "nothing.spacy", [], "There is no corpus"),
        ("model", "test.spacy", ["--output", "gap.doc"], "has to end in .png or .svg or .pdf"),
        ("model", "test.spacy", ["--component", "x"], "There is no component 'x'"),
    ],
)
def test_command_says_what_is_wrong(folder, monkeypatch, model, corpus, more, message):
    monkeypatch.chdir(folder)
    result = run("gap", folder / model, folder / corpus, *more)
    assert result.exit_code == 1
    assert message in result.output
