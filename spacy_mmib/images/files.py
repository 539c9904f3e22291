"""Open the file of a picture: a regular file of bounded size, inside a stated folder, and nothing else.

What is checked is the file that was opened. A file system can change between a look at a path and opening it.
"""

import errno
import os
import re
import stat
from pathlib import Path
from typing import BinaryIO

from .errors import ImageError, MissingFileError, OutsideRootError, ReadingLimits, explain_os, shorten
from .values import PathInRoot

URL = re.compile(r"^((https?|ftp|s3|gs|data|file|blob):|[a-z][a-z0-9+.-]+://)", flags=re.IGNORECASE)

# A pipe put where a file was must not block, and a terminal must not become the one of this process.
_READ = os.O_RDONLY
for _name in ("O_BINARY", "O_CLOEXEC", "O_NONBLOCK", "O_NOCTTY"):
    _READ |= getattr(os, _name, 0)
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
# Where the system has it: a folder that may be entered but not listed is no obstacle.
_FOLDER = getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_PATH", 0) | getattr(os, "O_CLOEXEC", 0)
_CAN_WALK = bool(_NO_LINK) and os.open in os.supports_dir_fd


def open_file(path: str, limits: ReadingLimits, root: str | os.PathLike[str] | None = None) -> BinaryIO:
    """Open a picture file at its beginning.

    path (str): A `PathInRoot` must not lead out of its own folder either.
    root (Optional[Union[str, Path]]): The folder that a relative path starts from and that no path may
        leave, by `..` or by symbolic links. `None`: the working directory, and any path.
    RAISES (ImageError): There is none, or not such a one.
    """
    if URL.match(path):
        refuse_url(path)
    anywhere = root is None and not isinstance(path, PathInRoot)
    try:
        # Looked at before it is opened, too: opening a device can have effects.
        if anywhere:
            _check(os.stat(path), path, limits)
            descriptor = os.open(path, _READ)
        else:
            inside = bind(path, root)
            _check(os.lstat(Path(inside)), path, limits)
            descriptor = _open_below(Path(inside.root), Path(inside), path)
    except ImageError:
        raise
    except (OSError, ValueError) as err:
        found = _as_image_error(err, path)
        if anywhere and isinstance(found, MissingFileError) and not os.path.isabs(path):
            try:
                here = shorten(os.getcwd())
            except OSError:
                here = "which isn't there any more"
            found = MissingFileError(f"{found} (it starts from the current folder, {here})")
        raise found from None
    try:
        _check(os.fstat(descriptor), path, limits)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def bind(path: str, root: str | os.PathLike[str] | None = None) -> PathInRoot:
    """Look where a path leads, and bind it to the folder that it must not leave.

    root (Optional[Union[str, Path]]): See `open_file`. A `PathInRoot`, which needs none, must be inside both.
    RETURNS (PathInRoot): The absolute path, free of symbolic links and `..`, and the innermost folder.
    """
    roots = [root] if root is not None else []
    if isinstance(path, PathInRoot):
        roots.append(path.root)
    try:
        folders = sorted((Path(os.path.realpath(x)) for x in roots), key=lambda x: len(x.parts))
    except ValueError as err:  # of a stranger's file
        raise _as_image_error(err, path) from None
    inside = existing_inside(folders[-1], path)
    for folder in folders[:-1]:
        if not inside.is_relative_to(folder):
            existing_inside(folder, path)  # says so
            raise OutsideRootError(f"the path {shorten(path)} is being changed: not opened")
    return PathInRoot(str(inside), str(folders[-1]))


def resolve_inside(root: str | os.PathLike[str], path: str | os.PathLike[str]) -> Path:
    """Resolve the path of a file that need not exist against a folder, symbolic links and `..` included.

    RETURNS (Path): The absolute path.
    RAISES (ImageError): It leads out of the folder, or can't be a path at all.
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
    """RETURNS (Path): The same for a path at which there has to be something (`MissingFileError`)."""
    resolved = resolve_inside(root, path)
    try:
        os.stat(resolved)
    except (OSError, ValueError) as err:
        raise _as_image_error(err, str(resolved)) from None
    return resolved


def refuse_url(path: str) -> None:
    """RAISES (ImageError): The path is a URL."""
    if URL.match(path):
        raise ImageError(
            f"is a URL, and nothing is fetched: {shorten(path)}; attach the file or its bytes", kind="url"
        )


def _as_image_error(err: OSError | ValueError, path: str) -> ImageError:
    """Why a file can't be opened, from what looking at it or opening it raised."""
    if isinstance(err, (FileNotFoundError, NotADirectoryError)):
        return MissingFileError(f"no such file: {shorten(path)}")
    reason = f"can't open {shorten(path)}: {explain_os(err)}"
    if isinstance(err, PermissionError):
        return ImageError(reason, kind="permission")
    # A NUL is a ValueError; the others are what a file system says of a name that it can't have.
    impossible = isinstance(err, ValueError) or err.errno in (errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL)
    return ImageError(reason, kind="path" if impossible else "io")


def _check(info: os.stat_result, path: str, limits: ReadingLimits) -> None:
    if stat.S_ISDIR(info.st_mode):
        raise ImageError(f"is a folder, not a picture: {shorten(path)}", kind="not_a_file")
    if not stat.S_ISREG(info.st_mode):  # a pipe or a device would block or never end
        raise ImageError(f"is not a regular file: {shorten(path)}", kind="not_a_file")
    if not 0 < info.st_size <= limits.max_bytes:
        limits.refuse_size(info.st_size, shorten(path))


def _open_below(root: Path, path: Path, name: str) -> int:
    """Open just this path, in which there are no links; if there are some now, somebody changed it."""
    if not _CAN_WALK:
        return os.open(path, _READ | _NO_LINK)
    *folders, last = path.relative_to(root).parts or (".",)
    at = None
    try:
        at = os.open(root, _FOLDER | _NO_LINK)
        for folder in folders:
            below = os.open(folder, _FOLDER | _NO_LINK, dir_fd=at)
            os.close(at)
            at = below
        return os.open(last, _READ | _NO_LINK, dir_fd=at)
    except OSError as err:
        if err.errno in (errno.ELOOP, errno.ENOTDIR, errno.EMLINK):
            raise OutsideRootError(
                f"the path {shorten(name)} became a link while it was opened: not read"
            ) from None
        raise
    finally:
        if at is not None:
            os.close(at)
