"""Time, memory and shares of rows of the benchmark."""

import gc
import math
import os
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import linear_regression
from typing import Any

import spacy
import torch
from spacy.tokens import Doc
from spacy.util import fix_random_seed
from torch.profiler import ProfilerActivity, profile, record_function

from project.benchmarks.generated_posts import LABELS, Post, make_posts
from project.benchmarks.throughput_rows import Row, Setting, get_encoders, make_doc, make_examples

# Otherwise it writes a line to stderr each time.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")

WARM_UP_POSTS = 8
MOST_GROWTH = 1.05
N_TEXTS = 2_000


def time_run(row: Row, posts: Sequence[Post]) -> tuple[float, Any]:
    """RETURNS (Tuple[float, Any]): Seconds of one run over new docs, and what was found."""
    data = row.make_input(posts)
    gc.collect()
    _synchronize()
    start = time.perf_counter()
    found = row.run(data)
    _synchronize()
    return time.perf_counter() - start, found


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def time_rows(
    rows: dict[str, Row], posts: dict[str, Sequence[Post]], repeats: int
) -> Iterator[tuple[str, float, Any]]:
    """Time rows in turn, beginning with another one each time."""
    names = list(rows)
    for name, row in rows.items():  # what is computed first takes longer
        row.run(row.make_input(posts[name][: max(1, min(WARM_UP_POSTS, len(posts[name]) // 4))]))
    for repeat in range(repeats):
        first = repeat % len(names)
        for name in names[first:] + names[:first]:
            yield name, *time_run(rows[name], posts[name])


def get_slope(numbers: Sequence[int], seconds: Sequence[float]) -> float:
    """RETURNS (float): Of the straight line through the logarithms: 1 if time grows as the number does."""
    return linear_regression([math.log(n) for n in numbers], [math.log(s) for s in seconds]).slope


@contextmanager
def _named(parts: dict[str, Any]) -> Iterator[None]:
    """Give what modules do their names in the profile."""
    open_ranges: list[Any] = []

    def begin(name: str) -> Any:
        def hook(module: Any, inputs: Any) -> None:
            open_ranges.append(record_function(f"part: {name}"))
            open_ranges[-1].__enter__()

        return hook

    def end(module: Any, inputs: Any, output: Any) -> None:
        open_ranges.pop().__exit__(None, None, None)

    handles = [module.register_forward_pre_hook(begin(name)) for name, module in parts.items()]
    handles += [module.register_forward_hook(end) for module in parts.values()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def measure_shares(row: Row, posts: Sequence[Post]) -> dict[str, float]:
    """Find out where a row spends its time.

    RETURNS (Dict[str, float]): Shares of the forward passes of its parts, and of everything else, 0-1: of the
        seconds on a CPU, of the time of all kernels on a GPU.
    """
    on_gpu = torch.cuda.is_available()
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_gpu
    data = row.make_input(posts)
    with _named(row.parts), profile(activities=activities) as profiler:
        start = time.perf_counter()
        row.run(data)
        _synchronize()
        total = 1e6 * (time.perf_counter() - start)
    events = profiler.events()
    if on_gpu:
        kernels = (e for e in events if e.device_type == torch.autograd.DeviceType.CUDA)
        total = sum(
            e.time_range.elapsed_us()
            for e in kernels
            if not getattr(e, "is_user_annotation", False) and not e.name.startswith("part: ")
        )
    shares = dict.fromkeys(row.parts, 0.0)
    for event in events:
        name = event.name.removeprefix("part: ")
        if event.name != name and event.device_type == torch.autograd.DeviceType.CPU:
            spent = event.device_time_total if on_gpu else event.cpu_time_total
            shares[name] += spent / max(total, 1e-9)
    return {**shares, "rest": 1 - sum(shares.values())}


def get_rss() -> float | None:
    """RETURNS (Optional[float]): MB of memory that this process has now; `None` where that can't be read."""
    path = Path("/proc/self/statm")
    return int(path.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20 if path.exists() else None


def measure_stream(setting: Setting, posts: list[Post], steps: Sequence[int]) -> dict[str, Any]:
    """Stream posts through `nlp.pipe`, forgetting each, and read how much memory the process has.

    setting (Setting): Of the benchmark; the pictures of the posts are in its cache.
    steps (Sequence[int]): After how many posts to read it. The last is where the stream ends.
    RETURNS (Dict[str, Any]): Memory at each step in MB, the largest as a multiple of the first, and whether
        that is flat.
    """
    nlp = spacy.blank("en")
    encoder = {**get_encoders(setting)["cached"], "@architectures": "spacy-mmib.TorchvisionEncoder.v1"}
    encoder |= {"arch": setting.arch, "weights": str(setting.get_path("weights"))}
    fix_random_seed(0)
    nlp.add_pipe("mmib_ner", config={"model": {"img2vec": encoder}})
    for label in LABELS:
        nlp.get_pipe("mmib_ner").add_label(label)
    nlp.initialize(lambda: make_examples(nlp, posts[:8]))
    texts = make_posts(N_TEXTS, [(post.picture, post.boxes) for post in posts], seed=1)

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
        "texts": f"words drawn anew from {N_TEXTS} texts",
        "posts": list(steps),
        "rss_mb": [round(rss, 1) for rss in read],
        "growth": round(growth, 4),
        "flat": growth <= MOST_GROWTH,
    }
