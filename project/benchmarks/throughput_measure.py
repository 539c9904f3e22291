"""Time, memory and profiles of rows of the benchmark."""

import cProfile
import gc
import io
import json
import math
import os
import pstats
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from project.benchmarks.generated_posts import Post
from project.benchmarks.throughput_rows import Row

# Otherwise it writes a line to stderr each time.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")

WARM_UP_POSTS = 8
TOP = 25


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


def warm_up(row: Row, posts: Sequence[Post]) -> None:
    """Run a row once on some of the posts: what it computes first takes longer."""
    row.run(row.make_input(posts[: max(1, min(WARM_UP_POSTS, len(posts) // 4))]))


def time_rows(
    rows: dict[str, Row], posts: dict[str, Sequence[Post]], repeats: int
) -> Iterator[tuple[str, float, Any]]:
    """Time rows in turn, beginning with another one each time.

    rows (Dict[str, Row]): Loaded.
    posts (Dict[str, Sequence[Post]]): What each is to process.
    repeats (int): How often.
    YIELDS (Tuple[str, float, Any]): Name of the row, seconds, what it found.
    """
    names = list(rows)
    for name, row in rows.items():
        warm_up(row, posts[name])
    for repeat in range(repeats):
        first = repeat % len(names)
        for name in names[first:] + names[:first]:
            yield name, *time_run(rows[name], posts[name])


def get_slope(numbers: Sequence[int], seconds: Sequence[float]) -> float:
    """RETURNS (float): Of the straight line through the logarithms, by least squares: 1 if time grows as the
    number does.
    """
    x, y = [math.log(n) for n in numbers], [math.log(s) for s in seconds]
    x_mean, y_mean = mean(x), mean(y)
    covariance = sum((a - x_mean) * (b - y_mean) for a, b in zip(x, y, strict=True))
    return covariance / sum((a - x_mean) ** 2 for a in x)


def get_rss() -> float | None:
    """RETURNS (Optional[float]): MB of memory that this process has now; `None` where that can't be read."""
    return _read_status("VmRSS")


def get_peak_memory() -> float:
    """RETURNS (float): MB of memory that this process has had at most."""
    peak = _read_status("VmHWM")
    if peak is None:
        # On Linux this is no substitute: a new process inherits the peak of the one that started it.
        unit = 2**20 if sys.platform == "darwin" else 2**10
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    return peak


def forget_peak_memory() -> bool:
    """Let `get_peak_memory` begin anew.

    RETURNS (bool): Whether that is possible here.
    """
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _read_status(key: str) -> float | None:
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    line = next(line for line in status.read_text().splitlines() if line.startswith(key + ":"))
    return int(line.split()[1]) / 1024


def run_in_own_process(module: str, arguments: Sequence[str]) -> Any:
    """RETURNS (Any): What the module printed last, as JSON."""
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


@contextmanager
def _named(row: Row) -> Iterator[list[str]]:
    """Give what the row's modules do their names in the profile."""
    open_ranges: list[Any] = []

    def begin(name: str) -> Any:
        def hook(module: Any, inputs: Any) -> None:
            open_ranges.append(record_function(f"part: {name}"))
            open_ranges[-1].__enter__()

        return hook

    def end(module: Any, inputs: Any, output: Any) -> None:
        open_ranges.pop().__exit__(None, None, None)

    handles = []
    parts = row.get_parts()
    for name, module in parts.items():
        handles.append(module.register_forward_pre_hook(begin(name)))
        handles.append(module.register_forward_hook(end))
    try:
        yield list(parts)
    finally:
        for handle in handles:
            handle.remove()


def measure_shares(row: Row, posts: Sequence[Post]) -> dict[str, float]:
    """Find out where a row spends its time.

    row (Row): Loaded and warmed up.
    posts (Sequence[Post]): What it processes.
    RETURNS (Dict[str, float]): Shares of the forward passes of its parts, and of everything else, 0-1: of the
        seconds on a CPU, of the time of all kernels on a GPU.
    """
    return _get_shares(*_profile(row, posts))


def _profile(row: Row, posts: Sequence[Post]) -> tuple[Any, list[str], float]:
    on_gpu = torch.cuda.is_available()
    data = row.make_input(posts)
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_gpu
    with _named(row) as parts, profile(activities=activities) as profiler:
        start = time.perf_counter()
        row.run(data)
        _synchronize()
        seconds = time.perf_counter() - start
    return profiler, parts, seconds


def _get_shares(profiler: Any, parts: Sequence[str], seconds: float) -> dict[str, float]:
    on_gpu = torch.cuda.is_available()
    total = 1e6 * seconds
    if on_gpu:
        kernels = (e for e in profiler.events() if e.device_type == torch.autograd.DeviceType.CUDA)
        total = sum(
            e.time_range.elapsed_us()
            for e in kernels
            if not getattr(e, "is_user_annotation", False) and not e.name.startswith("part: ")
        )
    shares = dict.fromkeys(parts, 0.0)
    for event in profiler.events():
        name = event.name.removeprefix("part: ")
        if event.name != name and event.device_type == torch.autograd.DeviceType.CPU:
            shares[name] += event.device_time_total if on_gpu else event.cpu_time_total
    shares = {name: time / max(total, 1e-9) for name, time in shares.items()}
    return {**shares, "rest": 1 - sum(shares.values())}


def describe_profile(row: Row, posts: Sequence[Post]) -> str:
    """RETURNS (str): Shares of a row's parts, and what takes most time, in Python and in torch."""
    warm_up(row, posts)
    data = row.make_input(posts)
    python = cProfile.Profile()
    python.runcall(row.run, data)
    text = io.StringIO()
    stats = pstats.Stats(python, stream=text).strip_dirs()
    for order in ("tottime", "cumtime"):
        stats.sort_stats(order).print_stats(TOP)
    profiler, parts, seconds = _profile(row, posts)
    order = "self_cuda_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
    table = profiler.key_averages().table(sort_by=order, row_limit=TOP, max_name_column_width=50)
    shares = _get_shares(profiler, parts, seconds)
    line = ", ".join(f"{name} {100 * share:.1f} %" for name, share in shares.items())
    return f"{text.getvalue()}\n{table}\nshares of {seconds:.2f} s: {line}"
