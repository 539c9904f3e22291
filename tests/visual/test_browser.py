"""The pages in a browser: Chromium, from the environment variable MMIB_CHROMIUM or the path."""

import os
import shutil
import warnings

import numpy
import pytest
import spacy
from spacy.tokens import Span
from test_render import BREAKOUT, HOSTILE
from test_report import make_post, write

import spacy_mmib
import spacy_mmib.post.extensions
from spacy_mmib.visual.report import make_report

pytestmark = pytest.mark.browser

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
    path = os.environ.get("MMIB_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip("needs Chromium, on the path or named by MMIB_CHROMIUM")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser):
    """Opens a file in a window of its own; at the end nothing may have gone wrong in it."""
    contexts, problems = [], []

    def open_page(path, width=1200, **options):
        context = browser.new_context(viewport={"width": width, "height": 800}, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("dialog", lambda dialog: (problems.append(dialog.message), dialog.dismiss()))
        page.on(
            "request",
            lambda request: request.url.startswith(("file:", "data:")) or problems.append(request.url),
        )
        page.goto(path.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert problems == []


@pytest.fixture(scope="module")
def posts(tmp_path_factory):
    """A page of `spacy_mmib.render`."""
    nlp = spacy.blank("en")
    doc = nlp.make_doc("Rob met Mia in Oslo and nobody else was anywhere near them that day")
    doc.ents = [Span(doc, 0, 1, label="PER"), Span(doc, 2, 3, label="PER"), Span(doc, 4, 5, label="LOC")]
    doc._.image = numpy.full((60, 80, 3), 128, dtype="uint8")
    doc._.regions = [{"box": (8, 6, 48, 36), "label": "person", "score": 0.93}]
    rob, mia, oslo = doc.ents
    doc._.relations = [
        (rob, mia, "couple", 0.9),
        (mia, rob, "couple", 0.9),
        (rob, oslo, "was in a place called"),
    ]
    weights = {(0, 3): [0.1, 0.9], (8, 11): [0.7, 0.3], (15, 19): [0.7, 0.3]}
    spacy_mmib.post.extensions.set_region_weights(doc, "mmib_ner", weights)
    evil = nlp.make_doc(f"{HOSTILE} {BREAKOUT}")
    evil.ents = [Span(evil, 0, 2, label=BREAKOUT)]
    evil._.image_error = HOSTILE
    path = tmp_path_factory.mktemp("render") / "posts.html"
    path.write_text(spacy_mmib.render([doc, evil], page=True), encoding="utf8")
    return path


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    nlp = spacy.blank("en")
    nlp.add_pipe("report_picture_ner")
    docs = [make_post(nlp.vocab, [f"Name{i}", "was", "here"], "PER", "red") for i in range(43)]
    docs += [
        make_post(nlp.vocab, ["Acme", "sells", "unicorns"], "ORG", "blue"),
        make_post(nlp.vocab, ["Mia", HOSTILE, BREAKOUT, "x" * 300], HOSTILE, "blue"),
    ]
    docs[-1]._.relations = [((0, 1), (1, 2), BREAKOUT), ((1, 2), (3, 4), "a long way off")]
    docs[-1]._.regions = [{"box": (0, 0, 9, 9), "label": HOSTILE}]
    path = folder / "report.html"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path.write_text(make_report(nlp, write(docs, folder / "test.spacy")), encoding="utf8")
    return path


def count_shown(page) -> int:
    return page.locator("#list article:visible").count()


def scrolls_sideways(page) -> bool:
    return page.evaluate("document.documentElement.scrollWidth > window.innerWidth")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_hostile_posts_stay_text(open_page, posts, report, scheme):
    for path in (posts, report):
        page = open_page(path, color_scheme=scheme)
        text = page.locator("body").inner_text()
        assert HOSTILE in text
        assert "onerror=alert(1)" in text
        assert page.evaluate("document.querySelectorAll('[onmouseover],[onerror],img[src=x]').length") == 0


def test_arcs_can_be_seen(open_page, posts):
    page = open_page(posts)
    arcs = page.locator(".mmib-arc .mmib-line")
    assert arcs.count() == 3
    boxes = [arcs.nth(i).bounding_box() for i in range(3)]
    assert all(box["width"] > 40 and box["height"] > 15 for box in boxes)
    view = page.locator(".mmib-arcs").bounding_box()
    labels = page.locator(".mmib-arcs text")
    for i in range(labels.count()):
        box = labels.nth(i).bounding_box()
        assert box["x"] >= view["x"] - 1
        assert box["x"] + box["width"] <= view["x"] + view["width"] + 1
        assert box["y"] >= view["y"] - 1
    couple = page.locator(".mmib-arc text", has_text="couple").first
    assert couple.is_visible()


def test_boxes_lie_on_the_picture(open_page, posts):
    page = open_page(posts)
    picture, box = (page.locator(name).first.bounding_box() for name in (".mmib-picture img", ".mmib-box"))
    assert (box["x"] - picture["x"]) / picture["width"] == pytest.approx(0.1, abs=0.01)
    assert box["width"] / picture["width"] == pytest.approx(0.5, abs=0.01)
    assert box["height"] / picture["height"] == pytest.approx(0.5, abs=0.01)


def test_the_weights_are_those_of_the_entity_that_is_pointed_at(open_page, posts):
    page = open_page(posts)
    weight = lambda: page.evaluate(
        "getComputedStyle(document.querySelector('.mmib-box')).getPropertyValue('--w').trim()"
    )
    assert weight() == "50"
    page.locator("mark").first.hover()
    assert weight() == "90"
    page.mouse.move(0, 0)
    page.keyboard.press("Tab")  # the keyboard reaches it, too
    assert page.evaluate("document.activeElement.textContent").startswith("Rob")
    assert weight() == "90"
    page.keyboard.press("Tab")
    assert weight() == "30"


def test_phones_need_no_scrolling_sideways(open_page, posts, report):
    for path in (posts, report):
        page = open_page(path, width=375)
        assert not scrolls_sideways(page)
        assert not scrolls_sideways(open_page(path, width=320))


def press_until(page, key: str, selector: str) -> None:
    for _ in range(60):
        if page.evaluate("s => document.activeElement.matches(s)", selector):
            return
        page.keyboard.press(key)
    raise AssertionError(f"the keyboard doesn't reach {selector}")


def test_filters_by_keyboard_only(open_page, report):
    page = open_page(report)
    assert count_shown(page) == 20
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    press_until(page, "Tab", "#f-text")
    page.keyboard.type("UNICORNS")
    assert count_shown(page) == 1
    assert page.locator("#status").inner_text() == "1 to 1 of 1 posts"
    press_until(page, "Tab", "#f-reset")
    page.keyboard.press("Enter")
    assert count_shown(page) == 20
    press_until(page, "Shift+Tab", "#f-kind")
    page.keyboard.press("ArrowDown")  # with errors
    assert count_shown(page) == 2
    page.keyboard.press("ArrowDown")  # without errors
    assert page.locator("#status").inner_text() == "1 to 20 of 43 posts"
    press_until(page, "Tab", "#pager [data-step='1']")
    page.keyboard.press("Enter")
    page.keyboard.press("Space")
    assert page.locator("#status").inner_text() == "41 to 43 of 43 posts"
    page.keyboard.press("Enter")  # there is no more
    assert page.locator("#status").inner_text() == "41 to 43 of 43 posts"
    # No trap: the focus goes on, through the posts and out of the page.
    page.keyboard.press("Tab")
    press_until(page, "Tab", "#pager-below [data-step='-1']")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "examples"
    assert page.locator("#status").inner_text() == "21 to 40 of 43 posts"


def test_filters_by_label_and_picture(open_page, report):
    page = open_page(report)
    page.select_option("#f-label", label="ORG")
    assert count_shown(page) == 1
    page.select_option("#f-label", label=BREAKOUT)
    assert count_shown(page) == 1
    assert page.locator("article:visible").get_attribute("aria-label") == "Post 45"
    page.click("#f-reset")
    page.select_option("#f-picture", "repaired")
    assert page.locator("#status").inner_text() == "1 to 20 of 44 posts"
    page.select_option("#f-picture", "refused")
    assert count_shown(page) == 0
    assert page.locator("#nothing").is_visible()


def test_every_post_is_there_without_javascript(open_page, report):
    page = open_page(report, java_script_enabled=False)
    assert count_shown(page) == 45
    assert not page.locator("#filters").is_visible()
