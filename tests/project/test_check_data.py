"""What `spacy project run check-twitter17` says of a folder, and which version of a dataset a corpus is."""

import json
from pathlib import Path

import pytest
import torch
from conftest import run_command, save_picture

from project import check as check_module
from project.check import check_data as check
from project.check import compare_counts, list_missing
from project.convert import convert_mnre, convert_twitter
from project.facts import PUBLISHED, SPLITS, get_dataset_version, name_version
from project.pictures import ASSETS, Folders, find_folders

FILES = {name: facts["files"] for name, facts in PUBLISHED.items()}
PAPER = {name: facts["paper"] for name, facts in PUBLISHED.items()}

TEXTS = {
    "train": "IMGID:1\nRob\tB-PER\nLee\tI-PER\n\nIMGID:2\nthe\tO\nNBA\tI-ORG\n\nIMGID:3\nOslo\tB-LOC\n",
    "valid": "IMGID:4\nAnn\tB-PER\n",
    "test": "IMGID:5\nCup\tB-OTHER\n",
}
COUNTS = {
    "train": {"posts": 3, "entities": 2, "PER": 1, "LOC": 1},
    "dev": {"posts": 1, "entities": 1, "PER": 1},
    "test": {"posts": 1, "entities": 1, "MISC": 1},
}
PAIRS = [
    (["Rob", "and", "Mia"], (0, 1), (2, 3), "couple", "1.jpg"),
    (["Rob", "and", "Mia"], (2, 3), (0, 1), "None", "1.jpg"),
    (["Rob", "and", "Mia"], (0, 3), (2, 3), "None", "2.jpg"),
]


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    for name, text in TEXTS.items():
        (folder / f"{name}.txt").write_text(text, encoding="utf8")
    return folder


@pytest.fixture
def mnre(tmp_path):
    folder = tmp_path / "mnre"
    folder.mkdir()
    lines = []
    for tokens, head, tail, relation, image in PAIRS:
        h, t = ({"name": " ".join(tokens[slice(*pos)]), "pos": list(pos)} for pos in (head, tail))
        lines.append({"token": tokens, "h": h, "t": t, "img_id": image, "relation": relation})
    for split in ("train", "val", "test"):
        (folder / f"mnre_{split}.txt").write_text("\n".join(map(repr, lines)), encoding="utf8")
    return folder


@pytest.fixture
def released(monkeypatch):
    """As if our few posts were what had been released."""
    for facts in ("files", "paper"):
        monkeypatch.setitem(PUBLISHED["twitter17"], facts, COUNTS)


def run(*args):
    result = run_command(check_module.main, *args)
    return result.exit_code, " ".join(result.output.split())


def test_texts_only(data, released, tmp_path):
    args = ("twitter17", "--data", data, "--images", "", "--crops", "", "--dicts", "")
    code, output = run(*args, "--metrics", tmp_path / "metrics")
    assert code == 0
    assert "Twitter-2017 can be run on its TEXT ONLY." in output
    assert "--vars.images" in output
    assert "Version: as released" in output
    found = json.loads((tmp_path / "metrics" / "check_twitter17.json").read_text())
    assert found["runs_with"] == ["text"]
    assert found["counts"]["train"] == COUNTS["train"]
    assert found["version"] == "as released"


def test_other_counts_are_another_version_and_said(data, tmp_path):
    report = check("twitter17", Folders(data))
    assert report.version.name == "unknown"
    assert "train posts 3 instead of 3373" in report.version.details
    lines = {line[0]: line[1:] for line in compare_counts(report)}
    assert lines["train posts"] == ("! 3", "3,373", "3,373", "-3,370")
    assert lines["train ORG"] == ("! 0", "1,674", "1,674", "-1,674")


def test_missing_texts(data, tmp_path):
    (data / "valid.txt").unlink()
    code, output = run("twitter17", "--data", data, "--metrics", tmp_path)
    assert code == 1
    assert f"{data / 'valid.txt'}" in output
    assert f"Put train.txt, valid.txt and test.txt into {data}" in output
    assert json.loads((tmp_path / "check_twitter17.json").read_text())["runs_with"] == []


def test_a_text_in_another_format_is_a_problem_not_a_crash(data):
    (data / "test.txt").write_text("no tags here\n")
    report = check("twitter17", Folders(data))
    assert not report.runs
    assert "line 1" in report.problems[0]


def test_no_folder_at_all_names_the_default_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, output = run("mnre", "--data", "")
    assert code == 1
    assert "project/assets/mnre" in output


def test_pictures(data, tmp_path):
    for name in ("1", "3", "4", "5"):
        save_picture(tmp_path / "images" / f"{name}.jpg")
    (tmp_path / "images" / "3.jpg").write_text("no picture")
    report = check("twitter17", Folders(data, tmp_path / "images"))
    train = report.pictures["train"]
    assert tuple(train[key] for key in ("posts", "there", "missing", "unreadable")) == (3, 1, 1, 1)
    assert "2.jpg" in train["example"]
    assert report.runs == ["text", "pictures"]
    assert any("2 posts" in line for line in list_missing(report))


