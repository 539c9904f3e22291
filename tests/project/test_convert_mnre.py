import json
import logging
import os
from collections import Counter
from pathlib import Path

import pytest
import spacy
from conftest import read_docs, run_command, save_picture
from spacy.tokens import Doc
from spacy.vocab import Vocab

from project import convert
from project.convert import attach_leaking_crops, convert_mnre
from project.facts import SOURCE_KEY
from project.mnre import MnreRow, find_mnre_text, read_mnre
from project.tagged import FormatError
from spacy_mmib.post.extensions import get_regions_note
from spacy_mmib.regions.crops import LEAKING_MNRE_NOTE, LayoutError
from spacy_mmib.training.corpus import MultimodalCorpus
from spacy_mmib.util import MMIBWarning

BOB = ["Bob", "Lee", "of", "Lee", "Ltd"]


def row(tokens, head, tail, relation="None", image="1.jpg", **extra):
    def span(pos):
        return {"name": " ".join(tokens[slice(*pos)]), "pos": list(pos)}

    return {"token": tokens, "h": span(head), "t": span(tail), "img_id": image, "relation": relation, **extra}


ROWS = [
    row(BOB, (0, 2), (3, 5), "/per/org/member_of"),
    row(["Ann", "sings"], (0, 1), (1, 2), "None", "2.jpg"),
    row(BOB, (3, 4), (3, 5), "/org/org/alternate_names"),  # overlapping
    row(BOB, (0, 2), (3, 5), "/per/org/member_of"),  # an earlier one again
    row(BOB, (0, 2), (3, 5), "/per/org/founder"),  # the same pair, another label
    row(BOB, (3, 5), (0, 2), "None"),
    row(BOB, (0, 2), (3, 5), "None", "3.jpg"),  # the same text with another picture
    row(["Rob", "of", "Oslo"], (0, 1), (2, 3), "None"),  # another text with the same picture
]


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(map(repr, rows)) + "\n", encoding="utf8")


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "mnre"
    write(folder / "mnre_train.txt", ROWS)
    write(folder / "mnre_val.txt", [row(["x", "y"], (0, 1), (1, 2), "None", "4.jpg")])
    write(folder / "mnre_test.txt", [row(["x", "y"], (1, 2), (0, 1), "None", "5.jpg")])
    return folder


@pytest.fixture
def hvpnet(tmp_path):
    """HVPNeT's layout: keys that are not needed, pictures, crops and dictionaries."""
    torch = pytest.importorskip("torch")
    folder = tmp_path / "hvpnet"
    write(folder / "txt" / "ours_train.txt", [{**r, "caption": ["a\\d"]} for r in ROWS])
    write(folder / "txt" / "ours_val.txt", [row(["x", "y"], (0, 1), (1, 2), "None", "4.jpg")])
    write(folder / "txt" / "ours_test.txt", [row(["x", "y"], (1, 2), (0, 1), "/a/b/c", "5.jpg")])
    for name in ("train/1.jpg", "train/2.jpg", "val/4.jpg", "test/5.jpg"):
        save_picture(folder / "img_org" / name)
    dictionaries = {
        "train": {i: [f"{i}_pred_yolo_crop_{n}.png" for n in (i + 9, i)] for i in range(len(ROWS))},
        "dev": {0: ["0_pred_yolo_crop_1.png"]},
        "test": {0: ["0_pred_yolo_crop_1.png", "../../../secret.png", "0_pred_yolo_crop_2.png"]},
    }
    for split, dictionary in dictionaries.items():
        torch.save(dictionary, folder / "txt" / f"mre_{split}_dict.pth")
    for name in ("train/crops/0_pred_yolo_crop_9.png", "val/crops/0_pred_yolo_crop_1.png"):
        save_picture(folder / "img_vg" / name)
    save_picture(tmp_path / "secret.png")
    return folder


def run(data, output, *args):
    return run_command(convert.main, "mnre", "--data", data, "--output", output, *args)


