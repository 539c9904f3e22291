"""One pipeline, many threads: is each answer the one that the post gets alone, and what does it cost?

    python project/benchmarks/threads.py PIPELINE CORPUS [--threads 16] [--posts 600]

PIPELINE is a trained pipeline, CORPUS a `.spacy` file with posts and pictures. Prints how many answers
are the same to the last bit, and the time of the threads over that of one thread. With a transformer in the
pipeline it is measured with and without its lock.
"""

import time
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import spacy
import typer
from spacy.language import Language
from spacy.tokens import Doc
from thinc.api import Model

from spacy_mmib.pipeline.locking import OneAtATime
from spacy_mmib.post.extensions import get_confidence
from spacy_mmib.post.relations import get_relations
from spacy_mmib.training.corpus import MultimodalCorpus


def main(pipeline: Path, corpus: Path, threads: int = 16, posts: int = 600) -> None:
    """Measure and print."""
    warnings.simplefilter("ignore")
    nlp = spacy.load(pipeline)
    given = "none" if "mmib_ner" in nlp.pipe_names else "pairs"
    examples = list(MultimodalCorpus(corpus, given=given)(nlp))[:60]
    docs = [eg.predicted for eg in examples]
    alone = [answer(nlp(doc.copy())) for doc in docs]
    order = [i % len(docs) for i in range(posts)]
    one = clock(nlp, docs, alone, order, 1)
    many = clock(nlp, docs, alone, order, threads)
    print(
        f"{threads} threads, {posts} posts: {dict(many[0])}, {many[1] / one[1]:.2f} x the time of one thread"
    )
    models = [pipe.model for _, pipe in nlp.pipeline if isinstance(getattr(pipe, "model", None), Model)]
    locks = [node for model in models for node in model.walk() if isinstance(node._func, OneAtATime)]
    for node in locks:
        node._func = node._func.function
    if locks:
        free = clock(nlp, docs, alone, order, threads)
        print(f"without the lock: {dict(free[0])}, with it {many[1] / free[1]:.2f} x the time")


def answer(doc: Doc) -> tuple[list[tuple], list[tuple]]:
    """RETURNS (Tuple[List[Tuple], List[Tuple]]): Entities and relations with their confidences."""
    entities = [(e.start, e.end, e.label_, get_confidence(e)) for e in doc.ents]
    return entities, [(r.head.start, r.tail.start, r.label, r.score) for r in get_relations(doc)]


def clock(
    nlp: Language, docs: list[Doc], alone: list, order: list[int], threads: int
) -> tuple[Counter[str], float]:
    """RETURNS (Tuple[Counter, float]): How the answers compare with those of one thread, and seconds."""

    def ask(i: int) -> str:
        try:
            return "the same" if answer(nlp(docs[i].copy())) == alone[i] else "other"
        except Exception as err:
            return f"raised {type(err).__name__}"

    start = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        found = Counter(pool.map(ask, order))
    return found, time.perf_counter() - start


if __name__ == "__main__":
    typer.run(main)