def test_pictures_of_training_alone_are_not_enough(data, tmp_path):
    save_picture(tmp_path / "images" / "1.jpg")
    assert check("twitter17", Folders(data, tmp_path / "images")).runs == ["text"]
    assert check("twitter17", Folders(data, tmp_path / "nowhere")).runs == ["text"]


def test_umgf_crops(data, tmp_path):
    for name in range(1, 6):
        save_picture(tmp_path / "images" / f"{name}.jpg")
    save_picture(tmp_path / "crops" / "1" / "crop_person_1.jpg")
    report = check("twitter17", Folders(data, tmp_path / "images", tmp_path / "crops"))
    assert report.runs == ["text", "pictures", "objects"]
    assert (report.crops["layout"], report.crops["crops"]) == ("umgf", 1)
    assert report.crops["posts"] == {"train": 1, "dev": 0, "test": 0}
    (tmp_path / "empty").mkdir()
    report = check("twitter17", Folders(data, tmp_path / "images", tmp_path / "empty"))
    assert report.runs == ["text", "pictures"]
    assert "neither layout" in report.crops["problem"]


def test_hvpnet_crops(data, tmp_path):
    for name in range(1, 6):
        save_picture(tmp_path / "images" / f"{name}.jpg")
    crops = tmp_path / "crops"
    for split, key in {"train": "1.jpg", "val": "4.jpg", "test": "5.jpg"}.items():
        save_picture(crops / split / "crops" / "0_pred_yolo_crop_0.png")
        names = {key: ["0_pred_yolo_crop_0.png", "0_pred_yolo_crop_1.png"]}
        torch.save(names, data / f"texts_{split}_dict.pth")
    report = check("twitter17", Folders(data, tmp_path / "images", crops))
    assert (report.crops["problem"], report.crops["layout"]) == (None, "hvpnet")
    assert (report.crops["crops"], report.crops["missing"]) == (3, 3)
    (data / "texts_val_dict.pth").unlink()
    report = check("twitter17", Folders(data, tmp_path / "images", crops))
    assert "val_dict.pth" in report.crops["problem"]


def test_mnre(mnre, tmp_path):
    save_picture(mnre / "img_org" / "train" / "1.jpg")
    save_picture(mnre / "img_org" / "2.jpg")
    save_picture(mnre / "img_org" / "test" / "1.jpg")
    args = ("mnre", "--data", mnre, "--crops", tmp_path, "--metrics", tmp_path)
    code, output = run(*args)
    assert code == 0
    assert "MNRE can be run with its pictures." in output
    assert "leak the label" in output
    found = json.loads((tmp_path / "check_mnre.json").read_text())
    counts = found["counts"]
    assert counts["dev"] == {"posts": 2, "instances": 3, "None": 2, "overlapping": 1}
    assert counts["all"] == {"posts": 6, "heads and tails": 18, "labels": 2, "pictures": 2}
    assert found["pictures"]["train"]["there"] == 2
    assert found["pictures"]["dev"]["there"] == 1
    assert found["crops"] is None


def test_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_folders("twitter15") == Folders(ASSETS / "twitter15")
    (ASSETS / "twitter15" / "images").mkdir(parents=True)
    (ASSETS / "twitter15" / "crops").mkdir()
    folders = find_folders("twitter15")
    assert folders.images == ASSETS / "twitter15" / "images"
    assert folders.crops.resolve() == (ASSETS / "twitter15" / "crops").resolve()
    assert find_folders("twitter15", "a", "b", "c", "d") == Folders(
        Path("a"), Path("b"), tmp_path / "c", Path("d")
    )
    # The published crops of MNRE leak: they have to be asked for by name, elsewhere.
    (ASSETS / "mnre" / "img_org").mkdir(parents=True)
    (ASSETS / "mnre" / "crops").mkdir()
    assert find_folders("mnre") == Folders(ASSETS / "mnre", ASSETS / "mnre" / "img_org")


