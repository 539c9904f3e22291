"""`spacy mmib report`: the page, its numbers, and what it is made of."""

import io
import re
import warnings
from pathlib import Path

import PIL.Image
import pytest
import spacy
from conftest import PAIRS, make_rel_examples
from spacy.language import Language
from spacy.tokens import Doc, DocBin, Span
from spacy.training import Example
from test_render import BREAKOUT, HOSTILE, check_harmless
from typer.testing import CliRunner

import spacy_mmib.post.extensions
from spacy_mmib.cli import mmib_cli
from spacy_mmib.evaluation.errors import PostChange, find_entity_errors, find_relation_errors
from spacy_mmib.evaluation.evaluate import evaluate, get_roles
from spacy_mmib.evaluation.scorers import score_entities
from spacy_mmib.util import MMIBWarning
from spacy_mmib.visual.report import (
    count_entity_confusion,
    count_relation_confusion,
    find,
    make_comparison,
    make_report,
    show,
    sort_posts,
)


class PictureNER:
    """Calls the first token by the colour of the picture; without one it is ORG."""

    def __call__(self, doc):
        label = "ORG"
        if doc._.image is not None:
            pixel = PIL.Image.open(io.BytesIO(doc._.image)).convert("RGB").getpixel((0, 0))
            label = "PER" if pixel[0] > 128 else "LOC"
        if len(doc):
            doc.ents = [Span(doc, 0, 1, label=label)]
        return doc

    def score(self, examples, **kwargs):
        return score_entities(examples)


@Language.factory("report_picture_ner", assigns=["doc.ents"])
def make_picture_ner(nlp, name):
    return PictureNER()


def png(colour: str) -> bytes:
    file = io.BytesIO()
    PIL.Image.new("RGB", (16, 12), colour).save(file, "PNG")
    return file.getvalue()


def make_post(vocab, words, label, colour=None) -> Doc:
    doc = Doc(vocab, words=words, ents=[f"B-{label}", *["O"] * (len(words) - 1)])
    doc._.image = png(colour) if colour else None
    return doc


def write(docs, path) -> Path:
    DocBin(docs=docs, store_user_data=True).to_disk(path)
    return path


@pytest.fixture(scope="module")
def nlp():
    nlp = spacy.blank("en")
    nlp.meta["name"] = "tiny"
    nlp.add_pipe("report_picture_ner")
    return nlp


@pytest.fixture(scope="module")
def corpus(nlp, tmp_path_factory):
    """Right with the picture only; right in either case; wrong because of the picture; hostile."""
    folder = tmp_path_factory.mktemp("report")
    missing = make_post(nlp.vocab, ["Kim", "says", HOSTILE], "ORG")
    missing._.image = "nowhere.jpg"
    docs = [
        make_post(nlp.vocab, ["Rob", "was", "here"], "PER", "red"),
        make_post(nlp.vocab, ["Acme", "sells"], "ORG"),
        make_post(nlp.vocab, ["Mia", "too"], "ORG", "blue"),
        make_post(nlp.vocab, ["Oslo", BREAKOUT], HOSTILE, "blue"),
        missing,
    ]
    docs[0]._.regions = [{"box": (0, 0, 5, 5), "label": HOSTILE, "score": 0.5}]
    docs[3]._.relations = [((0, 1), (1, 2), BREAKOUT)]
    return write(docs, folder / "test.spacy")


@pytest.fixture(scope="module")
def html(nlp, corpus):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make_report(nlp, corpus)


def get_table(html: str, title: str) -> list[list[str]]:
    table = re.search(rf"<h3>{re.escape(title)}.*?</table>", html, flags=re.S).group()
    rows = re.findall(r"<tr>(.*?)</tr>", table, flags=re.S)
    return [[re.sub("<.*?>", "", cell) for cell in re.findall(r"<t[hd].*?</t[hd]>", row)] for row in rows]


