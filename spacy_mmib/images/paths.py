"""Where a picture path of a corpus or of a request leads: into one stated folder, and nowhere
else."""

import errno
import os
from pathlib import Path

from ..post.kinds import Kind
from .errors import ImageError, explain_os, shorten

IMPOSSIBLE = (errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL)
"""What a file system says of a name that it can't have."""


class OutsideRootError(ImageError):
    """A path that leads out of the folder pictures may come from."""

    def __init__(self, message: str, *, kind: Kind = "outside") -> None:
        super().__init__(message, kind=kind)


class MissingFileError(ImageError):
    """A path with nothing there."""

    def __init__(self, message: str, *, kind: Kind = "missing") -> None:
        super().__init__(message, kind=kind)


def resolve_inside(root: str | os.PathLike[str], path: str | os.PathLike[str]) -> Path:
    """Resolve a picture path against a folder, symbolic links and `..` included, and refuse it if
    it leads out of the folder. Whether the file exists is not asked.

    root (Union[str, Path]): The folder pictures may come from.
    path (Union[str, Path]): Relative to `root`, or absolute and inside `root`.
    RETURNS (Path): The absolute path, free of symbolic links and `..`.
    RAISES (OutsideRootError): It leads out of `root`.
    RAISES (ImageError): It can't be a path at all (empty, or with a NUL character).
    """
    name = os.fspath(path)
    shown = shorten(name)
    if not name.strip():
        raise ImageError(f"the path of the picture is empty: {shown}", kind="path")
    try:
        folder = Path(root).resolve()
        resolved = (folder / name).resolve()
    except (OSError, RuntimeError, ValueError) as err:  # a NUL, a loop of links, an impossible name
        raise ImageError(f"not a path: {shown} ({explain_os(err)})", kind="path") from None
    if not resolved.is_relative_to(folder):
        raise OutsideRootError(
            f"the path {shown} leads out of the image root {shorten(str(folder))}: not opened"
        )
    return resolved


def existing_inside(root: str | os.PathLike[str], path: str | os.PathLike[str]) -> Path:
    """Like `resolve_inside`, for a path at which there has to be something.

    root (Union[str, Path]): The folder pictures may come from.
    path (Union[str, Path]): Relative to `root`, or absolute and inside `root`.
    RETURNS (Path): The absolute path, free of symbolic links and `..`.
    RAISES (MissingFileError): There is nothing at this path.
    RAISES (ImageError): As `resolve_inside`; or the file system can't have such a name.
    """
    resolved = resolve_inside(root, path)
    try:
        os.stat(resolved)
    except (OSError, ValueError) as err:
        raise as_image_error(err, str(resolved)) from None
    return resolved


def as_image_error(err: OSError | ValueError, path: str) -> ImageError:
    """Tell why a file can't be opened.

    err (Union[OSError, ValueError]): What looking at it or opening it raised.
    path (str): Its path.
    RETURNS (ImageError): A `MissingFileError` if there is nothing.
    """
    if isinstance(err, (FileNotFoundError, NotADirectoryError)):
        return MissingFileError(f"no such file: {shorten(path)}")
    kind: Kind = "io"
    if isinstance(err, PermissionError):
        kind = "permission"
    elif isinstance(err, ValueError) or err.errno in IMPOSSIBLE:  # a NUL is a ValueError
        kind = "path"
    return ImageError(f"can't open {shorten(path)}: {explain_os(err)}", kind=kind)
