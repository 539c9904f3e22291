"""Time and memory of one long post.

    python project/benchmarks/long_posts.py PIPELINE [TOKENS ...]

PIPELINE is a trained pipeline. Prints, for posts of 1,000, 4,000 and 16,000 tokens or those given,
seconds and by how much the process has grown at its peak, each in a process of its own.
"""

import resource
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Annotated

import spacy
import typer
from spacy.tokens import Doc

SENTENCE = ["Rob", "had", "dinner", "with", "us", "tonight", "and", "then", "went", "home", "."]


def main(
    pipeline: Path, tokens: Annotated[list[int] | None, typer.Argument()] = None, here: bool = False
) -> None:
    """Measure and print."""
    for n in tokens or (1000, 4000, 16000):
        if here:
            measure(pipeline, n)
        else:
            command = [sys.executable, __file__, str(pipeline), str(n), "--here"]
            subprocess.run(command, check=True)


def measure(pipeline: Path, n: int) -> None:
    """Measure in this process."""
    warnings.simplefilter("ignore")
    nlp = spacy.load(pipeline)
    nlp(Doc(nlp.vocab, words=SENTENCE))
    words = SENTENCE * (n // len(SENTENCE) + 1)
    doc = Doc(nlp.vocab, words=words[:n])
    before, start = get_peak(), time.perf_counter()
    nlp(doc)
    print(f"{n} tokens: {time.perf_counter() - start:.1f} s, {get_peak() - before:.0f} MB more")


def get_peak() -> float:
    """RETURNS (float): The most memory this process has had, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


if __name__ == "__main__":
    typer.run(main)
