import json
from itertools import pairwise
from pathlib import Path
from statistics import median
from types import SimpleNamespace

import pytest
import torch
import typer
from typer.testing import CliRunner

from project.benchmarks import operators, throughput
from project.benchmarks.generated_posts import draw_pictures, list_pictures, make_posts, make_word_pieces
from project.benchmarks.released_procedure import ReleasedCore
from project.benchmarks.throughput import get_slope
from project.benchmarks.throughput_rows import choose_models

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """What a run on 8 posts with tiny models writes and prints."""
    folder = tmp_path_factory.mktemp("benchmark")
    app = typer.Typer()
    app.command()(throughput.main)
    command = ["--quick", "--rss", "--folder", str(folder / "data"), "--models", "UMT", "--watts", "50"]
    command += ["--metrics", str(folder / "metrics" / "benchmark.json")]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    return json.loads((folder / "metrics" / "benchmark.json").read_text()), result.output


@pytest.mark.slow
def test_every_row_is_measured(quick):
    results, output = quick
    for name, row in results["rows"].items():
        assert min(row["seconds"]) <= row["median"] <= max(row["seconds"])
        assert row["posts_per_second"] == pytest.approx(row["posts"] / row["median"], rel=0.02)
        assert sum(row["shares"].values()) == pytest.approx(1, abs=0.01)
        assert row["first"] > 0
        assert f"\n{name} " in output
    assert set(results["rows"]) == {
        "released",
        "ours_exact",
        "ours_roi",
        "ours_cached",
        "ours_optimized",
        "predict_plain",
        "train_released",
        "train_cached",
        "train_plain",
        "text_ours",
        "text_ner",
    }
    shares = {name: row["shares"] for name, row in results["rows"].items()}
    assert shares["released"]["resnet"] > shares["ours_exact"]["core"] > 0
    # With the cache, and without pictures, the picture encoder is never run.
    assert shares["ours_exact"]["resnet"] > 0
    for name in ("ours_cached", "train_cached", "text_ours"):
        assert shares[name]["resnet"] == 0
        assert shares[name]["bert"] > 0


@pytest.mark.slow
def test_ratios_are_of_medians(quick):
    results, output = quick
    assert list(results["ratios"]) == list(throughput.RATIOS)
    rows = results["rows"]
    for name, (above, below, _) in throughput.RATIOS.items():
        expected = rows[above]["median"] / rows[below]["median"]
        assert results["ratios"][name] == pytest.approx(expected, rel=0.05)
        assert name in output
    seconds = {"released": [3.0, 9.0, 4.0], "ours_exact": [1.0, 2.0, 4.0]}
    ratios, ranges = throughput.get_ratios(seconds)
    assert ratios == {"predict_exact": median([3, 9, 4]) / 2}
    assert ranges == {"predict_exact": (1.0, 4.5)}


@pytest.mark.slow
def test_cached_rows_find_what_the_exact_one_finds(quick):
    results, _ = quick
    assert results["same_entities"]["ours_cached"] == 1
    # The plain loop computes the same: tokens whose scores are nearly equal may differ by rounding.
    assert results["same_entities"]["predict_plain"] > 0.8
    assert 0 <= results["same_entities"]["ours_roi"] <= 1


@pytest.mark.slow
def test_what_else_is_written(quick):
    results, output = quick
    assert set(results["models"]) == {"UMT", "UMT, training"}
    assert results["models"]["UMT"]["posts_per_second"] > 0
    assert results["assumed"] == {"watts": 50, "cents_per_hour": 10}
    assert "at 50 W and 10 cents an hour: assumed" in output
    assert len(results["cost"]["posts"]) == len(results["cost"]["seconds"]) > 2
    assert results["rss"]["posts"] == [10, 50, 100, 200]
    assert len(results["rss"]["rss_mb"]) in (0, 4)
    assert results["machine"]["torch_threads"] >= 1
    assert results["versions"]["torch"]


def test_unknown_row():
    app = typer.Typer()
    app.command()(throughput.main)
    result = CliRunner().invoke(app, ["--rows", "released,fastest"])
    assert result.exit_code != 0
    assert "fastest" in result.output
    result = CliRunner().invoke(app, ["--models", "UMT,ResNet"])
    assert result.exit_code != 0
    assert "ResNet" in result.output