def to_rows(doc):
    """The instances of a converted doc, each with its row in the file."""
    source = doc.user_data[SOURCE_KEY]
    tokens = tuple("" if token.i in source["empty"] else token.text for token in doc)
    pairs = [
        MnreRow(tokens, (r.head.start, r.head.end), (r.tail.start, r.tail.end), r.label, source["image"])
        for r in doc._.relations
    ]
    return list(zip(source["rows"], pairs, strict=True))


def meta_of(output):
    return json.loads((output / "meta.json").read_text())


def relations_of(doc):
    return [((r.head.start, r.head.end), (r.tail.start, r.tail.end), r.label) for r in doc._.relations]


def read_examples(output, split="train", **settings):
    root = meta_of(output)["image_root"]
    corpus = MultimodalCorpus(output / f"{split}.spacy", image_root=root, **settings)
    return corpus, list(corpus(spacy.blank("en")))


def test_posts(data, tmp_path):
    counts = convert_mnre(data, tmp_path / "out")["train"]
    docs = read_docs(tmp_path / "out" / "train.spacy")
    # One doc for each pair of text and picture, in order of the first instance.
    assert [doc.text.split() for doc in docs] == [BOB, ["Ann", "sings"], BOB, ["Rob", "of", "Oslo"]]
    assert relations_of(docs[0]) == [
        ((0, 2), (3, 5), "/per/org/member_of"),
        ((3, 4), (3, 5), "/org/org/alternate_names"),
        ((0, 2), (3, 5), "/per/org/member_of"),
        ((0, 2), (3, 5), "/per/org/founder"),
        ((3, 5), (0, 2), "None"),
    ]
    assert [[r.label for r in doc._.relations] for doc in docs[1:]] == [["None"]] * 3
    # Of spans that overlap the longest is an entity; all have the same type.
    assert [(ent.text, ent.label_) for ent in docs[0].ents] == [("Bob Lee", "ENTITY"), ("Lee Ltd", "ENTITY")]
    types = {s.label_ for doc in docs for r in doc._.relations for s in (r.head, r.tail)}
    assert types == {"ENTITY"}
    assert all(doc.has_annotation("ENT_IOB", require_complete=True) for doc in docs)
    assert all(doc._.image is None and doc._.image_error is None for doc in docs)
    assert (counts["instances"], counts["posts"], counts["docs"]) == (8, 4, 4)
    assert (counts["overlapping"], counts["repeated"], counts["not_entities"]) == (1, 2, 1)
    assert (counts["labels"], counts["per_label"]["None"]) == (4, 4)
    assert (counts["other_names"], counts["empty_tokens"], counts["missing_pictures"]) == (0, 0, 0)
    assert meta_of(tmp_path / "out")["image_root"] is None
    assert meta_of(tmp_path / "out")["splits"]["train"]["instances"] == 8


def test_instances(data, tmp_path):
    counts = convert_mnre(data, tmp_path / "out", group=False)["train"]
    docs = read_docs(tmp_path / "out" / "train.spacy")
    assert [doc.text.split() for doc in docs] == [r["token"] for r in ROWS]
    assert [[r.label for r in doc._.relations] for doc in docs] == [[r["relation"]] for r in ROWS]
    assert [ent.text for ent in docs[2].ents] == ["Lee Ltd"]
    assert (counts["docs"], counts["posts"]) == (8, 4)
    assert meta_of(tmp_path / "out")["docs_are"] == "instances"


@pytest.mark.parametrize("group", [True, False])
def test_back(data, tmp_path, group):
    empty = row(["", "a", " ", "\ufffd", "b\u2028"], (1, 3), (0, 1), "/x/y/z", "nowhere.jpg")
    write(data / "mnre_train.txt", [*ROWS, empty])
    counts = convert_mnre(data, tmp_path / "out", group=group)
    docs = read_docs(tmp_path / "out" / "train.spacy")
    assert [token.text for token in docs[-1]] == ["\ufffd", "a", " ", "\ufffd", "b\u2028"]
    assert counts["train"]["empty_tokens"] == 1
    back = sorted((pair for doc in docs for pair in to_rows(doc)), key=lambda pair: pair[0])
    assert back == list(enumerate(read_mnre(data / "mnre_train.txt")[0]))
    assert back[-1][1].tokens[0] == ""


