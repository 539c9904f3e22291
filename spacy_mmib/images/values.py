"""What `doc._.image` may hold, how it is kept in `Doc.user_data`, and when two pictures are the same."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, Union

import numpy

if TYPE_CHECKING:
    import PIL.Image

ImageValue: TypeAlias = Union[str, Path, bytes, "numpy.ndarray[Any, Any]", "PIL.Image.Image", None]
"""What users assign to `doc._.image`."""

StoredImage: TypeAlias = Union[str, bytes, "Pixels", None]
"""What is kept of it in `Doc.user_data`: immutable, so `Doc.copy` costs nothing."""

ACCEPTED = (
    "a path (str or Path), the bytes of an image file, a PIL.Image, "
    "a numpy uint8 array of height x width x 3, or None"
)


@dataclass(frozen=True)
class Pixels:
    """An RGB picture that was attached as an object rather than as a file."""

    kind: Literal["pil", "array"]  # what the user attached, and so what `doc._.image` gives back
    height: int
    width: int
    data: bytes  # 8 bits a channel, row by row, R G B

    def __post_init__(self) -> None:
        height, width = self.height, self.width
        if not (isinstance(self.data, bytes) and all(type(x) is int and x > 0 for x in (height, width))):
            raise ValueError(
                f"a picture has a height and a width of at least 1 pixel, not {height!r} and {width!r}, and "
                "its data is bytes"
            )
        if len(self.data) != (size := height * width * 3):
            raise ValueError(f"{height} x {width} RGB pixels take {size} bytes, not {len(self.data)}")

    def __deepcopy__(self, memo: dict[int, Any]) -> "Pixels":
        return self  # immutable data can be shared: `Doc.copy` deep-copies at every training step

    def to_array(self) -> "numpy.ndarray[Any, Any]":
        """RETURNS (numpy.ndarray): uint8, height x width x 3, read-only."""
        return numpy.frombuffer(self.data, dtype="uint8").reshape(self.height, self.width, 3)

    def to_pil(self) -> "PIL.Image.Image":
        """RETURNS (PIL.Image.Image): A new image of mode RGB."""
        import PIL.Image

        return PIL.Image.frombytes("RGB", (self.width, self.height), self.data)


class PathInRoot(str):
    """The path of a file that somebody has found to be inside a folder. File systems change: whoever opens it
    checks that of the file that was opened (`files.open_file` does), in whatever process that is.

    root (str): The folder that it must not lead out of, free of symbolic links.
    """

    root: str

    def __new__(cls, path: str, root: str) -> "PathInRoot":
        """Make one."""
        bound = super().__new__(cls, path)
        bound.root = str.__str__(root)
        return bound

    def __reduce__(self) -> tuple[Any, ...]:
        return PathInRoot, (str.__str__(self), self.root)


def is_missing(value: Any) -> bool:
    """RETURNS (bool): Whether this is `None`, or what a data frame has where there is nothing."""
    if isinstance(value, (float, numpy.floating)):
        return bool(numpy.isnan(value))
    return value is None or type(value).__name__ in ("NAType", "NaTType")  # pandas' own


def to_stored(value: Any) -> StoredImage:
    """Turn a value assigned to `doc._.image` into the form that is kept.

    value (Any): See `ImageValue`; what a data frame has where there is nothing counts as `None`.
    RAISES (TypeError): Not one of the accepted kinds, or an array that is not uint8.
    RAISES (ValueError): An array of the wrong shape, or a PIL image that can't be decoded.
    """
    if isinstance(value, (bytes, Pixels)):
        return value
    if is_missing(value):
        return None
    if isinstance(value, (str, os.PathLike)):
        return os.fsdecode(value)
    if isinstance(value, bytearray) or (isinstance(value, memoryview) and value.ndim == 1):
        return bytes(value)
    if isinstance(value, numpy.ndarray):
        return _array_to_pixels(value)
    # Asking by module name keeps Pillow out of processes that never meet a PIL image.
    if any(cls.__module__ == "PIL.Image" and cls.__name__ == "Image" for cls in type(value).__mro__):
        from .reading import to_rgb

        try:
            rgb = to_rgb(value)
        except Exception as err:
            raise ValueError(
                f"This PIL image can't be decoded ({err}). Attach its path or its bytes instead to have "
                "the post processed without it."
            ) from err
        return Pixels("pil", rgb.height, rgb.width, rgb.tobytes())
    raise TypeError(f"doc._.image takes {ACCEPTED}; got {type(value).__name__}.")


def _array_to_pixels(array: "numpy.ndarray[Any, Any]") -> Pixels:
    if array.dtype != numpy.uint8:
        raise TypeError(
            f"doc._.image takes arrays of uint8 (0-255); got {array.dtype}. For values between 0 and 1 "
            "use (array * 255).round().astype('uint8')."
        )
    if array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise ValueError(
            f"doc._.image takes arrays of height x width x 3 (RGB); got shape {array.shape}. "
            "PIL.Image.fromarray(array) takes greyscale and alpha."
        )
    height, width, _ = array.shape
    return Pixels("array", height, width, array.tobytes())


def from_stored(stored: Any) -> Any:
    """The inverse of `to_stored`, as far as there is one: paths come back as `str`, PIL images as RGB."""
    if isinstance(stored, Pixels):
        return stored.to_pil() if stored.kind == "pil" else stored.to_array()
    return stored


def image_key(stored: Any) -> str | None:
    """RETURNS (Optional[str]): Equal for equal files or pixels, `None` without a picture. Files are told
    apart by their path (symlinks followed), not by their content, everything else by its content.
    """
    try:
        stored = to_stored(stored)
    except (TypeError, ValueError):
        return None
    if stored is None:
        return None
    if isinstance(stored, str):
        try:
            return "path:" + os.path.realpath(stored)
        except ValueError:  # a NUL, half a surrogate pair: it leads nowhere
            return f"path:{stored}"
    if isinstance(stored, bytes):
        return "bytes:" + hashlib.blake2b(stored, digest_size=16).hexdigest()
    content = hashlib.blake2b(stored.data, digest_size=16).hexdigest()
    return f"pixels:{stored.height}x{stored.width}:{content}"
