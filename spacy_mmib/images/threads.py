"""Threads that read pictures, which strangers made: one that takes too long is given up, and what is decoded
fits into memory.

Python's `ThreadPoolExecutor` has no limit of time that begins when a job does, can't go on without a thread
that hangs, and the interpreter waits for its threads when it exits.
"""

import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import Any

from .errors import ImageError, explain
from .process import DecoderProcess

MAX_HUNG = 64
"""Threads that were given up but go on, because their decoder doesn't come back. Beyond them nothing is read
any more."""

START = 30.0
"""Seconds that a process may take to start."""

LOOK_EVERY = 1.0
"""Seconds after which, at the latest, whoever waits looks whether a thread takes too long."""

GRACE = 1.0
"""Seconds that the interpreter waits, when it exits, for threads that are reading; all together. One that
comes back from C++ code (torch's, say) when there is no interpreter any more would abort the process."""


class Postponed(Exception):
    """What was to be read ahead doesn't fit into memory now: it is to be read when it is needed."""


class Job(Future[Any]):
    """Something that threads were asked to do; see `ReadingThreads.submit`."""

    def __init__(self, threads: "ReadingThreads", call: Callable[[], Any], needed: bool) -> None:
        super().__init__()
        self._threads = threads
        self.call: Callable[[], Any] | None = call  # has pictures, perhaps: until it is answered
        self.needed = needed  # somebody waits for it: it is done even if there is no room for its pixels
        self.deadline = float("inf")  # when it is given up
        self.claimed = 0  # bytes of the pixels that it is making
        self.process: DecoderProcess | None = None  # what decodes for it

    def result(self, timeout: float | None = None, *, needed: bool = True) -> Any:
        """Wait for what the function returned. Whatever it raised is raised.

        timeout (Optional[float]): Not looked at: each job has its limit.
        needed (bool): Whether it is read now if there was no room for its pixels ahead.
        RAISES (ImageError): It took too long (kind "timeout"), or its thread ended (kind "crashed").
        RAISES (Postponed): There was no room, and it isn't needed.
        """
        try:
            self._threads.wait_for(self, needed)
            if needed and self.call is not None and self.was_postponed:
                return self._threads.submit(self.call, needed=True).result()
            return super().result()
        finally:
            del self  # what is raised has this frame, and the job has what is raised

    @property
    def was_postponed(self) -> bool:
        """Whether there was no room for it."""
        return self.done() and isinstance(self.exception(), Postponed)

    def run(self, reraise: type[BaseException] | tuple[()] = ()) -> None:
        """Do it in this thread. What is about the thread, not the job, is raised (`reraise`)."""
        try:
            self._threads.settle(self, self.call() if self.call else None, None)
        except reraise:
            raise
        except BaseException as err:
            self._threads.settle(self, None, err)
        finally:
            del self


