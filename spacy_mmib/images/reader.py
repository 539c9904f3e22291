"""`spacy-mmib.picture_reader.v1`: which pictures are read, from where, and by how many threads."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from spacy.util import registry

from .errors import ImageError, explain, shorten
from .files import URL, open_file, read_bytes
from .limits import (
    FORMATS,
    MAX_BYTES,
    MAX_DECODED_BYTES,
    MAX_FRAMES,
    MAX_PIXELS,
    ReadingLimits,
    check_number,
)
from .pool import Job, PicturePool, get_pool

if TYPE_CHECKING:
    import PIL.Image

Isolation: TypeAlias = Literal["thread", "process"]

TIMEOUT = 20.0
"""Seconds. A photo takes 2 to 200 milliseconds; a slow disk or a network folder takes some more."""

THREADS = 2
PREFETCH = 32
"""Enough to keep the threads busy."""

MAX_PROCESS_BYTES = 2 * 2**30
"""The largest pictures that `MAX_PIXELS` allows take up to 1.7 GB while they are made RGB."""


@registry.misc("spacy-mmib.picture_reader.v1")
def make_picture_reader_v1(
    max_bytes: int = MAX_BYTES,
    max_pixels: int = MAX_PIXELS,
    max_frames: int = MAX_FRAMES,
    formats: Sequence[str] = FORMATS,
    timeout: float = TIMEOUT,
    threads: int = THREADS,
    prefetch: int = PREFETCH,
    image_root: str | Path | None = None,
    resolver: Callable[[str], bytes] | None = None,
    max_decoded_bytes: int = MAX_DECODED_BYTES,
    isolation: Isolation = "thread",
    max_process_bytes: int = MAX_PROCESS_BYTES,
) -> "PictureReader":
    """Build what picture encoders read pictures with; see `PictureReader` for the arguments.

    RETURNS (PictureReader): The reader.
    """
    return PictureReader(
        max_bytes=max_bytes,
        max_pixels=max_pixels,
        max_frames=max_frames,
        formats=formats,
        timeout=timeout,
        threads=threads,
        prefetch=prefetch,
        image_root=image_root,
        resolver=resolver,
        max_decoded_bytes=max_decoded_bytes,
        isolation=isolation,
        max_process_bytes=max_process_bytes,
    )


class PictureReader:
    """Reads pictures that strangers made: within limits, and off the thread that waits for them.

    max_bytes (int): Size of an image file, in bytes.
    max_pixels (int): Width times height; checked before a picture is decoded.
    max_frames (int): Frames of an animation, or pages. Only the first is read.
    formats (Sequence[str]): Formats that are opened, of `limits.FORMATS`.
    timeout (float): Seconds after which a picture that is being read by a thread is given up. 0: never.
    threads (int): Threads that read, shared by all readers in the process with the same settings of threads
        and processes. 0: pictures are read by whoever asks for them, without a limit of time.
    prefetch (int): At most so many pictures are read ahead, as far as `max_decoded_bytes` allows.
    image_root (Optional[Union[str, Path]]): The folder that relative paths start from and that no path may
        leave, by `..` or by symbolic links. `None` (or empty, as an unset variable of a project is): the
        working directory, and any path.
    resolver (Optional[Callable[[str], bytes]]): Gets the content of the file at a URL, in a thread; it is
        its matter which URLs are allowed, and how long and how much is read. Whatever it raises is a reason
        why the picture is not used. `None`: URLs are refused.
    max_decoded_bytes (int): Pixels in memory at a time, 4 bytes each, of pictures that threads are decoding
        and of those read ahead for a region getter that looks at them. A larger picture is read alone. Each
        thread that calls the pipeline can have one picture beyond that: the one it needs next.
    isolation (str): Where pictures are decoded. "thread": in the threads that read. Decoders that are
        written in Python are ended after `timeout`; one that stays in C code keeps its thread, and if it
        doesn't release the interpreter, or crashes, all else with it. "process": in a process for each
        thread, which is killed after `timeout`, and whose crash costs one picture.
    max_process_bytes (int): Memory that such a process may take beyond its own (on Linux).
    RAISES (ValueError): A setting that is out of range.
    """

    def __init__(
        self,
        *,
        max_bytes: int = MAX_BYTES,
        max_pixels: int = MAX_PIXELS,
        max_frames: int = MAX_FRAMES,
        formats: Sequence[str] = FORMATS,
        timeout: float = TIMEOUT,
        threads: int = THREADS,
        prefetch: int = PREFETCH,
        image_root: str | Path | None = None,
        resolver: Callable[[str], bytes] | None = None,
        max_decoded_bytes: int = MAX_DECODED_BYTES,
        isolation: Isolation = "thread",
        max_process_bytes: int = MAX_PROCESS_BYTES,
    ) -> None:
        self.limits = ReadingLimits(max_bytes, max_pixels, max_frames, formats)
        check_number("timeout", timeout, at_least=0, whole=False)
        check_number("threads", threads, at_least=0)
        check_number("prefetch", prefetch, at_least=0)
        check_number("max_decoded_bytes", max_decoded_bytes, at_least=1)
        check_number("max_process_bytes", max_process_bytes, at_least=1)
        if isolation not in ("thread", "process"):
            raise ValueError(f"isolation is {isolation!r}; it is 'thread' or 'process'.")
        if isolation == "process" and threads == 0:
            raise ValueError("isolation is 'process' and threads is 0; a process needs a thread.")
        if resolver is not None and not callable(resolver):
            raise ValueError(f"resolver is {resolver!r}; it is a function from a URL to bytes.")
        self.timeout = timeout
        self.threads = threads
        self.prefetch = prefetch
        self.image_root = Path(image_root) if image_root not in (None, "") else None
        self.resolver = resolver
        self.max_decoded_bytes = max_decoded_bytes
        self.isolation = isolation
        self.max_process_bytes = max_process_bytes

    def read(self, value: Any) -> "PIL.Image.Image":
        """Read a picture, in this thread (and not within `timeout` if it isn't one that reads), or with
        isolation "process" in another one.

        value (ImageValue): What `doc._.image` takes, or a URL if there is a resolver.
        RETURNS (PIL.Image.Image): Mode RGB, upright; see `reading.read_image`.
        RAISES (ImageError): It can't be read; the message says why.
        """
        from .reading import BYTES, decode_image, read_image

        pool = self._get_pool()
        by_process = self.isolation == "process"
        if by_process and not pool.is_here():
            picture: PIL.Image.Image = pool.submit(self.read, value).result()
            return picture
        if isinstance(value, (str, os.PathLike)):
            path = os.fsdecode(value)
            name, data = shorten(path), self._read_file(path)
        elif isinstance(value, (bytes, bytearray, memoryview)):
            name, data = BYTES, bytes(value)
        else:
            return read_image(value, self.limits)
        if by_process and data:
            picture = pool.decode_in_process(data, name, self.limits, pool.claim)
            return picture
        return decode_image(data, name, self.limits, claim=pool.claim)

    def submit(self, function: Callable[..., Any], *args: Any, ahead: bool = False) -> Job:
        """Have something done by a thread that reads pictures.

        function (Callable): What to do, such as `read`.
        args (Any): Its arguments.
        ahead (bool): Nobody needs it yet: see `PicturePool.submit`.
        RETURNS (Job): `Job.result` waits for it.
        """
        return self._get_pool().submit(function, *args, ahead=ahead)

    def _get_pool(self) -> PicturePool:
        memory = self.max_process_bytes if self.isolation == "process" else None
        return get_pool(self.threads, self.timeout, self.max_decoded_bytes, memory)

    def _read_file(self, path: str) -> bytes:
        if self.resolver is not None and URL.match(path):
            return self._resolve(path)
        with open_file(path, self.limits, self.image_root) as file:
            return read_bytes(file, shorten(path), self.limits)

    def _resolve(self, url: str) -> bytes:
        assert self.resolver is not None
        shown = shorten(url)
        try:
            data = self.resolver(url)
        except ImageError:
            raise
        except Exception as err:
            raise ImageError(f"not resolved ({explain(err)}): {shown}", kind="url") from err
        if not isinstance(data, bytes):
            kind = type(data).__name__
            raise ImageError(f"the resolver gave {kind}, not bytes, for {shown}", kind="url")
        return data