def test_pictures(data, tmp_path):
    images = tmp_path / "images"
    save_picture(tmp_path / "x.jpg")
    save_picture(images / "1.jpg")
    save_picture(images / "val" / "4.jpg")
    save_picture(images / "train" / "5.jpg")  # of another split
    rows = [*ROWS, row(["x", "y"], (0, 1), (1, 2), "None", "../x.jpg")]
    write(data / "mnre_train.txt", rows)
    counts = convert_mnre(data, tmp_path / "out", images=images)
    docs = read_docs(tmp_path / "out" / "train.spacy")
    # A picture that posts share; one that is missing; one outside the folder.
    assert [doc._.image for doc in docs] == ["1.jpg", None, None, "1.jpg", None]
    assert "no such file" in docs[1]._.image_error
    assert "leads out" in docs[-1]._.image_error
    assert (counts["train"]["with_picture"], counts["train"]["missing_pictures"]) == (2, 3)
    assert read_docs(tmp_path / "out" / "dev.spacy")[0]._.image == "val/4.jpg"
    assert read_docs(tmp_path / "out" / "test.spacy")[0]._.image is None
    corpus, examples = read_examples(tmp_path / "out")
    assert corpus.counts.with_picture == 2
    assert [token.text for token in examples[0].predicted] == BOB


def test_pictures_of_a_split_folder_do_not_leave_it(data, tmp_path):
    images = tmp_path / "images"
    save_picture(images / "x.jpg")
    (images / "train").mkdir()
    elsewhere = tmp_path / "elsewhere"
    save_picture(elsewhere / "5.jpg")
    (images / "test").symlink_to(elsewhere)
    write(data / "mnre_train.txt", [row(["x", "y"], (0, 1), (1, 2), "None", "../x.jpg")])
    convert_mnre(data, tmp_path / "out", images=images)
    for split in ("train", "test"):
        (doc,) = read_docs(tmp_path / "out" / f"{split}.spacy")
        assert doc._.image is None
        assert "leads out" in doc._.image_error


def test_hvpnet_layout(hvpnet, tmp_path):
    counts = convert_mnre(hvpnet, tmp_path / "out")
    docs = read_docs(tmp_path / "out" / "train.spacy")
    assert [doc._.image for doc in docs] == ["train/1.jpg", "train/2.jpg", None, "train/1.jpg"]
    assert read_docs(tmp_path / "out" / "dev.spacy")[0]._.image == "val/4.jpg"
    # The crops and dictionaries are there, but nothing is taken from them.
    for split in ("train", "dev", "test"):
        for doc in read_docs(tmp_path / "out" / f"{split}.spacy"):
            assert doc._.regions == []
            assert get_regions_note(doc) is None
        assert counts[split]["crops"] == 0
    assert meta_of(tmp_path / "out")["regions"] == {"protocol": "none", "note": None, "max_crops": None}


