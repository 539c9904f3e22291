"""Ready crops as regions, in the layouts in which they are published."""

import logging
from pathlib import Path

import PIL.Image
import pytest
import spacy
import torch
from conftest import IMG2VEC, encode, make_picture, run_python
from spacy.tokens import Doc, DocBin
from spacy.util import registry
from spacy.vocab import Vocab

from spacy_mmib.encoders.picture_queue import read_ahead
from spacy_mmib.post.extensions import get_regions_note
from spacy_mmib.regions.crops import LEAKING_MNRE_NOTE, MNRE_KEY
from spacy_mmib.util import MMIBWarning

VOCAB = Vocab()


def make_getter(name="crops", **settings):
    return registry.resolve({"x": {"@region_getters": f"spacy-mmib.{name}.v1", **settings}})["x"]


def make_doc(image=None) -> Doc:
    doc = Doc(VOCAB, words=["a", "post"])
    doc._.image = image
    return doc


def find(getter, *images):
    docs = [make_doc(image) for image in images]
    return getter(docs, [None] * len(docs))


@pytest.fixture
def umgf(tmp_path) -> Path:
    root = tmp_path / "crops"
    for post, kinds in (("12", ("person", "location")), ("7_a.b", ("miscellaneous",)), ("9", ())):
        (root / post).mkdir(parents=True)
        for kind in kinds:
            make_picture("red").save(root / post / f"crop_{kind}_{post}.jpg")
    return root


def test_umgf(umgf):
    getter = make_getter(root=str(umgf), layout="umgf")
    with pytest.warns(MMIBWarning, match=r"no crops, the first is '404': .* no folder") as warned:
        found = find(getter, "images/12.jpg", "/elsewhere/7_a.b.png", "9.jpg", "404.jpg", "5.jpg")
    assert len(warned) == 1
    assert [[Path(path).name for path in paths] for paths in found] == [
        ["crop_person_12.jpg", "crop_location_12.jpg"],
        ["crop_miscellaneous_7_a.b.jpg"],
        [],
        [],
        [],
    ]
    assert all(Path(path).is_absolute() for paths in found for path in paths)
    limited = make_getter(root=str(umgf), layout="umgf", max_regions=1)
    assert [len(paths) for paths in find(limited, "12.jpg", "9.jpg")] == [1, 0]


@pytest.mark.filterwarnings("ignore::spacy_mmib.util.MMIBWarning")
def test_umgf_odd_names(umgf):
    """Whatever a picture is called: no error, and nothing from outside."""
    make_picture("red").save(umgf.parent / "crop_person_...jpg")
    (umgf / "12" / "crop_organization_12.jpg").symlink_to(umgf.parent / "crop_person_...jpg")
    (umgf / "12" / "crop_miscellaneous_12.jpg").mkdir()
    (umgf / "out").symlink_to(umgf.parent)
    make_picture("red").save(umgf.parent / "crop_person_out.jpg")
    getter = make_getter(root=str(umgf), layout="umgf")
    odd = ["..", "../..", "", "/", "a" * 300 + ".jpg", "a\0b.jpg", "out.jpg", "\udcff.jpg"]
    assert find(getter, *odd) == [[] for _ in odd]
    assert [Path(path).name for path in find(getter, "12.jpg")[0]] == [
        "crop_person_12.jpg",
        "crop_location_12.jpg",
    ]


def test_crops_in_an_encoder(umgf):
    getter = {"@region_getters": "spacy-mmib.crops.v1", "root": str(umgf), "layout": "umgf"}
    encoder = registry.resolve({"x": {**IMG2VEC, "get_regions": getter}})["x"]
    encoder.initialize()
    picture = umgf.parent / "12.jpg"
    make_picture("blue").save(picture)
    doc = make_doc(picture)
    assert encode(encoder, [doc])[0].shape == (3, 512)
    assert len(doc._.regions) == 2


@pytest.fixture
def hvpnet(tmp_path) -> Path:
    root = tmp_path / "hvpnet"
    for split, name in (("train", "train"), ("val", "val"), ("test", "test")):
        folder = root / split / "crops"
        folder.mkdir(parents=True)
        for i in range(3):
            make_picture("red").save(folder / f"{i}_pred_yolo_crop_{i}.png")
        names = {"17_06_1.jpg": [f"{i}_pred_yolo_crop_{i}.png" for i in range(3)]}
        if name == "val":
            names = {"17_06_2.jpg": ["1_pred_yolo_crop_1.png", "9_pred_yolo_crop_9.png"]}
        elif name == "test":
            outside = ["../../../secret.png", "/etc/passwd", "link.png"]
            names = {"17_06_3.jpg": outside, "17_06_4.jpg": ["", "a\0b", "2_pred_yolo_crop_2.png"]}
        torch.save(names, tmp_path / f"twitter2017_{name}_dict.pth")
    make_picture("red").save(root.parent / "secret.png")
    (root / "test" / "crops" / "link.png").symlink_to(root.parent / "secret.png")
    return root


