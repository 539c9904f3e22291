import json
import os
from pathlib import Path

import pytest
import spacy
from conftest import read_docs, run_command, save_picture

from project import convert
from project.convert import convert_jsonl, convert_twitter
from project.facts import PUBLISHED
from project.pictures import common_root
from project.tagged import FormatError, read_twitter_text, repair_tags
from spacy_mmib.regions.crops import LayoutError
from spacy_mmib.training.corpus import MultimodalCorpus

MMIB_DATA = os.environ.get("MMIB_DATA")
needs_data = pytest.mark.skipif(not MMIB_DATA, reason="set MMIB_DATA to the folder of the datasets")

TRAIN = """IMGID:1
Rob\tB-PER
Smith\tI-PER
in\tO
Paris\tB-LOC

IMGID:2
the\tO
NBA\tI-ORG
Finals\tB-OTHER

IMGID:3
\tO
\u00a0\tO
\ufe0f\tO
\x85\tO
a\u2028b\tB-ORG
last\tO"""


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "twitter2015"
    folder.mkdir()
    (folder / "train.txt").write_text(TRAIN, encoding="utf8", newline="\n")
    (folder / "valid.txt").write_text("IMGID:4\r\nAnn\tB-PER\r\n\r\n", newline="")
    (folder / "test.txt").write_text("IMGID:9\nBob\tB-PER\n\n\nIMGID:../evil\nno\tO\n\n")
    return folder


def run(data_format, data, output, *args):
    args = ("mine", "--format", data_format, "--data", data, "--output", output, *args)
    return run_command(convert.main, *args)


@pytest.fixture
def images(tmp_path):
    for name in ("1", "2", "4"):
        save_picture(tmp_path / "images" / f"{name}.jpg")
    save_picture(tmp_path / "evil.jpg")
    return tmp_path / "images"


def test_text_only(data, tmp_path):
    counts = convert_twitter(data, tmp_path / "out")
    docs = read_docs(tmp_path / "out" / "train.spacy")
    assert [len(doc) for doc in docs] == [4, 3, 6]
    assert [(ent.text, ent.label_) for ent in docs[0].ents] == [("Rob Smith", "PER"), ("Paris", "LOC")]
    assert [(ent.text, ent.label_) for ent in docs[1].ents] == [("Finals", "MISC")]
    assert [(ent.text, ent.label_) for ent in docs[2].ents] == [("a\u2028b", "ORG")]
    assert [token.text for token in docs[2]][:4] == ["\ufffd", "\u00a0", "\ufe0f", "\x85"]
    assert all(doc.has_annotation("ENT_IOB") for doc in docs)
    assert all(doc._.image is None and doc._.image_error is None for doc in docs)
    train = counts["train"]
    assert (train["posts"], train["entities"], train["begin_with_i"], train["empty_tokens"]) == (3, 4, 1, 1)
    assert train["per_label"] == {"LOC": 1, "MISC": 1, "ORG": 1, "PER": 1}
    assert counts["dev"]["posts"] == 1
    meta = json.loads((tmp_path / "out" / "meta.json").read_text())
    assert meta["image_root"] is None
    assert meta["splits"]["train"]["entities"] == 4


def test_pictures(data, images, tmp_path):
    counts = convert_twitter(data, tmp_path / "out", images=images)
    first, second, third = read_docs(tmp_path / "out" / "train.spacy")
    assert (first._.image, second._.image, third._.image) == ("1.jpg", "2.jpg", None)
    assert "no such file" in third._.image_error
    assert (counts["train"]["with_picture"], counts["train"]["missing_pictures"]) == (2, 1)
    _, evil = read_docs(tmp_path / "out" / "test.spacy")
    assert evil._.image is None
    assert "leads out" in evil._.image_error
    meta = json.loads((tmp_path / "out" / "meta.json").read_text())
    assert meta["image_root"] == str(images.resolve())
    corpus = MultimodalCorpus(tmp_path / "out" / "train.spacy", image_root=meta["image_root"])
    examples = list(corpus(spacy.blank("en")))
    assert corpus.counts.with_picture == 2
    assert examples[2].predicted._.image_error
    # The tokens of the data, not those of spaCy.
    assert [token.text for token in examples[1].predicted] == ["the", "NBA", "Finals"]


