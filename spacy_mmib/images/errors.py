"""Why a picture can't be used. Free of Pillow."""

import re

from .kinds import Kind

CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")
"""What would break the line, a terminal, or (halves of surrogate pairs, from file names that are not
UTF-8) the serialization of a doc."""

MOST_SHOWN = 500
"""Characters of a path that are shown. What is longer is rarely a path, but the content of a picture, say."""


class ImageError(ValueError):
    """A picture that can't be used. The message is one line that says why.

    message (str): The reason.
    kind (str): What kind of reason it is, one of `kinds.KINDS`.
    """

    kind: Kind = "damaged"

    def __init__(self, message: str, *, kind: Kind | None = None) -> None:
        super().__init__(CONTROL.sub(_show, message))
        self.kind = kind or type(self).kind


class OutsideRootError(ImageError):
    """A path that leads out of the folder pictures may come from."""

    kind: Kind = "outside"


class MissingFileError(ImageError):
    """A path with nothing there."""

    kind: Kind = "missing"


def shorten(name: str, most: int = MOST_SHOWN) -> str:
    """RETURNS (str): The `repr` of a path or URL; of one of more than `most` characters both ends, and its
    length.
    """
    if len(name) <= most:
        return repr(str.__str__(name))
    half = most // 2
    return f"{name[:half] + '...' + name[-half:]!r} ({len(name)} characters)"


def quote(path: object) -> str:
    """RETURNS (str): A path as it is; its `repr` if something in it, or around it, would not be seen."""
    name = str(path)
    return name if name.isprintable() and name == name.strip() else repr(name)


def explain(err: BaseException) -> str:
    """RETURNS (str): What another library's error says, with its type, short and in one line."""
    return " ".join(f"{type(err).__name__}: {err}".split()).removesuffix(":")[:200]


def explain_os(err: BaseException) -> str:
    """RETURNS (str): The same for an error of the file system, without the path that is in it."""
    reason = err.strerror if isinstance(err, OSError) and err.strerror else str(err)
    return " ".join(reason.split())[:200]


def _show(found: "re.Match[str]") -> str:
    text = found.group()
    return " " if text.isspace() else text.encode("unicode_escape").decode("ascii")