def test_leaking_crops(hvpnet, tmp_path, caplog):
    crops = hvpnet / "img_vg"
    caplog.set_level(logging.INFO, logger="spacy")
    counts = convert_mnre(hvpnet, tmp_path / "out", leaking_crops=crops)
    said = [r.getMessage() for r in caplog.records if "LEAK" in r.getMessage()]
    assert len(said) == 1
    assert LEAKING_MNRE_NOTE in said[0]
    assert "\n" not in said[0]
    docs = read_docs(tmp_path / "out" / "train.spacy")
    assert len(docs) == len(ROWS)  # a doc for each row
    for i, doc in enumerate(docs):
        # All that are stated, in their order, there or not.
        assert doc._.regions == [f"img_vg/train/crops/{i}_pred_yolo_crop_{n}.png" for n in (i + 9, i)]
        assert get_regions_note(doc) == LEAKING_MNRE_NOTE
    assert docs[0]._.image == "img_org/train/1.jpg"
    (dev,) = read_docs(tmp_path / "out" / "dev.spacy")
    assert dev._.regions == ["img_vg/val/crops/0_pred_yolo_crop_1.png"]
    (test,) = read_docs(tmp_path / "out" / "test.spacy")
    # One of the names leads out of the folder; the folder itself isn't there.
    assert test._.regions == [f"img_vg/test/crops/0_pred_yolo_crop_{n}.png" for n in (1, 2)]
    assert (counts["train"]["crops"], counts["train"]["missing_crops"]) == (16, 15)
    assert (counts["test"]["crops"], counts["test"]["refused_crops"]) == (2, 1)
    regions = meta_of(tmp_path / "out")["regions"]
    assert regions == {"protocol": "leaking_mnre_crops", "note": LEAKING_MNRE_NOTE, "max_crops": 0}

    with pytest.warns(MMIBWarning) as caught:
        corpus, examples = read_examples(tmp_path / "out")
    notes = [str(w.message) for w in caught if LEAKING_MNRE_NOTE in str(w.message)]
    assert len(notes) == 1
    assert "8 of 8 posts" in notes[0]
    assert corpus.notes == {LEAKING_MNRE_NOTE: 8}
    assert corpus.counts.dropped_crops == 15
    # The one crop that is there, and with it the note; where no crop is left there is none.
    assert [len(example.predicted._.regions) for example in examples] == [1, *[0] * 7]
    assert [get_regions_note(example.predicted) for example in examples] == [LEAKING_MNRE_NOTE, *[None] * 7]

    convert_mnre(hvpnet, tmp_path / "one", leaking_crops=crops, max_crops=1)
    docs = read_docs(tmp_path / "one" / "train.spacy")
    assert docs[0]._.regions == ["img_vg/train/crops/0_pred_yolo_crop_9.png"]


def test_leaking_crops_stated_only(data, hvpnet, tmp_path):
    """The text, and dictionaries from elsewhere: no picture and no crop is there."""
    nowhere = tmp_path / "nowhere" / "img_vg"
    counts = convert_mnre(data, tmp_path / "out", leaking_crops=nowhere, dicts=hvpnet / "txt")
    docs = read_docs(tmp_path / "out" / "train.spacy")
    assert docs[1]._.regions == [f"train/crops/1_pred_yolo_crop_{n}.png" for n in (10, 1)]
    assert all(doc._.image is None for doc in docs)
    assert meta_of(tmp_path / "out")["image_root"] == str(nowhere)
    assert counts["train"]["missing_crops"] == counts["train"]["crops"] == 16


def test_leaking_crops_are_asked_for_in_so_many_words(data, hvpnet, tmp_path):
    import torch

    with pytest.raises(LayoutError, match="leak the label.*--leaking-crops"):
        convert_mnre(hvpnet, tmp_path / "out", dicts=hvpnet / "txt")
    with pytest.raises(LayoutError, match="can't go with --group"):
        convert_mnre(hvpnet, tmp_path / "out", leaking_crops=hvpnet, group=True)
    with pytest.raises(LayoutError, match="--dicts"):
        convert_mnre(data, tmp_path / "out", leaking_crops=hvpnet / "img_vg")
    torch.save({"1.jpg": ["x.png"]}, hvpnet / "txt" / "mre_dev_dict.pth")
    with pytest.raises(LayoutError, match="mre_dev_dict.pth is not by row"):
        convert_mnre(hvpnet, tmp_path / "out", leaking_crops=hvpnet / "img_vg")
    torch.save({0: Path}, hvpnet / "txt" / "mre_dev_dict.pth")
    with pytest.raises(LayoutError, match="can't be read as a dictionary"):
        convert_mnre(hvpnet, tmp_path / "out", leaking_crops=hvpnet / "img_vg")
    with pytest.raises(LayoutError, match="no folder"):
        convert_mnre(data, tmp_path / "out", images=tmp_path / "nope")


GOOD = row(["a", "b"], (0, 1), (1, 2))


