"""`spacy-mmib.picture_reader.v1`: which pictures are read, from where, and the threads that read them.

Python's `ThreadPoolExecutor` has no limit of time that begins when a job does, can't go on without a thread
that hangs, and the interpreter waits for its threads when it exits.
"""

import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from spacy.util import registry

from .errors import FORMATS, MAX_BYTES, MAX_FRAMES, MAX_PIXELS, ImageError, ReadingLimits, check_number
from .process import DecoderProcess

if TYPE_CHECKING:
    import PIL.Image

START = 30.0
"""Seconds that a process may take to start."""

LOOK_EVERY = 1.0
"""Seconds after which, at the latest, whoever waits looks whether a picture takes too long."""

GRACE = 1.0
"""Seconds that the interpreter waits, when it exits, for threads that are reading; all together. One that
comes back from C++ code (torch's, say) when there is no interpreter any more would abort the process."""


class Postponed(Exception):
    """What was to be read ahead doesn't fit into memory now: it is to be read when it is needed."""


class Job(Future[Any]):
    """Something that the threads of a reader were asked to do; see `PictureReader.submit`."""

    reader: "PictureReader"
    call: Callable[[], Any] | None = None  # has pictures, perhaps: until it is answered
    needed: bool = False  # somebody waits for it: it is done even if there is no room for its pixels
    deadline: float = float("inf")  # when it is given up
    claimed: int = 0  # bytes of the pixels that it is making
    process: DecoderProcess | None = None  # what decodes for it

    def result(self, timeout: float | None = None, *, needed: bool = True) -> Any:
        """Wait for what the function returned. Whatever it raised is raised, a `Postponed` too.

        timeout (Optional[float]): Not looked at: each job has its limit.
        needed (bool): Whether it is read now if there was no room for its pixels ahead.
        """
        reader = self.reader
        try:
            self.needed = needed
            while not self.done():
                seconds = reader.look_after()
                if reader.running:
                    with suppress(TimeoutError):
                        self.exception(seconds)
                else:  # no threads are wanted, or possible, or those that had it are the parent's
                    reader.run(self)
            if needed and self.call is not None and self.was_postponed:
                return reader.submit(self.call, needed=True).result()
            return super().result()
        finally:
            del self  # what is raised has this frame, and the job has what is raised

    @property
    def was_postponed(self) -> bool:
        """Whether there was no room for it."""
        return self.done() and isinstance(self.exception(), Postponed)


