"""Posts as HTML: what is shown, and that nothing of a post becomes markup."""

import base64
import io
import subprocess
import sys
import types
from html.parser import HTMLParser

import numpy
import PIL.Image
import pytest
import spacy
from spacy.tokens import Doc, Span

import spacy_mmib
import spacy_mmib.post.extensions
from spacy_mmib.evaluation.contributions import Contributions
from spacy_mmib.images.reading import ImageError, read_image
from spacy_mmib.post.boxes import EntityRegion, set_entity_regions
from spacy_mmib.visual.arcs import get_hue, lay_out
from spacy_mmib.visual.collect import make_small
from spacy_mmib.visual.rendering import render

HOSTILE = "<script>alert(1)</script>"
BREAKOUT = '" onmouseover="alert(1)" x=\'</style><img src=x onerror=alert(1)>{{ 7*7 }}'
VOID = {"meta", "img", "br", "input", "link", "path", "rect"}


class Page(HTMLParser):
    """Elements with their attributes, and the text, styles apart."""

    def __init__(self, html: str):
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.stack: list[str] = []
        self.text = self.style = self.script = ""
        self.feed(html)
        self.close()
        assert self.stack == []

    def handle_starttag(self, tag, attrs):
        assert len({name for name, _ in attrs}) == len(attrs)
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        inside = self.stack[-1] if self.stack else ""
        kind = inside if inside in ("style", "script") else "text"
        setattr(self, kind, getattr(self, kind) + data)

    def find(self, tag, of=None):
        classes = lambda attrs: (attrs.get("class") or "").split()
        return [attrs for name, attrs in self.elements if name == tag and (not of or of in classes(attrs))]


def check_harmless(html: str, scripts: int = 0) -> Page:
    """No script but ours, no handler, nothing from outside, no markup of a post."""
    page = Page(html)
    tags = [tag for tag, _ in page.elements]
    assert tags.count("script") == scripts
    assert not {"iframe", "object", "embed", "link", "base", "form"} & set(tags)
    for tag, attrs in page.elements:
        for name, value in attrs.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("src", "href", "xlink:href"):
                assert value.startswith(("data:image/jpeg;base64,", "#")), value
            if name == "style":
                assert "url(" not in value
                assert "alert" not in value
    for css in ("url(", "@import", "alert"):
        assert css not in page.style
    return page


@pytest.fixture(scope="module")
def nlp():
    return spacy.blank("en")


def make_doc(nlp, text="Rob met Mia in Oslo", colour="red", size=(80, 60)) -> Doc:
    doc = nlp.make_doc(text)
    if colour:
        doc._.image = numpy.full((size[1], size[0], 3), 200, dtype="uint8")
    return doc


def make_post(nlp) -> Doc:
    doc = make_doc(nlp)
    doc.ents = [Span(doc, 0, 1, label="PER"), Span(doc, 2, 3, label="PER")]
    doc._.regions = [{"box": (8, 6, 48, 36), "label": "person", "score": 0.93}]
    rob, mia = doc.ents
    doc._.relations = [(rob, mia, "couple", 0.8), (mia, rob, "couple", 0.75)]
    return doc


def test_a_post_with_everything(nlp):
    page = check_harmless(render(make_post(nlp)))
    assert [attrs["title"] for attrs in page.find("mark")] == ["PER", "PER"]
    assert len(page.find("img")) == 1
    (box,) = page.find("span", "mmib-box")
    assert box["style"].startswith("left:10.000%;top:10.000%;width:50.000%;height:50.000%")
    assert box["title"] == "1: person, score 93 %"
    (svg,) = page.find("svg")
    assert svg["aria-label"] == "Rob → Mia: couple 80 %; Mia → Rob: couple 75 %"
    assert len(page.find("path", "mmib-arrow")) == 2
    assert "couple 80 %" in page.text


def test_the_text_comes_through_as_it_is(nlp):
    text = "  Rob\n& <Mia>\tat 5 > 4 \N{RIGHT-TO-LEFT MARK}שלום\U0001f600"
    doc = make_doc(nlp, text, colour=None)
    html = render(doc)
    start = html.index('lang="en">') + len('lang="en">')
    import html as library

    assert library.unescape(html[start : html.index("</p>", start)]) == text