def test_hvpnet(hvpnet):
    getter = make_getter(root=str(hvpnet), layout="hvpnet", dictionary=str(hvpnet.parent))
    images = [f"17_06_{i}.jpg" for i in (1, 2, 2, 3, 4)]
    with pytest.warns(MMIBWarning, match="left out|no crops") as warned:
        found = find(getter, *images, "0.jpg", "0.jpg")
    assert [[Path(path).name for path in paths] for paths in found] == [
        [f"{i}_pred_yolo_crop_{i}.png" for i in range(3)],
        ["1_pred_yolo_crop_1.png"],
        ["1_pred_yolo_crop_1.png"],
        [],
        ["2_pred_yolo_crop_2.png"],
        [],
        [],
    ]
    assert Path(found[1][0]).parts[-3] == "val"
    # Each once: missing, outside, no file, no path, in no dictionary.
    said = [str(w.message) for w in warned]
    assert len(said) == 5
    for text in ("no such file", "leads out of", "is no file", "not a path", "'0': it is in no dict"):
        assert sum(text in line for line in said) == 1
    single = make_getter(
        root=str(hvpnet), layout="hvpnet", dictionary=[str(hvpnet.parent / "twitter2017_train_dict.pth")]
    )
    with pytest.warns(MMIBWarning, match="'17_06_2': it is in no dictionary"):
        assert [len(paths) for paths in find(single, "17_06_1.jpg", "17_06_2.jpg")] == [3, 0]


def test_pictures_without_a_name(umgf):
    getter = make_getter(root=str(umgf), layout="umgf")
    with pytest.warns(MMIBWarning, match="has no name to find its crops by") as warned:
        assert find(getter, b"bytes", make_picture("red"), "12.jpg")[:2] == [[], []]
    assert len(warned) == 1


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path(Evil.target),))


def test_what_is_wrong_is_said(umgf, tmp_path):
    with pytest.raises(ValueError, match="can only be told by their dictionaries"):
        make_getter(root=str(umgf), layout="hvpnet")
    with pytest.raises(Exception, match="layout"):
        make_getter(root=str(umgf), layout="yolo")
    with pytest.raises(OSError, match=r"folder of crops .*nowhere"):
        find(make_getter(root=str(tmp_path / "nowhere"), layout="umgf"), "1.jpg")
    hvpnet = {"root": str(umgf), "layout": "hvpnet"}
    with pytest.raises(ValueError, match="no dictionary of crops at"):
        find(make_getter(dictionary=str(umgf), **hvpnet), "1.jpg")
    by_row = tmp_path / "mre_train_dict.pth"
    torch.save({0: ["a.png"]}, by_row)
    with pytest.raises(ValueError, match="leaks the label.*leaking_mnre_crops"):
        find(make_getter(dictionary=str(by_row), **hvpnet), "1.jpg")
    for name in ("2015", "2017"):
        torch.save({f"{name}.jpg": ["0.png"]}, tmp_path / f"twitter{name}_train_dict.pth")
    both = [str(tmp_path / f"twitter{name}_train_dict.pth") for name in ("2015", "2017")]
    with pytest.raises(ValueError, match="twitter2015.*twitter2017.* are both of train"):
        find(make_getter(dictionary=both, **hvpnet), "2015.jpg")
    with pytest.raises(ValueError, match="max_regions is -1"):
        make_getter(root=str(umgf), layout="umgf", max_regions=-1)
    nameless = tmp_path / "whatever_dict.pth"
    torch.save({"1.jpg": []}, nameless)
    with pytest.raises(ValueError, match="the name tells no split"):
        find(make_getter(dictionary=str(nameless), **hvpnet), "1.jpg")
    Evil.target = str(tmp_path / "executed")
    evil = tmp_path / "evil_train_dict.pth"
    torch.save({"1.jpg": Evil()}, evil)
    with pytest.raises(ValueError, match="can't be read as a dictionary"):
        find(make_getter(dictionary=str(evil), **hvpnet), "1.jpg")
    assert not (tmp_path / "executed").exists()