class PictureReader:
    """Reads pictures that strangers made: within limits, and off the thread that waits for them. Its threads
    start when there is something to do, and end when there isn't. The thread of a picture that is given up
    goes on until its decoder comes back, and another takes its place.

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
    max_decoded_bytes (int): Of pixels in memory at a time, four bytes each: those of pictures that are being
        decoded, and of pictures that are there for a region getter. A larger picture is decoded alone.
    isolation (str): "thread": pictures are decoded in this process. "process": in other ones, one a thread,
        which are killed if they take too long, and whose crashes cost one picture.
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
        self._settings = {name: value for name, value in locals().items() if name != "self"}
        self.limits = ReadingLimits(max_bytes, max_pixels, max_frames, formats)
        if threads is None:  # the cores that this process may use
            has_affinity = hasattr(os, "sched_getaffinity")
            threads = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
        self.threads = threads
        self.prefetch = max(32, 8 * self.threads) if prefetch is None else prefetch
        self.timeout = timeout
        self._seconds = timeout or float("inf")
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
        self._begin()

    def __reduce__(self) -> Any:
        return partial(PictureReader, **self._settings), ()

    def _begin(self) -> None:
        """Begin without threads: at first, and after a fork, which leaves them (and the lock) behind."""
        self._pid = os.getpid()
        self._changed = threading.Condition()  # guards all that follows
        self._queue: deque[Job] = deque()
        self.running: dict[threading.Thread, Job | None] = {}
        self._used = 0  # bytes of pixels
        self._idle: list[DecoderProcess] = []
        weakref.finalize(self, _end, self._pid, self._queue, self.running, self._idle)

    def read(self, value: Any) -> "PIL.Image.Image":
        """Read a picture, in this thread (and not within `timeout` if it isn't one that reads), or with
        isolation "process" in another one; see `reading.read_image`.
        """
        from .reading import read_image

        decoder = None
        if self.isolation == "process":
            decoder = self._decode_in_process
            if threading.current_thread() not in self.running:
                picture: PIL.Image.Image = self.submit(self.read, value, needed=True).result()
                return picture
        return read_image(
            value,
            self.limits,
            root=self.image_root,
            resolver=self.resolver,
            claim=self._claim,
            decoder=decoder,
        )

    def submit(self, function: Callable[..., Any], *args: Any, needed: bool = False) -> Job:
        """Have something done, such as `read`, by a thread that reads pictures, ahead of need. It must not
        wait for another job, and is not done if it is cancelled before its turn.
        """
        job = Job()
        job.reader, job.call, job.needed = self, partial(function, *args), needed
        if self.threads:
            self.look_after(job)
        return job

    def look_after(self, new: Job | None = None) -> float:
        """Give up what takes too long, and start a thread if there is something to do for one more.

        RETURNS (float): In how many seconds to look again.
        """
        if self._pid != os.getpid():
            self._begin()
        now, left = time.monotonic(), LOOK_EVERY
        with self._changed:
            if new is not None:
                self._queue.append(new)
            for thread, job in list(self.running.items()):
                if job is not None and job.deadline <= now:
                    reason = f"reading it takes more than {self.timeout:g} seconds: given up"
                    with suppress(InvalidStateError):
                        job.set_exception(ImageError(reason, kind="timeout"))
                    self._used -= job.claimed
                    job.call, job.claimed = None, 0
                    del self.running[thread]
                    if job.process is not None:
                        job.process.kill()
                elif job is not None:
                    left = min(left, job.deadline - now)
            starting = list(self.running.values()).count(None)
            if len(self._queue) > starting and len(self.running) < self.threads:
                thread = threading.Thread(target=self._work, name="spacy-mmib-pictures", daemon=True)
                self.running[thread] = None
                try:
                    thread.start()
                except RuntimeError:  # no more threads in this process now, or it is about to end
                    del self.running[thread]
            self._changed.notify_all()  # there may be room for pixels, or somebody needs them now
        return max(left, 0.001)

    def _work(self) -> None:
        here = threading.current_thread()
        while True:
            with self._changed:
                while self._queue and self._queue[0].done():
                    self._queue.popleft()
                if here not in self.running:  # its job was given up, and another thread is in its place
                    return
                if not self._queue:
                    del self.running[here]
                    return
                job = self.running[here] = self._queue.popleft()
                job.deadline = time.monotonic() + self._seconds
            self.run(job)
            del job

    def run(self, job: Job) -> None:
        """Do a job in this thread. If it made a picture its pixels count until that is gone."""
        value, error = None, None
        try:
            value = job.call() if job.call is not None else None
        except BaseException as err:
            error = err
        with self._changed:
            claimed, job.claimed = job.claimed, 0
            if not isinstance(error, Postponed):
                job.call = None
            with suppress(InvalidStateError):  # it was given up, or cancelled
                if error is not None:
                    job.set_exception(error)
                else:
                    job.set_result(value)
                    if isinstance(getattr(value, "size", None), tuple):
                        weakref.finalize(value, self._release, claimed).atexit = False
                        claimed = 0
            self._used -= claimed
            self._changed.notify_all()
        del job, error

    def _claim(self, n_bytes: int) -> None:
        """Wait until there is room for the pixels of a picture. Outside of these threads there is.

        RAISES (Postponed): Nobody needs the picture yet, and pictures that are in memory leave no room.
        """
        job = self.running.get(threading.current_thread())
        if job is None:
            return
        with self._changed:
            job.deadline = float("inf")  # waiting doesn't count
            # A job's second picture doesn't wait: two such jobs would wait for each other.
            while self._used and self._used + n_bytes > self.max_decoded_bytes and not job.claimed:
                if not any(other is not None and other.claimed for other in self.running.values()):
                    if job.needed:
                        break
                    raise Postponed
                self._changed.wait()
            self._used += n_bytes
            job.claimed += n_bytes
            job.deadline = time.monotonic() + self._seconds

    def _release(self, n_bytes: int) -> None:
        with self._changed:
            self._used -= n_bytes
            self._changed.notify_all()

    def _decode_in_process(self, *args: Any) -> "PIL.Image.Image":
        """Do what `DecoderProcess.decode` does, which gets the arguments."""
        with self._changed:
            job = self.running.get(threading.current_thread())
            process = self._idle.pop() if self._idle else None
        if job is None:
            raise ImageError("given up", kind="timeout")
        try:
            if process is None:
                job.deadline = time.monotonic() + START
                process = DecoderProcess(self.max_process_bytes, self._seconds)
            job.process, job.deadline = process, time.monotonic() + self._seconds
            return process.decode(*args)
        finally:
            job.process = None
            if process is not None and process.usable:
                self._idle.append(process)
            elif process is not None:
                process.kill()


def _end(
    pid: int, queue: deque[Job], running: dict[threading.Thread, Job | None], idle: list[DecoderProcess]
) -> None:
    """Begin nothing more, and wait for what is being read, but not if it hangs."""
    if pid != os.getpid():
        return
    queue.clear()
    end = time.monotonic() + GRACE
    for thread, job in list(running.items()):
        if job is not None and job.process is not None:
            job.process.kill()
        if thread is not threading.current_thread():
            thread.join(max(0.0, end - time.monotonic()))
    for process in idle:
        process.kill()


make_picture_reader_v1 = registry.misc("spacy-mmib.picture_reader.v1")(PictureReader)
