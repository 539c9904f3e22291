"""How strong are the regularizers? The norms of their gradients beside the task's, with the config's weights,
on one batch at the start of a training: by part of the MMIB core, for KLs as means and as sums.

A term whose gradient is a thousandth of the task's does next to nothing, whatever its name is.
"""

import argparse
import sys
import warnings
from pathlib import Path
from typing import Any

import spacy
from spacy.cli._util import setup_gpu
from spacy.training import Example
from spacy.training.initialize import init_nlp
from spacy.util import registry
from wasabi import msg

sys.path.insert(0, str(Path(__file__).parent.parent / "scripts"))
from grid_config import Corpus, Options, make_config, read_corpus
from grid_plan import Variant
from train import parse

from spacy_mmib.bridge.shim import get_module

TERMS = {
    "L_rr": {"alignment_weight": 0.0},
    "L_ar": {"beta1": 0.0, "beta2": 0.0},
    "none": {"beta1": 0.0, "beta2": 0.0, "alignment_weight": 0.0},
}
"""By the regularizer that stays on, the settings that turn the others off."""

PARTS = ("text_encoder.mu", "text_encoder.log_var", "image_encoder.mu", "image_encoder.log_var")


def main() -> None:
    """Read the command line, measure, and print a table for each kind of KL."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", help="a folder below --data with a converted corpus")
    parser.add_argument("--data", type=Path, default=Path("project/data"))
    parser.add_argument("--config", default="", help="instead of the dataset's own")
    parser.add_argument("--transformer", default="", help="name or folder, instead of the config's")
    parser.add_argument("--overrides", default="", help="settings of the config")
    parser.add_argument("--posts", type=int, default=32, help="in the batch")
    parser.add_argument("--gpu-id", type=int, default=-1)
    args = parser.parse_args()
    setup_gpu(args.gpu_id)
    warnings.simplefilter("ignore")
    corpus = read_corpus(args.dataset, args.data / args.dataset)
    for reduction in ("mean", "sum"):
        options = Options(config=args.config, transformer=args.transformer, overrides=parse(args.overrides))
        found = {
            term: get_gradients(corpus, Variant(term, settings), options, reduction, args.posts)
            for term, settings in TERMS.items()
        }
        print_table(found, reduction, args.posts)


def get_gradients(
    corpus: Corpus, variant: Variant, options: Options, reduction: str, posts: int
) -> dict[str, Any]:
    """RETURNS (Dict[str, Tensor]): Gradients of the core's parameters on the first posts, by name. Weights,
    dropout and noise are the same each time.
    """
    config = make_config(corpus, variant, 0, options)
    for component in config["components"].values():
        if "kl_reduction" in component.get("model", {}):
            component["model"]["kl_reduction"] = reduction
    spacy.util.fix_random_seed(0)
    nlp = init_nlp(config)
    read = registry.resolve(nlp.config.interpolate()["corpora"])["train"]
    examples: list[Example] = []
    for example in read(nlp):
        examples.append(example)
        if len(examples) == posts:
            break
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
        size = get_norm(task.values())
        row = [part, f"{size:.2g}"]
        for term in ("L_rr", "L_ar"):
            added = get_norm(found[term][n] - g for n, g in task.items())
            row.append(f"{100 * added / size:.2g} %")
        rows.append(row)
    header = ("part of the core", "task", "L_rr adds", "L_ar adds")
    msg.table(rows, header=header, aligns=("l", "r", "r", "r"), divider=True)


def get_norm(gradients: Any) -> float:
    """RETURNS (float): The norm of several gradients taken together."""
    total = sum(float((gradient**2).sum()) for gradient in gradients)
    return float(total**0.5)


if __name__ == "__main__":
    main()