def test_the_leaking_crops_by_row(hvpnet, tmp_path, caplog):
    names = {0: ["0_pred_yolo_crop_0.png"], 1: [f"{i}_pred_yolo_crop_{i}.png" for i in range(3)]}
    torch.save(names, tmp_path / "mre_dev_dict.pth")
    settings = {"root": str(hvpnet), "dictionaries": str(tmp_path / "mre_dev_dict.pth")}
    getter = make_getter("leaking_mnre_crops", **settings, max_regions=2)
    docs = [make_doc("a.jpg") for _ in range(2)]
    for row, doc in enumerate(docs):
        doc.user_data[MNRE_KEY] = {"rows": [row], "split": "dev"}
    with caplog.at_level(logging.WARNING, "spacy.mmib"):
        found = getter(docs, [None, None])
    assert [len(paths) for paths in found] == [1, 2]
    assert Path(found[0][0]).parts[-3] == "val"
    assert caplog.text.count("LEAK THE LABEL") == 1
    assert getter.note == LEAKING_MNRE_NOTE
    for source in ({}, {"rows": [0, 1], "split": "dev"}, {"rows": [0], "split": ""}):
        docs[0].user_data[MNRE_KEY] = source
        with pytest.raises(ValueError, match="is not one instance of MNRE"):
            getter(docs[:1], [None])
    docs[0].user_data[MNRE_KEY] = {"rows": [0], "split": "train"}
    with pytest.raises(ValueError, match="no dictionary of train in .*mre_dev_dict"):
        getter(docs[:1], [None])
    settings["dictionaries"] = str(tmp_path / "twitter2017_train_dict.pth")
    with pytest.raises(ValueError, match="not by row"):
        make_getter("leaking_mnre_crops", **settings)(docs[:1], [None])


def test_reading_ahead_keeps_rows_and_names_apart(hvpnet, umgf, tmp_path):
    """The same picture with other crops: two rows of MNRE, or two names of one file."""
    torch.save({0: ["0_pred_yolo_crop_0.png"], 1: []}, tmp_path / "mre_train_dict.pth")
    leaking = {
        "@region_getters": "spacy-mmib.leaking_mnre_crops.v1",
        "root": str(hvpnet),
        "dictionaries": str(tmp_path / "mre_train_dict.pth"),
    }
    crops = {"@region_getters": "spacy-mmib.crops.v1", "root": str(umgf), "layout": "umgf"}
    make_picture("blue").save(tmp_path / "12.jpg")
    (tmp_path / "9.jpg").symlink_to(tmp_path / "12.jpg")
    for getter, names in ((leaking, ("12.jpg", "12.jpg")), (crops, ("12.jpg", "9.jpg"))):
        encoder = registry.resolve({"x": {**IMG2VEC, "get_regions": getter}})["x"]
        encoder.initialize()
        docs = [make_doc(tmp_path / name) for name in names]
        for row, doc in enumerate(docs):
            doc.user_data[MNRE_KEY] = {"rows": [row], "split": "train"}
        encode(encoder, docs)  # only encoders that have been used read ahead
        expected = [doc._.regions for doc in docs]
        assert expected[0]
        assert not expected[1]
        read_ahead([encoder], docs[:1])
        encode(encoder, docs[1:])
        encode(encoder, docs[:1])
        assert [doc._.regions for doc in docs] == expected


def test_the_real_sample_by_row(mmib_data, tmp_path):
    """15 instances of MNRE, whose 42 crops are all there, cut to three each as HVPNeT does."""
    sample = mmib_data / "sample" / "mnre"
    command = ["-m", "project.convert", "mnre", "--data", sample, "--output", tmp_path / "out"]
    run_python(*command, "--leaking-crops", sample / "img_vg")
    nlp = spacy.blank("en")
    settings = {"root": str(sample / "img_vg"), "dictionaries": str(sample / "txt")}
    numbers = []
    for most in (None, 3):
        get = {"@region_getters": "spacy-mmib.leaking_mnre_crops.v1", "max_regions": most}
        encoder = registry.resolve({"x": {**IMG2VEC, "get_regions": {**get, **settings}}})["x"]
        encoder.initialize()
        docs = []
        for split in ("train", "dev", "test"):
            stored = DocBin(store_user_data=True).from_disk(tmp_path / "out" / f"{split}.spacy")
            docs += list(stored.get_docs(nlp.vocab))
        for doc in docs:
            expected = doc._.regions  # as the converter has attached them
            doc._.image = sample / doc._.image if not Path(doc._.image).is_file() else doc._.image
            vectors = encode(encoder, [doc])[0]
            assert [Path(path).name for path in doc._.regions] == [
                Path(path).name for path in expected[:most]
            ]
            assert get_regions_note(doc) == LEAKING_MNRE_NOTE
            assert len(vectors) == 1 + len(doc._.regions)
            assert doc._.image_error is None
            for path in doc._.regions:
                with PIL.Image.open(path) as crop:
                    crop.verify()
        assert len(docs) == 15
        numbers.append(sum(len(doc._.regions) for doc in docs))
    assert numbers[0] == 42
    assert numbers[1] < 42
