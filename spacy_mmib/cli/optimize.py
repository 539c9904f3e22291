"""`spacy mmib optimize`: a trained pipeline with encoders of 8-bit weights, for prediction on CPU."""

from pathlib import Path
from typing import Annotated, Any

from spacy.language import Language
from spacy.util import load_model
from thinc.api import Model
from typer import Argument, Option
from wasabi import msg

from ..evaluation.evaluate import evaluate, show_score, tabulate
from . import app


@app.command("optimize")
def optimize_cli(
    model: app.ModelArg,
    output: Annotated[Path, Argument(help="Folder of the new pipeline", metavar="OUT", file_okay=False)],
    data: Annotated[Path | None, Option(help="Score both on these posts: " + app.DOCS)] = None,
    image_root: app.ImageRootOpt = None,
    batch_size: app.BatchSizeOpt = None,
    force: Annotated[bool, Option("--force", "-F", help="Write over what is in OUT")] = False,
) -> None:
    """Write a pipeline that predicts faster on CPU: the linear layers of its transformers, for texts or
    pictures, compute with integers of 8 bits. It is used like any other, and can't be trained.

    MODEL stays as it is. With --data the scores and the speed of both are shown; what a feature cache
    holds is not measured.
    """
    if output.exists() and Path(model).exists() and output.samefile(model):
        app.fail(f"{output} is the pipeline to optimize: it stays as it is. Choose another folder.")
    if output.is_dir() and any(output.iterdir()) and not force:
        app.fail(f"The folder {output} is not empty. Choose another one, or --force to write over it.")
    nlp = app.load_pipeline(model)
    before = data and measure(nlp, data, image_root, batch_size)
    with app.writing(output, "OUT"):
        optimized = optimize(nlp, output)
    if not optimized:
        app.fail(
            f"{model}: no encoder of this pipeline gains from 8-bit weights, nothing was written. Those of "
            "this package and of spacy-transformers that are transformers do; HashEmbedCNN and "
            "convolutional networks don't, nor what was optimized before."
        )
    msg.table(optimized, header=("8-bit", "linear layers"), aligns=("l", "r"))
    if data and before:
        after = measure(load_model(output), data, image_root, batch_size)
        msg.table(
            [(name, before[name], after[name]) for name in after],
            header=("", "before", "after"),
            aligns=("l", "r", "r"),
        )
    msg.good(f"Saved the optimized pipeline to {output}")


def optimize(nlp: Language, output: Path) -> dict[str, int]:
    """Save a pipeline with encoders of 8-bit weights.

    RETURNS (Dict[str, int]): Linear layers that now have them, by where the encoder is in the config. If
        there are none, nothing is saved.
    """
    from ..bridge.int8 import count_linear

    config, found = nlp.config.copy(), {}
    for name, component in nlp.components:
        if not isinstance(layer := getattr(component, "model", None), Model):
            continue
        block: Any = config["components"][name]
        parts = [
            (block["model"], key, layer.maybe_get_ref(key))
            for key in ("tok2vec", "img2vec")
            if key in block["model"]
        ]
        for owner, key, part in parts or [(block, "model", layer)]:
            # A variable stands for a section that is named by itself.
            if part is not None and isinstance(owner[key], dict) and (n := count_linear(part)):
                owner[key] = {"@architectures": "spacy-mmib.Int8.v1", "layer": owner[key]}
                found[f"components.{name}.model" + ("" if key == "model" else f".{key}")] = n
    if found:
        nlp.to_disk(output)
        config.to_disk(output / "config.cfg", interpolate=False)
        load_model(output).to_disk(output)
    return found


def measure(nlp: Language, data: Path, image_root: str | None, batch_size: int | None) -> dict[str, str]:
    """RETURNS (Dict[str, str]): F1 of all that is scored, and the speed."""
    for _ in range(2):  # what is computed first takes longer, and fills the feature cache
        metrics = evaluate(nlp, data, image_root=image_root, batch_size=batch_size)
    tables = tabulate(metrics)
    scores = {
        f"{title}, {of}, F1": show_score(prf[2]) for title, all_, _ in tables for of, prf in all_.items()
    }
    return {**scores, "words a second": f"{metrics['speed']:.0f}"}