def test_models_that_can_be_chosen():
    every = choose_models("all")
    assert {"MMIB", "UMT", "MAF", "HVPNeT", "text alone", "gated residual, scalar"} <= set(every)
    # Relations only; nothing is trained; other posts' pictures; labels of objects.
    left_out = {"PCNN", "MEGA", "dictionary of training entities", "labels of objects as text"}
    assert not left_out & set(every)
    assert set(choose_models("gap, UMT")) == {"UMGF", "MAF", "DebiasCL", "UMT"}
    assert choose_models("") == {}


def test_first_runs_are_apart():
    row = throughput.summarize([9.0, 1.0, 3.0, 2.0], 10)
    assert row["first"] == 9
    assert row["median"] == 2
    assert row["posts_per_second"] == 5
    assert row["seconds"] == [1, 3, 2]


def test_released_core_runs_in_half_precision(monkeypatch):
    # On a GPU, not on CPU, binary_cross_entropy raises an error under autocast.
    compute, found = torch.nn.functional.binary_cross_entropy, []

    def check(*args):
        found.append(torch.is_autocast_enabled("cpu"))
        return compute(*args)

    monkeypatch.setattr(torch.nn.functional, "binary_cross_entropy", check)
    core = ReleasedCore(8, 2)
    text, image = torch.randn(2, 3, 8), torch.randn(2, 4, 8)
    with torch.autocast("cpu", torch.bfloat16):
        context, loss = core(text, image)
    assert context.shape == (2, 3, 8)
    assert torch.isfinite(loss)
    assert found == [False, False]


def test_operators_that_are_counted():
    def run(x):
        product = (x.t() @ x)[:1].unsqueeze(0)
        return product.exp().sum().item() if bool(product.any()) else None

    with operators.HostReads() as reads:
        run(torch.ones(2, 3))
    assert reads.number == 2
    row = operators.measure(
        "row", SimpleNamespace(make_input=lambda x: x, run=run), torch.ones(2, 3), gpu=False
    )
    assert row[2:4] == ["2", "2"]

    def event(name, *below):
        return SimpleNamespace(name=name, cpu_children=below)

    product = event("aten::linear", event("aten::t", event("aten::as_strided")), event("aten::addmm"))
    assert operators.count_operators(product) == 1
    assert operators.count_operators(event("aten::view")) == 0
    assert operators.count_operators(event("backward", product, event("aten::add"))) == 2


def test_slope():
    assert get_slope([1, 10, 100], [2, 20, 200]) == pytest.approx(1)
    assert get_slope([1, 10, 100], [3, 300, 30_000]) == pytest.approx(2)
    assert get_slope([4, 64], [5, 5]) == pytest.approx(0)


def test_posts_are_like_tweets(tmp_path):
    from transformers import BertTokenizerFast

    posts = make_posts(256, list_pictures(tmp_path, 3), seed=0)
    assert posts == make_posts(256, list_pictures(tmp_path, 3), seed=0)
    assert posts != make_posts(256, list_pictures(tmp_path, 3), seed=1)
    n_tokens = sum(len(post.words) for post in posts)
    assert n_tokens / len(posts) == pytest.approx(15.7, abs=0.2)
    assert max(len(post.words) for post in posts) > 30
    assert sum(len(post.entities) for post in posts) / len(posts) == pytest.approx(1.8, abs=0.15)
    (tmp_path / "vocab.txt").write_text("\n".join(make_word_pieces(4000)))
    tokenizer = BertTokenizerFast(str(tmp_path / "vocab.txt"))
    pieces = [tokenizer.tokenize(" ".join(post.words)) for post in posts]
    assert "[UNK]" not in {piece for found in pieces for piece in found}
    assert sum(map(len, pieces)) / n_tokens == pytest.approx(1.16, abs=0.02)
    for post in posts:
        assert all(a[1] <= b[0] for a, b in pairwise(post.entities))
        tags = post.get_tags()
        assert len(tags) == len(post.words)
        assert sum(tag.startswith("B-") for tag in tags) == len(post.entities)


def test_pictures_are_like_photos(tmp_path):
    from PIL import Image

    pictures = list_pictures(tmp_path / "pictures", 3)
    draw_pictures(pictures)
    assert len({path.read_bytes() for path, _ in pictures}) == 3
    for path, boxes in pictures:
        assert 100_000 < path.stat().st_size < 220_000
        with Image.open(path) as picture:
            assert picture.size == (1024, 768)
        assert len(boxes) == 4
        for left, upper, right, lower in boxes:
            assert 0 <= left < right <= 1024
            assert 0 <= upper < lower <= 768
