"""GMNER's boxes, from an archive or a folder of XML files that anybody may have written."""

import builtins
import json
import re
import zipfile

import pytest
from conftest import read_docs, run_command, save_picture

from project import convert
from project.check import check_data
from project.facts import PUBLISHED, SPLITS
from project.gmner import MAX_BYTES, add_boxes
from project.pictures import Folders
from project.tagged import find_twitter_text, read_tagged, read_twitter_text
from spacy_mmib.util import MMIBWarning

TEXT = (
    "IMGID:1\nRob\tB-PER\nSmith\tI-PER\nmet\tO\nA\tB-ORG\n&amp\tI-ORG\n;\tI-ORG\nB\tI-ORG\n\n"
    "IMGID:2\nMia\tB-PER\nand\tO\nMia\tB-PER\n\n"
    "IMGID:3\nOslo\tB-LOC\n\n"
    "IMGID:4\nBob\tB-PER\n"
)
SIZE = "<size><width>100</width><height>80</height></size>"
BILLION = (
    '<!DOCTYPE a [<!ENTITY x "ha"><!ENTITY y "&x;&x;&x;&x;"><!ENTITY z "&y;&y;&y;&y;">]><annotation>'
    "<object><name>&z;</name></object></annotation>"
)
EXTERNAL = (
    '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation><object><name>&x;</name></object>'
    "</annotation>"
)


def make_object(name, *numbers):
    keys = ("xmin", "ymin", "xmax", "ymax")
    box = "".join(f"<{key}>{number}</{key}>" for key, number in zip(keys, numbers))
    return f"<object><name>{name}</name><bndbox>{box}</bndbox></object>"


def make_xml(*objects, size=SIZE):
    return f"<annotation>{size}{''.join(objects)}</annotation>"


def make_data(folder, files, *, zipped=True):
    """The texts, and the XML files of their pictures, by name."""
    (folder / "xml").mkdir(parents=True)
    for name in ("train", "dev", "test"):
        (folder / f"{name}.txt").write_text(TEXT, encoding="utf8")
    contents = {name: x if isinstance(x, bytes) else x.encode() for name, x in files.items()}
    if zipped:
        (folder / "xml").rmdir()
        with zipfile.ZipFile(folder / "xml.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in contents.items():
                archive.writestr(f"Twitter10000_v2.0/xml/{name}", content)
    else:
        for name, content in contents.items():
            (folder / "xml" / name).write_bytes(content)
    return folder


def run(data, output, *args):
    return run_command(convert.main, "gmner", "--data", data, "--output", output, *args)


def get_boxes(folder, split="train"):
    docs = read_docs(folder / f"{split}.spacy")
    return [
        [None if ent._.boxes is None else [box["box"] for box in ent._.boxes] for ent in doc.ents]
        for doc in docs
    ]


def get_counts(folder):
    return json.loads((folder / "meta.json").read_text())["splits"]["train"]


@pytest.mark.parametrize("zipped", [True, False])
def test_boxes(tmp_path, zipped):
    first = make_xml(
        make_object("Rob Smith", 1, 2, 30, 40),
        make_object("a&amp;b", -5, 5, 120, 60.5),  # other case, no spaces, beyond the edges
        make_object("Rob Smith", 10, 20, 30, 40),
        make_object("Nobody", 10, 20, 30, 40),
    )
    second = make_xml(make_object("Mia", 1, 1, 5, 5))
    data = make_data(tmp_path / "data", {"1.xml": first, "2.xml": second, "9.xml": second}, zipped=zipped)
    save_picture(data / "images" / "1.jpg")
    result = run(data, tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert get_boxes(tmp_path / "out") == [
        [[[1, 2, 30, 40], [10, 20, 30, 40]], [[0, 5, 100, 61]]],
        [[[1, 1, 5, 5]], [[1, 1, 5, 5]]],  # both are called so
        [[]],  # no file: not in the picture
        [[]],
    ]
    counts = get_counts(tmp_path / "out")
    assert [counts[x] for x in ("visible", "boxes", "unmatched_boxes", "bad_boxes")] == [4, 5, 1, 0]
    assert "1 boxes with a name that is no entity's text" in result.output
    # What can be seen is gold: no regions, and nothing for a model to look at.
    assert all(doc._.regions == [] for doc in read_docs(tmp_path / "out" / "train.spacy"))


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (BILLION, "DTDForbidden"),
        (EXTERNAL, "DTDForbidden"),
        ('<!DOCTYPE a SYSTEM "http://localhost/a.dtd"><annotation/>', "DTDForbidden"),
        ("<annotation><object>", "not read as XML"),
        (b"\xff\xfe\x00", "not read as XML"),
        ('<?xml version="1.0" encoding="nonsense"?><annotation/>', "not read as XML"),
        ('<?xml version="1.0" encoding="gb2312"?><annotation/>', "not read as XML"),
        (b"", "not read as XML"),
        (b"<annotation>" + b" " * MAX_BYTES, "more than 1,000,000 bytes"),
    ],
)
def test_files_that_are_refused(tmp_path, content, match):
    good = make_xml(make_object("Mia", 1, 1, 5, 5))
    data = make_data(tmp_path / "data", {"1.xml": content, "2.xml": good})
    with pytest.warns(MMIBWarning, match=rf"1\.xml: .*{match}"):
        assert run(data, tmp_path / "out").exit_code == 0
    boxes = get_boxes(tmp_path / "out")
    assert boxes[:2] == [[None, None], [[[1, 1, 5, 5]]] * 2]
    assert get_counts(tmp_path / "out")["bad_annotations"] == 1


