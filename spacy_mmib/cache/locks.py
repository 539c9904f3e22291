"""A lock that a forked process gets anew, so that it never waits for a thread that only its parent has."""

import os
import threading
from weakref import WeakSet


class ForkLock:
    """Used by `with`, as `threading.RLock`."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        _LOCKS.add(self)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *args: object) -> None:
        self._lock.release()


_LOCKS: "WeakSet[ForkLock]" = WeakSet()


def _renew() -> None:
    for lock in list(_LOCKS):
        lock._lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
