"""Posts per second of mmib_ner beside the procedure released with the paper and beside spaCy's own ner: one
machine, one run, the same random weights, generated posts and pictures.

All rows take turns, beginning with another one each time. Docs are made and the cache is filled outside the
timing. The first run of each row, over the very batches that follow, is timed by itself: libraries are
loaded, kernels compiled and memory is claimed there. Ours is the shipped config with feed_forward = linear,
which the released code has. The systems of --models are measured one after the other behind the rows, with
cached pictures, random weights and the sizes of the rows. Prints tables and writes everything as JSON.
"""

import gc
import json
import math
import os
import platform
import random
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from statistics import linear_regression, median
from typing import Annotated, Any

import spacy
import torch
import typer
from spacy.tokens import Doc
from thinc.api import set_gpu_allocator
from wasabi import msg

from project.benchmarks.generated_posts import LABELS, Post, draw_pictures, list_pictures, make_posts
from project.benchmarks.throughput_rows import (
    TINY_BERT,
    Ours,
    Row,
    Setting,
    choose_models,
    get_encoders,
    make_doc,
    make_examples,
    make_model,
    make_models,
    make_rows,
)

FOLDER = Path("project/data/benchmark")
METRICS = Path("project/metrics/benchmark.json")

RATIOS = {
    "predict_exact": ("released", "ours_exact", "at least 1.45"),
    "predict_roi": ("released", "ours_roi", "at least 4.1"),
    "predict_cached": ("released", "ours_cached", "at least 8.6"),
    "train_cached": ("train_released", "train_cached", "at least 5.7"),
    "text_vs_ner": ("text_ours", "text_ner", "at most 1.07"),
    "predict_vs_plain": ("ours_cached", "predict_plain", ""),
    "train_vs_plain": ("train_cached", "train_plain", "at most 1.3 on a GPU"),
}
"""Time of the first over time of the second, and what it should be."""

COST = (64, 256, 1024, 4096)
STREAM = (1_000, 5_000, 10_000, 20_000)
"""Memory is read after so many posts."""
PROFILED_POSTS = 32
STREAMED_TEXTS = 2_000
MOST_GROWTH = 1.05
"""Of the memory of a stream that is called flat."""
PACKAGES = ("spacy", "spacy-transformers", "thinc", "torch", "torchvision", "transformers", "pillow")