@pytest.mark.parametrize("relative", [False, True])
def test_umgf_crops(data, images, tmp_path, monkeypatch, relative):
    monkeypatch.chdir(tmp_path)
    crops = Path("crops") if relative else tmp_path / "crops"
    for post, kinds in {"1": ("miscellaneous", "person"), "3": ("person",)}.items():
        for kind in kinds:
            save_picture(crops / post / f"crop_{kind}_{post}.jpg")
    (crops / "1" / "crop_location_1.jpg").symlink_to(tmp_path / "nowhere.jpg")
    counts = convert_twitter(data, tmp_path / "out", images=images, crops=crops)
    first, second, third = read_docs(tmp_path / "out" / "train.spacy")
    assert first._.image == "images/1.jpg"
    assert first._.regions == ["crops/1/crop_person_1.jpg", "crops/1/crop_miscellaneous_1.jpg"]
    assert second._.regions == []
    assert (third._.image, third._.regions) == (None, [])  # crops without their picture are not used
    assert (counts["train"]["crops"], counts["train"]["missing_crops"]) == (2, 1)
    meta = json.loads((tmp_path / "out" / "meta.json").read_text())
    assert meta["regions"] == "umgf"
    assert meta["image_root"] == str(tmp_path.resolve())
    corpus = MultimodalCorpus(tmp_path / "out" / "train.spacy", image_root=meta["image_root"])
    example = next(iter(corpus(spacy.blank("en"))))
    assert [Path(path).name for path in example.predicted._.regions] == [
        "crop_person_1.jpg",
        "crop_miscellaneous_1.jpg",
    ]


@pytest.fixture
def hvpnet(tmp_path, data):
    torch = pytest.importorskip("torch")
    crops = tmp_path / "aux"
    rows = {
        "train": {"1.jpg": ["0_pred_yolo_crop_5.png", "0_pred_yolo_crop_2.png", "0_pred_yolo_crop_9.png"]},
        "val": {"4.jpg": ["0_pred_yolo_crop_1.png"]},
        "test": {"9.jpg": ["../../../evil.jpg"]},
    }
    for split, row in rows.items():
        (crops / split / "crops").mkdir(parents=True)
        for names in row.values():
            for name in names[:2]:
                if ".." not in name:
                    save_picture(crops / split / "crops" / name)
        torch.save(row, data / f"twitter2015_{split}_dict.pth")
    return crops


def test_hvpnet_crops(data, images, hvpnet, tmp_path):
    save_picture(images / "9.jpg")
    counts = convert_twitter(data, tmp_path / "out", images=images, crops=hvpnet)
    first, second, _ = read_docs(tmp_path / "out" / "train.spacy")
    assert first._.regions == [
        "aux/train/crops/0_pred_yolo_crop_5.png",
        "aux/train/crops/0_pred_yolo_crop_2.png",
    ]
    assert second._.regions == []
    assert counts["train"]["missing_crops"] == 1
    (dev,) = read_docs(tmp_path / "out" / "dev.spacy")
    assert dev._.regions == ["aux/val/crops/0_pred_yolo_crop_1.png"]
    (test, _) = read_docs(tmp_path / "out" / "test.spacy")
    assert test._.image == "images/9.jpg"
    assert test._.regions == []  # the dictionary names a file outside the crops
    assert json.loads((tmp_path / "out" / "meta.json").read_text())["regions"] == "hvpnet"
    convert_twitter(data, tmp_path / "one", images=images, crops=hvpnet, max_crops=1)
    assert len(read_docs(tmp_path / "one" / "train.spacy")[0]._.regions) == 1
    convert_twitter(data, tmp_path / "no", images=images, crops=hvpnet, crops_layout="none")
    assert read_docs(tmp_path / "no" / "train.spacy")[0]._.regions == []