def test_nothing_of_a_post_becomes_markup(nlp):
    for evil in (HOSTILE, BREAKOUT):
        doc = Doc(nlp.vocab, words=["Rob", evil, "met", evil])
        doc.ents = [Span(doc, 1, 2, label=evil), Span(doc, 3, 4, label="PER")]
        doc._.image = numpy.zeros((40, 40, 3), dtype="uint8")
        doc._.regions = [
            {"box": (0, 0, 9, 9), "label": evil, "score": 0.5},
            {"box": (90, 0, 99, 9), "label": evil},
            evil,
        ]
        doc._.relations = [((1, 2), (3, 4), evil), ((0, 2), (1, 3), evil)]
        doc._.image_error = evil
        doc.user_data[("spacy_mmib", "region_weights", None, None)] = None
        for page in (False, True):
            found = check_harmless(render(doc, page=page))
            assert found.text.count(evil) > 5  # neither run nor filled in
            assert len(found.find("mark")) == 2


def test_evil_paths_and_broken_user_data_are_lines(nlp):
    doc = make_doc(nlp, colour=None)
    doc._.image = HOSTILE
    doc.user_data[("._.", "regions", None, None)] = HOSTILE
    doc.user_data[("._.", "relations", None, None)] = HOSTILE
    page = check_harmless(render(doc))
    assert len(page.find("p", "mmib-error")) == 3
    assert "The picture can't be shown." in page.text


@pytest.mark.parametrize(
    ("picture", "said"),
    [
        ("https://example.com/a.jpg", "is a URL, and nothing is fetched"),
        ("nowhere.jpg", "no such file: 'nowhere.jpg'"),
        (b"not a picture", "not a picture in a known format"),
    ],
)
def test_a_picture_that_cant_be_read_is_said(nlp, picture, said):
    bad, good = nlp.make_doc("bad"), make_doc(nlp, "good")
    bad._.image = picture
    page = check_harmless(render([bad, good]))
    assert said in page.text
    assert len(page.find("article")) == 2
    assert len(page.find("img")) == 1


def test_what_a_reader_said_is_not_said_twice(nlp):
    doc = nlp.make_doc("bad")
    doc._.image = "nowhere.jpg"
    with pytest.raises(ImageError) as err:
        read_image("nowhere.jpg")
    doc._.image_error = str(err.value)
    assert len(Page(render(doc)).find("p", "mmib-error")) == 1


def test_an_error_without_a_picture_is_shown(nlp):
    doc = nlp.make_doc("bad")
    doc._.image_error = "taken away"
    assert "taken away" in Page(render(doc)).text


def test_pictures_are_small_upright_and_without_metadata(tmp_path):
    picture = PIL.Image.new("RGB", (1000, 500), "red")
    exif = picture.getexif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    exif[0x010E] = "a secret place"
    picture.save(tmp_path / "turned.jpg", exif=exif)
    small = make_small(str(tmp_path / "turned.jpg"), 100)
    assert (small.width, small.height) == (500, 1000)
    data = base64.b64decode(small.uri.partition(",")[2])
    assert PIL.Image.open(io.BytesIO(data)).size == (50, 100)
    assert b"secret" not in data
    tiny = make_small(numpy.zeros((8, 4, 3), dtype="uint8"), 400)
    assert tiny.shown_width == 80  # enlarged, so that objects can be seen


def test_boxes_are_clipped_and_impossible_ones_said(nlp):
    doc = make_doc(nlp)
    doc._.regions = [(-50, -50, 40, 30), (200, 200, 300, 300), (float("nan"), 0, 1, 1)]
    page = Page(render(doc))
    (box,) = page.find("span", "mmib-box")
    assert box["style"].startswith("left:0.000%;top:0.000%;width:50.000%;height:50.000%")
    assert "has no pixel inside the picture of 80 x 60" in page.text
    assert "the box is not finite" in page.text


