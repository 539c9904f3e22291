"""Encode the pictures of a corpus ahead of training, into the cache of the pipeline's picture encoders."""

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from spacy.tokens import Doc
from spacy.util import minibatch

from ..post.extensions import get_image_error_kinds, get_stored_image
from .encoder_settings import find_encoder_layers, get_settings, read_ahead

if TYPE_CHECKING:
    from spacy.language import Language


class NothingToBuild(ValueError):
    """The pipeline has no picture encoder whose vectors could be kept, or they can't be written; the message
    says why.
    """


@dataclass
class BuildResult:
    """What was built; all numbers are posts unless said otherwise.

    posts (int): Posts looked at.
    with_picture (int): Posts with a picture.
    not_used (int): Posts whose picture, or one of its objects, couldn't be used.
    reasons (Dict[str, int]): Why: pictures and objects by kind.
    seconds (float): Time taken.
    """

    posts: int = 0
    with_picture: int = 0
    not_used: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    @property
    def why(self) -> str:
        """RETURNS (str): The reasons, in brackets."""
        why = ", ".join(f"{kind}: {n}" for kind, n in sorted(self.reasons.items()))
        return f" ({why})" if why else ""

    def summary(self) -> str:
        """RETURNS (str): One line for people."""
        return (
            f"{self.posts} posts, {self.with_picture} with a picture, {self.not_used} with something that "
            f"can't be used{self.why}; {self.posts / max(self.seconds, 1e-9):.1f} posts "
            "a second"
        )


def find_cached_encoders(nlp: "Language", *, trained: bool) -> list[Any]:
    """Find the picture encoders of a pipeline that keep their vectors, and make their networks if they have
    none yet.

    nlp (Language): The pipeline.
    trained (bool): Whether it was loaded with its weights; otherwise they come from the config.
    RETURNS (List[Model]): The encoders' layers.
    RAISES (NothingToBuild): There is none, or its cache can't be written.
    """
    layers = [
        layer
        for _, component in nlp.pipeline
        for layer in find_encoder_layers(getattr(component, "model", None))
    ]
    if not layers:
        raise NothingToBuild(
            "No component of this pipeline has a picture encoder: it has "
            f"{', '.join(nlp.pipe_names) or 'none at all'}."
        )
    cached = [layer for layer in layers if get_settings(layer).cache is not None]
    if not cached:
        raise NothingToBuild(
            "No picture encoder of this pipeline has a cache. Name its file: --paths.features FILE if the "
            "config has that setting, as the shipped ones do, or add to the encoder in the config: "
            '[components.<name>.model.cache] @misc = "spacy-mmib.feature_cache.v1", path = "FILE". '
            "Encoders that are trained can't have one."
        )
    for cache in get_caches(cached):
        try:
            cache.check_writable()
        except (OSError, ValueError, ImportError) as err:
            raise NothingToBuild(f"The feature cache can't be written: {err}") from None
    for layer in cached:
        if layer.has_dim("nO"):
            continue
        if not trained and get_settings(layer).random:
            raise NothingToBuild(
                f"The picture encoder {get_settings(layer).name!r} has no weights (weights = null). Random "
                "ones are others in each training, so keeping their vectors is of no use: name its weights."
            )
        layer.initialize()
    return cached


def get_caches(encoders: list[Any]) -> list[Any]:
    """RETURNS (List[FeatureCache]): Those of the encoders."""
    return [get_settings(layer).cache for layer in encoders]


def build_features(
    nlp: "Language",
    docs: Iterable[Doc],
    encoders: list[Any],
    *,
    chunk_size: int = 64,
) -> Iterator[BuildResult]:
    """Encode pictures. Posts that are in the cache already are passed over without reading their pictures,
    so whoever is interrupted starts again and goes on.

    A chunk is put into the cache as one: an interrupted run has whole chunks, and going on makes the very
    chunks that it would have made, so that the cache gets the same content to the last bit.

    nlp (Language): The pipeline.
    docs (Iterable[Doc]): The posts.
    encoders (List[Model]): See `find_cached_encoders`.
    chunk_size (int): Posts encoded at a time.
    YIELDS (BuildResult): After each chunk what was done so far, always the same object.
    RAISES (NothingToBuild): What was encoded can't be kept: going on would be in vain.
    """
    result = BuildResult()
    start = time.perf_counter()
    chunks = map(list, minibatch(docs, chunk_size))
    current = next(chunks, None)
    while current is not None:
        following = next(chunks, None)
        if following is not None:
            read_ahead(encoders, following)
        for layer in encoders:
            layer.predict(current)
        for cache in get_caches(encoders):
            if cache.problem is not None:
                raise NothingToBuild(
                    f"What was encoded can't be kept, after {result.posts} posts: {cache.problem}"
                )
        result.posts += len(current)
        for doc in current:
            result.with_picture += get_stored_image(doc) is not None
            kinds = get_image_error_kinds(doc)
            result.not_used += bool(kinds)
            result.reasons.update(kinds)
        result.seconds = time.perf_counter() - start
        yield result
        current = following
