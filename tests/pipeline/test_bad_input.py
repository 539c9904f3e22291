"""Everything that can be wrong with a post, all in one stream: each is said, and no other is harmed."""

import io

import numpy
import pytest
from conftest import entities, make_picture, new_docs

from spacy_mmib.post.extensions import IMAGE_KEY, REGIONS_KEY
from spacy_mmib.util import MMIBWarning


def make_files(folder):
    stream = io.BytesIO()
    make_picture("red", (300, 200)).save(stream, "JPEG")
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "cut.jpg").write_bytes(stream.getvalue()[:700])
    (folder / "text.jpg").write_text("not a picture")
    (folder / "folder.jpg").mkdir()
    make_picture("red", (1, 1)).save(folder / "one.png")
    make_picture("red", (1, 20_000)).save(folder / "long.png")


BAD = {  # what is attached, and what doc._.image_error says (None: it is used)
    "missing": ("missing.jpg", "no such file"),
    "0 bytes": ("empty.jpg", "empty"),
    "cut short": ("cut.jpg", "can't be decoded"),
    "text": ("text.jpg", "not a picture"),
    "folder": ("folder.jpg", "is a folder"),
    "1 x 1": ("one.png", None),
    "1 x 20000": ("long.png", None),
    "floats": (numpy.zeros((4, 4, 3)), "arrays of uint8"),
    "list": ([1, 2, 3], "takes a path"),
    "empty bytes": (b"", "empty"),
    "name with NUL": ("a\0b", "can't open"),
}


def test_all_at_once(trained, tmp_path):
    make_files(tmp_path)
    good = new_docs(trained)
    expected = entities(trained.pipe(new_docs(trained)))
    stream, bad = [], {}
    for doc, (name, (value, _)) in zip(good * 2, BAD.items()):
        odd = trained.make_doc("Rob had dinner with us")
        # past the setter, as a DocBin of a stranger could hold it
        is_file = isinstance(value, str) and "\0" not in value
        odd.user_data[IMAGE_KEY] = str(tmp_path / value) if is_file else value
        bad[name] = odd
        stream += [odd, doc.copy()]
    with pytest.warns(MMIBWarning) as caught:
        docs = list(trained.pipe(stream, batch_size=5))
    assert len(docs) == len(stream)
    assert entities(docs[1::2]) == (expected * 2)[: len(BAD)]
    text_only = entities(trained.pipe([trained.make_doc("Rob had dinner with us")]))[0]
    for (name, doc), (_, message) in zip(bad.items(), BAD.values()):
        if message is None:
            assert doc._.image_error is None, name
        else:
            assert message in doc._.image_error, name
            assert "\n" not in doc._.image_error
            assert entities([doc]) == [text_only], name
            assert any(message in str(w.message) for w in caught), name
        for ent in doc.ents:
            assert numpy.isfinite(ent._.confidence)


def test_bad_regions_are_left_out_one_by_one(trained, tmp_path):
    make_files(tmp_path)
    doc, other = new_docs(trained)[:2]
    doc._.regions = [
        (0, 0, 20, 20),
        (float("nan"), 0, 5, 5),
        (9, 9, 3, 3),
        (100, 100, 110, 110),
        tmp_path / "text.jpg",
        (0, 0, 5, 0),
    ]
    with pytest.warns(MMIBWarning, match="some of its objects are left out"):
        docs = list(trained.pipe([doc, other]))
    assert [part.split(":")[0] for part in doc._.image_error.split("; ")] == [
        f"region {i}" for i in range(1, 6)
    ]
    assert entities(docs) == entities(trained.pipe(new_docs(trained)[:2]))


def test_foreign_regions(trained):
    """Regions that never went through the setter, as a DocBin of a stranger could hold them."""
    doc, other = new_docs(trained)[:2]
    doc.user_data[REGIONS_KEY] = [("a", "b")]
    with pytest.warns(MMIBWarning, match=r"regions\[0\] is neither .*some of its objects are left out"):
        docs = list(trained.pipe([doc, other]))
    assert "is neither the path of a crop nor a box" in doc._.image_error
    assert [[e[:2] for e in found] for found in entities(docs)] == [[("Rob", "PER")], [("Rob", "ORG")]]
