"""What a training step and a predicted batch ask of the device: operators, reads by the host, copies.

    python project/benchmarks/operators.py [--gpu-id 0] [--full]

Counted by torch's profiler for `nlp.update` with 8 posts and `nlp.pipe` with 64, pictures in the cache, weights
random, and for the entity head alone (64 posts of 60 tokens, nearly every token in an entity). An operator is
one of torch's that computes or moves something, with nothing below it that does: about a kernel on a GPU. A
read by the host is a call from Python that would make it wait there (`item`, `tolist`, `cpu`, `bool(x)`, ...);
scalars are those that torch's own operators read too. What runs outside torch (numpy, CuPy) is not an operator.
Networks are narrow, for counts that don't depend on width; `--full` takes BERT-base, for milliseconds that do.
"""

import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import spacy
import torch
import typer
from thinc.api import set_gpu_allocator
from thinc.util import get_torch_default_device
from torch.autograd import DeviceType
from torch.overrides import TorchFunctionMode
from torch.profiler import ProfilerActivity, profile
from wasabi import msg

from project.benchmarks.generated_posts import draw_pictures, list_pictures, make_posts
from project.benchmarks.throughput_rows import BATCH_SIZE, TINY_BERT, Ours, Setting, get_encoders, make_models
from spacy_mmib.heads.crf import NERHead

N_POSTS, N_TOKENS = 64, 60
REPEATS = 5
READS = {"item", "tolist", "cpu", "nonzero", "__bool__", "__float__", "__int__", "__index__"}
# They make tensors or views of them, or call others, and compute nothing.
VIEWS = set(
    """alias as_strided detach empty empty_like empty_strided expand lift_fresh narrow new_empty
    permute reshape resize_ resolve_conj resolve_neg result_type select set_ slice split squeeze t transpose unbind
    unfold unsqueeze view _reshape_alias _unsafe_view _local_scalar_dense item is_nonzero to""".split()
)
COPIES = {"copy_", "_to_copy"}


class HostReads(TorchFunctionMode):
    """Counts calls from Python that fetch something from the device, while it is entered as a context."""

    number = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.number += getattr(func, "__name__", "") in READS
        return func(*args, **(kwargs or {}))


def count_operators(events: Any) -> int:
    """RETURNS (int): Events of torch's that compute something, with none below them that do."""

    def count(event: Any) -> int:
        below = sum(map(count, event.cpu_children))
        name = event.name.removeprefix("aten::")
        return below or int(name != event.name and name not in VIEWS)

    return sum(count(event) for event in events if event.cpu_parent is None)


def measure(name: str, run: Callable[[], Any], gpu: bool) -> tuple[str, ...]:
    """RETURNS (Tuple[str, ...]): The row of the table of what is run. It is run before, too."""
    run()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if gpu else [])]
    with HostReads() as reads:
        run()
    with profile(activities=activities) as found:
        run()
        synchronize(gpu)
    taken = []
    for _ in range(REPEATS):
        synchronize(gpu)
        start = time.perf_counter()
        run()
        synchronize(gpu)
        taken.append(1000 * (time.perf_counter() - start))
    events = found.events() or []
    names = Counter(event.name.removeprefix("aten::") for event in events)
    on_gpu = [e.name for e in events if e.device_type == DeviceType.CUDA]
    kernels = sum(not name.startswith(("Memcpy", "Memset")) for name in on_gpu)
    waits = sum(n for name, n in names.items() if name.startswith("cuda") and name.endswith("Synchronize"))
    copies = sum(names[copy] for copy in COPIES)
    counts = (count_operators(events), reads.number, names["_local_scalar_dense"], copies)
    shown = (kernels, waits - 1) if gpu else ("-", "-")  # one wait is ours
    return name, *map(str, (*counts, *shown)), f"{median(taken):.1f}"


def synchronize(gpu: bool) -> None:
    """Wait for the GPU, if there is one."""
    if gpu:
        torch.cuda.synchronize()


def main(gpu_id: int = -1, full: bool = False) -> None:
    """Count and print."""
    warnings.simplefilter("ignore")
    gpu = gpu_id >= 0
    if gpu:
        spacy.require_gpu(gpu_id)
        set_gpu_allocator("pytorch")
    small = (None, "resnet18", 12) if full else ({**TINY_BERT, "num_hidden_layers": 12}, "resnet18", 4)
    table = []
    with tempfile.TemporaryDirectory() as folder:
        setting = Setting(Path(folder), N_POSTS, *small)
        pictures = list_pictures(setting.folder / "pictures", BATCH_SIZE)
        draw_pictures(pictures)
        posts = make_posts(N_POSTS, pictures, seed=N_POSTS)
        make_models(setting, posts[:16])
        for name, trains, own in (
            ("training step", True, posts[:BATCH_SIZE]),
            ("predicted batch", False, posts),
        ):
            row = Ours(setting, get_encoders(setting)["cached"], trains=trains)
            table.append(measure(f"{name}, {len(own)} posts", lambda: row.run(row.make_input(own)), gpu))
    torch.manual_seed(0)
    head = NERHead(width=768, n_labels=4).to(get_torch_default_device())
    context = torch.randn(N_POSTS, N_TOKENS, 768, device=head.emission.weight.device, requires_grad=True)
    mask = torch.ones(context.shape[:2], dtype=torch.bool, device=context.device)
    tags = torch.zeros_like(mask, dtype=torch.long)
    decode = torch.no_grad()(lambda: head(context, mask))
    n_entities = sum(len(found.starts) for found in decode())
    table.append(measure(f"head: {n_entities} entities found", decode, gpu))
    table.append(measure("head: loss, gradient", lambda: head(context, mask, tags).sum().backward(), gpu))
    header = ("", "operators", "host reads", "scalars", "copies", "kernels", "synchronizations", "ms")
    msg.table(table, header=header, aligns=tuple("lrrrrrrr"), divider=True)


if __name__ == "__main__":
    typer.run(main)
