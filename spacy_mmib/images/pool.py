"""Threads that read pictures, which strangers made: what takes too long is given up, and ended.

Python's own `ThreadPoolExecutor` can't end a job, and the interpreter waits for its threads when it exits.
"""

import atexit
import ctypes
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from functools import cache
from typing import Any

from .errors import ImageError, explain
from .limits import BYTES_A_PIXEL, MAX_DECODED_BYTES, check_number
from .process import DecoderProcess

MAX_HUNG = 64
"""Threads of a pool that were given up but go on, because they don't come back from C code. Beyond them
nothing is read any more."""

LOOK_EVERY = 1.0
"""Seconds after which, at the latest, somebody looks whether a thread takes too long."""

WAIT_FOR_MEMORY = 0.005
"""Seconds after which a thread that waits for others to finish with their pixels looks again."""

START = 30.0
"""Seconds that a process may take to start."""

GRACE = 1.0
"""Seconds that the interpreter waits, when it exits, for threads that are reading to end; all together."""


class Postponed(Exception):
    """What was to be read ahead doesn't fit into memory now: it is to be read when it is needed."""


class Job(Future[Any]):
    """Something a pool was asked to do; see `PicturePool.submit`.

    ahead (bool): Nobody needs the result yet. May be changed to `False` any time.
    by_caller (bool): It is done by whoever asks for the result.
    """

    def __init__(
        self, pool: "PicturePool", function: Callable[..., Any], args: tuple[Any, ...], ahead: bool
    ) -> None:
        super().__init__()
        self._pool = pool
        self._call: tuple[Callable[..., Any], tuple[Any, ...]] | None = (function, args)
        self.ahead = ahead
        self.by_caller = False

    def result(self, timeout: float | None = None) -> Any:
        """Wait for the job.

        timeout (Optional[float]): For at most so many seconds.
        RETURNS (Any): What the function returned.
        RAISES (ImageError): It took too long (kind "timeout"), or its thread ended (kind "crashed").
        RAISES (Postponed): It was to be done ahead, and there was no room for its pixels.
        RAISES (Exception): What the function raised.
        """
        # After a fork the threads are in the parent.
        if self.by_caller or self._pool.pid != os.getpid():
            self.run(reraise=KeyboardInterrupt)
        try:
            return super().result(timeout)
        finally:
            del self  # what is raised has this frame, and the job has what is raised

    def wait(self) -> None:
        """Wait for the job, whatever comes of it."""
        with suppress(Exception):
            self.result()

    def run(self, reraise: type[BaseException] | tuple[()] = ()) -> None:
        """Do it, in this thread, unless it was answered.

        reraise (Type[BaseException]): What is not about the job, but about this thread.
        """
        call = self._call
        if call is None:
            return
        function, args = call
        value = None
        try:
            value = function(*args)
            self._pool.hold(value)
            self.settle(value, None)
        except reraise:
            raise
        except BaseException as err:
            self.settle(None, err)
        finally:
            del self, call, function, args, value  # a traceback has this frame, and a picture in it

    def settle(self, value: Any, error: BaseException | None) -> None:
        """Answer, unless it was answered already.

        value (Any): The result.
        error (Optional[BaseException]): Or what is raised instead.
        """
        if error is not None and not isinstance(error, Exception):
            reason = f"the thread that read it was ended ({explain(error)})"
            error = ImageError(reason, kind="crashed")
        with suppress(InvalidStateError):
            if error is None:
                self.set_result(value)
            else:
                self.set_exception(error)
        self._call = None


class _Reader:
    """A thread of a pool.

    job (Optional[Job]): What it is doing.
    began (float): When it began that.
    decoding (int): Bytes of the pixels that it is making.
    process (Optional[DecoderProcess]): What decodes for it.
    given_up (bool): It is to end, and another has taken its place.
    told (float): When it was told so last.
    """

    def __init__(self, pool: "PicturePool") -> None:
        self.pool = pool
        self.job: Job | None = None
        self.began = 0.0
        self.decoding = 0
        self.process: DecoderProcess | None = None
        self.given_up = False
        self.told = 0.0
        self.thread = threading.Thread(
            target=pool._work, args=(self,), name="spacy-mmib-pictures", daemon=True
        )

    def end(self) -> None:
        """End it: its process at once, itself as soon as it is in Python code."""
        self.told = time.monotonic()
        if self.process is not None:
            self.process.kill()
        if self.thread.is_alive():
            with suppress(AttributeError):  # CPython's
                raise_in = ctypes.pythonapi.PyThreadState_SetAsyncExc
                raise_in(ctypes.c_ulong(self.thread.ident or 0), ctypes.py_object(SystemExit))


class _Here(threading.local):
    reader: _Reader | None = None


_HERE = _Here()

_POOLS: "weakref.WeakSet[PicturePool]" = weakref.WeakSet()


