"""The report on grids, from results whose figures are known."""

import json
import random
import re
from statistics import mean, stdev

import PIL.Image
import pytest

from project.facts import PUBLISHED
from project.grid import ABLATION, make_beta_sweep
from project.report import main, read_tables, write_report
from spacy_mmib.evaluation.scorers import get_prf, sum_counts
from spacy_mmib.evaluation.significance import compare_f1

POSTS = 60


def make_cell(grids, dataset, variant, seed, *, accuracy, task="entities", leaks=()):
    rng = random.Random(f"{dataset}/{variant.name}/{seed}")
    counts = []
    for _ in range(POSTS):
        right = sum(rng.random() < accuracy for _ in range(2))
        counts.append([right + (rng.random() < 0.2), right, 2, right])
    about = {
        "variant": variant.name,
        "beta1": variant.settings.get("kl_text", ""),
        "beta2": variant.settings.get("kl_image", ""),
        "floor": variant.floor,
        "series": " ".join(variant.series),
        "seed": seed,
        "cell": f"{dataset}/{variant.name.replace(' ', '_')}-{seed}",
        "config": "the dataset's",
        "config_hash": "abc",
        "transformer": "bert-base-uncased",
        "dataset": dataset,
        "dataset_version": "as released",
        "dataset_digest": "0123456789ab",
        "regions": "given.v1 (umgf)",
        "epochs": 3,
        "batch_size": 8,
        "learn_rate": 3e-5,
        "train_posts": 100,
        "train_pictures": 90,
        "limit": 0,
    }
    result = {
        "tasks": {task: dict(zip("prf", get_prf(sum_counts(counts))))},
        "dev": {},
        "test_posts": POSTS,
        "test_pictures": POSTS,
        "leaks": list(leaks),
        "packages": {"python": "3.11", "spacy": "3.8"},
        "device": "cpu, 2 threads",
    }
    folder = grids / about["cell"]
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(result))
    (folder / "counts.json").write_text(json.dumps({task: counts}))
    return about


def make_plan(grids, name, dataset, cells):
    (grids / "plans").mkdir(parents=True, exist_ok=True)
    path = grids / "plans" / f"{name}_{dataset.replace('/', '_')}.json"
    path.write_text(json.dumps({"grid": name, "cells": cells}))


def make_ablation_grid(grids, dataset="twitter17", seeds=3, name="ablation", **kwargs):
    accuracies = (0.9, 0.88, 0.6, 0.55)
    make_plan(grids, name, dataset, [
        make_cell(grids, dataset, variant, seed, accuracy=accuracy, **kwargs)
        for variant, accuracy in zip(ABLATION, accuracies)
        for seed in range(seeds)
    ])  # fmt: skip


def report(tmp_path):
    tables = read_tables(tmp_path / "grids", tmp_path / "metrics")
    return write_report(tables, tmp_path / "grids", tmp_path / "report").read_text(encoding="utf8")


def read_markdown(text):
    """The tables of a Markdown text, as lists of rows of cells."""
    tables, rows = [], []
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            rows.append([cell.strip() for cell in line.strip("|").split(" | ")])
        elif rows:
            tables.append(rows)
            rows = []
    return tables


def read_counts(tmp_path, cell):
    return json.loads((tmp_path / "grids/twitter17" / cell / "counts.json").read_text())["entities"]


def test_rows_are_means_over_seeds_beside_the_published_figures(tmp_path):
    make_ablation_grid(tmp_path / "grids")
    table = read_markdown(report(tmp_path))[0]
    assert table[0] == ["", "P", "R", "F1", "seeds", "difference", "p", "paper F1", "paper difference"]
    assert [row[0] for row in table[2:]] == [v.name for v in ABLATION]
    for row in table[2:]:
        cells = [f"{row[0].replace(' ', '_')}-{seed}" for seed in range(3)]
        scores = [100 * get_prf(sum_counts(read_counts(tmp_path, c)))[2] for c in cells]
        assert row[3] == f"{mean(scores):.2f} ± {stdev(scores):.2f}"
        assert row[4] == "3"
        assert row[7] == f"{PUBLISHED['twitter17']['ablation'][row[0]][2]:.2f}"
    assert table[2][5] == table[2][6] == ""
    assert table[3][8] == "-0.49"


