"""Open the file of a picture: a regular file of bounded size, inside a stated folder, and nothing else.

What is checked is the file that was opened. A file system can change between a look at a path and opening
it.
"""

import errno
import os
import re
import stat
from pathlib import Path
from typing import BinaryIO

from ..post.values import PathInRoot
from .errors import ImageError, explain_os, shorten
from .limits import ReadingLimits
from .paths import MissingFileError, OutsideRootError, as_image_error, existing_inside

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
    """Open a picture file.

    path (str): Its path. A `PathInRoot` must not lead out of its own folder either.
    limits (ReadingLimits): How large it may be.
    root (Optional[Union[str, Path]]): The folder that a relative path starts from and that no path may
        leave, by `..` or by symbolic links. `None`: the working directory, and any path.
    RETURNS (BinaryIO): The file, at its beginning.
    RAISES (ImageError): There is none, or not such a one.
    """
    refuse_url(path)
    shown = shorten(path)
    try:
        if root is None and not isinstance(path, PathInRoot):
            # Before it is opened: opening a device can have effects.
            _check(os.stat(path), shown, limits)
            descriptor = os.open(path, _READ)
        else:
            inside = bind(path, root)
            resolved = Path(inside)
            _check(os.lstat(resolved), shown, limits)
            descriptor = _open_below(Path(inside.root), resolved, shown)
    except (OSError, ValueError) as err:
        if isinstance(err, ImageError):
            raise
        found = as_image_error(err, path)
        anywhere = root is None and not isinstance(path, PathInRoot)
        if anywhere and isinstance(found, MissingFileError) and not os.path.isabs(path):
            found = MissingFileError(f"{found} (it starts from the current folder, {_here()})")
        raise found from None
    try:
        _check(os.fstat(descriptor), shown, limits)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def _here() -> str:
    try:
        return shorten(os.getcwd())
    except OSError:
        return "which isn't there any more"


def bind(path: str, root: str | os.PathLike[str] | None = None) -> PathInRoot:
    """Look where a path leads, and bind it to the folder that it must not leave.

    path (str): Its path.
    root (Optional[Union[str, Path]]): The folder; see `open_file`. Not needed for a `PathInRoot`, which must
        be inside both.
    RETURNS (PathInRoot): The absolute path, free of symbolic links and `..`, and the innermost folder.
    RAISES (ImageError): As `existing_inside`.
    """
    named = [root] if root is not None else []
    if isinstance(path, PathInRoot):
        named.append(path.root)
    try:
        folders = sorted((Path(os.path.realpath(x)) for x in named), key=lambda x: len(x.parts))
    except ValueError as err:  # of a stranger's file
        raise as_image_error(err, path) from None
    inside = existing_inside(folders[-1], path)
    for folder in folders[:-1]:
        if not inside.is_relative_to(folder):
            existing_inside(folder, path)  # says so
            raise OutsideRootError(f"the path {shorten(path)} is being changed: not opened")
    return PathInRoot(str(inside), str(folders[-1]))


def refuse_url(path: str) -> None:
    """Check that a path isn't a URL.

    path (str): The path.
    RAISES (ImageError): It is.
    """
    if URL.match(path):
        raise ImageError(
            f"is a URL, and nothing is fetched: {shorten(path)}; attach the file or its bytes",
            kind="url",
        )


def read_bytes(file: BinaryIO, name: str, limits: ReadingLimits) -> bytes:
    """Read an open file in full. From memory, Pillow doesn't map it: a process that reads a mapped file
    which another one cuts short is killed.

    file (BinaryIO): The file.
    name (str): What messages call it.
    limits (ReadingLimits): How large it may be, even if it has grown since.
    RETURNS (bytes): Its content.
    RAISES (ImageError): It can't be read, or is too large.
    """
    try:
        data = file.read(limits.max_bytes + 1)
    except OSError as err:
        raise ImageError(f"can't be read ({explain_os(err)}): {name}", kind="io") from None
    check_size(len(data), name, limits)
    return data


def check_size(size: int, name: str, limits: ReadingLimits) -> None:
    """Check the size of a file.

    size (int): In bytes.
    name (str): What messages call it.
    limits (ReadingLimits): How large it may be.
    RAISES (ImageError): It is empty or too large.
    """
    if size == 0:
        raise ImageError(f"the file is empty: {name}", kind="empty")
    if size > limits.max_bytes:
        raise ImageError(
            f"the file is too large ({size} bytes, at most {limits.max_bytes}): {name}",
            kind="too_many_bytes",
        )


def _check(info: os.stat_result, shown: str, limits: ReadingLimits) -> None:
    if stat.S_ISDIR(info.st_mode):
        raise ImageError(f"is a folder, not a picture: {shown}", kind="not_a_file")
    if not stat.S_ISREG(info.st_mode):  # a pipe or a device would block or never end
        raise ImageError(f"is not a regular file: {shown}", kind="not_a_file")
    check_size(info.st_size, shown, limits)


def _open_below(root: Path, path: Path, shown: str) -> int:
    """Open just this path, in which there are no links; if there are some now, somebody changed it."""
    if not _CAN_WALK:
        return os.open(path, _READ | _NO_LINK)
    *folders, name = path.relative_to(root).parts or (".",)
    at = None
    try:
        at = os.open(root, _FOLDER | _NO_LINK)
        for folder in folders:
            below = os.open(folder, _FOLDER | _NO_LINK, dir_fd=at)
            os.close(at)
            at = below
        return os.open(name, _READ | _NO_LINK, dir_fd=at)
    except OSError as err:
        if err.errno in (errno.ELOOP, errno.ENOTDIR, errno.EMLINK):
            raise OutsideRootError(f"the path {shown} became a link while it was opened: not read") from None
        raise
    finally:
        if at is not None:
            os.close(at)
