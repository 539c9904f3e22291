"""Whether `spacy train` will evaluate a pipeline after it has learned anything."""

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from spacy.util import dot_to_object, registry

from ..util import warn

if TYPE_CHECKING:
    from spacy.language import Language

EXACT = ("spacy.batch_by_sequence.v1", "spacy-mmib.batch_by_sequence.v1")
"""Batchers with which the number of batches doesn't depend on the order of the posts."""


def warn_if_evaluated_once(nlp: "Language", lengths: Sequence[int]) -> None:
    """Warn if a training with the settings of the pipeline's config ends before its second evaluation. The
    first one is after the first update, so that the best pipeline, `model-best`, would be an untrained one.
    Only what is certain is said.

    nlp (Language): The pipeline, before the training.
    lengths (Sequence[int]): Tokens of each post of the training data.
    """
    try:
        config = nlp.config.interpolate()
        settings = config["training"]
        frequency, *limits = (
            int(settings.get(name) or 0) for name in ("eval_frequency", "max_steps", "patience", "max_epochs")
        )
        reasons = [
            (limit, f"training.{name} is {limit}")
            for name, limit in zip(("max_steps", "patience"), limits)
            if 0 < limit < frequency
        ]
        max_epochs = limits[-1]
        if max_epochs > 0 and lengths:
            updates = _count_updates(config, lengths, max_epochs, frequency)
            if updates is not None:
                why = f"{len(lengths)} posts, training.max_epochs is {max_epochs}"
                reasons.append((updates, why))
    except Exception:  # settings that make no sense: spaCy says what is wrong with them
        return
    if reasons:
        updates, why = min(reasons)
        warn(
            f"training.eval_frequency is {frequency}, but the training will end after at most {updates} "
            f"updates ({why}): it will be evaluated only after the first of them, so that model-best is an "
            f"untrained pipeline. Set training.eval_frequency to {max(1, updates // 5)}, say."
        )


def _count_updates(config: Any, lengths: Sequence[int], max_epochs: int, frequency: int) -> int | None:
    """RETURNS (Optional[int]): The most updates there can be; `None` if they may be enough for a second
    evaluation.
    """
    settings = config["training"]["batcher"]
    posts = [range(n) for n in lengths]  # all that a batcher asks of a post is its length
    state = random.getstate()
    try:
        batcher = registry.resolve({"batcher": settings})["batcher"]
        updates = 0
        for _ in range(max_epochs):
            for _ in batcher(posts):
                updates += 1
                if updates > frequency:
                    return None
    except Exception:  # a batcher that wants to know more: a batch has a post at least
        updates = len(posts) * max_epochs
        return updates if updates <= frequency else None
    finally:
        random.setstate(state)
    corpus = dot_to_object(config, config["training"]["train_corpus"])
    if settings.get("@batchers") in EXACT and not corpus.get("augmenter"):
        return updates
    # The posts come in another order, or augmented: no more than twice as many batches.
    return 2 * updates if 2 * updates <= frequency else None
