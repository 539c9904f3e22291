"""`predict` and `pipe_each` in Python; what a file of lines may hold is tested with the command."""

import base64
import json

import picture_components  # noqa: F401 (registers test_fragile)
import PIL.Image
import pytest
import spacy
from spacy.tokens import Doc

from spacy_mmib.evaluation.posts import make_doc, to_line
from spacy_mmib.evaluation.predict import PredictResult, pipe_each, predict
from spacy_mmib.training.local_pictures import PictureCounts, PictureFolder
from spacy_mmib.util import MMIBWarning


def make_nlp(**config):
    nlp = spacy.blank("en")
    nlp.add_pipe("test_fragile", config=config)
    nlp.add_pipe("entity_ruler").add_patterns([{"label": "ORG", "pattern": "NBA"}])
    return nlp


@pytest.fixture
def pictures(tmp_path):
    PIL.Image.new("RGB", (8, 8), "red").save(tmp_path / "red.png")
    return tmp_path


@pytest.mark.parametrize("bypass", [False, True])
def test_bad_posts_take_no_neighbour_down(pictures, bypass):
    posts = [
        {"text": "NBA 0", "image": "red.png"},
        b'{"text": "NBA 1", "image": "missing.png"}',
        "{not json",
        "",
        {"text": "BAD 4"},
        {"text": {1, 2}},
        '{"tokens": ["NBA", "6"], "id": 7}',
    ]
    skipped, result = [], PredictResult()
    nlp = make_nlp(bypass=bypass)
    records = list(
        predict(
            nlp,
            posts,
            image_root=pictures,
            batch_size=3,
            skip=lambda *args: skipped.append(args),
            result=result,
        )
    )
    assert [record["text"] for record in records] == ["NBA 0", "NBA 1", "NBA 6"]
    assert all([ent["label"] for ent in record["entities"]] == ["ORG"] for record in records)
    assert "no such file" in records[1]["image_error"]
    assert records[2]["id"] == 7
    assert sorted(line for line, _ in skipped) == sorted(result.skipped) == [3, 5, 6]
    assert dict(skipped)[5] == "the pipeline failed on it (RuntimeError: can't do this one)"
    assert (result.posts, result.with_picture, result.image_errors, result.entities) == (3, 1, 1, 3)
    # Nobody listens: it is warned of, and the rest is the same.
    with pytest.warns(MMIBWarning, match="line 3 skipped: not valid JSON"):
        assert list(predict(nlp, posts, image_root=pictures)) == records


def test_no_more_is_read_ahead_than_a_batch():
    nlp = make_nlp()
    read = []

    def items():
        for i in range(100):
            read.append(i)
            yield f"NBA {i}"

    answers = pipe_each(nlp, items(), nlp.make_doc, batch_size=4)
    for _ in range(3):
        next(answers)
    assert len(read) <= 8


def test_handlers_are_restored_and_errors_of_the_input_passed_on():
    nlp = make_nlp()
    handlers = (nlp.default_error_handler, nlp.get_pipe("test_fragile").get_error_handler())

    def items():
        yield "one"
        yield "BAD"
        raise OSError("the disk is gone")

    answers = pipe_each(nlp, items(), nlp.make_doc)
    first, second = next(answers), next(answers)
    with pytest.raises(OSError, match="the disk is gone"):
        next(answers)
    assert isinstance(first[1], Doc)
    assert isinstance(second[1], RuntimeError)
    assert handlers == (nlp.default_error_handler, nlp.get_pipe("test_fragile").get_error_handler())


def test_data_is_no_path(pictures):
    encoded = base64.b64encode((pictures / "red.png").read_bytes()).decode()
    post = {"text": "x", "image": f"data:image/png;base64,{encoded}"}
    doc = make_doc(spacy.blank("en"), post, PictureFolder(pictures, "header"), PictureCounts())
    assert doc._.image == (pictures / "red.png").read_bytes()
    assert doc._.image_error is None


def test_what_can_be_read_can_be_written():
    """However deeply it is nested: too deep is found out while reading, not after the work."""
    nlp = spacy.blank("en")
    reasons = []

    def find(depth):
        line = '{"text": "x", "tokens": ' + "[" * depth + "]" * depth + "}"
        return list(predict(nlp, [line], skip=lambda line, reason: reasons.append(reason)))

    low, high = 1, 200_000
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if find(middle) else (low, middle)
    assert set(reasons) == {"nested too deeply"}
    (record,) = find(low)
    assert record["as_given"]["tokens"]
    assert json.loads(to_line(record)) == record


def test_posts_with_several_pictures(pictures):
    encoded = base64.b64encode((pictures / "red.png").read_bytes()).decode()
    uri = f"data:image/png;base64,{encoded}"
    red = str(pictures / "red.png")

    def read(**fields):
        doc = make_doc(spacy.blank("en"), {"text": "x", **fields}, PictureFolder(pictures), PictureCounts())
        return doc._.images, doc._.image_error

    content = (pictures / "red.png").read_bytes()
    assert read(images=["red.png", uri]) == ([red, content], None)
    for image in (None, "red.png"):
        assert read(image=image, images=["red.png", uri]) == ([red, content], None)
    assert read(image="red.png", images=[]) == read(image="red.png", images=None) == ([red], None)
    assert read(images=[]) == ([], None)
    assert read(image="a.png", images=["red.png"]) == (
        [],
        '"image" is not the first of "images": give one of them',
    )
    assert read(images="red.png") == ([], '"images" is not a list but a string')
    for bad in (5, None, ["red.png"], "data:,", "data:x;base64,####=", "../red.png", "nope.png"):
        images, error = read(images=["red.png", bad, uri])
        assert images == [red, content]
        assert error.startswith("picture 2 of 3: ")


def test_boxes_follow_their_pictures(pictures):
    post = {
        "text": "x",
        "images": [5, "red.png"],
        "regions": [{"box": [0, 0, 4, 4], "image": 1}, [0, 0, 2, 2], {"box": [0, 0, 3, 3], "image": 4}],
    }
    result = PredictResult()
    (record,) = predict(spacy.blank("en"), [post], image_root=pictures, result=result)
    assert {key: record[key] for key in post} == post
    assert record["image_error"].startswith("picture 1 of 2: ")
    doc = make_doc(spacy.blank("en"), post, PictureFolder(pictures), PictureCounts())
    assert [(region["box"][2], region.get("image")) for region in doc._.regions] == [(4, None), (3, 4)]
    assert result.reasons == {"not_a_picture": 1}