def bad(**changes):
    return repr({**GOOD, **changes})


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ("{'token': [", "not a Python dict"),
        ("__import__('os').system('true')", "not a Python dict"),
        ("{'token': 'a'.upper()}", "not a Python dict"),
        ("[" * 10_000, "not a Python dict"),
        ("{'a': '\0'}", "not a Python dict"),
        ("['token']", "is no dict"),
        ("{}", '"token" is not a list'),
        (bad(token="a b"), '"token" is not a list'),
        (bad(token=["a", 1]), '"token" is not a list'),
        (bad(token=[]), '"pos" of "h" is .0, 1., which is no span of 0 tokens'),
        (bad(h=None), '"pos" of "h" is None'),
        (bad(h={"name": "a"}), '"pos" of "h" is None'),
        (bad(h={"pos": [0]}), '"pos" of "h" is .0.; expected two numbers'),
        (bad(t={"pos": [0, 1, 2]}), '"pos" of "t" is'),
        (bad(t={"pos": [0.0, 1]}), '"pos" of "t" is'),
        (bad(t={"pos": "01"}), '"pos" of "t" is'),
        (bad(t={"pos": [True, 2]}), '"pos" of "t" is'),
        (bad(t={"pos": [1, 3]}), "no span of 2 tokens"),
        (bad(t={"pos": [-1, 1]}), "no span of 2 tokens"),
        (bad(t={"pos": [1, 1]}), "no span of 2 tokens"),
        (bad(img_id=3), '"img_id" is .3.'),
        (bad(img_id=" "), '"img_id" is'),
        (bad(relation=None), '"relation" is'),
        (bad(relation=""), '"relation" is'),
    ],
)
def test_bad_line(data, tmp_path, line, match):
    (data / "mnre_test.txt").write_text(f"{GOOD!r}\n\n{line}\n", encoding="utf8")
    with pytest.raises(FormatError, match=match) as info:
        convert_mnre(data, tmp_path / "out")
    assert "mnre_test.txt, line 3:" in str(info.value)
    assert not (tmp_path / "out").exists()
    result = run(data, tmp_path / "out")
    assert result.exit_code == 1
    assert "Not converted" in result.output
    assert "Traceback" not in result.output


def test_files(data, tmp_path):
    (data / "mnre_val.txt").write_bytes(repr(GOOD).encode() + b"\n'\xff'\n")
    with pytest.raises(FormatError, match=r"mnre_val\.txt, line 2: not UTF-8"):
        convert_mnre(data, tmp_path / "out")
    (data / "mnre_val.txt").write_text("\n \n")
    with pytest.raises(FormatError, match="no instances"):
        convert_mnre(data, tmp_path / "out")
    (data / "mnre_val.txt").unlink()
    with pytest.raises(FormatError, match=r"no file .*mnre_val\.txt, nor .*ours_val\.txt"):
        convert_mnre(data, tmp_path / "out")
    # Windows' line ends, a byte order mark, no line end at the end, dev under another name.
    text = "\ufeff" + repr(row(["a\x85", "b"], (0, 1), (1, 2))) + "\r\n" + repr(GOOD)
    (data / "mnre_dev.txt").write_text(text, encoding="utf8", newline="")
    counts = convert_mnre(data, tmp_path / "out")
    assert counts["dev"]["instances"] == 2


SMILE = row(["Rob/", "met", "\U0001f600"], (0, 1), (2, 3), "/per/per/peer", caption=None)


@pytest.mark.parametrize(
    "line",
    [
        json.dumps(SMILE),
        json.dumps(SMILE, ensure_ascii=False).replace("/", "\\/"),
        json.dumps({**SMILE, "score": float("nan"), "seen": True}),
        repr(SMILE),
        ascii(SMILE),
        ascii(SMILE).replace("\\U0001f600", "\\ud83d\\ude00"),
        " " + json.dumps(SMILE) + " \r",
    ],
)
def test_lines_of_json_and_of_python(data, line):
    path = data / "mnre_train.txt"
    path.write_text(f"{GOOD!r}\n{line}\n{json.dumps(GOOD)}\n", encoding="utf8", newline="")
    rows, other_names = read_mnre(path)
    assert rows[0] == rows[2]
    assert rows[1].tokens == ("Rob/", "met", "\U0001f600")
    assert rows[1].relation == "/per/per/peer"
    assert other_names == 0