def test_hvpnet_dictionary_problems(data, images, hvpnet, tmp_path):
    import torch

    (data / "twitter2017_train_dict.pth").write_bytes(b"")  # another dataset's is passed over
    convert_twitter(data, tmp_path / "out", images=images, crops=hvpnet)
    path = data / "twitter2015_train_dict.pth"
    for bad in (b"junk", b""):
        path.write_bytes(bad)
        with pytest.raises(LayoutError, match="can't be read as a dictionary of crops"):
            convert_twitter(data, tmp_path / "out", images=images, crops=hvpnet)
    torch.save({"1.jpg": "name.png"}, path)
    with pytest.raises(LayoutError, match="not a dictionary of lists"):
        convert_twitter(data, tmp_path / "out", images=images, crops=hvpnet)
    torch.save({"1.jpg": Path}, path)  # weights_only: nothing but plain data is loaded
    with pytest.raises(LayoutError, match="can't be read as a dictionary of crops"):
        convert_twitter(data, tmp_path / "out", images=images, crops=hvpnet)
    path.unlink()
    with pytest.raises(LayoutError, match="--dicts"):
        convert_twitter(data, tmp_path / "out", images=images, crops=hvpnet, dicts=tmp_path / "images")


def test_layout_problems(data, images, tmp_path):
    (tmp_path / "crops").mkdir()
    with pytest.raises(LayoutError, match="neither layout"):
        convert_twitter(data, tmp_path / "out", images=images, crops=tmp_path / "crops")
    with pytest.raises(LayoutError, match="pass --images"):
        convert_twitter(data, tmp_path / "out", crops=tmp_path / "crops")
    with pytest.raises(LayoutError, match="no folder"):
        convert_twitter(data, tmp_path / "out", images=tmp_path / "nope")
    with pytest.raises(LayoutError, match="auto, umgf"):
        convert_twitter(data, tmp_path / "out", images=images, crops_layout="yolo")
    with pytest.raises(LayoutError, match="in common"):
        common_root([Path("/usr"), Path("/var/tmp")])


@pytest.mark.parametrize(
    ("tags", "drop", "begin", "found"),
    [
        ("O B-X I-X O", "O B-X I-X O", "O B-X I-X O", 0),
        ("I-X I-X O", "O O O", "B-X I-X O", 1),
        ("B-X I-Y I-Y", "B-X O O", "B-X B-Y I-Y", 1),
        ("B-X I-Y I-X", "B-X O O", "B-X B-Y B-X", 2),
        ("B-X B-X I-X", "B-X B-X I-X", "B-X B-X I-X", 0),
        ("B-X O I-X", "B-X O O", "B-X O B-X", 1),
        ("", "", "", 0),
    ],
)
def test_repair_tags(tags, drop, begin, found):
    assert repair_tags(tags.split(), "drop") == (drop.split(), found)
    assert repair_tags(tags.split(), "begin") == (begin.split(), found)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("IMGID:1\nRob PER\n", "line 2: expected token<TAB>tag"),
        ("IMGID:1\nRob\tPER\n", "line 2: expected O, B-<label>"),
        ("IMGID:1\nRob\tB-\n", "line 2: expected O"),
        ("IMGID:1\nRob\t\n", "line 2: expected O"),
        ("Rob\tO\n", "line 1: a token before"),
        ("IMGID:\nRob\tO\n", "line 1: the id"),
        ("", "no posts"),
    ],
)
def test_malformed_text(data, tmp_path, text, match):
    (data / "train.txt").write_text(text)
    with pytest.raises(FormatError, match=match) as info:
        convert_twitter(data, tmp_path / "out")
    assert "train.txt" in str(info.value)
    result = run("twitter", data, tmp_path / "out")
    assert result.exit_code == 1
    assert "train.txt" in result.output
    assert not (tmp_path / "out").exists()


THREE = "IMGID:1\nRob\tB-person\tB-athlete\nsings\tO\tO\n\n"


def test_more_columns_are_a_stated_choice(data, tmp_path):
    for name in ("train", "valid", "test"):
        (data / f"{name}.txt").write_text(THREE)
    result = run("twitter", data, tmp_path / "out")
    assert result.exit_code == 1
    assert "train.txt, line 2: 3 columns" in result.output.replace("\n", "")
    assert "--tag-column 2 to 3" in " ".join(result.output.split())
    assert not (tmp_path / "out").exists()
    for column, label in ((2, "person"), (3, "athlete")):
        result = run("twitter", data, tmp_path / "out", "--tag-column", column)
        assert result.exit_code == 0, result.output
        (doc,) = read_docs(tmp_path / "out" / "train.spacy")
        assert [token.text for token in doc] == ["Rob", "sings"]
        assert [ent.label_ for ent in doc.ents] == [label]
    for column, match in ((4, "no column 4 .--tag-column., but 3"), (1, "counted from 1"), (-1, "1")):
        with pytest.raises(FormatError, match=match):
            convert_twitter(data, tmp_path / "out", tag_column=column)