def test_crops_are_shown_if_they_can_be_read(nlp, tmp_path):
    PIL.Image.new("RGB", (300, 30), "blue").save(tmp_path / "crop.png")
    doc = make_doc(nlp)
    doc._.regions = [str(tmp_path / "crop.png"), "missing.png", "https://example.com/x.png"]
    page = check_harmless(render(doc))
    (crop,) = page.find("img", "mmib-crop")
    assert crop["width"] == "96"
    assert "no such file: 'missing.png'" in page.text
    assert "is a URL" in page.text


def test_posts_without_anything(nlp):
    docs = [nlp.make_doc(""), nlp.make_doc(" "), nlp.make_doc("nothing to see")]
    page = Page(render(docs))
    assert len(page.find("article")) == 3
    assert "(no text)" in page.text
    assert not page.find("svg")
    assert not page.find("img")
    assert "No posts." in Page(render([])).text
    assert render(iter(docs)) == render(docs)


def test_relations_of_any_spans(nlp):
    doc = make_doc(nlp, "New York University and Rob", colour=None)
    doc.ents = [Span(doc, 0, 3, label="ORG")]
    doc._.relations = [((0, 2), (0, 3), "names"), ((4, 5), (0, 3), "studies at"), ((4, 5), (4, 5), "is")]
    page = Page(render(doc))
    assert len(page.find("g", "mmib-arc")) == 3
    assert len(page.find("g", "mmib-node")) == 3
    assert page.find("svg")[0]["aria-label"].startswith("New York → New York University: names; Rob →")


def test_unrelated_pairs_are_shown_if_asked_for(nlp):
    doc = make_doc(nlp, colour=None)
    doc._.relations = [((0, 1), (2, 3), "None"), ((2, 3), (0, 1), "")]
    assert not Page(render(doc)).find("svg")
    (svg,) = Page(render(doc, unrelated=True)).find("svg")
    assert svg["aria-label"] == "Rob → Mia: None; Mia → Rob: ?"


def test_arcs_lie_over_each_other_and_inside_the_drawing(nlp):
    words = [f"w{i}" for i in range(8)]
    doc = Doc(nlp.vocab, words=words)
    doc._.relations = [((i, i + 1), (j, j + 1), f"a long label {i} {j}") for i in range(8) for j in range(8)]
    drawing = lay_out(doc._.relations)
    assert len(drawing["arcs"]) == 64
    assert [node["x"] for node in drawing["nodes"]] == sorted(node["x"] for node in drawing["nodes"])
    for arc in drawing["arcs"]:
        assert 0 < arc["y"] < drawing["base"]
        assert drawing["left"] < arc["x"] < drawing["left"] + drawing["width"]
    places = [(round(arc["x"]), round(arc["y"])) for arc in drawing["arcs"]]
    for i, (x, y) in enumerate(places):
        assert not any(y == b and abs(x - a) < 60 for a, b in places[:i])
    assert lay_out([]) is None


def test_weights_of_entities_and_their_mean(nlp):
    doc = make_post(nlp)
    weights = {(0, 3): [0.2, 0.8], (8, 11): [0.6, 0.4]}
    spacy_mmib.post.extensions.set_region_weights(doc, "mmib_ner", weights)
    page = check_harmless(render(doc))
    key = page.find("article")[0]["class"].split()[1]
    assert f".{key}{{--w0:40;--w1:60;}}" in page.style
    assert f".{key}:has(.mmib-e1:is(:hover,:focus)){{--w0:20;--w1:80;}}" in page.style
    assert ":has(.mmib-e3:is(:hover,:focus)){--w0:60;--w1:40;}" in page.style
    marks = page.find("mark")
    assert marks[0]["title"] == "PER; looks at the whole picture 20 %, object 1 80 %"
    assert [mark["tabindex"] for mark in marks] == ["0", "0"]
    assert page.find("span", "mmib-box")[0]["style"].endswith("--w:var(--w1)")