@pytest.mark.parametrize(
    ("line", "match"),
    [
        (json.dumps({**GOOD, "token": ["a", "\ud83d"]}), "half of a surrogate pair"),
        (json.dumps({**GOOD, "relation": None}), '"relation" is None'),
        (json.dumps(GOOD) + "\r" + json.dumps(GOOD), "line 1: there is a carriage return"),
        (json.dumps([GOOD]), "is no dict"),
        (json.dumps(GOOD)[:-1], "nor JSON"),
        ("\r\r", "no instances"),
    ],
)
def test_lines_that_cannot_be_read(data, tmp_path, line, match):
    (data / "mnre_test.txt").write_text(line, newline="")
    with pytest.raises(FormatError, match=match):
        convert_mnre(data, tmp_path / "out")
    assert run(data, tmp_path / "out").exit_code == 1
    assert not (tmp_path / "out").exists()


def test_names_of_the_official_repository(data, tmp_path):
    clone = tmp_path / "clone"
    (clone / "Version-1" / "mnre_txt").mkdir(parents=True)
    data.rename(clone / "mnre_txt")
    data = clone / "mnre_txt"
    (data / "mnre_val.txt").rename(data / "mnre_val .txt")
    for folder in (data, clone):
        assert find_mnre_text(folder, "dev") == data / "mnre_val .txt"
        assert convert_mnre(folder, tmp_path / "out")["train"]["instances"] == len(ROWS)
    # Version 1 has its texts in two folders.
    first = clone / "Version-1"
    for split, folder in (("train", "mnre_txt"), ("val", "mnre_txt"), ("test", ".")):
        write(first / folder / f"mnre_org_{split}.txt", [GOOD])
    assert convert_mnre(first, tmp_path / "out")["test"]["instances"] == 1
    write(first / "mnre_test.txt", [GOOD])
    with pytest.raises(FormatError, match=r"same split: .*mnre_org_test\.txt.* and .*mnre_test"):
        convert_mnre(first, tmp_path / "out")


def test_other_names_are_counted(data, tmp_path):
    rows = [GOOD, {**GOOD, "h": {"name": "A", "pos": [0, 1]}, "t": {"pos": [1, 2]}}]
    write(data / "mnre_train.txt", rows)
    assert convert_mnre(data, tmp_path / "out")["train"]["other_names"] == 2


def test_command_line(hvpnet, tmp_path):
    # Unset variables of a project arrive as empty strings.
    unset = ("--images", "", "--leaking-crops", "", "--dicts", "")
    result = run(hvpnet, tmp_path / "out", *unset)
    assert result.exit_code == 0, result.output
    assert "train: 8 instances of 4 posts in 4 docs, 4 labels; 4 related, 4 None" in result.output
    assert "1 instances whose head and tail overlap" in result.output
    assert "3 with a picture\n  1 whose picture is missing\n" in result.output
    assert "LEAK" not in result.output
    result = run(hvpnet, tmp_path / "out", "--leaking-crops", hvpnet / "img_vg", "--max-crops", 1)
    assert result.exit_code == 0, result.output
    assert "8 crops of objects\n  7 crops missing\n" in result.output
    assert "which LEAK THE LABEL" in result.output
    result = run(hvpnet, tmp_path / "out", "--no-group", "--images", hvpnet / "img_org" / "train")
    assert result.exit_code == 0, result.output
    assert "in 8 docs" in result.output


def as_published(path):
    """Read without the converter's code."""
    import ast

    with open(path, encoding="utf8") as file:
        rows = [ast.literal_eval(line) for line in file]
    return Counter(
        (tuple(r["token"]), tuple(r["h"]["pos"]), tuple(r["t"]["pos"]), r["relation"], r["img_id"])
        for r in rows
    )


PUBLISHED = {
    # instances, posts, "None", overlapping, labels
    "train": (12_247, 7_356, 7_744, 59, 23),
    "dev": (1_624, 931, 1_000, 3, 23),
    "test": (1_614, 914, 974, 5, 21),
}