def test_the_page_is_whole_and_harmless(html):
    page = check_harmless(html, scripts=1)
    assert html.startswith("<!DOCTYPE html>")
    assert page.text.count(HOSTILE) > 5
    assert page.text.count(BREAKOUT) > 3
    meta = {attrs.get("name") or attrs.get("http-equiv"): attrs for attrs in page.find("meta")}
    policy = meta["Content-Security-Policy"]["content"]
    assert "default-src 'none'" in policy
    assert "'unsafe-inline'" not in policy.split("script-src")[1]
    assert "://" not in html
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    labelled = {attrs["for"] for attrs in page.find("label")}
    fields = page.find("input") + page.find("select")
    assert labelled == {attrs["id"] for attrs in fields}
    assert page.find("a", "skip") == [{"class": "skip", "href": "#examples"}]


def test_the_policy_allows_just_the_script(html):
    import base64
    import hashlib

    script = re.search(r"<script>(.*)</script>", html, flags=re.S).group(1)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src &#39;sha256-{digest}&#39;" in html or f"script-src 'sha256-{digest}'" in html


def test_the_same_bytes_each_time(nlp, corpus, html):
    assert make_report(nlp, corpus) == html
    assert not re.search(r"\b20\d\d-\d\d-\d\d\b", html)


def test_the_head_says_what_of(html, corpus):
    assert "<h1>Report on <bdi>en_tiny 0.0.0</bdi></h1>" in html
    assert "<bdi>report_picture_ner</bdi>" in html
    assert f"<bdi>{corpus}</bdi>" in html
    assert "<dt>Posts</dt><dd>5</dd>" in html
    assert "<dt>posts with a picture</dt><dd>3</dd>" in html
    assert "<dt>picture files missing</dt><dd>1</dd>" in html
    assert "leaks-title" not in html


def test_the_scores_are_those_of_evaluate(nlp, corpus, html):
    scores = [evaluate(nlp, corpus, images=images) for images in ("own", "none", "shuffled")]
    (row,) = get_table(html, "Scores with pictures")[1:]
    assert row[:4] == ["Entities", *(f"{100 * s['ents_f']:.2f}" for s in scores)]
    assert row[4] == show(scores[1]["ents_f"] - scores[0]["ents_f"], sign=True)
    assert get_table(html, "Entities")[1][1:] == [show(scores[0][f"ents_{key}"]) for key in "prf"]


def test_errors_and_confusions(html):
    assert get_table(html, "Errors by kind")[1:] == [["entity type", "2", "2"]]
    matrix = get_table(html, "Types of entities")
    rows = {row[0]: dict(zip(matrix[0][1:], row[1:])) for row in matrix[1:]}
    assert rows["ORG"]["ORG"] == "2"
    assert rows["ORG"]["LOC"] == rows["PER"]["PER"] == "1"
    assert rows["PER"]["missed"] == rows["PER"]["boundary"] == "0"
    assert "spurious" in rows
    # How large a count is: of what is gold.
    assert re.findall(r'style="--s:(0.\d+)">2<', html) == ["0.667"]


def test_examples_are_sorted_and_can_be_filtered(html):
    page = check_harmless(html, scripts=1)
    posts = page.find("article")
    assert [post["aria-label"] for post in posts] == ["Post 4", "Post 3", "Post 1", "Post 2", "Post 5"]
    states = {post["aria-label"]: post["data-states"].split() for post in posts}
    assert states["Post 3"] == ["changed", "added"]
    assert states["Post 4"] == ["changed", "added", "repaired"]  # wrong, another way
    assert states["Post 1"] == ["changed", "repaired"]
    assert states["Post 2"] == ["none"]
    assert states["Post 5"] == ["none", "refused"]
    assert [post["data-kinds"].split() for post in posts] == [["entity-type"]] * 2 + [[]] * 3
    assert "“Mia” (ORG) is predicted as LOC" in page.text
    assert "only with the picture" in page.text
    assert "5 of 5 posts, worst first" in page.text
    assert "<h4>Gold</h4>" in html


