"""What bfloat16 costs: F1 on a converted corpus with its pictures and without, and seconds, of trainings in
float32 and with `autocast = "bfloat16"`; of the first also with bfloat16 in prediction only. Prints a table:
`python -m project.benchmarks.precision products/ner --transformer FOLDER`.
"""

import tempfile
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import spacy
import typer
from spacy.cli._util import setup_gpu
from spacy.training.initialize import init_nlp
from spacy.training.loop import train

from project import planning
from project.config import dataset_paths
from spacy_mmib.evaluation.evaluate import evaluate

HEADER = ("text encoder", "training", "prediction", "F1", "without pictures", "training, s", "words/s")


def main(
    dataset: Annotated[str, typer.Argument(help="A folder below --data with a converted corpus")],
    data: Path = planning.DATA,
    transformer: Annotated[str, typer.Option(help="For HFTextEncoder.v1; without one, no such rows")] = "",
    epochs: int = 8,
    limit: Annotated[int, typer.Option(help="Posts of each split; 0 for all")] = 0,
    seed: int = 0,
    gpu_id: int = -1,
) -> None:
    """Train and print."""
    setup_gpu(gpu_id, silent=True)
    corpus = planning.read_corpus(dataset, data / dataset, limit)
    print(*(f"| {' | '.join(row)} |" for row in (HEADER, ["---"] * len(HEADER))), sep="\n")
    for name, rate in (("HashEmbedCNN", 0.0), *([(transformer, 0.0001)] if transformer else [])):
        for autocast in (None, "bfloat16"):
            changes: dict[str, Any] = {"autocast": autocast}
            if transformer == name:
                changes["tok2vec"] = {
                    "@architectures": "spacy-mmib.HFTextEncoder.v1",
                    "name": name,
                    "autocast": autocast,
                }
            variant = planning.Variant(name, model=changes, learn_rate=rate)
            config = planning.make_config(corpus, variant, seed, planning.Options(epochs=epochs, limit=limit))
            with tempfile.TemporaryDirectory() as folder:
                start = perf_counter()
                with open(Path(folder) / "log.txt", "w", encoding="utf8") as log:
                    train(init_nlp(config, use_gpu=gpu_id), Path(folder), use_gpu=gpu_id, stdout=log)
                seconds = perf_counter() - start
                for predicting in dict.fromkeys((autocast, "bfloat16")):
                    blocks = ("model", *(["model.tok2vec"] if transformer == name else []))
                    then = {f"components.mmib_ner.{block}.autocast": predicting for block in blocks}
                    nlp = spacy.load(Path(folder) / "model-best", config=then)
                    paths = {"image_root": dataset_paths(corpus.folder).get("paths.image_root")}
                    show = partial(evaluate, nlp, corpus.folder / "test.spacy", limit=limit, **paths)
                    without, own = show(images="none"), show(images="own")
                    scores = [f"{100 * found['ents_f']:.2f}" for found in (own, without)]
                    text = "HFTextEncoder" if transformer == name else name
                    row = [text, autocast or "float32", predicting or "float32", *scores]
                    row += [f"{seconds:.0f}", f"{own['speed']:.0f}"]
                    print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    typer.run(main)