@pytest.mark.slow
def test_published_counts(mmib_data, tmp_path):
    data = mmib_data / "mnre"
    counts = convert_mnre(data, tmp_path / "out")
    meta = meta_of(tmp_path / "out")
    labels = set()
    for split, expected in PUBLISHED.items():
        found = counts[split]
        per_label = found["per_label"]
        what = (found["instances"], found["posts"], per_label["None"], found["overlapping"], found["labels"])
        assert what == expected
        assert found["docs"] == found["posts"]
        assert (found["repeated"], found["other_names"], found["empty_tokens"]) == (0, 0, 0)
        assert meta["splits"][split]["per_label"] == per_label
        labels |= set(per_label)
        docs = read_docs(tmp_path / "out" / f"{split}.spacy")
        assert len(docs) == found["docs"]
        back = [pair for doc in docs for pair in to_rows(doc)]
        assert sorted(number for number, _ in back) == list(range(found["instances"]))
        instances = Counter((r.tokens, r.head, r.tail, r.relation, r.image) for _, r in back)
        assert instances == as_published(find_mnre_text(data, split))
    assert labels == set(json.loads((data / "ours_rel2id.json").read_text()))


@pytest.mark.slow
def test_published_dictionaries_leak(mmib_data, tmp_path):
    """The whole text with the whole dictionaries: "fewer than 3 crops" tells "None"."""
    dicts = mmib_data / "sample" / "mnre" / "txt"
    convert_mnre(mmib_data / "mnre", tmp_path / "out", leaking_crops=tmp_path / "img_vg", dicts=dicts)
    docs = read_docs(tmp_path / "out" / "test.spacy")
    right = sum((len(doc._.regions) < 3) == (doc._.relations[0].label == "None") for doc in docs)
    assert right / len(docs) == pytest.approx(0.991, abs=0.0005)
    assert all(get_regions_note(doc) for doc in docs)


def test_real_sample(mmib_data, tmp_path):
    data = mmib_data / "sample" / "mnre"
    counts = convert_mnre(data, tmp_path / "out")
    assert sum(found["instances"] for found in counts.values()) == 15
    pictures = set()
    for split, found in counts.items():
        assert found["with_picture"] == found["docs"]
        corpus, examples = read_examples(tmp_path / "out", split, check_images="decode")
        assert corpus.counts.with_picture == found["docs"]
        assert not any(example.predicted._.regions for example in examples)
        pictures |= {example.predicted._.image for example in examples}
    assert len(pictures) == 12


def test_real_sample_with_crops(mmib_data, tmp_path):
    data = mmib_data / "sample" / "mnre"
    counts = convert_mnre(data, tmp_path / "out", leaking_crops=data / "img_vg")
    docs = [doc for split in counts for doc in read_docs(tmp_path / "out" / f"{split}.spacy")]
    assert len(docs) == 15
    crops = {
        path
        for split in counts
        for example in read_examples(tmp_path / "out", split, check_images="decode")[1]
        for path in example.predicted._.regions
    }
    # 50 are there; 8 of them belong to the next row of each split, whose text is not.
    there = {
        os.path.realpath(path) for path in (data / "img_vg").rglob("*.png") if not path.name.startswith("5_")
    }
    assert crops == there
    assert len(crops) == sum(found["crops"] for found in counts.values()) == 42
    assert not any(found["missing_crops"] for found in counts.values())


def test_no_leaking_crop_leads_out_of_its_folder(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    root = tmp_path / "root"
    folder = root / "crops"
    folder.mkdir(parents=True)
    (folder / "link.png").symlink_to(elsewhere / "x.png")
    names = ["b.png", "../up.png", "/etc/passwd", "link.png", "a\0.png", "sub/c.png", "a.png"]
    doc = Doc(Vocab(), words=["x"])

    def attach(row, most=0):
        return attach_leaking_crops({0: names, 1: []}, folder, root, most, doc, row), doc._.regions

    assert attach(0) == (4, ["crops/b.png", "crops/sub/c.png", "crops/a.png"])
    assert get_regions_note(doc) == LEAKING_MNRE_NOTE
    # That a row has no crops says something about it, too.
    for row in (1, 2):
        assert attach(row) == (0, [])
        assert get_regions_note(doc) == LEAKING_MNRE_NOTE
    assert attach(0, most=2) == (1, ["crops/b.png"])
