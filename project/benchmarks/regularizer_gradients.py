"""How strong are the regularizers? The norms of their gradients beside the task's, with the config's weights,
on one batch at the start of a training: by part of the MMIB core, for KLs as means and as sums.

A term whose gradient is a thousandth of the task's does next to nothing, whatever its name is.
"""

import warnings
from itertools import islice
from pathlib import Path
from typing import Any

import spacy
import typer
from spacy.cli._util import setup_gpu
from spacy.training.initialize import init_nlp
from spacy.util import registry
from thinc.api import Config
from wasabi import msg

from project import planning
from project.config import parse_overrides
from spacy_mmib.bridge.shim import get_module

TERMS = {
    "L_rr": {"alignment": 0.0},
    "L_ar": {"kl_text": 0.0, "kl_image": 0.0},
    "none": {"kl_text": 0.0, "kl_image": 0.0, "alignment": 0.0},
}
"""By the regularizer that stays on, the settings that turn the others off."""

PARTS = ("text_encoder.mu", "text_encoder.log_var", "image_encoder.mu", "image_encoder.log_var")


def main(
    dataset: str,
    data: Path = planning.DATA,
    config: planning.ConfigName = "",
    transformer: planning.Transformer = "",
    overrides: planning.Overrides = "",
    posts: int = 32,
    gpu_id: int = -1,
) -> None:
    """Measure on a batch of so many posts, and print a table for each kind of KL."""
    setup_gpu(gpu_id)
    warnings.simplefilter("ignore")
    corpus = planning.read_corpus(dataset, data / dataset)
    options = planning.Options(config, transformer, overrides=parse_overrides(overrides))
    for reduction in ("mean", "sum"):
        found = {}
        for term, settings in TERMS.items():
            full = planning.make_config(corpus, planning.Variant(term, settings), 0, options)
            found[term] = get_gradients(full, reduction, posts)
        print_table(found, reduction, posts)


def get_gradients(config: Config, reduction: str, posts: int) -> dict[str, Any]:
    """RETURNS (Dict[str, Tensor]): Gradients of the core's parameters on the first posts, by name. Weights,
    dropout and noise are the same each time.
    """
    for component in config["components"].values():
        fusion = component.get("model", {}).get("fusion", {})
        if "kl_reduction" in fusion:
            fusion["kl_reduction"] = reduction
    spacy.util.fix_random_seed(0)
    nlp = init_nlp(config)
    read = registry.resolve(nlp.config.interpolate()["corpora"])["train"]
    examples = list(islice(read(nlp), posts))
    spacy.util.fix_random_seed(1)
    nlp.update(examples, sgd=False, losses={})
    name = next(n for n in nlp.pipe_names if nlp.get_pipe_meta(n).factory in ("mmib_ner", "mmib_rel"))
    core = get_module(nlp.get_pipe(name).model.get_ref("fusion"))
    return {n: p.grad.clone() for n, p in core.named_parameters() if p.grad is not None}


def print_table(found: dict[str, dict[str, Any]], reduction: str, posts: int) -> None:
    """Print the norms of gradients: the task's own, and the regularizers' as what they add to it."""
    msg.divider(f"KL as {reduction}, {posts} posts, norms of gradients")
    rows = []
    for part in PARTS:
        task = {n: g for n, g in found["none"].items() if n.startswith(part)}
        if not task:
            continue
        size = sum(float((g**2).sum()) for g in task.values()) ** 0.5
        row = [part, f"{size:.2g}"]
        for term in ("L_rr", "L_ar"):
            added = sum(float(((found[term][n] - g) ** 2).sum()) for n, g in task.items()) ** 0.5
            row.append(f"{100 * added / size:.2g} %")
        rows.append(row)
    header = ("part of the core", "task", "L_rr adds", "L_ar adds")
    msg.table(rows, header=header, aligns=("l", "r", "r", "r"), divider=True)


if __name__ == "__main__":
    typer.run(main)