def test_most_examples_may_be_left_out(nlp, corpus):
    html = make_report(nlp, corpus, limit_examples=2)
    page = check_harmless(html, scripts=1)
    assert len(page.find("article")) == 2
    assert "2 of 5 posts, worst first. 3 posts with as many errors" in page.text
    assert len(check_harmless(make_report(nlp, corpus, limit_examples=0), scripts=1).find("article")) == 5


def test_without_pictures_nothing_is_compared(nlp, tmp_path):
    path = write([make_post(nlp.vocab, ["Rob", "ran"], "PER")], tmp_path / "text.spacy")
    html = make_report(nlp, path)
    check_harmless(html, scripts=1)
    assert "No post of this corpus has a picture" in html
    assert "Scores with pictures" not in html
    assert get_table(html, "Errors by kind")[0] == ["Kind of error", "errors"]
    assert 'value="changed"' not in html


def test_equal_scores_are_no_finding(tmp_path):
    nlp = spacy.blank("en")
    nlp.add_pipe("entity_ruler").add_patterns([{"label": "PER", "pattern": "Rob"}])
    path = write([make_post(nlp.vocab, ["Rob", "ran"], "PER", "red")], tmp_path / "one.spacy")
    html = make_report(nlp, path)
    assert "The predictions are the same with pictures, without them" in html
    assert "There is no mmib component in this pipeline" in html
    assert "kept their picture" in html
    assert "<p>There are none.</p>" in html


def test_a_pipeline_that_scores_nothing(tmp_path, nlp):
    path = write([make_post(nlp.vocab, ["Rob", "ran"], "PER", "red")], tmp_path / "one.spacy")
    html = make_report(spacy.blank("en"), path)
    assert "No component of this pipeline scores entities or relations" in html
    assert "<table" not in html


def test_leaks_are_said_first(nlp, tmp_path):
    doc = make_post(nlp.vocab, ["Rob", "ran"], "PER", "red")
    doc._.regions = [(0, 0, 4, 4)]
    spacy_mmib.post.extensions.set_regions_note(doc, f"they LEAK {HOSTILE}")
    html = make_report(nlp, write([doc], tmp_path / "leak.spacy"))
    check_harmless(html, scripts=1)
    assert html.index("they LEAK") < html.index("scores-title")


def write_pairs(nlp, path) -> Path:
    docs = []
    for example in make_rel_examples(nlp):
        gold = example.reference
        image = example.predicted._.image
        if image is not None:
            gold._.image = PIL.Image.fromarray(image)
            gold._.regions = [(0, 0, 20, 20)]
        docs.append(gold)
    return write(docs, path)


@pytest.mark.parametrize("kind", ["trained_joint", "trained_rel"])
def test_relations(kind, request, tmp_path):
    nlp = request.getfixturevalue(kind)
    path = write_pairs(nlp, tmp_path / "pairs.spacy")
    html = make_report(nlp, path)
    page = check_harmless(html, scripts=1)
    scores = evaluate(nlp, path)
    joint = kind == "trained_joint"
    assert ("Relations, end to end" in html) == joint
    table = get_table(html, "Relations of given entities")
    assert table[1][1:] == [show(scores["given_entities"][f"rel_micro_{key}"]) for key in "prf"]
    compared = [row[0] for row in get_table(html, "Scores with pictures")[1:]]
    assert compared[-1] == "Relations of given entities"
    assert len(compared) == (4 if joint else 1)
    assert len(page.find("article")) == len(PAIRS)
    assert page.find("svg")
    matrix = get_table(html, "Relations: gold" if joint else "Relations of given entities: gold")
    assert matrix[0] == ["gold", "couple", "team", "missed"]
    total = sum(int(cell) for row in matrix[1:-1] for cell in row[1:])
    assert total == 8  # both ways round of four posts


def make_change(example, other=None) -> PostChange:
    errors = [*find_entity_errors(example), *find_relation_errors(example)]
    without = other or example
    return PostChange(
        0,
        example.reference,
        example.predicted,
        without.predicted,
        errors,
        [*find_entity_errors(without), *find_relation_errors(without)],
    )