def test_a_column_that_only_some_lines_have(data, tmp_path):
    (data / "train.txt").write_text("IMGID:1\nRob\tB-PER\tB-X\nsings\tO\n")
    with pytest.raises(FormatError, match=r"train\.txt, line 3: there is no column 3"):
        convert_twitter(data, tmp_path / "out", tag_column=3)
    with pytest.raises(FormatError, match=r"train\.txt, line 2: 3 columns"):
        convert_twitter(data, tmp_path / "out")


@pytest.mark.parametrize("blank", ["\n", "\r\n", " \n", "\t\n"])
def test_a_blank_line_ends_a_post(data, tmp_path, blank):
    text = f"IMGID:1\nRob\tB-PER\n{blank}Mia\tB-PER\n"
    (data / "test.txt").write_text(text, newline="")
    with pytest.raises(FormatError, match=r"test\.txt, line 4: a token after a blank line"):
        convert_twitter(data, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_token_that_looks_like_a_header(data):
    text = "IMGID:1 \nIMGID:\tO\nIMGID:7\tB-MISC\nx\tO \n\nIMGID:2\ny\tO\t\n".removesuffix("\t\n")
    (data / "train.txt").write_bytes(b"\xef\xbb\xbf" + text.encode())
    first, second = read_twitter_text(data / "train.txt")
    assert (first.picture, first.tokens, first.tags) == (
        "1.jpg",
        ["IMGID:", "IMGID:7", "x"],
        ["O", "B-MISC", "O"],
    )
    assert (second.picture, second.tokens) == ("2.jpg", ["y"])


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("IMGID:1\rRob\tB-PER\r\rIMGID:2\rMia\tB-PER\r", "line 1: there is a carriage return"),
        ("IMGID:1\nRob\tB-PER\rMia\tB-PER\n", "line 2: there is a carriage return"),
        ("IMGID:1\n\nIMGID:2\n", "no posts in it"),
        ("IMGID:1\r", "no posts in it"),
        ("\n \n", "no posts in it"),
    ],
)
@pytest.mark.parametrize("name", ["train", "valid", "test"])
def test_a_split_without_posts(data, tmp_path, name, text, match):
    (data / f"{name}.txt").write_text(text, newline="")
    with pytest.raises(FormatError, match=match):
        convert_twitter(data, tmp_path / "out")
    result = run("twitter", data, tmp_path / "out")
    assert result.exit_code == 1
    assert not (tmp_path / "out").exists()


def test_names_of_the_text_files(data, tmp_path):
    (data / "valid.txt").rename(data / "val .txt")
    assert convert_twitter(data, tmp_path / "out")["dev"]["posts"] == 1
    (data / "dev.txt").write_text("IMGID:1\nx\tO\n")
    with pytest.raises(FormatError, match=r"could be the same split: .*dev\.txt.* and .*val \.txt"):
        convert_twitter(data, tmp_path / "out")


def test_an_output_that_cannot_be_written(data, tmp_path):
    (tmp_path / "file").write_text("")
    result = run("twitter", data, tmp_path / "file" / "out")
    assert result.exit_code == 1
    assert "Not converted" in result.output


def test_not_utf8(data):
    (data / "train.txt").write_bytes(b"IMGID:1\n\xff\tO\n")
    with pytest.raises(FormatError, match=r"train\.txt: not UTF-8"):
        list(read_twitter_text(data / "train.txt"))


def test_post_without_tokens_is_left_out(data, tmp_path):
    (data / "valid.txt").write_text("IMGID:1\n\nIMGID:2\nx\tO\n")
    counts = convert_twitter(data, tmp_path / "out")
    assert (counts["dev"]["posts"], counts["dev"]["empty_posts"]) == (1, 1)


