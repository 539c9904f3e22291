"""What bfloat16 costs: F1 on a converted corpus with its pictures and without, and seconds, of trainings in
float32 and with `autocast = "bfloat16"`; of the first also with bfloat16 in prediction only. Prints a table:
`python -m project.benchmarks.precision products/ner`, and with `--transformer FOLDER` for that text encoder.
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
    transformer: Annotated[
        str, typer.Option(help="For HFTextEncoder.v1, instead of the config's text encoder")
    ] = "",
    epochs: int = 8,
    limit: Annotated[int, typer.Option(help="Posts of each split; 0 for all")] = 0,
    seed: int = 0,
    gpu_id: int = -1,
) -> None:
    """Train and print."""
    setup_gpu(gpu_id, silent=True)
    corpus = planning.read_corpus(dataset, data / dataset, limit)
    print(*(f"| {' | '.join(row)} |" for row in (HEADER, ["---"] * len(HEADER))), sep="\n")
    for autocast in (None, "bfloat16"):
        changes: dict[str, Any] = {"autocast": autocast}
        blocks = ["model"]
        if transformer:
            text = {"@architectures": "spacy-mmib.HFTextEncoder.v1", "name": transformer}
            changes["tok2vec"] = {**text, "autocast": autocast}
            blocks.append("model.tok2vec")
        variant = planning.Variant("precision", model=changes, learn_rate=0.0001 if transformer else 0.0)
        config = planning.make_config(corpus, variant, seed, planning.Options(epochs=epochs, limit=limit))
        with tempfile.TemporaryDirectory() as folder:
            start = perf_counter()
            with open(Path(folder) / "log.txt", "w", encoding="utf8") as log:
                train(init_nlp(config, use_gpu=gpu_id), Path(folder), use_gpu=gpu_id, stdout=log)
            seconds = perf_counter() - start
            for predicting in dict.fromkeys((autocast, "bfloat16")):
                then = {f"components.mmib_ner.{block}.autocast": predicting for block in blocks}
                nlp = spacy.load(Path(folder) / "model-best", config=then)
                paths = {"image_root": dataset_paths(corpus.folder).get("paths.image_root")}
                show = partial(evaluate, nlp, corpus.folder / "test.spacy", limit=limit, **paths)
                without, own = show(images="none"), show(images="own")
                row = ["HFTextEncoder" if transformer else "the config's"]
                row += [precision or "float32" for precision in (autocast, predicting)]
                row += [f"{100 * found['ents_f']:.2f}" for found in (own, without)]
                row += [f"{seconds:.0f}", f"{own['speed']:.0f}"]
                print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    typer.run(main)