def main(
    folder: Annotated[Path, typer.Option(help="For models, pictures and cache, ~2 GB")] = FOLDER,
    metrics: Annotated[Path, typer.Option(help="For the results")] = METRICS,
    posts: Annotated[int, typer.Option(help="In each run that predicts")] = 256,
    train_posts: Annotated[int, typer.Option(help="In each run that trains")] = 64,
    repeats: Annotated[int, typer.Option(help="Runs of each row")] = 5,
    batch_size: Annotated[int, typer.Option(help="Posts that nlp.pipe takes at a time")] = 64,
    rows: Annotated[str, typer.Option(help="Names separated by commas; all if empty")] = "",
    models: Annotated[str, typer.Option(help="Also these systems or groups of systems.yml, or: all")] = "",
    watts: Annotated[float, typer.Option(help="What the machine draws: assumed, not measured")] = 100.0,
    price_per_hour: Annotated[float, typer.Option(help="Of the machine, in cents: assumed")] = 10.0,
    gpu_id: Annotated[int, typer.Option(help="GPU, or -1 for CPU")] = -1,
    rss: Annotated[bool, typer.Option(help="Also memory over 20,000 streamed posts")] = False,
    quick: Annotated[bool, typer.Option(help="8 posts, tiny models: does it run?")] = False,
) -> None:
    """Make models and posts, measure, print the table."""
    if gpu_id >= 0:
        spacy.require_gpu(gpu_id)
        set_gpu_allocator("pytorch")  # as `spacy train` does with the shipped configs
    if quick:
        posts, train_posts, repeats = min(posts, 8), min(train_posts, 8), 1
    steps = tuple(step // 100 for step in STREAM) if quick else STREAM
    cost = [number // 32 for number in COST[:3]] if quick else [n for n in COST if n <= 16 * max(posts, 16)]
    small = (TINY_BERT, "resnet18", 4) if quick else ()
    setting = Setting(folder, batch_size, *small)
    makers = make_rows(setting, gpu=gpu_id >= 0)
    wanted = [name.strip() for name in rows.split(",") if name.strip()] or list(makers)
    if unknown := [name for name in wanted if name not in makers]:
        raise typer.BadParameter(f"no rows {unknown}; there are: {', '.join(makers)}")
    try:
        variants = choose_models(models)
    except ValueError as err:
        raise typer.BadParameter(str(err)) from err
    pictures = list_pictures(setting.folder / "pictures", posts)
    generated = make_posts(posts, pictures, seed=posts)
    msg.info(f"models, {posts} posts and their pictures below {folder}")
    shutil.rmtree(folder, ignore_errors=True)
    draw_pictures(pictures)
    make_models(setting, generated[:16])
    loaded = {name: makers[name]() for name in wanted}
    for row in loaded.values():
        if isinstance(row, Ours):
            row.fill_cache(generated)
    given = {name: generated[:train_posts] if row.trains else generated for name, row in loaded.items()}
    results: dict[str, Any] = {
        "machine": {
            "cpus": os.cpu_count(),
            "torch_threads": torch.get_num_threads(),
            "system": platform.platform(),
            "gpu": torch.cuda.get_device_name(gpu_id) if gpu_id >= 0 else None,
        },
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "command": shlex.join(sys.argv),
        "setting": {"posts": posts, "train_posts": train_posts, "repeats": repeats, "batch_size": batch_size},
        "assumed": {"watts": watts, "cents_per_hour": price_per_hour},
    }
    seconds: dict[str, list[float]] = {name: [] for name in loaded}
    found: dict[str, Any] = {}
    for name, taken, found[name] in time_rows(loaded, given, repeats):
        seconds[name].append(taken)
        count = len(seconds[name]) - 1
        print(f"{f'{count}/{repeats}' if count else 'first'} {name:16} {taken:8.2f} s", flush=True)
    results["rows"] = {name: summarize(runs, len(given[name])) for name, runs in seconds.items()}
    for runs in seconds.values():
        del runs[0]
    results["ratios"], results["ratio_ranges"] = get_ratios(seconds)
    results["same_entities"] = compare(found)
    for name, row in loaded.items():
        shares = measure_shares(row, given[name][:PROFILED_POSTS])
        results["rows"][name]["shares"] = {part: round(s, 4) for part, s in shares.items()}
    if "ours_cached" in loaded:
        msg.info("cost against number of posts")
        # Other texts, whose pictures have been seen.
        batches = [make_posts(number, pictures, seed=number) for number in cost]
        for batch in batches if gpu_id >= 0 else ():  # on CPU there is nothing to warm up for a shape
            time_run(loaded["ours_cached"], batch)
        taken_by = [round(time_run(loaded["ours_cached"], batch)[0], 4) for batch in batches]
        results["cost"] = {"posts": cost, "seconds": taken_by, "slope": round(get_slope(cost, taken_by), 4)}
    loaded.clear()
    results["models"] = {}
    for name, variant in variants.items():
        msg.info(f"{name}, random weights")
        row = make_model(setting, variant, generated[:16])
        row.fill_cache(generated)
        for row.trains, own in ((False, generated), (True, generated[:train_posts])):
            runs = [time_run(row, own)[0] for _ in range(repeats + 1)]
            results["models"][name + (", training" if row.trains else "")] = summarize(runs, len(own))
    if rss:
        msg.info(f"memory over {steps[-1]} posts")
        # In a process that has done nothing else.
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            results["rss"] = pool.submit(measure_stream, setting, generated, steps).result()
    metrics.parent.mkdir(parents=True, exist_ok=True)
    metrics.write_text(json.dumps(results, indent=2))
    print_tables(results)


def time_run(row: Row, posts: Sequence[Post]) -> tuple[float, Any]:
    """RETURNS (Tuple[float, Any]): Seconds of one run over new docs, and what was found."""
    data = row.make_input(posts)
    gc.collect()
    _synchronize()
    start = time.perf_counter()
    found = row.run(data)
    _synchronize()
    return time.perf_counter() - start, found


def summarize(seconds: Sequence[float], posts: int) -> dict[str, Any]:
    """RETURNS (Dict[str, Any]): Of the runs of a row; the first is apart from the others."""
    steady = median(seconds[1:])
    return {
        "posts": posts,
        "first": round(seconds[0], 4),
        "seconds": [round(s, 4) for s in seconds[1:]],
        "median": round(steady, 4),
        "posts_per_second": round(posts / steady, 3),
    }


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def time_rows(
    rows: dict[str, Row], posts: dict[str, Sequence[Post]], repeats: int
) -> Iterator[tuple[str, float, Any]]:
    """Time rows in turn, beginning with another one each time. The first run of each is one more than the
    repeats; it sees the batches of all later ones.
    """
    names = list(rows)
    for repeat in range(repeats + 1):
        first = repeat % len(names)
        for name in names[first:] + names[:first]:
            yield name, *time_run(rows[name], posts[name])


def get_slope(numbers: Sequence[int], seconds: Sequence[float]) -> float:
    """RETURNS (float): Of the straight line through the logarithms: 1 if time grows as the number does."""
    return linear_regression([math.log(n) for n in numbers], [math.log(s) for s in seconds]).slope


def measure_shares(row: Row, posts: Sequence[Post]) -> dict[str, float]:
    """RETURNS (Dict[str, float]): Shares of the time of a run that the forward passes of its parts take, and
    everything else, 0-1.
    """
    spent = dict.fromkeys(row.parts, 0.0)

    def add(name: str, sign: int, *_: Any) -> None:
        _synchronize()
        spent[name] += sign * time.perf_counter()

    time_run(row, posts)
    handles = []
    for name, module in row.parts.items():
        handles.append(module.register_forward_pre_hook(partial(add, name, -1)))
        handles.append(module.register_forward_hook(partial(add, name, 1)))
    total, _ = time_run(row, posts)
    for handle in handles:
        handle.remove()
    shares = {name: seconds / total for name, seconds in spent.items()}
    return {**shares, "rest": 1 - sum(shares.values())}


def get_rss() -> float | None:
    """RETURNS (Optional[float]): MB of memory that this process has now; `None` where that can't be read."""
    path = Path("/proc/self/statm")
    return int(path.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20 if path.exists() else None


def measure_stream(setting: Setting, posts: list[Post], steps: Sequence[int]) -> dict[str, Any]:
    """Stream posts through `nlp.pipe`, with the pictures of `posts`, which are in the cache, and other words.

    steps (Sequence[int]): After how many posts to read the memory; the last is where the stream ends.
    RETURNS (Dict[str, Any]): Memory in MB, the largest as a multiple of the first, and whether that is flat.
    """
    nlp = spacy.blank("en")
    encoder = {**get_encoders(setting)["cached"], "@architectures": "spacy-mmib.TorchvisionEncoder.v1"}
    encoder |= {"arch": setting.arch, "weights": str(setting.folder / "weights")}
    spacy.util.fix_random_seed(0)
    nlp.add_pipe("mmib_ner", config={"model": {"img2vec": encoder}})
    for label in LABELS:
        nlp.get_pipe("mmib_ner").add_label(label)
    nlp.initialize(lambda: make_examples(nlp, posts[:8]))
    texts = make_posts(STREAMED_TEXTS, [(post.picture, post.boxes) for post in posts], seed=1)

    def make_docs() -> Iterator[Doc]:
        # Other texts each time, of words that spaCy's vocabulary gets to know within the first posts.
        rng = random.Random(2)
        for i in range(steps[-1]):
            post = texts[i % len(texts)]
            words = rng.sample(post.words, len(post.words))
            yield make_doc(nlp, Post(tuple(words), (), post.picture, post.boxes))

    found: list[float | None] = []
    for number, _ in enumerate(nlp.pipe(make_docs(), batch_size=setting.batch_size), start=1):
        if number in steps:
            gc.collect()
            found.append(get_rss())
    read = [rss for rss in found if rss is not None]
    growth = max(read) / read[0] if read else float("nan")
    return {
        "model": f"HashEmbedCNN of width 96, {setting.arch} with all vectors in the cache",
        "posts": list(steps),
        "rss_mb": [round(rss, 1) for rss in read],
        "growth": round(growth, 4),
        "flat": growth <= MOST_GROWTH,
    }


def get_ratios(seconds: dict[str, list[float]]) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    """RETURNS (Tuple[Dict[str, float], Dict[str, Tuple[float, float]]]): Ratios of medians, and the least and
    the largest ratio of two runs of the same turn. Only of rows that were run.
    """
    ratios, ranges = {}, {}
    for name, (above, below, _) in RATIOS.items():
        if above in seconds and below in seconds:
            ratios[name] = round(median(seconds[above]) / median(seconds[below]), 3)
            single = [a / b for a, b in zip(seconds[above], seconds[below], strict=True)]
            ranges[name] = (round(min(single), 3), round(max(single), 3))
    return ratios, ranges


def compare(found: dict[str, Any]) -> dict[str, float]:
    """RETURNS (Dict[str, float]): Share of the posts in which a row found the entities of `ours_exact`."""
    exact = found.get("ours_exact")
    if exact is None:
        return {}
    rows = [name for name in found if name.startswith(("ours_", "predict_plain")) and name != "ours_exact"]
    return {name: sum(a == b for a, b in zip(exact, found[name], strict=True)) / len(exact) for name in rows}


def print_tables(results: dict[str, Any]) -> None:
    """Print rows and ratios."""
    setting, machine = results["setting"], results["machine"]
    msg.divider(f"{setting['posts']} posts, medians of {setting['repeats']}, {machine['cpus']} CPUs")
    watts, cents = results["assumed"]["watts"], results["assumed"]["cents_per_hour"]
    header = ("posts/s", "seconds", "first run", "posts/s/core", "J/1,000", "cents/1,000", "shares")
    for title, rows in (("", results["rows"]), ("system, random weights", results["models"])):
        table = []
        for name, row in rows.items():
            rate, seconds = row["posts_per_second"], (row["median"], row["first"])
            cost = (rate / machine["cpus"], 1000 / rate * watts, 1000 / rate * cents / 3600)
            shares = ", ".join(f"{part} {100 * share:.0f} %" for part, share in row.get("shares", {}).items())
            cells = (f"{rate:.1f}", *(f"{x:.2f}" for x in seconds), *(f"{x:.3g}" for x in cost), shares)
            table.append((name, *cells))
        if table:
            msg.table(table, header=(title, *header), aligns=tuple("lrrrrrrl"), divider=True)
    print(
        "1,000 posts: 1,000 / (posts/s) x watts joules, 1,000 / (posts/s) x cents an hour / 3,600 cents, at "
        f"{watts:g} W and {cents:g} cents an hour: assumed, not measured (--watts, --price-per-hour)."
    )
    ratios = []
    for name, ratio in results["ratios"].items():
        above, below, wanted = RATIOS[name]
        low, high = results["ratio_ranges"][name]
        ratios.append((name, f"{above} / {below}", f"{ratio:.2f}", f"{low:.2f} - {high:.2f}", wanted))
    header = ("ratio", "seconds of", "", "min - max", "wanted")
    msg.table(ratios, header=header, aligns=tuple("llrrl"), divider=True)
    if "cost" in results:
        cost = results["cost"]
        print(f"cached, posts {cost['posts']} in seconds {cost['seconds']}: power of {cost['slope']:.3f}")
    if "rss" in results:
        rss = results["rss"]
        flat = "flat" if rss["flat"] else "NOT FLAT"
        print(f"memory of {rss['model']}: {rss['rss_mb']} MB after {rss['posts']} posts, {flat}")
    for name, share in results["same_entities"].items():
        print(f"{name}: the entities of ours_exact in {100 * share:.1f} % of the posts")


if __name__ == "__main__":
    typer.run(main)