class PicturePool:
    """Threads that read pictures. They start when there is something to do, and end when there isn't. They
    are daemons: the interpreter doesn't wait for one that hangs.

    A job that takes too long is given up. If a process decodes for it, that is killed. Its thread is ended,
    which works as soon as it is in Python code: at once for decoders that are written in Python. One that
    stays in C code is left to itself. Either way another takes its place.

    threads (int): How many at most. 0: jobs are run by whoever asks for their result, and then nothing
        limits how long they take.
    timeout (float): Seconds a job may run; waiting for a free thread or for memory doesn't count. 0: no
        limit.
    max_decoded_bytes (int): Of pixels in memory at a time, those of pictures that are being decoded and of
        results. What is larger by itself is decoded while nothing else is.
    process_bytes (Optional[int]): Pictures are decoded by processes, one a thread, of so much memory.
        `None`: by the threads themselves.
    RAISES (ValueError): A setting that is out of range.
    """

    def __init__(
        self,
        threads: int,
        timeout: float,
        max_decoded_bytes: int = MAX_DECODED_BYTES,
        process_bytes: int | None = None,
    ) -> None:
        check_number("threads", threads, at_least=0)
        check_number("timeout", timeout, at_least=0, whole=False)
        check_number("max_decoded_bytes", max_decoded_bytes, at_least=1)
        self.threads = threads
        self.timeout = timeout
        self.max_decoded_bytes = max_decoded_bytes
        self.process_bytes = process_bytes
        self.pid = os.getpid()
        # A reader can be ended at any point of its Python code: it holds the lock by `with` only, and what
        # has to be undone for one that was given up is what it notes at itself.
        self._lock = threading.Lock()
        self._queue: deque[weakref.ref[Job]] = deque()
        self._readers: set[_Reader] = set()
        self._given_up: list[_Reader] = []
        self._watched = False
        self._closed = False
        self._idle: list[DecoderProcess] = []
        self._held: list[tuple[weakref.ref[Any], int]] = []
        _POOLS.add(self)

    def submit(self, function: Callable[..., Any], *args: Any, ahead: bool = False) -> Job:
        """Have something done. A job that nobody holds any more when its turn comes is not done. A job
        must not wait for another one of its pool.

        function (Callable): What to do, in a thread.
        args (Any): Its arguments.
        ahead (bool): Nobody needs it yet, so that it is not done if there is no room for its pixels.
        RETURNS (Job): Gives the result.
        """
        job = Job(self, function, args, ahead)
        if not self.threads or self._closed or self.pid != os.getpid():
            job.by_caller = True
            return job
        with self._lock:
            self._queue.append(weakref.ref(job))
            self._start_reader()
            stuck = not self._readers
            if stuck:
                self._queue.clear()
        if stuck and len(self._given_up) >= MAX_HUNG:
            job.settle(None, _make_refusal())
        elif stuck:  # no more threads in this process now, or it is about to end
            job.by_caller = True
        return job

    def claim(self, n_bytes: int) -> None:
        """Wait until there is room for the pixels of a picture. Outside this pool's threads there is.

        n_bytes (int): How many bytes.
        RAISES (Postponed): The job is done ahead, and results that are still in memory leave no room.
        """
        reader = _HERE.reader
        if reader is None or reader.pool is not self:
            return
        while True:
            with self._lock:
                self._held = [(value, n) for value, n in self._held if value() is not None]
                used = sum(n for _, n in self._held) + n_bytes
                ahead = reader.job is not None and reader.job.ahead
                if ahead and self._held and used > self.max_decoded_bytes:
                    raise Postponed
                # A job's second picture doesn't wait: two such jobs would wait for each other.
                others = sum(other.decoding for other in self._readers if other is not reader)
                if not others or others + used <= self.max_decoded_bytes or reader.decoding:
                    reader.decoding += n_bytes
                    reader.began = time.monotonic()
                    return
                reader.began = float("inf")
            time.sleep(WAIT_FOR_MEMORY)

    def hold(self, value: Any) -> None:
        """Count a picture until it is gone.

        value (Any): The result of a job; what isn't a picture doesn't count.
        """
        size = getattr(value, "size", None)
        if isinstance(size, tuple) and len(size) == 2:
            with self._lock:
                self._held.append((weakref.ref(value), BYTES_A_PIXEL * size[0] * size[1]))

    def decode_in_process(self, *args: Any) -> Any:
        """Have a picture decoded by a process, in a thread of this pool.

        args (Any): See `DecoderProcess.decode`.
        RETURNS (PIL.Image.Image): The picture.
        RAISES (ImageError): It can't be decoded, or the process ended (kind "crashed").
        """
        reader = _HERE.reader
        assert reader is not None
        assert self.process_bytes is not None
        with self._lock:
            reader.process = self._idle.pop() if self._idle else None
            reader.began = time.monotonic() + START
        process = reader.process
        try:
            if process is None:
                process = reader.process = DecoderProcess(self.process_bytes, self.timeout)
                process.wait_until_ready()
            reader.began = time.monotonic()
            return process.decode(*args)
        finally:
            with self._lock:
                reader.process = None
                if process is not None and process.usable and not (reader.given_up or self._closed):
                    self._idle.append(process)
                    process = None
            if process is not None:
                process.kill()

    def is_here(self) -> bool:
        """RETURNS (bool): Whether this thread is one of the pool."""
        return _HERE.reader is not None and _HERE.reader.pool is self

    def _start_reader(self) -> None:
        """Start a thread, if there is something to do for one more."""
        if not self._queue or len(self._readers) >= self.threads:
            return
        self._given_up = [reader for reader in self._given_up if reader.thread.is_alive()]
        if len(self._given_up) >= MAX_HUNG:
            return
        reader = _Reader(self)
        try:
            reader.thread.start()
            self._readers.add(reader)
            if self.timeout and not self._watched:
                threading.Thread(target=self._watch, name="spacy-mmib-watch", daemon=True).start()
                self._watched = True
        except RuntimeError:
            pass

    def _work(self, reader: _Reader) -> None:
        _HERE.reader = reader
        with suppress(BaseException):  # who waits for its job was told
            while (job := self._next(reader)) is not None:
                job.run()
                del job

    def _next(self, reader: _Reader) -> Job | None:
        """RETURNS (Optional[Job]): What a thread is to do next; `None` if it is to end."""
        with self._lock:
            reader.job, reader.decoding = None, 0
            while self._queue and not reader.given_up:
                job = self._queue.popleft()()
                if job is not None and not job.done():
                    reader.began = time.monotonic()
                    reader.job = job
                    return job
            self._readers.discard(reader)
            return None

    def _watch(self) -> None:
        while (wait := self._give_up()) is not None:
            time.sleep(wait)

    def _give_up(self) -> float | None:
        """End what takes too long, and start threads in its place.

        RETURNS (Optional[float]): Seconds until there may be more of that; `None` if there are no threads.
        """
        overdue: list[_Reader] = []
        now = time.monotonic()
        wait = LOOK_EVERY
        with self._lock:
            self._given_up = [reader for reader in self._given_up if reader.thread.is_alive()]
            if not self._readers and not self._given_up:
                self._watched = False
                return None
            for reader in self._readers:
                left = reader.began + self.timeout - now
                if reader.job is not None and left > 0:
                    wait = min(wait, left)
                elif reader.job is not None:
                    overdue.append(reader)
            for reader in overdue:
                reader.given_up = True
            self._readers.difference_update(overdue)
            self._given_up += overdue
            # An exception that arrives while something is finalized is lost. So there may be another.
            ending = [reader for reader in self._given_up if now - reader.told >= LOOK_EVERY]
        for reader in overdue:
            if reader.job is not None:  # before its thread ends, which would say something else
                reader.job.settle(None, _make_timeout(self.timeout))
        for reader in ending:
            reader.end()
        stuck: list[weakref.ref[Job]] = []
        with self._lock:
            for _ in overdue:
                self._start_reader()
            if not self._readers:
                stuck += self._queue
                self._queue.clear()
        for waiting in stuck:
            job = waiting()
            if job is not None:
                job.settle(None, _make_refusal())
        return max(wait, 0.001)

    def close(self) -> list[threading.Thread]:
        """Begin nothing more, end everything.

        RETURNS (List[threading.Thread]): Threads that are about to end.
        """
        with self._lock:
            self._closed = True
            self._queue.clear()
            busy = [*self._readers, *self._given_up]
            idle, self._idle = self._idle, []
        for process in idle:
            process.kill()
        for reader in busy:
            reader.given_up = True
            reader.end()
        return [reader.thread for reader in busy]


@cache
def get_pool(threads: int, timeout: float, max_decoded_bytes: int, process_bytes: int | None) -> PicturePool:
    """RETURNS (PicturePool): The pool of this process with these settings."""
    return PicturePool(threads, timeout, max_decoded_bytes, process_bytes)


def _make_timeout(timeout: float) -> ImageError:
    return ImageError(f"reading it takes more than {timeout:g} seconds: given up", kind="timeout")


def _make_refusal() -> ImageError:
    return ImageError(
        f"not read: {MAX_HUNG} pictures before it hang in C code, where their threads can't be ended; start "
        'the process anew, and read with isolation = "process"',
        kind="timeout",
    )


@atexit.register
def _close_all() -> None:
    """A thread that comes back from C++ code (torch's, say) when there is no interpreter any more aborts
    the process. So those that are reading are told to end, which they do once they are back, and are
    waited for, but not if they hang.
    """
    threads = [thread for pool in tuple(_POOLS) if pool.pid == os.getpid() for thread in pool.close()]
    end = time.monotonic() + GRACE
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))


if hasattr(os, "register_at_fork"):  # threads and processes are the parent's
    os.register_at_fork(after_in_child=get_pool.cache_clear)
