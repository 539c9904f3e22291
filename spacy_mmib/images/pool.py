"""A small pool of threads for reading pictures, which strangers made: a decoder may hang, or end its thread.

Neither of Python's own pools does here. `ThreadPoolExecutor` waits for hung threads when the interpreter
exits, and hands a `SystemExit` of a job to whoever asks for its result; `multiprocessing.pool.ThreadPool`
doesn't recover once one of its threads hangs and another has died.
"""

import atexit
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from weakref import WeakSet, ref

from .errors import ImageError, explain
from .limits import check_number

MAX_ABANDONED = 64
"""Threads of this process that may hang. Beyond them nothing is read by threads any more."""

IDLE = 5.0
"""Seconds after which a thread without work ends."""

LOOK_EVERY = 0.1
"""Seconds after which somebody who waits for a job looks whether its thread is alive."""

GRACE = 1.0
"""Seconds that the interpreter waits, when it exits, for threads that are reading to notice; all together."""

_HUNG: set[threading.Thread] = set()
_CREWS: "WeakSet[_Crew]" = WeakSet()


class Job:
    """Something a pool was asked to do; see `PicturePool.submit`."""

    def __init__(
        self, pool: "PicturePool", function: Callable[..., Any], args: tuple[Any, ...]
    ) -> None:
        self._pool = pool
        self._call: tuple[Callable[..., Any], tuple[Any, ...]] | None = (function, args)
        self._value: Any = None
        self._error: BaseException | None = None
        self.settled = False
        self._enlist()

    def _enlist(self) -> None:
        # Not an Event: that is made of Python code, and a thread that is killed within it leaves it locked.
        self._latch = threading.Lock()
        self._latch.acquire()
        self._crew = self._pool._get_crew()
        self._crew.add(self)

    def result(self) -> Any:
        """Wait for the job.

        RETURNS (Any): What the function returned.
        RAISES (ImageError): It took too long (kind "timeout"), or its thread ended (kind "crashed").
        RAISES (Exception): What the function raised.
        """
        if not self.settled and self._crew.pid != os.getpid():  # the threads are in the parent
            self._enlist()
        while not self.settled:
            if self._crew.leaves_to_caller(self):
                self.run(reraise=KeyboardInterrupt)
            elif self._latch.acquire(timeout=self._crew.look()):
                self._latch.release()  # others may wait as well
        if self._error is None:
            return self._value
        try:
            raise self._error
        finally:
            del self  # the traceback of the error has this frame: a circle, and a picture in it

    def run(self, reraise: type[BaseException] | tuple[()] = ()) -> None:
        """Do it, in this thread.

        reraise (Type[BaseException]): What is not about the job, but about this thread.
        """
        call = self._call
        if call is None:
            return
        function, args = call
        try:
            self.settle(function(*args), None)
        except reraise:
            raise
        except BaseException as err:
            self.settle(None, err)
        finally:
            del self, call, function, args  # as above

    def settle(self, value: Any, error: BaseException | None) -> None:
        """Answer, unless it was answered already.

        value (Any): The result.
        error (Optional[BaseException]): Or what is raised instead.
        """
        if error is not None and not isinstance(error, Exception):
            reason = f"the thread that read it was ended ({explain(error)})"
            error = ImageError(reason, kind="crashed")
        with self._crew.lock:
            if not self.settled:
                self._value, self._error = value, error
                self.settled = True
                self._call = None
                self._latch.release()


class PicturePool:
    """Threads that read pictures. They start when there is something to do, and end when there isn't for a
    while. They are daemons: the interpreter doesn't wait for one that hangs. After a fork the child starts
    with threads of its own; what it was waiting for is done again there. Copies and pickles have the
    settings only.

    threads (int): How many at most. 0: jobs are run by whoever asks for their result, and then nothing
        limits how long they take.
    timeout (float): Seconds a job may run; waiting for a free thread doesn't count. A thread that takes
        longer is left to itself and another takes its place, up to `MAX_ABANDONED` in a process. 0: no limit.
    RAISES (ValueError): A negative setting, or none that is a number.
    """

    def __init__(self, threads: int, timeout: float) -> None:
        check_number("threads", threads, at_least=0)
        check_number("timeout", timeout, at_least=0, whole=False)
        self.threads = threads
        self.timeout = timeout
        self._crew: _Crew | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return PicturePool, (self.threads, self.timeout)

    def submit(self, function: Callable[..., Any], *args: Any) -> Job:
        """Have something done. A job that nobody holds any more when its turn comes is not done. A job
        must not wait for another one of its pool.

        function (Callable): What to do, in a thread.
        args (Any): Its arguments.
        RETURNS (Job): Gives the result.
        """
        return Job(self, function, args)

    def _get_crew(self) -> "_Crew":
        crew = self._crew
        # Two threads may both make one. Jobs know theirs, so both work.
        if crew is None or crew.pid != os.getpid():
            crew = self._crew = _Crew(self.threads, self.timeout)
        return crew


def get_pool(threads: int, timeout: float) -> PicturePool:
    """RETURNS (PicturePool): The pool of this process with these settings."""
    key = threads, timeout
    return _POOLS.get(key) or _POOLS.setdefault(key, PicturePool(threads, timeout))


_POOLS: dict[tuple[int, float], PicturePool] = {}


class _Worker:
    """A thread and what it is doing.

    job (Optional[Job]): What it is doing.
    began (float): When it began that.
    dismissed (bool): It is to end: another has taken its place.
    """

    def __init__(self, crew: "_Crew") -> None:
        self.job: Job | None = None
        self.began = 0.0
        self.dismissed = False
        self.thread = threading.Thread(
            target=_work, args=(crew, self), name="spacy-mmib-pictures", daemon=True
        )


