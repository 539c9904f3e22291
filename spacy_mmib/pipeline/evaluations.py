"""Whether `spacy train` will evaluate a pipeline after it has learned anything."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from spacy.util import registry

from ..util import warn

if TYPE_CHECKING:
    from spacy.language import Language


def warn_if_evaluated_once(nlp: "Language", lengths: Sequence[int]) -> None:
    """Warn if a training with the settings of the pipeline's config ends before its second evaluation. The
    first one is after the first update, so that the best pipeline, `model-best`, would be an untrained one.

    nlp (Language): The pipeline, before the training.
    lengths (Sequence[int]): Tokens of each post of the training data.
    """
    try:
        training = nlp.config.interpolate()["training"]
        names = ("max_steps", "patience", "max_epochs", "eval_frequency")
        max_steps, patience, max_epochs, frequency = (int(training.get(name) or 0) for name in names)
        reasons = [
            (max_steps, f"training.max_steps is {max_steps}"),
            (patience, f"training.patience is {patience}"),
        ]
        reasons = [reason for reason in reasons if 0 < reason[0] < frequency]
        if max_epochs > 0 and lengths:
            batcher = registry.resolve({"batcher": training["batcher"]})["batcher"]
            # All that a batcher asks of a post is its length. The order of the posts may change the number.
            updates = max_epochs * sum(1 for _ in batcher([range(n) for n in lengths]))
            if updates <= frequency:
                reasons.append((updates, f"{len(lengths)} posts, training.max_epochs is {max_epochs}"))
    except Exception:  # spaCy says which settings make no sense; or it is a batcher that looks into posts
        return
    if reasons:
        updates, why = min(reasons)
        warn(
            f"training.eval_frequency is {frequency}, but the training will end after about {updates} "
            f"updates ({why}): it will be evaluated only after the first of them, so that model-best is an "
            f"untrained pipeline. Set training.eval_frequency to {max(1, updates // 5)}, say."
        )
