"""Pillow has switches for the whole process: which warnings are errors, and whether a picture that was cut
short passes as a whole one. Pictures are read here the same however a program has set them, and the program
keeps its settings. Python's own means for this (`warnings.catch_warnings`) is not for threads: whichever
ends last restores what the other had set.
"""

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class _Thread(threading.local):
    depth = 0


_THREAD = _Thread()


class _Here:
    """Stands in a warning filter where the pattern for the module does: fits in threads that read."""

    def match(self, module: str) -> bool:
        """RETURNS (bool): Whether this thread is reading a picture."""
        return _THREAD.depth > 0


_IGNORE_HERE: Any = ("ignore", None, Warning, _Here(), 0)


class _Elsewhere:
    """A switch that is off in threads that read, and as it was set in all others."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __bool__(self) -> bool:
        return bool(self.value) and not _THREAD.depth


@contextmanager
def isolated() -> Iterator[None]:
    """While this lasts, in this thread, no warning is shown or becomes an error, and Pillow decodes only
    whole pictures.
    """
    _THREAD.depth += 1
    try:
        _set_switches()
        yield
    finally:
        _THREAD.depth -= 1


def _set_switches() -> None:
    import PIL.ImageFile

    # Python 3.14 can have filters for each context.
    get_filters = getattr(warnings, "_get_filters", None)
    filters: list[Any] = warnings.filters if get_filters is None else get_filters()  # type: ignore
    # Filters that were set since stand before ours; leaving a catch_warnings takes ours away.
    if not filters or filters[0] is not _IGNORE_HERE:
        if _IGNORE_HERE in filters:
            filters.remove(_IGNORE_HERE)
        filters.insert(0, _IGNORE_HERE)
    switches: Any = PIL.ImageFile
    switch = switches.LOAD_TRUNCATED_IMAGES
    if switch and not isinstance(switch, _Elsewhere):
        switches.LOAD_TRUNCATED_IMAGES = _Elsewhere(switch)
