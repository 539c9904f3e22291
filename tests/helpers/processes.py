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
    nlp: Language,
    docs: list[Doc],
    folder: Path,
    *,
    parent_first: bool = False,
    method: str | None = None,
    batch_size: int = 3,
    fresh: bool = True,
) -> list[Doc]:
    """What `nlp.pipe(docs, n_process=2)` gives.

    parent_first (bool): torch's threads run in the parent before it starts the others.
    method (Optional[str]): How those are started.
    fresh (bool): In a new interpreter, whose torch has two threads. If it isn't about how processes start, a
        forked one does.
    """
    nlp.to_disk(folder / "model")
    DocBin(docs=docs, store_user_data=True).to_disk(folder / "posts.spacy")
    arguments = [str(folder), "parent-first" if parent_first else "", method or "", str(batch_size)]
    if fresh:
        result = subprocess.run(
            [sys.executable, "-W", "ignore", __file__, *arguments],
            capture_output=True, text=True, timeout=240, check=False,
            env={**os.environ, "OMP_NUM_THREADS": "2"},
        )  # fmt: skip
    else:
        result = run_forked(__file__, *arguments)
    assert result.returncode == 0, result.stderr[-2000:]
    return list(DocBin().from_disk(folder / "found.spacy").get_docs(nlp.vocab))


def main(folder: Path, parent_first: bool, method: str | None, batch_size: int) -> None:
    import multiprocessing

    import spacy

    if method:
        multiprocessing.set_start_method(method)
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


if __name__ == "__main__":
    main(Path(sys.argv[1]), bool(sys.argv[2]), sys.argv[3] or None, int(sys.argv[4]))
