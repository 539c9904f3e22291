"""Time and memory of one long post.

    python project/benchmarks/long_posts.py PIPELINE [TOKENS ...]

PIPELINE is a trained pipeline. Prints, for posts of 1,000, 4,000 and 16,000 tokens or those given,
seconds and by how much the process has grown at its peak, each in a process of its own.
"""

import resource
import sys
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated

import spacy
import typer
from spacy.tokens import Doc

SENTENCE = ["Rob", "had", "dinner", "with", "us", "tonight", "and", "then", "went", "home", "."]


def main(pipeline: Path, tokens: Annotated[list[int] | None, typer.Argument()] = None) -> None:
    """Measure and print."""
    for n in tokens or (1000, 4000, 16000):
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            print(pool.submit(measure, pipeline, n).result())


def measure(pipeline: Path, n: int) -> str:
    """RETURNS (str): Seconds and MB in this process."""
    warnings.simplefilter("ignore")
    nlp = spacy.load(pipeline)
    nlp(Doc(nlp.vocab, words=SENTENCE))
    doc = Doc(nlp.vocab, words=(SENTENCE * (n // len(SENTENCE) + 1))[:n])
    before, start = get_peak(), time.perf_counter()
    nlp(doc)
    return f"{n} tokens: {time.perf_counter() - start:.1f} s, {get_peak() - before:.0f} MB more"


def get_peak() -> float:
    """RETURNS (float): The most memory this process has had, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


if __name__ == "__main__":
    typer.run(main)
