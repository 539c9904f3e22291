"""Loading a stored component: what was damaged on the way, or can't predict, is refused in one sentence."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import srsly
from thinc.api import Model

PARTS = ("cfg", "model")
"""What of a stored component has a digest: settings, with the labels, and weights."""

DIGESTS = "digests"
"""Where the digests are: a file beside those parts, or a key beside theirs."""


class CheckedLoading:
    """Gives a `TrainablePipe` ways to be stored and loaded that notice damage. To be named before it among
    the bases of a class.
    """

    def to_bytes(self: Any, *, exclude: Iterable[str] = ()) -> bytes:
        """Serialize to a bytestring.

        exclude (Iterable[str]): Names of serialization fields to leave out.
        RETURNS (bytes): The component, with digests of its parts.
        """
        msg = srsly.msgpack_loads(super().to_bytes(exclude=exclude))  # type: ignore[misc]
        msg[DIGESTS] = {part: _digest(msg[part]) for part in PARTS if part in msg}
        data: bytes = srsly.msgpack_dumps(msg)
        return data

    def from_bytes(self: Any, bytes_data: bytes, *, exclude: Iterable[str] = ()) -> Any:
        """Load from a bytestring.

        bytes_data (bytes): From `to_bytes`, of this version or an earlier one.
        exclude (Iterable[str]): Names of serialization fields to leave out.
        RETURNS (TrainablePipe): The component.
        RAISES (ValueError): It was damaged, or its weights and labels can't predict.
        """
        with self._explaining():
            msg = srsly.msgpack_loads(bytes_data)
            self._check_digests(msg.get(DIGESTS, {}), exclude, "the bytes of the ", msg.get)
            super().from_bytes(bytes_data, exclude=exclude)  # type: ignore[misc]
        self.check_loaded()
        return self

    def to_disk(self: Any, path: str | Path, *, exclude: Iterable[str] = ()) -> None:
        """Serialize to a folder, with digests of its files.

        path (Union[str, Path]): The folder.
        exclude (Iterable[str]): Names of serialization fields to leave out.
        """
        path = Path(path)
        super().to_disk(path, exclude=exclude)  # type: ignore[misc]
        written = [part for part in PARTS if part not in exclude]
        srsly.write_json(path / DIGESTS, {part: _digest((path / part).read_bytes()) for part in written})

    def from_disk(self: Any, path: str | Path, *, exclude: Iterable[str] = ()) -> Any:
        """Load from a folder.

        path (Union[str, Path]): From `to_disk`, of this version or an earlier one.
        exclude (Iterable[str]): Names of serialization fields to leave out.
        RETURNS (TrainablePipe): The component.
        RAISES (ValueError): It was damaged, or its weights and labels can't predict.
        """
        path = Path(path)
        with self._explaining():
            if (path / DIGESTS).exists():
                read = lambda part: (path / part).read_bytes()  # noqa: E731
                self._check_digests(srsly.read_json(path / DIGESTS), exclude, f"{path}/", read)
            super().from_disk(path, exclude=exclude)  # type: ignore[misc]
        self.check_loaded()
        return self

    @contextmanager
    def _explaining(self: Any) -> Iterator[None]:
        """Whatever libraries raise on malformed data says whose data it is."""
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

    def _check_digests(
        self: Any,
        digests: dict[str, str],
        exclude: Iterable[str],
        where: str,
        read: Callable[[str], bytes],
    ) -> None:
        for part in PARTS:
            if part in digests and part not in exclude and _digest(read(part)) != digests[part]:
                raise ValueError(
                    f"{self.name}: {where}{part} changed after the component was saved (another digest): "
                    f"take it from a copy, or train again. If you changed it on purpose, delete {DIGESTS!r} "
                    "beside it."
                )

    def check_loaded(self: Any) -> None:
        """RAISES (ValueError): The component can't predict."""
        problem = find_not_finite(self.model)
        if problem is not None:
            raise ValueError(
                f"{self.name}: the stored weights {problem} hold numbers that aren't finite: the training "
                "diverged (lower the learning rate), or the file was damaged. Take an earlier pipeline."
            )


def find_not_finite(model: Model[Any, Any]) -> str | None:
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