class ReadingThreads:
    """Threads that read pictures. They start when there is something to do, and end when there isn't.

    n (int): How many at most. 0: jobs are run by whoever asks for their result, and then nothing limits how
        long they take.
    timeout (float): Seconds a job may run; waiting for a free thread or for memory doesn't count. 0: no
        limit. The thread of a job that is given up goes on until its decoder comes back, and another takes
        its place.
    max_bytes (int): Of pixels in memory at a time, those of pictures that are being decoded and of results.
        What is larger by itself is decoded while nothing else is.
    process_bytes (Optional[int]): Pictures are decoded by processes, one a thread, of so much memory, which
        are killed if they take too long. `None`: by the threads themselves.
    """

    def __init__(self, n: int, timeout: float, max_bytes: int, process_bytes: int | None = None) -> None:
        self.n = n
        self.timeout = timeout or float("inf")
        self.max_bytes = max_bytes
        self.process_bytes = process_bytes
        self._begin()

    def _begin(self) -> None:
        """Begin without threads: at first, and after a fork, which leaves them (and the lock) behind."""
        self._pid = os.getpid()
        self._changed = threading.Condition()  # guards all that follows
        self._queue: deque[Job] = deque()
        self.readers: dict[threading.Thread, Job | None] = {}
        self._hung = 0
        self._used = 0
        self._idle: list[DecoderProcess] = []
        weakref.finalize(self, _end, self._pid, self._queue, self.readers, self._idle)

    def submit(self, call: Callable[[], Any], *, needed: bool = False) -> Job:
        """Have something done. A job must not wait for another one, and is not done if it is cancelled before
        its turn.
        """
        if self._pid != os.getpid():
            self._begin()
        job = Job(self, call, needed)
        if self.n:
            with self._changed:
                self._queue.append(job)
                self._start_reader()
        return job

    def _start_reader(self) -> None:
        """Start a thread, if there is something to do for one more."""
        if self._hung >= MAX_HUNG and not self.readers:
            reason = (
                f"not read: {MAX_HUNG} pictures before it hang in their decoders; start the process anew, "
                'and read with isolation = "process"'
            )
            while self._queue:
                self.settle(self._queue.popleft(), None, ImageError(reason, kind="timeout"))
        elif self._queue and len(self.readers) < self.n and self._hung < MAX_HUNG:
            thread = threading.Thread(target=self._work, name="spacy-mmib-pictures", daemon=True)
            self.readers[thread] = None
            try:
                thread.start()
            except RuntimeError:  # no more threads in this process now, or it is about to end
                del self.readers[thread]

    def _work(self) -> None:
        here = threading.current_thread()
        while True:
            with self._changed:
                if here not in self.readers:  # its job was given up, and another thread is in its place
                    self._hung -= 1
                    return
                while self._queue and self._queue[0].done():
                    self._queue.popleft()
                if not self._queue:
                    del self.readers[here]
                    return
                job = self.readers[here] = self._queue.popleft()
                job.deadline = time.monotonic() + self.timeout
            job.run()
            with self._changed:
                self._free(job.claimed)
                job.claimed = 0
            del job

    def wait_for(self, job: Job, needed: bool) -> None:
        """Wait for a job, giving up those that take too long."""
        if self._pid != os.getpid():
            self._begin()
        with self._changed:
            job.needed = needed
            self._changed.notify_all()
        while not job.done():
            if not self.readers:  # no threads are wanted, or possible, or those that had it are the parent's
                job.run(reraise=KeyboardInterrupt)
            else:
                with suppress(TimeoutError):
                    job.exception(self._give_up())
        del job

    def _give_up(self) -> float:
        """Give up what takes too long, and say in how many seconds there may be more of it."""
        now = time.monotonic()
        left = LOOK_EVERY
        with self._changed:
            for thread, job in list(self.readers.items()):
                if job is not None and job.deadline <= now:
                    reason = f"reading it takes more than {self.timeout:g} seconds: given up"
                    self.settle(job, None, ImageError(reason, kind="timeout"))
                    self._free(job.claimed)
                    job.claimed = 0
                    del self.readers[thread]
                    self._hung += 1
                    if job.process is not None:
                        job.process.kill()
                    self._start_reader()
                elif job is not None:
                    left = min(left, job.deadline - now)
        return max(left, 0.001)

    def settle(self, job: Job, value: Any, error: BaseException | None) -> None:
        """Answer a job, unless it was answered. If it made a picture its pixels count until that is gone."""
        if error is not None and not isinstance(error, Exception):
            error = ImageError(f"the thread that read it was ended ({explain(error)})", kind="crashed")
        if not isinstance(error, Postponed):
            job.call = None
        size = getattr(value, "size", None)
        with self._changed, suppress(InvalidStateError):
            if error is not None:
                job.set_exception(error)
                return
            job.set_result(value)
            if isinstance(size, tuple) and len(size) == 2 and job.claimed:
                weakref.finalize(value, self._free, job.claimed).atexit = False
                job.claimed = 0
                self._changed.notify_all()

    def claim(self, n_bytes: int) -> None:
        """Wait until there is room for the pixels of a picture. Outside of these threads there is.

        RAISES (Postponed): Nobody needs the picture yet, and results that are in memory leave no room.
        """
        job = self.readers.get(threading.current_thread())
        if job is None:
            return
        with self._changed:
            job.deadline = float("inf")
            # A job's second picture doesn't wait: two such jobs would wait for each other.
            while self._used and self._used + n_bytes > self.max_bytes and not job.claimed:
                if not any(other is not None and other.claimed for other in self.readers.values()):
                    if job.needed:
                        break
                    raise Postponed
                self._changed.wait()
            self._used += n_bytes
            job.claimed += n_bytes
            job.deadline = time.monotonic() + self.timeout

    def _free(self, n_bytes: int) -> None:
        with self._changed:
            self._used -= n_bytes
            self._changed.notify_all()

    def decode_in_process(self, *args: Any) -> Any:
        """Have a picture decoded by a process, in one of these threads; see `DecoderProcess.decode`."""
        with self._changed:
            job = self.readers.get(threading.current_thread())
            process = self._idle.pop() if self._idle else None
        if job is None or self.process_bytes is None:
            raise ImageError("given up", kind="timeout")
        try:
            if process is None:
                job.deadline = time.monotonic() + self.timeout + START
                process = job.process = DecoderProcess(self.process_bytes, self.timeout)
                process.wait_until_ready()
            job.process, job.deadline = process, time.monotonic() + self.timeout
            return process.decode(*args)
        finally:
            job.process = None
            if process is not None and process.usable:
                self._idle.append(process)
            elif process is not None:
                process.kill()


def _end(
    pid: int, queue: deque[Job], readers: dict[threading.Thread, Job | None], idle: list[DecoderProcess]
) -> None:
    """Begin nothing more, and wait for what is being read, but not if it hangs."""
    if pid != os.getpid():
        return
    queue.clear()
    end = time.monotonic() + GRACE
    for thread, job in list(readers.items()):
        if job is not None and job.process is not None:
            job.process.kill()
        if thread is not threading.current_thread():
            thread.join(max(0.0, end - time.monotonic()))
    for process in idle:
        process.kill()
