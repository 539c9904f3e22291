"""Runs a pipeline in two processes that a process of its own starts: a hang must fail a test, not stop the
suite.
"""

import os
import subprocess
import sys
from pathlib import Path

from forked import run_forked
from spacy.language import Language
from spacy.tokens import Doc, DocBin


def pipe_in_processes(
    pipelines: list[tuple[Language, list[Doc]]],
    folder: Path,
    *,
    parent_first: bool = False,
    method: str | None = None,
    batch_size: int = 3,
    fresh: bool = True,
) -> list[list[Doc]]:
    """What `nlp.pipe(docs, n_process=2)` gives, of one pipeline after the other.

    parent_first (bool): torch's threads run in the parent before it starts the others.
    method (Optional[str]): How those are started.
    fresh (bool): In a new interpreter, whose torch has two threads. If it isn't about how processes start, a
        forked one does.
    """
    for i, (nlp, docs) in enumerate(pipelines):
        (folder / str(i)).mkdir()
        nlp.to_disk(folder / str(i) / "model")
        DocBin(docs=docs, store_user_data=True).to_disk(folder / str(i) / "posts.spacy")
    arguments = [str(folder), "parent-first" if parent_first else "", method or "", str(batch_size)]
    if fresh:
        result = subprocess.run(
            [sys.executable, "-W", "ignore", __file__, *arguments],
            capture_output=True, text=True, timeout=600, check=False,
            env={**os.environ, "OMP_NUM_THREADS": "2"},
        )  # fmt: skip
    else:
        result = run_forked(__file__, *arguments, timeout=600)
    assert result.returncode == 0, result.stderr[-2000:]
    return [
        list(DocBin().from_disk(folder / str(i) / "found.spacy").get_docs(nlp.vocab))
        for i, (nlp, _) in enumerate(pipelines)
    ]


def pipe(folder: Path, parent_first: bool, batch_size: int) -> None:
    import spacy

    nlp = spacy.load(folder / "model")
    docs = list(DocBin().from_disk(folder / "posts.spacy").get_docs(nlp.vocab))
    if parent_first:
        import torch

        torch.set_num_threads(2)
        torch.randn(500, 500) @ torch.randn(500, 500)  # starts torch's own threads
        list(nlp.pipe(doc.copy() for doc in docs))
    found = list(nlp.pipe(docs, n_process=2, batch_size=batch_size))
    assert [doc._.image is None for doc in found] == [doc._.image is None for doc in docs]
    DocBin(docs=found, store_user_data=True).to_disk(folder / "found.spacy")


def main(folder: str, parent_first: str, method: str, batch_size: str) -> None:
    import multiprocessing

    if method:
        multiprocessing.set_start_method(method)
    for i in range(len(os.listdir(folder))):
        pipe(Path(folder) / str(i), bool(parent_first), int(batch_size))


if __name__ == "__main__":
    main(*sys.argv[1:])