def test_which_object_an_entity_is_comes_before_where_it_looks(nlp):
    doc = make_post(nlp)
    weights = {(0, 3): [0.2, 0.8], (8, 11): [0.6, 0.4]}
    spacy_mmib.post.extensions.set_region_weights(doc, "mmib_ner", weights)
    found = {(0, 3): EntityRegion(0, 0.97, "pointer"), (8, 11): EntityRegion(None, 0.6, "pointer")}
    set_entity_regions(doc, "mmib_ner", found)
    page = check_harmless(render(doc))
    marks = page.find("mark")
    assert marks[0]["title"] == "PER; is object 1 (pointer, 97 %)"
    assert marks[1]["title"].endswith("; is not in the picture (pointer, 60 %)")
    (box,) = page.find("span", "mmib-is")
    assert box["title"].endswith(f"; is {doc.ents[0].text} (pointer, 97 %)")
    assert box["style"].endswith(f"--h:{get_hue('PER')}")
    assert "found by pointer" in render(doc)
    assert "--w0" not in page.style
    hostile = {place: EntityRegion(0, 0.5, BREAKOUT) for place in found}
    set_entity_regions(doc, "mmib_ner", hostile)
    check_harmless(render(doc))


def test_contributions_are_shades(nlp):
    doc = make_post(nlp)
    values = Contributions("mmib_ner", tokens=[0.0, 1.0, 2.0, 3.0, 4.0], regions=[5.0, 7.0])
    page = check_harmless(render(doc, contributions=[values]))
    shades = [attrs["style"] for attrs in page.find("span", "mmib-token")]
    assert shades == ["--s:0.000", "--s:0.250", "--s:0.500", "--s:0.750", "--s:1.000"]
    assert "{--w0:0;--w1:100;}" in page.style
    assert render(doc, contributions=values) == render([doc], contributions=[values])
    assert render(doc, contributions=[None]) == render(doc)
    without = Contributions("mmib_ner", tokens=[1.0] * 5, regions=[])
    assert "--s:0.500" in render(doc, contributions=[without])


def test_contributions_of_other_posts_are_refused(nlp):
    doc = make_post(nlp)
    values = Contributions("mmib_ner", tokens=[1.0], regions=[])
    with pytest.raises(ValueError, match="of a post with 1 tokens, but this one has 5"):
        render(doc, contributions=[values])
    with pytest.raises(ValueError, match="There are 2 posts, but contributions for 1"):
        render([doc, doc], contributions=[None])


def test_the_same_bytes_each_time_and_names_by_content(nlp):
    docs = [make_post(nlp), make_doc(nlp, "another")]
    assert render(docs, page=True) == render([doc.copy() for doc in docs], page=True)
    names = [attrs["class"] for attrs in Page(render([*docs, docs[0]])).find("article")]
    assert names[0] == names[2] != names[1]
    assert " id=" not in render(docs)  # two outputs can share a page


def test_a_page_of_its_own(nlp):
    html = render(make_post(nlp), page=True)
    page = check_harmless(html)
    assert html.startswith("<!DOCTYPE html>")
    assert page.find("html") == [{"lang": "en"}]
    assert "<title>Posts: spacy-mmib</title>" in html
    meta = {attrs.get("name") or attrs.get("http-equiv"): attrs for attrs in page.find("meta")}
    assert "viewport" in meta
    assert "default-src 'none'" in meta["Content-Security-Policy"]["content"]
    assert "://" not in html


def test_what_no_file_may_hold_is_replaced(nlp):
    doc = make_doc(nlp)
    doc._.regions = [{"box": (0, 0, 9, 9), "label": "half \ud800 of\x00 a pair"}]
    html = render(doc)
    html.encode("utf8")
    assert "half \ufffd of\ufffd a pair" in html


def test_in_a_notebook_posts_are_displayed(nlp, monkeypatch):
    shown = []
    module = types.ModuleType("IPython.display")
    module.HTML = lambda html: html
    module.display = shown.append
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    doc = make_post(nlp)
    html = render(doc)
    assert shown == []
    assert render(doc, jupyter=True) is None
    assert shown == [f'<div class="tex2jax_ignore">{html}</div>']
    monkeypatch.setattr("spacy.util.is_in_jupyter", lambda: True)
    assert render(doc) is None
    assert len(shown) == 2
    assert render(doc, jupyter=False) == html


