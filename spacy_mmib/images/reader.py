"""`spacy-mmib.picture_reader.v1`: which pictures are read, from where, and by how many threads."""

import os
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from spacy.util import registry

from .errors import FORMATS, MAX_BYTES, MAX_FRAMES, MAX_PIXELS, ReadingLimits, check_number
from .threads import Job, ReadingThreads

if TYPE_CHECKING:
    import PIL.Image


class PictureReader:
    """Reads pictures that strangers made: within limits, and off the thread that waits for them.

    max_bytes, max_pixels, max_frames (int): See `ReadingLimits`, as for `formats`.
    timeout (float): Seconds after which a picture that is being read by a thread is given up. 0: never.
    threads (Optional[int]): Threads that read; `None` for as many as there are cores. 0: pictures are read by
        whoever asks for them, without a limit of time.
    prefetch (Optional[int]): At most so many pictures are read ahead, as far as `max_decoded_bytes` allows.
        `None`: 8 a thread, and at least 32.
    image_root (Optional[Union[str, Path]]): The folder that relative paths start from and that no path may
        leave, by `..` or by symbolic links. `None` or empty: the working directory, and any path.
    resolver (Optional[Callable[[str], bytes]]): Gets the content of the file at a URL, in a thread; it is
        its matter which URLs are allowed, and how long and how much is read. Whatever it raises is a reason
        why the picture is not used. `None`: URLs are refused.
    max_decoded_bytes (int): Of pixels in memory at a time, four bytes each; see `ReadingThreads`.
    isolation (str): "thread": pictures are decoded in this process. "process": in other ones, which are
        killed if they take too long, and whose crashes cost one picture.
    max_process_bytes (int): Memory that such a process may take, beyond what it takes by itself.
    RAISES (ValueError): A setting that is out of range.
    """

    def __init__(
        self,
        *,
        max_bytes: int = MAX_BYTES,
        max_pixels: int = MAX_PIXELS,
        max_frames: int = MAX_FRAMES,
        formats: Sequence[str] = FORMATS,
        timeout: float = 20.0,  # a photo takes 2 to 200 milliseconds, a slow disk some more
        threads: int | None = None,
        prefetch: int | None = None,
        image_root: str | Path | None = None,
        resolver: Callable[[str], bytes] | None = None,
        max_decoded_bytes: int = 256 * 2**20,  # five photos of 12 megapixels
        isolation: Literal["thread", "process"] = "thread",
        max_process_bytes: int = 2 * 2**30,  # `MAX_PIXELS` take up to 1.7 GB while they are made RGB
    ) -> None:
        self.limits = ReadingLimits(max_bytes, max_pixels, max_frames, formats)
        if threads is None:  # the cores that this process may use
            has_affinity = hasattr(os, "sched_getaffinity")
            threads = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
        self.threads = threads
        self.prefetch = max(32, 8 * self.threads) if prefetch is None else prefetch
        self.timeout = timeout
        self.max_decoded_bytes = max_decoded_bytes
        self.max_process_bytes = max_process_bytes
        check_number("timeout", timeout, at_least=0, whole=False)
        for name in ("threads", "prefetch"):
            check_number(name, getattr(self, name), at_least=0)
        for name in ("max_decoded_bytes", "max_process_bytes"):
            check_number(name, getattr(self, name), at_least=1)
        if isolation not in ("thread", "process"):
            raise ValueError(f"isolation is {isolation!r}; it is 'thread' or 'process'.")
        if isolation == "process" and threads == 0:
            raise ValueError("isolation is 'process' and threads is 0; a process needs a thread.")
        if resolver is not None and not callable(resolver):
            raise ValueError(f"resolver is {resolver!r}; it is a function from a URL to bytes.")
        self.image_root = Path(image_root) if image_root not in (None, "") else None
        self.resolver = resolver
        self.isolation = isolation
        self.__setstate__({})

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "pool"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        memory = self.max_process_bytes if self.isolation == "process" else None
        self.pool = ReadingThreads(self.threads, self.timeout, self.max_decoded_bytes, memory)

    def submit(self, function: Callable[..., Any], *args: Any) -> Job:
        """Have something done, such as `read`, by a thread that reads pictures, ahead of need.

        RETURNS (Job): `Job.result` waits for it.
        """
        return self.pool.submit(partial(function, *args))

    def read(self, value: Any) -> "PIL.Image.Image":
        """Read a picture, in this thread (and not within `timeout` if it isn't one that reads), or with
        isolation "process" in another one.

        value (ImageValue): What `doc._.image` takes, or a URL if there is a resolver.
        RETURNS (PIL.Image.Image): See `reading.read_image`, also for what it raises.
        """
        from .reading import read_image

        decoder = None
        if self.isolation == "process":
            decoder = self.pool.decode_in_process
            if threading.current_thread() not in self.pool.readers:
                picture: PIL.Image.Image = self.pool.submit(partial(self.read, value), needed=True).result()
                return picture
        return read_image(
            value,
            self.limits,
            root=self.image_root,
            resolver=self.resolver,
            claim=self.pool.claim,
            decoder=decoder,
        )


make_picture_reader_v1 = registry.misc("spacy-mmib.picture_reader.v1")(PictureReader)