def test_confusions_add_up():
    vocab = spacy.blank("en").vocab
    words = ["New", "York", "and", "Rob", "and", "Mia", "and", "Kim"]
    gold = Doc(vocab, words=words, ents=["B-LOC", "I-LOC", "O", "B-PER", "O", "B-PER", "O", "O"])
    pred = Doc(vocab, words=words, ents=["O", "B-ORG", "O", "B-missed", "O", "O", "O", "B-PER"])
    gold._.relations = [((3, 4), (5, 6), "a"), ((5, 6), (3, 4), "b"), ((0, 1), (3, 4), "None")]
    pred._.relations = [((3, 4), (5, 6), "b"), ((0, 1), (3, 4), "a")]
    posts = [make_change(Example(pred, gold))]
    matrix = count_entity_confusion(posts)
    assert matrix.rows == ["LOC", "PER", "missed", "spurious"]  # "missed" is a type here
    assert matrix.columns == ["LOC", "PER", "missed", "boundary", "missed"]
    assert matrix.counts == [[0, 0, 0, 1, 0], [0, 0, 1, 0, 1], [0, 0, 0, 0, 0], [0, 1, 0, 0, 0]]
    matrix = count_relation_confusion(posts, "None")
    assert (matrix.rows, matrix.columns) == (["a", "b", "spurious"], ["a", "b", "missed"])
    assert matrix.counts == [[0, 1, 0], [0, 0, 1], [1, 0, 0]]
    assert count_entity_confusion([]) is None
    blank = Doc(vocab, words=words)
    assert count_relation_confusion([make_change(Example(blank.copy(), blank))], "None") is None


def test_findings_keep_every_post_in_order(nlp, corpus):
    metrics, posts = find(nlp, corpus, get_roles(nlp))
    assert [post.index for post in posts] == list(range(5))
    assert [post.doc[0].text for post in posts] == ["Rob", "Acme", "Mia", "Oslo", "Kim"]
    assert set(metrics) == {"own", "none", "shuffled"}
    assert [post.index for post in sort_posts(posts)] == [3, 2, 0, 1, 4]
    assert make_comparison(metrics)["rows"][0][0] == "Entities"


def run(*args):
    return CliRunner().invoke(mmib_cli, ["report", *map(str, args)])


@pytest.fixture(scope="module")
def model(nlp, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model"
    nlp.to_disk(path)
    return path


def test_the_command(model, corpus, html, tmp_path):
    output = tmp_path / "new" / "report.html"
    result = run(model, corpus, "--output", output)
    assert result.exit_code == 0, (result.output, result.exception)
    assert "Saved the report" in result.output
    assert output.read_text(encoding="utf8") == html


def test_errors_are_for_people(model, corpus, tmp_path):
    nothing = write([], tmp_path / "nothing.spacy")
    (tmp_path / "file").write_text("")
    out = ("--output", tmp_path / "report.html")
    for args, said in (
        ((tmp_path / "none", corpus, *out), "Can't load the pipeline"),
        ((model, tmp_path / "none.spacy", *out), "There is no corpus at"),
        ((model, nothing, *out), "There are no posts in"),
        ((model, corpus, *out, "--image-root", tmp_path / "none"), "there is no such folder"),
        ((model, corpus, "--output", tmp_path / "file" / "x.html"), "can't be written"),
    ):
        result = run(*args)
        assert result.exit_code == 1, (said, result.exception)
        assert said in result.output
        assert "Traceback" not in result.output
    assert not (tmp_path / "report.html").exists()


def test_a_post_longer_than_max_length_is_left_out_alone(nlp, tmp_path):
    docs = [make_post(nlp.vocab, ["Rob", *["ate"] * n], "PER", "red") for n in (3, 200, 4)]
    path = write(docs, tmp_path / "posts.spacy")
    limit = nlp.max_length
    nlp.max_length = 100
    try:
        with pytest.warns(MMIBWarning, match="1 posts have more characters.*: 'Rob ate ate"):
            assert evaluate(nlp, path)["ents_f"] == 1.0
        page = make_report(nlp, path)
    finally:
        nlp.max_length = limit
    assert page.count("<article") == 2
