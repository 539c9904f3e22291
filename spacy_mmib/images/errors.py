"""Why a picture can't be used. Free of Pillow."""

import re

from .kinds import Kind

CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")
"""What would break the line, a terminal, or (halves of surrogate pairs, from file names that are not
UTF-8) the serialization of a doc."""


class ImageError(ValueError):
    """A picture that can't be used. The message is one line that says why.

    message (str): The reason.
    kind (str): What kind of reason it is, one of `kinds.KINDS`.
    """

    kind: Kind

    def __init__(self, message: str, *, kind: Kind = "damaged") -> None:
        super().__init__(CONTROL.sub(_show, message).strip())
        self.kind = kind


def shorten(name: str, most: int = 200) -> str:
    """Keep both ends: the end of a path says which file, the beginning where.

    name (str): A path or a URL.
    most (int): Characters, about.
    RETURNS (str): The same, or the beginning and the end.
    """
    return name if len(name) <= most else f"{name[: most // 2]}...{name[-most // 2 :]}"


def explain(err: BaseException) -> str:
    """RETURNS (str): What an error of somebody else says, with its type, short and in one line."""
    return " ".join(f"{type(err).__name__}: {err}".split()).removesuffix(":")[:200]


def explain_os(err: BaseException) -> str:
    """RETURNS (str): The same for an error of the file system, without the path that is in it."""
    reason = err.strerror if isinstance(err, OSError) and err.strerror else str(err)
    return " ".join(reason.split())[:200]


def _show(found: "re.Match[str]") -> str:
    text = found.group()
    return " " if text.isspace() else text.encode("unicode_escape").decode("ascii")