class _Crew:
    """The threads of a pool in one process.

    Any thread can be killed at any point (`PyThreadState_SetAsyncExc`), so there is nothing in here that
    only works if a thread comes to its end: a lock is held by `with` and is one of C, not of Python; a job
    is noted at its thread before it is taken off the queue; and who waits looks from time to time.
    """

    def __init__(self, threads: int, timeout: float) -> None:
        self.pid = os.getpid()
        self.threads = threads
        self.timeout = timeout
        self.lock = threading.Lock()
        self.workers: list[_Worker] = []
        self.pending: deque[ref[Job]] = deque()
        self.wake: queue.SimpleQueue[None] = queue.SimpleQueue()
        self.startable = True
        self.closed = False
        _CREWS.add(self)

    def add(self, job: Job) -> None:
        """Queue a job."""
        if self.threads:
            with self.lock:
                self.pending.append(ref(job))
            self.look()

    def leaves_to_caller(self, job: Job) -> bool:
        """RETURNS (bool): Whether no thread will do this job, since there are none."""
        with self.lock:
            return not self.workers and not (self.threads and self.startable)

    def look(self) -> float:
        """Replace threads that hang or are dead, answer their jobs, and see to it that somebody does those
        that wait.

        RETURNS (float): Seconds until somebody who waits should look again.
        """
        lost: list[tuple[Job, ImageError]] = []
        wait = LOOK_EVERY
        with self.lock:
            now = time.monotonic()
            for worker in tuple(self.workers):
                job = worker.job
                if not worker.thread.is_alive():
                    self.workers.remove(worker)
                    if job is not None:
                        lost.append(
                            (job, ImageError("the thread that read it died", kind="crashed"))
                        )
                elif job is not None and self.timeout:
                    left = worker.began + self.timeout - now
                    wait = min(wait, max(left, 0.001))
                    if left <= 0:
                        worker.dismissed = True
                        self.workers.remove(worker)
                        _HUNG.add(worker.thread)
                        lost.append((job, _make_timeout(self.timeout)))
            lost += [(job, _make_refusal()) for job in self._fill_up()]
        for job, error in lost:
            job.settle(None, error)
        return wait

    def _fill_up(self) -> list[Job]:
        """RETURNS (List[Job]): Those that nobody can do."""
        if not self.pending:
            return []
        self.startable = not self.closed
        idle = sum(worker.job is None for worker in self.workers)
        while len(self.workers) < self.threads and idle < len(self.pending) and self.startable:
            if _count_hung() >= MAX_ABANDONED:
                break
            worker = _Worker(self)
            self.workers.append(worker)
            try:
                worker.thread.start()
            except RuntimeError:  # no more threads in this process now, or it is about to end
                self.workers.remove(worker)
                self.startable = False
            idle += 1
        if self.workers:
            if self.wake.qsize() < len(self.workers):
                self.wake.put(None)
        elif self.startable:
            jobs = [job() for job in self.pending]
            self.pending.clear()
            return [job for job in jobs if job is not None]
        return []

    def take(self, worker: _Worker) -> Job | None:
        """Wait for a job.

        RETURNS (Optional[Job]): `None` if the thread is to end.
        """
        while True:
            with self.lock:
                worker.job = None
                if worker.dismissed:
                    return None
                while self.pending:
                    worker.began = time.monotonic()
                    worker.job = self.pending[0]()
                    self.pending.popleft()
                    if worker.job is not None and not worker.job.settled:
                        if self.pending and self.wake.qsize() < len(self.workers):
                            self.wake.put(None)
                        return worker.job
                    worker.job = None
            try:
                self.wake.get(timeout=IDLE)
            except queue.Empty:
                with self.lock:
                    if not self.pending:
                        self.workers.remove(worker)
                        return None

    def close(self) -> list[threading.Thread]:
        """Begin nothing more.

        RETURNS (List[threading.Thread]): Threads that are doing something.
        """
        with self.lock:
            self.closed, self.startable = True, False
            self.pending.clear()
            busy = [worker.thread for worker in self.workers if worker.job is not None]
            for worker in self.workers:
                worker.dismissed = True
            self.workers.clear()
        return busy


def _work(crew: _Crew, worker: _Worker) -> None:
    # Killed from outside, it ends without a word: who waits for its job says so.
    with suppress(BaseException):
        while (job := crew.take(worker)) is not None:
            job.run()
            del job
    _HUNG.discard(worker.thread)


def _count_hung() -> int:
    for thread in tuple(_HUNG):
        if not thread.is_alive():  # killed, or of the parent process
            _HUNG.discard(thread)
    return len(_HUNG)


def _make_timeout(timeout: float) -> ImageError:
    return ImageError(f"reading it takes more than {timeout:g} seconds: given up", kind="timeout")


def _make_refusal() -> ImageError:
    return ImageError(
        f"not read: {MAX_ABANDONED} pictures before it hang in their decoders, and each keeps a thread; "
        "start the process anew",
        kind="timeout",
    )


@atexit.register
def _close_all() -> None:
    """A thread that comes back from C++ code (torch's, say) when there is no interpreter any more aborts
    the process. So those that are reading are told to end, which they do once they are back, and are
    waited for, but not if they hang.
    """
    busy = [thread for crew in tuple(_CREWS) if crew.pid == os.getpid() for thread in crew.close()]
    for thread in busy:
        _tell_to_end(thread)
    end = time.monotonic() + GRACE
    for thread in busy:
        thread.join(max(0.0, end - time.monotonic()))


def _tell_to_end(thread: threading.Thread) -> None:
    with suppress(AttributeError, ImportError):  # CPython's
        import ctypes

        raise_in = ctypes.pythonapi.PyThreadState_SetAsyncExc
        raise_in(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(SystemExit))