def test_the_version_of_a_converted_corpus(data, released, tmp_path):
    for name in range(1, 6):
        save_picture(tmp_path / "images" / f"{name}.jpg")
    folder = tmp_path / "twitter17"
    convert_twitter(data, folder)
    version = get_dataset_version(folder)
    assert (version["name"], version["version"]) == ("twitter17", "as released")
    assert version["regions"] == "none"
    # The digest is of the content: the same before the conversion, with pictures and elsewhere.
    assert version["digest"] == check("twitter17", Folders(data)).digest
    save_picture(tmp_path / "crops" / "1" / "crop_person_1.jpg")
    convert_twitter(data, folder, images=tmp_path / "images", crops=tmp_path / "crops")
    assert get_dataset_version(folder) == {**version, "regions": "umgf"}
    # An orphan tag that begins an entity makes another corpus of the same release.
    convert_twitter(data, folder, orphans="begin")
    begun = get_dataset_version(folder)
    assert begun["version"] == "as released"
    assert begun["digest"] != version["digest"]
    assert check("twitter17", Folders(data), orphans="begin").version.name == "as released"
    (data / "test.txt").write_text("IMGID:5\nCup\tB-OTHER\n\nIMGID:6\nno\tO\n")
    convert_twitter(data, folder)
    assert get_dataset_version(folder)["version"] == "unknown"


def test_the_version_of_mnre_however_it_is_converted(mnre, tmp_path, monkeypatch):
    found = check("mnre", Folders(mnre))
    monkeypatch.setitem(PUBLISHED["mnre"], "files", found.counts)
    for name, group in (("mnre", True), ("mnre-leaking", False)):
        convert_mnre(mnre, tmp_path / "out" / name, group=group)
        version = get_dataset_version(tmp_path / "out" / name)
        assert (version["version"], version["regions"]) == ("as released", "none")
    assert get_dataset_version(tmp_path / "out" / "mnre")["digest"] == found.digest


def test_a_corpus_of_ones_own(data, tmp_path):
    convert_twitter(data, tmp_path / "mine")
    (tmp_path / "mine" / "meta.json").unlink()
    (tmp_path / "mine" / "test.spacy").unlink()
    version = get_dataset_version(tmp_path / "mine")
    assert (version["name"], version["version"], version["regions"]) == ("mine", "own", None)
    assert len(version["digest"]) == 12
    assert name_version("mine", {}).name == "own"


def test_the_digest_sees_every_change(data):
    digests = {check("twitter17", Folders(data)).digest}
    for old, new in (("Rob", "Bob"), ("B-LOC", "B-ORG"), ("I-PER", "B-PER")):
        (data / "train.txt").write_text(TEXTS["train"].replace(old, new))
        digests.add(check("twitter17", Folders(data)).digest)
    (data / "train.txt").write_text(TEXTS["train"])
    (data / "valid.txt").write_text(TEXTS["test"])
    (data / "test.txt").write_text(TEXTS["valid"])
    digests.add(check("twitter17", Folders(data)).digest)
    assert len(digests) == 5
    (data / "train.txt").write_text(TEXTS["train"].replace("IMGID:1", "IMGID:7"))
    assert check("twitter17", Folders(data)).digest in digests  # a picture's name is no content


def test_the_facts_add_up():
    """Those of the paper's Table I that don't are known, and are said to the user."""
    for name, facts in FILES.items():
        for counts in facts.values():
            if "PER" in counts:
                types = ("PER", "LOC", "ORG", "MISC")
                assert sum(counts[t] for t in types) == counts["entities"], name
    odd = [
        (name, split)
        for name, facts in PAPER.items()
        for split, counts in facts.items()
        if "PER" in counts and sum(counts[t] for t in ("PER", "LOC", "ORG", "MISC")) != counts["entities"]
    ]
    assert odd == [("twitter15", "train"), ("twitter15", "test")]
    assert "add up" in PUBLISHED["twitter15"]["note"]
    instances = [FILES["mnre"][split]["instances"] for split in SPLITS]
    assert 2 * sum(instances) == PAPER["mnre"]["all"]["heads and tails"]


@pytest.mark.parametrize(
    ("dataset", "folder"), [("twitter15", "twitter2015"), ("twitter17", "twitter2017"), ("mnre", "mnre")]
)
def test_real_data_is_as_released(mmib_data, dataset, folder):
    report = check(dataset, Folders(mmib_data / folder))
    assert report.version == ("as released", "counts equal those of the original release")
    assert report.runs == ["text"]
    for split, facts in FILES[dataset].items():
        assert {what: report.counts[split].get(what, 0) for what in facts} == facts


def test_a_split_without_posts_is_a_problem(data, mnre):
    (data / "test.txt").write_text("IMGID:1\rRob\tB-PER\r", newline="")
    (data / "valid.txt").write_text("IMGID:1\n")
    problems = check("twitter17", Folders(data)).problems
    assert len(problems) == 2
    assert "carriage return" in problems[1]
    next(mnre.glob("*test.txt")).write_text("")
    assert "no instances" in check("mnre", Folders(mnre)).problems[0]


def test_the_column_of_the_tag(data):
    for path in data.glob("*.txt"):
        path.write_text("IMGID:1\nRob\tB-person\tB-athlete\n")
    assert "--tag-column" in check("twitter17", Folders(data)).problems[0]
    report = check("twitter17", Folders(data), tag_column=3)
    assert report.counts["train"]["athlete"] == 1