def test_p_is_that_of_the_documents_counts(tmp_path):
    make_ablation_grid(tmp_path / "grids")
    tables = read_markdown(report(tmp_path))
    runs = [[read_counts(tmp_path, f"{name}-{seed}") for seed in range(3)]
            for name in ("MMIB", "without_L_rr")]  # fmt: skip
    p = compare_f1(runs[0], runs[1]).p
    assert tables[0][3][6] == f"{p:.3f}"
    assert tables[0][4][6] == "< 0.001"


def test_an_unfinished_grid_says_so_and_compares_the_seeds_both_rows_have(tmp_path):
    grids = tmp_path / "grids"
    make_ablation_grid(grids)
    for gone in ("MMIB-2", "without_both-0", "without_both-1", "without_both-2"):
        (grids / "twitter17" / gone / "result.json").unlink()
    text = report(tmp_path)
    table = read_markdown(text)[0]
    assert "4 of 12 trainings are unfinished" in text
    assert [row[4] for row in table[2:]] == ["2", "3", "3"]
    runs = [[read_counts(tmp_path, f"{name}-{seed}") for seed in range(2)]
            for name in ("MMIB", "without_L_rr")]  # fmt: skip
    assert table[3][6] == f"{compare_f1(*runs).p:.3f}"


def test_what_the_numbers_are_of_is_said(tmp_path):
    make_ablation_grid(tmp_path / "grids", "mnre-leaking", task="relations", leaks=["the crops leak"])
    text = report(tmp_path)
    assert "**the crops leak**" in text
    for fact in (
        "as released",
        "0123456789ab",
        "given.v1 (umgf)",
        "bert-base-uncased",
        "spacy 3.8",
        "batches of: 8",
        "learning rate: 3e-05",
    ):
        assert fact in text
    # The published systems, with what has to be known about them.
    assert "| MKGformer | 82.67 | 81.25 | 81.95 |" in text
    assert PUBLISHED["mnre"]["caveat"] in text
    assert "Published: mnre, relations" in text


def test_other_corpora_have_no_published_figures(tmp_path):
    make_ablation_grid(tmp_path / "grids", "mine", seeds=1)
    text = report(tmp_path)
    assert "Published" not in text
    assert "±" not in "".join(map(str, read_markdown(text)))


def test_figures_are_drawn_and_the_same_each_time(tmp_path):
    grids = tmp_path / "grids"
    make_plan(grids, "beta-sweep", "twitter17", [
        make_cell(grids, "twitter17", variant, seed, accuracy=0.8)
        for variant in make_beta_sweep() for seed in range(2)
    ])  # fmt: skip
    for name in ("none", "text-04", "text-08", "picture-04"):
        make_ablation_grid(grids, f"noise/{name}", seeds=2, name="noise")
    text = report(tmp_path)
    pictures = re.findall(r"!\[[^]]+\]\(([^)]+\.png)\)", text)
    assert pictures == ["beta-sweep_twitter17_entities.png", "noise_entities.png"]
    before = [(tmp_path / "report" / name).read_bytes() for name in pictures]
    for name in pictures:
        with PIL.Image.open(tmp_path / "report" / name) as picture:
            assert picture.width > 400
            assert len(picture.convert("L").getcolors()) > 20
    assert report(tmp_path) == text
    assert [(tmp_path / "report" / name).read_bytes() for name in pictures] == before


def test_names_dont_break_a_table(tmp_path):
    make_ablation_grid(tmp_path / "grids", "a|b", seeds=1)
    widths = {len(row) for row in read_markdown(report(tmp_path))[0]}
    assert len(widths) == 1


def test_nothing_to_report(tmp_path, capsys):
    with pytest.raises(SystemExit, match="1"):
        main(tmp_path / "none", tmp_path / "metrics")
    assert "Run one first" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("table", ["ablation", "systems"])
def test_published_figures_are_consistent(table):
    for facts in PUBLISHED.values():
        for name, (p, r, f) in facts[table].items():
            expected = facts["odd"].get(name, f)
            assert expected == pytest.approx(2 * p * r / (p + r), abs=0.06)
            assert (name in facts["odd"]) == (expected != f)


def test_the_tables_of_the_paper_agree():
    for facts in PUBLISHED.values():
        assert facts["ablation"].get("MMIB") == facts["systems"].get("MMIB")