def test_mistakes_are_said(nlp):
    with pytest.raises(TypeError, match=r"the 1\. is a Span"):
        render([make_post(nlp)[:2]])
    with pytest.raises(ValueError, match="max_size"):
        render(make_post(nlp), max_size=0)


def test_labels_have_colours_of_their_own():
    assert get_hue("PER") == get_hue("per") == get_hue("PERSON")
    assert len({get_hue(label) for label in ("PER", "ORG", "LOC", "MISC")}) == 4
    assert get_hue("whatever") == get_hue("whatever")
    assert all(0 <= get_hue(str(i)) < 360 for i in range(100))


def to_rgb(hue: float, saturation: float, lightness: float) -> list[float]:
    import colorsys

    return list(colorsys.hls_to_rgb(hue / 360, lightness, saturation))


def contrast(one: list[float], other: list[float]) -> float:
    linear = lambda c: c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
    light = sorted(0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b) for r, g, b in (one, other))
    return (light[1] + 0.05) / (light[0] + 0.05)


@pytest.mark.parametrize(
    ("back", "ink", "shade"),
    [(0.85, 0.14, (255, 176, 32)), (0.24, 0.95, (176, 92, 0))],
    ids=["light", "dark"],
)
def test_text_can_be_read_on_every_colour(back, ink, shade):
    """The numbers of the style sheet: entities, bare and under the darkest shade."""
    import importlib.resources

    css = (importlib.resources.files("spacy_mmib.visual") / "templates/post.css").read_text()
    assert f"--mmib-shade: {' '.join(map(str, shade))};" in css
    assert f"--mmib-ent-back: {back:.0%}; --mmib-ent-ink: {ink:.0%};" in css
    for hue in range(0, 360, 5):
        text, paper = to_rgb(hue, 0.3, ink), to_rgb(hue, 0.7, back)
        shaded = [0.75 * s / 255 + 0.25 * p for s, p in zip(shade, paper)]
        assert contrast(text, paper) >= 4.5, hue
        assert contrast(text, shaded) >= 4.5, hue


def test_import_is_light_and_the_name_a_function():
    code = (
        "import sys; sys.modules['torch'] = None;"  # which spaCy imports, if it is there
        "import spacy_mmib; assert 'jinja2' not in sys.modules and 'spacy' not in sys.modules;"
        "import spacy.tokens, spacy_mmib.visual.collect;"
        "assert callable(spacy_mmib.render) and callable(spacy_mmib.render);"
        "html = spacy_mmib.render(spacy.tokens.Doc(spacy.vocab.Vocab(), words=['hello']));"
        "assert not {'PIL', 'IPython', 'torchvision'} & set(sys.modules);"
        "print('hello' in html)"
    )
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False
    )
    assert result.stdout.strip() == "True", result.stderr[-2000:]
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        spacy_mmib.nothing  # noqa: B018


def test_several_pictures_side_by_side_with_their_own_boxes(nlp):
    doc = make_post(nlp)
    other = numpy.full((30, 40, 3), 90, dtype="uint8")
    doc._.images = [doc._.image, other, "missing.png"]
    doc._.regions = [*doc._.regions, {"box": (0, 0, 20, 15), "image": 1}, {"box": (0, 0, 9, 9), "image": 7}]
    spacy_mmib.post.extensions.set_region_weights(doc, "ner", {(0, 3): [0.5, 0.2, 0.3, 0.0]})
    html = render(doc)
    page = check_harmless(html)
    assert len(page.find("div", "mmib-pictures")) == 1
    assert [attrs["alt"] for attrs in page.find("img")] == [f"Picture of the post, {i} of 3" for i in (1, 2)]
    boxes = [attrs["style"] for attrs in page.find("span", "mmib-box")]
    assert boxes[0].startswith("left:10.000%;top:10.000%;width:50.000%;height:50.000%")
    assert boxes[1].startswith("left:0.000%;top:0.000%;width:50.000%;height:50.000%")
    first, second = html.index(boxes[0]), html.index(boxes[1])
    assert first < html.index("2 of 3") < second  # each in its own picture
    assert "The picture can't be shown." in page.text
    assert "the whole pictures" in page.text
    assert 'class="mmib-pictures"' not in render(make_post(nlp))
