"""`spacy-mmib.picture_reader.v1`: which pictures are read, from where, and by how many threads."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spacy.util import registry

from .errors import ImageError, explain, shorten
from .files import URL
from .limits import FORMATS, MAX_BYTES, MAX_FRAMES, MAX_PIXELS, ReadingLimits, check_number
from .pool import Job, get_pool

if TYPE_CHECKING:
    import PIL.Image

TIMEOUT = 20.0
"""Seconds. A photo takes 2 to 200 milliseconds; a slow disk or a network folder takes some more."""

THREADS = 2
PREFETCH = 32
"""Enough to keep the threads busy. A decoded photo of 12 megapixels takes 36 MB."""


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
    )


class PictureReader:
    """Reads pictures that strangers made: within limits, and off the thread that waits for them.

    max_bytes (int): Size of an image file, in bytes.
    max_pixels (int): Width times height; checked before a picture is decoded.
    max_frames (int): Frames of an animation, or pages. Only the first is read.
    formats (Sequence[str]): Formats that are opened, of `limits.FORMATS`.
    timeout (float): Seconds after which a picture that is being read by a thread is given up. 0: never.
    threads (int): Threads that read, shared by all readers in the process with the same `threads` and
        `timeout`. 0: pictures are read by whoever asks for them, without a limit of time.
    prefetch (int): At most so many pictures are read ahead, and held in memory.
    image_root (Optional[Union[str, Path]]): The folder that relative paths start from and that no path may
        leave, by `..` or by symbolic links. `None` (or empty, as an unset variable of a project is): the
        working directory, and any path.
    resolver (Optional[Callable[[str], bytes]]): Gets the content of the file at a URL, in a thread; it is
        its matter which URLs are allowed, and how long and how much is read. Whatever it raises is a reason
        why the picture is not used. `None`: URLs are refused.
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
    ) -> None:
        self.limits = ReadingLimits(max_bytes, max_pixels, max_frames, formats)
        check_number("timeout", timeout, at_least=0, whole=False)
        check_number("threads", threads, at_least=0)
        check_number("prefetch", prefetch, at_least=0)
        if resolver is not None and not callable(resolver):
            raise ValueError(f"resolver is {resolver!r}; it is a function from a URL to bytes.")
        self.timeout = timeout
        self.threads = threads
        self.prefetch = prefetch
        self.image_root = Path(image_root) if image_root not in (None, "") else None
        self.resolver = resolver

    def read(self, value: Any) -> "PIL.Image.Image":
        """Read a picture, in this thread.

        value (ImageValue): What `doc._.image` takes, or a URL if there is a resolver.
        RETURNS (PIL.Image.Image): Mode RGB, upright; see `reading.read_image`.
        RAISES (ImageError): It can't be read; the message says why.
        """
        from .reading import decode_image, read_file, read_image

        if isinstance(value, (str, os.PathLike)):
            path = os.fsdecode(value)
            if self.resolver is not None and URL.match(path):
                return decode_image(self._resolve(path), shorten(path), self.limits)
            return read_file(path, self.limits, self.image_root)
        return read_image(value, self.limits)

    def submit(self, function: Callable[..., Any], *args: Any) -> Job:
        """Have something done by a thread that reads pictures.

        function (Callable): What to do, such as `read`.
        args (Any): Its arguments.
        RETURNS (Job): `Job.result` waits for it. See `PicturePool.submit`.
        """
        return get_pool(self.threads, self.timeout).submit(function, *args)

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
