"""WikiDiverse, in the format that its repository describes."""

import json

import pytest
from conftest import read_docs, run_command, save_picture

from project import convert
from project.check import check_data
from project.pictures import Folders
from project.wikidiverse import name_picture

URL = "https://upload.wikimedia.org/wikipedia/commons/0/06/Two_teams.jpg"
WIKI = "https://en.wikipedia.org/wiki/"
POSTS = [
    [
        "The Wolves beat New York-based Foxes (2007).",
        URL,
        "sports",
        [
            ["Wolves", "Organization", 4, 10, f"{WIKI}The_Wolves"],
            ["New York", "Location", 16, 24, f"n{WIKI}New_York"],
            ["Foxes", "Organization", 0, 5, "nil"],  # somewhere else
            ["Bears", "Organization", 4, 9, f"{WIKI}Bears"],  # nowhere
            ["York", "Location", 20, 24, f"{WIKI}York"],  # within a longer one
        ],
    ],
    ["Mayor Ann  Lee\nand the Mia-Ann bridge 🌉 of Ann", "file:///etc/passwd", "politics", [
        ["Ann", "Works", -3, 999999999999999999999, "ttps://en.wikipedia.org/wiki/Ann"],
        ["Ann", "Person", 23, 28, f"{WIKI}Ann"],
        [" Mia", "Person", 23, 27, ""],
    ]],
    [" ", URL, "nothing", []],
]  # fmt: skip


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    for name in ("train", "valid", "test"):
        (folder / f"{name}.json").write_text(json.dumps(POSTS), encoding="utf8")
    return folder


def run(data, output, *args):
    return run_command(convert.main, "wikidiverse", "--data", data, "--output", output, *args)


def test_mentions_types_links_and_pictures(data, tmp_path):
    save_picture(data / "images" / name_picture(URL))
    result = run(data, tmp_path / "out")
    assert result.exit_code == 0, result.output
    first, second = read_docs(tmp_path / "out" / "train.spacy")
    assert first.text == POSTS[0][0]
    assert second.text == POSTS[1][0]
    assert [(ent.text, ent.label_, ent.kb_id_) for ent in first.ents] == [
        ("Wolves", "Organization", f"{WIKI}The_Wolves"),
        ("New York", "Location", f"{WIKI}New_York"),
        ("Foxes", "Organization", ""),
    ]
    assert [(ent.text, ent.start_char, ent.label_) for ent in second.ents] == [
        ("Ann", 6, "Works"),
        ("Mia", 23, "Person"),
        ("Ann", 27, "Person"),
    ]
    assert not first.has_unknown_spaces
    assert first._.image == name_picture(URL)
    assert "no such file" in second._.image_error
    meta = json.loads((tmp_path / "out" / "meta.json").read_text())
    names = ("posts", "entities", "linked", "moved", "lost", "overlapping_mentions", "empty_posts")
    assert [meta["splits"]["train"][name] for name in names] == [2, 6, 4, 4, 1, 1, 1]
    assert "1 mentions whose text is nowhere in the post" in result.output
    report = check_data("wikidiverse", Folders(data, data / "images"))
    assert report.runs == ["text", "pictures"]
    assert report.counts["dev"]["Organization"] == 2
    assert report.version.name == "unknown"


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("{", "not valid JSON"),
        (b"\xff", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("{}", "expected a list of posts"),
        ("[]", "expected a list of posts"),
        (json.dumps([*POSTS, ["a", "b", "c"]]), r"post 4: expected \[caption"),
        (json.dumps([["a", 1, "c", []]]), r"post 1: expected \[caption"),
        (json.dumps([["a\ud800", URL, "c", []]]), "half of a surrogate pair"),
        (json.dumps([["Ann", URL, "c", [["Ann", "\ud800", 0, 3, ""]]]]), "half of a surrogate pair"),
        (json.dumps([["Ann", URL, "c", [["Ann", "", 0, 3, ""]]]]), r"post 1: expected \[text, type"),
        (json.dumps([["Ann", URL, "c", [["Ann", "X", "0", 3, ""]]]]), r"expected \[text, type"),
        (json.dumps([["Ann", URL, "c", [{"text": "Ann"}]]]), r"expected \[text, type"),
    ],
)
def test_what_is_not_in_the_format(data, tmp_path, content, match):
    (data / "valid.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    result = run(data, tmp_path / "out")
    assert result.exit_code == 1
    with pytest.raises(AssertionError, match=match):
        raise AssertionError(" ".join(result.output.split()))
    assert not (tmp_path / "out").exists()


def test_a_split_that_is_missing(data, tmp_path):
    (data / "valid.json").rename(data / "dev.json")
    assert run(data, tmp_path / "out").exit_code == 0
    (data / "dev.json").unlink()
    result = run(data, tmp_path / "other")
    assert result.exit_code == 1
    assert "valid.json" in " ".join(result.output.split())


@pytest.mark.parametrize(
    ("url", "ending"),
    [
        (URL, ".jpg"),
        ("https://upload.wikimedia.org/wikipedia/commons/a/ab/Map.SVG", ".png"),
        ("http://localhost/../../etc/passwd", ""),
        ("a/..", ""),
        ("", ""),
    ],
)
def test_names_of_pictures_lead_nowhere(url, ending):
    name = name_picture(url)
    assert name[32:] == ending
    assert all(x in "0123456789abcdef" for x in name[:32])
