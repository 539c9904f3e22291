"""The workflow for one's own posts with photos, on drawn pictures with a tiny network and a tiny text encoder."""

import json
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest
import spacy
import timm
import torch
import typer
from commands import run as run_mmib
from PIL import Image

from project import cell, products

COLOURS = {"SHOE": "red", "WATCH": "blue"}
SPLITS = {"train": ("train", "train", 12), "dev": ("valid", "val", 4), "test": ("test", "test", 4)}
"""The names of a split's files in the two formats, and its posts."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Posts whose entities have the type, and whose pairs the relation, that the colour of the picture tells."""
    folder = tmp_path_factory.mktemp("mine")
    (folder / "images").mkdir()
    for split, (tagged, related, n) in SPLITS.items():
        posts, lines = "", ""
        for i in range(n):
            label = list(COLOURS)[i % 2]
            Image.new("RGB", (32, 32), COLOURS[label]).save(folder / "images" / f"{split}{i}.jpg")
            posts += f"IMGID:{split}{i}\nbuy\tO\nAcme\tB-{label}\nin\tO\ngrey\tO\n\n"
            pairs = (("Acme", [1, 2]), ("grey", [3, 4]))
            # A post may have several pairs.
            for h, t in (pairs, pairs[::-1]):
                row = {"token": ["buy", "Acme", "in", "grey"], "img_id": f"{split}{i}.jpg"}
                row |= {key: {"name": name, "pos": pos} for key, (name, pos) in (("h", h), ("t", t))}
                lines += f"{row | {'relation': label}}\n"
        (folder / f"{tagged}.txt").write_text(posts)
        (folder / f"mnre_{related}.txt").write_text(lines)
    return folder


@pytest.fixture(scope="module")
def overrides(tmp_path_factory) -> str:
    """Small networks; the settings of both tasks."""
    path = tmp_path_factory.mktemp("weights") / "tiny.pth"
    torch.manual_seed(0)
    torch.save(timm.create_model("test_resnet").state_dict(), path)
    settings = {"tok2vec.width": 24, "tok2vec.depth": 1, "tok2vec.embed_size": 200, "fusion.heads": 4}
    settings |= {"img2vec.name": "test_resnet", "img2vec.weights": path, "img2vec.image_size": 32}
    tasks = ("mmib_ner", "mmib_rel")
    return " ".join(f"components.{task}.model.{k} {v}" for task in tasks for k, v in settings.items())


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("products")


@pytest.fixture
def run(place, overrides, monkeypatch, capsys):
    """Runs the workflow, with what it does in other processes in this one. Gives its output."""

    def run_here(command, **_):
        words = [str(word) for word in command[3:]]
        if command[2] == "project.cell":
            cell.main(Path(words[0]), keep_model="--keep-model" in words)
            return subprocess.CompletedProcess(command, 0)
        result = run_mmib(*words[1:])
        return subprocess.CompletedProcess(command, result.exit_code, result.output)

    monkeypatch.setattr(subprocess, "run", run_here)

    def run(data: Path, **more) -> str:
        folders = {name: place / name for name in ("output", "models", "metrics")}
        settings = {"seeds": 1, "epochs": 1, "overrides": overrides, "jobs": 1, **folders, **more}
        with suppress(SystemExit, typer.Exit):
            products.main(str(data), **settings)
        captured = capsys.readouterr()
        return " ".join((captured.out + captured.err).split())

    return run


def copy_texts(folder: Path, to: Path, pattern: str) -> Path:
    for path in folder.glob(pattern):
        (to / path.name).write_text(path.read_text())
    (to / "images").symlink_to(folder / "images")
    return to


def read_times(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in sorted(folder.rglob("*")) if path.is_file()}


def test_from_the_texts_to_the_tables(folder, place, run, tmp_path):
    before = read_times(folder)
    output = run(folder)
    assert read_times(folder) == before
    for said in ("12 of 12 posts", "12 posts, 12 entities", "24 instances of 12 posts", "4 trainings, 0 of"):
        assert said in output
    record = json.loads((place / "metrics" / "products.json").read_text())
    for task in ("ner", "rel"):
        assert list(record[task]) == ["images", "no_images", "shuffled", "text_only"]
        assert record["by_seed"][task] == {row: [score] for row, score in record[task].items()}
        assert "data:image" in (place / "metrics" / "products" / f"{task}.html").read_text()
    assert record["seeds"] == [0]
    assert (place / "output" / "features.sqlite").exists()
    assert output.count("trained without pictures") >= 2
    lines = [json.loads(line) for line in (place / "metrics/products/grids.jsonl").read_text().splitlines()]
    assert [(line["variant"], line["task"]) for line in lines[:4]] == [
        ("with pictures", "entities"),
        ("with pictures", "entities, pictures removed"),
        ("with pictures", "entities, pictures shuffled"),
        ("trained without pictures", "entities, pictures removed"),
    ]
    # Nothing is done twice, and what one of the formats is enough for is done.
    trained = read_times(place / "models")
    assert "4 trainings, 4 of them finished before" in run(folder)
    output = run(copy_texts(folder, tmp_path, "mnre*"))
    assert "There are no train.txt, valid.txt and test.txt (entities)" in output
    assert "2 trainings, 2 of them finished before" in output
    assert list(json.loads((place / "metrics" / "products.json").read_text())["by_seed"]) == ["rel"]
    assert {path: t for path, t in read_times(place / "models").items() if path.name == "result.json"} == {
        path: t for path, t in trained.items() if path.name == "result.json"
    }
    model = next((place / "models" / "products" / "ner").glob("*/model-best"))
    doc = spacy.load(model).make_doc("buy Acme in grey")
    doc._.image = str(folder / "images" / "test0.jpg")
    assert spacy.load(model)(doc)._.image_error is None


def test_entities_only_and_once_more(folder, run, tmp_path):
    output = run(copy_texts(folder, tmp_path, "[!m]*.txt"), force=1)
    assert "mnre_test.txt (relations)" in output
    assert "2 trainings, 0 of them finished before" in output


def test_what_is_missing_is_said(folder, run, tmp_path):
    assert f"There is no folder {tmp_path / 'no'}: name yours" in run(tmp_path / "no")
    assert "--vars.images" in run(tmp_path)
    (tmp_path / "images").mkdir()
    assert "has neither train.txt, valid.txt and test.txt (entities) nor mnre_train.txt" in run(tmp_path)
    (tmp_path / "train.txt").write_text((folder / "train.txt").read_text())
    assert f"There is no file {tmp_path / 'valid.txt'}" in run(tmp_path)
    for name in ("valid.txt", "test.txt"):
        (tmp_path / name).write_text((folder / name).read_text())
    assert "photos of training and of test posts" in run(tmp_path)


def test_settings_of_the_other_task_are_left_out(overrides):
    chosen = products.choose_settings(
        f"training.dropout 0.2 paths.features 'a b' {overrides}", "products_rel"
    )
    assert chosen.startswith("training.dropout=0.2 'paths.features=a b'")
    assert "mmib_rel" in chosen
    assert "mmib_ner" not in chosen