@pytest.mark.parametrize(
    "numbers", [(5, 1, 1, 5), (1, 1, 1, 5), (200, 1, 300, 5), ("x", 1, 2, 3), (1, 2, 3), ("nan", 1, 2, 3), ()]
)
def test_boxes_that_are_none(tmp_path, numbers):
    bad = make_object("Rob Smith", *numbers)
    good = make_object("Mia", 1, 1, 5, 5)
    files = {"1.xml": make_xml(bad, make_object("A&amp;amp;B", 1, 2, 3, 4)), "2.xml": make_xml(good, bad)}
    files["3.xml"] = make_xml(make_object("Oslo", 1, 2, 3, 4), size="")
    run(make_data(tmp_path / "data", files), tmp_path / "out")
    assert get_boxes(tmp_path / "out")[:3] == [[None, [[1, 2, 3, 4]]], [[[1, 1, 5, 5]]] * 2, [None]]
    counts = get_counts(tmp_path / "out")
    assert (counts["bad_boxes"], counts["unmatched_boxes"]) == (3, 1)


def test_other_encodings(tmp_path):
    xml = make_xml(make_object("Rob\u00a0Smith", 1, 2, 3, 4))
    data = make_data(
        tmp_path / "data", {"1.xml": f'<?xml version="1.0" encoding="utf-16"?>{xml}'.encode("utf-16")}
    )
    run(data, tmp_path / "out")
    assert get_boxes(tmp_path / "out")[0] == [[[1, 2, 3, 4]], []]


def test_what_leads_out_of_the_folder(tmp_path):
    good = make_xml(make_object("Bob", 1, 1, 5, 5))
    data = make_data(tmp_path / "data", {}, zipped=False)
    (data / "train.txt").write_text(TEXT.replace("IMGID:4", "IMGID:../secret"))
    (data / "secret.xml").write_text(good)
    (data / "xml" / "3.xml").symlink_to(data / "secret.xml")
    with pytest.warns(MMIBWarning, match="leads out"):
        run(data, tmp_path / "out")
    assert get_boxes(tmp_path / "out")[2:] == [[None], [None]]


def test_archives_that_are_refused(tmp_path):
    data = make_data(tmp_path / "data", {"1.xml": make_xml()})
    archive = data / "xml.zip"
    content = archive.read_bytes()
    with zipfile.ZipFile(archive, "a") as more:
        more.writestr("other/1.xml", make_xml())
    assert "2 XML files of 1 names" in " ".join(run(data, tmp_path / "out").output.split())
    archive.write_bytes(content[:-30])
    assert "no archive that can be read" in " ".join(run(data, tmp_path / "out").output.split())
    start = content.index(b"1.xml") + 5
    archive.write_bytes(content[:start] + b"\xff" * 8 + content[start + 8 :])
    with pytest.warns(MMIBWarning, match=r"1\.xml: "):  # a damaged member
        assert run(data, tmp_path / "out").exit_code == 0
    archive.unlink()
    result = run(data, tmp_path / "out")
    assert result.exit_code == 1
    assert "There is no file" in result.output
    assert "xml.zip" in check_data("gmner", Folders(data)).problems[0]


def test_the_extra_is_named(tmp_path, monkeypatch):
    data = make_data(tmp_path / "data", {"1.xml": make_xml()})
    real = builtins.__import__

    def fail(name, *args):
        if name.startswith("defusedxml"):
            raise ModuleNotFoundError(name)
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", fail)
    result = run(data, tmp_path / "out")
    assert result.exit_code == 1
    assert "spacy-mmib[gmner]" in result.output


def test_the_digest_knows_the_boxes(tmp_path):
    digests = set()
    for i, box in enumerate([(1, 1, 5, 5), (1, 1, 5, 6)]):
        data = make_data(tmp_path / str(i), {"2.xml": make_xml(make_object("Mia", *box))})
        report = check_data("gmner", Folders(data))
        assert not report.problems
        assert report.version.name == "unknown"
        digests.add(report.digest)
    assert len(digests) == 2


def test_real_data(mmib_data):
    folder = mmib_data / "gmner"
    splits = {s: read_tagged(read_twitter_text(find_twitter_text(folder, s)), "drop") for s in SPLITS}
    add_boxes(folder, splits)
    for split, facts in PUBLISHED["gmner"]["files"].items():
        found = splits[split].counts | splits[split].labels
        assert {what: found[what] for what in facts} == facts
        assert [found[what] for what in ("unmatched_boxes", "bad_boxes", "bad_annotations")] == [0, 0, 0]
    # The boxes are those of the file.
    with zipfile.ZipFile(folder / "xml.zip") as archive:
        xml = archive.read("Twitter10000_v2.0/xml/1001621.xml").decode()
    numbers = [int(x) for x in re.findall(r"<[xy]m(?:in|ax)>(\d+)<", xml)]
    boxes = [numbers[i : i + 4] for i in range(0, len(numbers), 4)]
    posts = [post for split in splits.values() for post in zip(split.pictures, split.docs)]
    (doc,) = [doc for picture, doc in posts if picture == "1001621.jpg"]
    assert boxes in [[box["box"] for box in ent._.boxes] for ent in doc.ents]
