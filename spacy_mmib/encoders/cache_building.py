"""Encode the pictures of a corpus ahead of training, into the cache of the pipeline's picture encoders."""

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from spacy.tokens import Doc
from spacy.util import minibatch

from ..images.errors import describe_kinds
from ..post.extensions import get_image_error_kinds, get_stored_images
from .picture_queue import find_encoder_layers, get_settings

if TYPE_CHECKING:
    from spacy.language import Language


class BuildError(ValueError):
    """Nothing, or not everything, can be kept; the message says why."""


@dataclass
class BuildResult:
    """What was done so far."""

    posts: int = 0
    with_picture: int = 0
    not_used: int = 0  # with a picture or an object that couldn't be used
    reasons: Counter[str] = field(default_factory=Counter)  # by kind
    seconds: float = 0.0

    def explain(self) -> str:
        """RETURNS (str): The reasons, in brackets."""
        return f" ({describe_kinds(self.reasons)})" if self.reasons else ""


def build_cache(
    nlp: "Language", docs: Iterable[Doc], *, trained: bool = True, chunk_size: int = 64
) -> Iterator[BuildResult]:
    """Encode pictures. Posts that are in the cache already are passed over without reading their pictures.

    A chunk is put into the cache as one: an interrupted run has whole chunks, and going on makes the very
    chunks that it would have made, so that the cache gets the same content to the last bit.

    trained (bool): Whether the pipeline was loaded with its weights; otherwise they come from its config.
    chunk_size (int): Posts encoded at a time.
    YIELDS (BuildResult): After each chunk what was done so far, always the same object.
    RAISES (BuildError): No encoder has a cache, the cache can't be written, or nothing was kept.
    """
    encoders = _find_cached_encoders(nlp, trained)
    stores = [get_settings(layer).cache.store for layer in encoders]
    result, lost = BuildResult(), 0
    start = time.perf_counter()
    for chunk in minibatch(docs, chunk_size):
        for layer in encoders:
            layer.predict(chunk)
        for store in stores:
            if store.problem is not None:
                what = f"What was encoded can't be kept, after {result.posts} posts"
                raise BuildError(f"{what}: {store.problem}")
        result.posts += len(chunk)
        for doc in chunk:
            n_pictures, kinds = len(get_stored_images(doc)), get_image_error_kinds(doc)
            result.with_picture += n_pictures > 0
            result.not_used += bool(kinds)
            lost += 0 < n_pictures <= len(kinds)
            result.reasons.update(kinds)
        result.seconds = time.perf_counter() - start
        yield result
    if result.posts and result.with_picture == lost:
        raise BuildError(
            f"Nothing was kept: none of the {result.posts} posts has a picture that can be used"
            f"{result.explain()}. Paths of pictures start from the image root, or the folder of the corpus."
        )
    for store in stores:
        if result.posts and not store.stats()["entries"]:
            raise BuildError(f"Nothing was kept: max_gb = {store.max_gb} is too small for {store.path}.")


def _find_cached_encoders(nlp: "Language", trained: bool) -> list[Any]:
    models = [getattr(component, "model", None) for _, component in nlp.pipeline]
    layers = [layer for model in models for layer in find_encoder_layers(model)]
    if not layers:
        names = ", ".join(nlp.pipe_names) or "none at all"
        raise BuildError(f"No component of this pipeline has a picture encoder: it has {names}.")
    cached = [layer for layer in layers if get_settings(layer).cache is not None]
    if not cached:
        raise BuildError(
            "No picture encoder of this pipeline has a cache. Name its file: --paths.features FILE if the "
            "config has that setting, as the shipped ones do, or add to the encoder in the config: "
            '[components.<name>.model.cache] @misc = "spacy-mmib.feature_cache.v1", path = "FILE". '
            "Encoders that are trained can't have one."
        )
    for layer in cached:
        settings = get_settings(layer)
        try:
            settings.cache.store.check_writable()
        except OSError as err:
            raise BuildError(str(err)) from None
        if not layer.has_dim("nO"):
            if settings.random and not trained:
                raise BuildError(
                    f"The picture encoder {settings.name!r} has no weights (weights = null). Random ones are "
                    "others in each training, so keeping their vectors is of no use: name its weights."
                )
            layer.initialize()
    return cached