def test_command_line(data, images, tmp_path):
    result = run("twitter", data, tmp_path / "out", "--images", images, "--orphans", "begin")
    assert result.exit_code == 0, result.output
    assert "train: 3 posts, 5 entities" in result.output
    assert "1 entities begin with I- instead of B-" in result.output
    assert "2 with a picture\n  1 whose picture is missing\n" in result.output
    assert f"image_root: {images.resolve()}" in result.output.replace("\n", "")
    # Unset variables of a project arrive as empty strings.
    result = run("twitter", data, tmp_path / "out", "--images", "", "--crops", "")
    assert result.exit_code == 0, result.output
    assert "Text only" in result.output
    for args in (["--orphans", "keep"], ["--crops-layout", "yolo"]):
        result = run("twitter", data, tmp_path / "out", *args)
        assert result.exit_code == 1
        assert "choose" in result.output
    result = run("twitter", tmp_path / "nope", tmp_path / "out")
    assert result.exit_code == 1
    assert "There is no file" in result.output


def test_jsonl(tmp_path):
    texts = tmp_path / "posts" / "texts" / "train"
    texts.mkdir(parents=True)
    save_picture(tmp_path / "posts" / "images" / "train" / "1.jpg")
    lines = [
        {"id": "1", "image_id": "1.jpg", "tokens": ["Rob", "sings"], "label": ["B-PER", "O"]},
        {"id": "2", "tokens": ["", "NBA"], "label": ["O", "B-ORG"]},
    ]
    (texts / "train.json").write_text("\n".join(map(json.dumps, lines)))
    result = run("jsonl", tmp_path / "posts", tmp_path / "out")
    assert result.exit_code == 0, result.output
    first, second = read_docs(tmp_path / "out" / "train.spacy")
    assert first._.image == "train/1.jpg"
    assert second._.image is None
    assert [ent.label_ for ent in second.ents] == ["ORG"]
    for bad in (
        "{",
        "[]",
        '{"tokens": ["a"]}',
        '{"tokens": ["a"], "label": []}',
        '{"tokens": ["a"], "label": ["X"]}',
    ):
        (texts / "train.json").write_text(f"{json.dumps(lines[0])}\n{bad}\n")
        result = run("jsonl", tmp_path / "posts", tmp_path / "out")
        assert result.exit_code == 1
        assert "line 2" in result.output
    for text, match in (
        ('{"tokens": [], "label": []}\n', "no posts in it"),
        ("\n", "no posts in it"),
        (json.dumps(lines[0]) + "\r" + json.dumps(lines[1]), "carriage return"),
        ('{"tokens": ["\\ud83d"], "label": ["O"]}', "half of a surrogate pair"),
    ):
        (texts / "train.json").write_text(text, newline="")
        result = run("jsonl", tmp_path / "posts", tmp_path / "new")
        assert result.exit_code == 1
        assert match in " ".join(result.output.split())
        assert not (tmp_path / "new").exists()
    (texts / "train.json").write_text(json.dumps(lines[0]))
    (texts.parent / "dev").mkdir()
    result = run("jsonl", tmp_path / "posts", tmp_path / "new")
    assert result.exit_code == 1
    assert "There is no file" in result.output
    result = run("jsonl", tmp_path / "nope", tmp_path / "out")
    assert result.exit_code == 1


BEGIN_WITH_I = {"twitter15": {"train": 186, "dev": 53, "test": 135}, "twitter17": {}}
"""Entities that seqeval reads and the papers don't count."""


@pytest.mark.slow
@needs_data
@pytest.mark.parametrize("name", BEGIN_WITH_I)
def test_published_counts(name, tmp_path):
    counts = convert_twitter(Path(MMIB_DATA) / f"twitter20{name[-2:]}", tmp_path / "out")
    for split, facts in PUBLISHED[name]["files"].items():
        found = counts[split]
        assert len(read_docs(tmp_path / "out" / f"{split}.spacy")) == facts["posts"]
        assert {"posts": found["posts"], "entities": found["entities"], **found["per_label"]} == facts
        assert found["begin_with_i"] == BEGIN_WITH_I[name].get(split, 0)
        assert found["empty_tokens"] == found["empty_posts"] == 0


@needs_data
def test_real_sample_with_pictures(tmp_path):
    data = Path(MMIB_DATA) / "sample" / "twitter_2017"
    counts = convert_jsonl(data, tmp_path / "out")
    assert {split: count["with_picture"] for split, count in counts.items()} == {
        "train": 5,
        "dev": 5,
        "test": 5,
    }
    root = json.loads((tmp_path / "out" / "meta.json").read_text())["image_root"]
    corpus = MultimodalCorpus(tmp_path / "out", image_root=root, check_images="decode")
    assert len(list(corpus(spacy.blank("en")))) == corpus.counts.with_picture == 15
