"""What keeps one bad post from taking down its batch, and damaged or missing weights from predicting."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import srsly
from spacy import util
from spacy.tokens import Doc
from thinc.api import Model

from ..encoders.picture_queue import LAYER, read_ahead
from ..util import warn

NO_WEIGHTS = (
    "{name} has no weights yet. Train the pipeline ('spacy train', or nlp.initialize() and nlp.update()), or "
    "load a trained one with spacy.load()."
)

LISTENERS: dict[str, Callable[[Doc], bool]] = {
    "tok2vec-listener": lambda doc: bool(doc.tensor.size),
    "transformer-listener": lambda doc: doc._.trf_data is not None,
}
"""Layers that stand for a shared text encoder, and whether it has encoded a post."""

PARTS = ("cfg", "model")
"""What of a stored component has a digest: settings, with the labels, and weights."""

DIGESTS = "digests"
"""Where the digests are: a file beside those parts, or a key beside theirs."""


class RobustPipe:
    """Gives a `TrainablePipe` another `pipe`, and ways to be stored and loaded that notice damage. To be
    named before it among the bases of a class, which has a set `_said` of the warnings that it has given.
    """

    def pipe(self: Any, stream: Iterable[Doc], *, batch_size: int = 128) -> Iterator[Doc]:
        """Process a stream of docs in batches. If a batch fails its docs are processed one by one, and
        only those that fail by themselves go to the error handler.

        While a batch is processed, pictures of the next one are read. Not with single docs: whoever sets that
        size may wait for an answer before the next question.

        stream (Iterable[Doc]): The posts.
        batch_size (int): Docs at a time.
        YIELDS (Doc): In order.
        """
        error_handler = self.get_error_handler()
        encoders = [x for x in self.model.walk() if x.name == LAYER] if batch_size > 1 else []
        batches = map(list, util.minibatch(stream, size=batch_size))
        with_following = pairwise(chain(batches, [[]])) if encoders else ((docs, []) for docs in batches)
        for docs, following in with_following:
            if following:
                read_ahead(encoders, following)
            try:
                self.set_annotations(docs, self.predict(docs))
            except Exception:
                for doc in docs:
                    try:
                        self.set_annotations([doc], self.predict([doc]))
                    except Exception as err:
                        error_handler(self.name, self, [doc], err)
                    else:
                        yield doc
            else:
                yield from docs

    def _get_ready(self: Any, docs: Iterable[Doc]) -> list[Doc]:
        """RETURNS (List[Doc]): The posts, if there is all that it takes to predict on them."""
        if not (self.model.maybe_get_ref("head") or self.model).has_dim("nO"):
            raise ValueError(NO_WEIGHTS.format(name=self.name))
        docs = list(docs)
        tok2vec = self.model.maybe_get_ref("tok2vec")
        # spaCy's listeners give zeros for docs that what they listen to has not seen.
        for node in tok2vec.walk() if tok2vec is not None else ():
            if node.name in LISTENERS and any(not LISTENERS[node.name](doc) for doc in docs if len(doc)):
                upstream = node.name.removesuffix("-listener")
                self._warn_once(
                    f"the shared {upstream} that it listens to has not encoded its posts, so it predicts "
                    f"from zeros. The {upstream} has to be in the pipeline before it, and enabled; and in "
                    "annotating_components in [training], if this component is."
                )
        return docs

    def _warn_once(self: Any, message: str) -> None:
        if message not in self._said:
            self._said.add(message)
            warn(f"{self.name}: {message}")

    def to_bytes(self: Any, *, exclude: Iterable[str] = ()) -> bytes:
        """RETURNS (bytes): The component without the fields to exclude, and digests of its parts."""
        msg = srsly.msgpack_loads(super().to_bytes(exclude=exclude))  # type: ignore[misc]
        msg[DIGESTS] = {part: _digest(msg[part]) for part in PARTS if part in msg}
        data: bytes = srsly.msgpack_dumps(msg)
        return data

    def to_disk(self: Any, path: str | Path, *, exclude: Iterable[str] = ()) -> None:
        """Write the component without the fields to exclude to a folder, with digests of its files."""
        path = Path(path)
        super().to_disk(path, exclude=exclude)  # type: ignore[misc]
        written = [part for part in PARTS if part not in exclude]
        srsly.write_json(path / DIGESTS, {part: _digest((path / part).read_bytes()) for part in written})

    def from_bytes(self: Any, bytes_data: bytes, *, exclude: Iterable[str] = ()) -> Any:
        """Load what `to_bytes` of this version or an earlier one gave, but for the fields to exclude.

        RETURNS (TrainablePipe): The component.
        RAISES (ValueError): It was damaged, or its weights and labels can't predict.
        """
        with self._loading(exclude):
            msg = srsly.msgpack_loads(bytes_data)
            self._check_digests(msg.get(DIGESTS, {}), exclude, "the bytes of the ", msg.get)
            super().from_bytes(bytes_data, exclude=exclude)  # type: ignore[misc]
        return self

    def from_disk(self: Any, path: str | Path, *, exclude: Iterable[str] = ()) -> Any:
        """Load what `to_disk` wrote, as `from_bytes` does."""
        path = Path(path)
        with self._loading(exclude):
            digests = srsly.read_json(path / DIGESTS) if (path / DIGESTS).exists() else {}
            self._check_digests(digests, exclude, f"{path}/", lambda part: (path / part).read_bytes())
            super().from_disk(path, exclude=exclude)  # type: ignore[misc]
        return self

    @contextmanager
    def _loading(self: Any, exclude: Iterable[str]) -> Iterator[None]:
        """Whatever libraries raise on malformed data says whose data it is; then the component is checked."""
        try:
            yield
        except OSError:
            raise
        except Exception as err:
            if isinstance(err, ValueError) and str(err).startswith(f"{self.name}: "):
                raise
            reason = " ".join(f"{type(err).__name__}: {err}".split())[:1000]
            raise ValueError(
                f"{self.name}: what was stored can't be loaded ({reason}). It is damaged, or of another "
                "pipeline: take it from a copy, or train again."
            ) from err
        self._check_loaded()

    def _check_digests(
        self: Any, digests: dict[str, str], exclude: Iterable[str], where: str, read: Callable[[str], bytes]
    ) -> None:
        for part in PARTS:
            if part in digests and part not in exclude and _digest(read(part)) != digests[part]:
                raise ValueError(
                    f"{self.name}: {where}{part} changed after the component was saved (another digest): "
                    f"take it from a copy, or train again. If you changed it on purpose, delete {DIGESTS!r} "
                    "beside it."
                )

    def _check_loaded(self: Any) -> None:
        problem = _find_not_finite(self.model)
        if problem is not None:
            raise ValueError(
                f"{self.name}: the stored weights {problem} hold numbers that aren't finite: the training "
                "diverged (lower the learning rate), or the file was damaged. Take an earlier pipeline."
            )


def _find_not_finite(model: Model[Any, Any]) -> str | None:
    """RETURNS (Optional[str]): The name of the first parameter of a model with NaN or an infinite number."""
    for node in model.walk():
        for name in node.param_names:
            if node.has_param(name):
                array = node.get_param(name)
                if array.dtype.kind == "f" and not bool(node.ops.xp.isfinite(array).all()):
                    return f"{node.name}.{name}"
        for shim in node.shims:
            module = getattr(shim, "_model", None)
            for name, tensor in module.state_dict().items() if module is not None else ():
                if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                    return f"{node.name}.{name}"
    return None


def _digest(data: bytes | str) -> str:
    data = data.encode("utf8") if isinstance(data, str) else data
    return hashlib.blake2b(data, digest_size=16).hexdigest()
