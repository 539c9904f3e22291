"""What a training step and a predicted batch ask of the device: operators, reads by the host, copies.

    PYTHONPATH=. python project/benchmarks/operators.py [--gpu-id 0] [--full]

Counted by torch's profiler for `nlp.update` with 8 posts and `nlp.pipe` with 64, pictures in the cache,
weights random, and for the entity head alone (64 posts of 60 tokens, nearly every token in an entity). An
operator is one of torch's that computes or moves something, with nothing below it that does: about a kernel
on a GPU. A read by the host is a call from Python that would make it wait there (`item`, `tolist`, `cpu`,
`bool(x)`, ...); scalars are what torch's own operators read too. What runs outside torch (numpy, CuPy) is no
operator. Networks are narrow: counts don't depend on width. `--full` takes BERT-base. PYTHONPATH may name
another checkout, to compare.
"""

import re
import tempfile
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import spacy
import torch
import typer
from thinc.util import get_torch_default_device
from torch.autograd import DeviceType
from torch.overrides import TorchFunctionMode
from torch.profiler import ProfilerActivity, profile
from wasabi import msg

from project.benchmarks.generated_posts import Post, draw_pictures, list_pictures, make_posts
from project.benchmarks.throughput import time_run
from project.benchmarks.throughput_rows import BATCH_SIZE, TINY_BERT, Ours, Setting, get_encoders, make_models
from spacy_mmib.heads.crf import NERHead

N_POSTS, N_TOKENS = 64, 60
REPEATS = 5
COLUMNS = ("operators", "host reads", "scalars", "copies", "kernels", "synchronizations")
READS = {"item", "tolist", "cpu", "nonzero", "__bool__", "__float__", "__int__", "__index__"}
# They make tensors or views of them, or call others, and compute nothing.
VIEWS = re.compile(
    "alias|as_strided|detach|empty|empty_like|empty_strided|expand|lift_fresh|narrow|new_empty|permute|reshape|"
    "resize_|resolve_conj|resolve_neg|result_type|select|set_|slice|split|squeeze|t|transpose|unbind|unfold|"
    "unsqueeze|view|_reshape_alias|_unsafe_view|_local_scalar_dense|item|is_nonzero|to"
)


class HostReads(TorchFunctionMode):
    """Counts calls from Python that fetch something from the device, while it is entered as a context."""

    number = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.number += getattr(func, "__name__", "") in READS
        return func(*args, **(kwargs or {}))


def count_operators(event: Any) -> int:
    """RETURNS (int): It and those below it that compute something, with none below them that do."""
    name = event.name.removeprefix("aten::")
    below = sum(map(count_operators, event.cpu_children))
    return below or int(name != event.name and VIEWS.fullmatch(name) is None)


def measure(name: str, row: Any, posts: Sequence[Post], *, gpu: bool) -> list[str]:
    """RETURNS (List[str]): The row of the table. Input is made outside of what is counted and timed."""
    time_run(row, posts)
    data = row.make_input(posts)
    with HostReads() as reads:
        row.run(data)
    data = row.make_input(posts)
    with profile(activities=None if gpu else [ProfilerActivity.CPU]) as found:
        row.run(data)
    milliseconds = median(1000 * time_run(row, posts)[0] for _ in range(REPEATS))
    events = found.events() or []
    names = Counter(event.name for event in events)
    operators = sum(count_operators(event) for event in events if event.cpu_parent is None)
    counts = [operators, reads.number, names["aten::_local_scalar_dense"], names["aten::copy_"]]
    if gpu:
        on_gpu = [event.name for event in events if event.device_type == DeviceType.CUDA]
        counts.append(sum(not name.startswith(("Memcpy", "Memset")) for name in on_gpu))
        counts.append(sum(n for key, n in names.items() if re.fullmatch("cuda.*Synchronize", key)))
    return [name, *map(str, counts), f"{milliseconds:.1f}"]


def main(gpu_id: int = -1, full: bool = False) -> None:
    """Count and print."""
    warnings.simplefilter("ignore")
    gpu, table = gpu_id >= 0, []
    if gpu:
        spacy.require_gpu(gpu_id)
    with tempfile.TemporaryDirectory() as folder:
        bert = None if full else {**TINY_BERT, "num_hidden_layers": 12}
        setting = Setting(Path(folder), N_POSTS, bert, "resnet18", heads=12 if full else 4)
        pictures = list_pictures(setting.folder / "pictures", BATCH_SIZE)
        draw_pictures(pictures)
        posts = make_posts(N_POSTS, pictures, seed=N_POSTS)
        make_models(setting, posts[:16])
        for name, number in (("training step", BATCH_SIZE), ("predicted batch", N_POSTS)):
            row = Ours(setting, get_encoders(setting)["cached"], trains=number == BATCH_SIZE)
            table.append(measure(f"{name}, {number} posts", row, posts[:number], gpu=gpu))
    torch.manual_seed(0)
    device = get_torch_default_device()
    head = NERHead(width=768, n_labels=4).to(device)
    context = torch.randn(N_POSTS, N_TOKENS, 768, device=device, requires_grad=True)
    mask = torch.ones(context.shape[:2], dtype=torch.bool, device=device)
    tags = torch.zeros_like(mask, dtype=torch.long)
    find = torch.no_grad()(lambda *_: head(context, mask))
    learn = lambda *_: head(context, mask, tags).sum().backward()  # noqa: E731
    n_entities = sum(len(found.starts) for found in find())
    for name, run in ((f"head, {n_entities} entities", find), ("head, loss and gradient", learn)):
        table.append(measure(name, SimpleNamespace(make_input=list, run=run), posts, gpu=gpu))
    header = ["", *COLUMNS[: len(table[0]) - 2], "ms"]
    msg.table(table, header=header, aligns=tuple("l" + "r" * len(header[1:])), divider=True)


if __name__ == "__main__":
    typer.run(main)
