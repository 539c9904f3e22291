"""Where a picture path of a corpus or of a request leads: into one stated folder, and nowhere
else."""

import os
from pathlib import Path

from .reading import ImageError


class OutsideRootError(ImageError):
    """A path that leads out of the folder pictures may come from."""


class MissingFileError(ImageError):
    """A path inside the folder with nothing there."""


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
    shown = repr(_shorten(name))
    if not name.strip():
        raise ImageError(f"the path of the picture is empty: {shown}")
    try:
        folder = Path(root).resolve()
        resolved = (folder / name).resolve()
    except (OSError, RuntimeError, ValueError) as err:  # a NUL, a loop of links, an impossible name
        raise ImageError(f"not a path: {shown} ({_one_line(err)})") from None
    if not resolved.is_relative_to(folder):
        raise OutsideRootError(
            f"the path {shown} leads out of the image root {_shorten(str(folder))}: not opened"
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
    except (FileNotFoundError, NotADirectoryError):
        raise MissingFileError(f"no such file: {_shorten(str(resolved))}") from None
    except (OSError, ValueError) as err:  # too long a name, no permission, a loop of links
        raise ImageError(f"can't open {_shorten(str(resolved))!r}: {_one_line(err)}") from None
    return resolved


def _shorten(name: str, most: int = 200) -> str:
    """Keep both ends: the end of a path says which file, the beginning where."""
    return name if len(name) <= most else f"{name[: most // 2]}...{name[-most // 2 :]}"


def _one_line(err: BaseException) -> str:
    reason = err.strerror if isinstance(err, OSError) and err.strerror else str(err)
    return " ".join(reason.split())[:200]
