"""A process that decodes pictures: can be killed, has a memory of its own, and takes nobody down with it.

`multiprocessing` would run the main module of the program again, or copy a process that has threads. What
comes back is sizes, texts and pixels, nothing that is unpickled: whoever breaks in is in that process only.
"""

import json
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import BYTES_A_PIXEL, KINDS, ImageError, ReadingLimits, explain

if TYPE_CHECKING:
    import PIL.Image

CODE = "import sys; sys.path[:] = sys.argv[2:]; from spacy_mmib.images.process import serve; serve()"
"""What it runs: this package as its parent finds it (`-I` looks neither in the current folder nor at
environment variables for it), and of that nothing that imports spaCy or torch."""

SPARE = 10
"""Seconds after which a picture that nobody stops, because the parent was killed, stops by itself."""


class DecoderProcess:
    """The process, as the one that has started it sees it. It is `usable` while it can be given a picture.

    memory (int): Bytes it may take, beyond what it takes by itself; where the system has such a limit for
        address spaces (Linux).
    timeout (float): Seconds after which the parent will have killed it; may be infinite.
    RAISES (ImageError): It can't be started, or ends at once (kind "crashed").
    """

    def __init__(self, memory: int, timeout: float) -> None:
        from multiprocessing.spawn import get_executable

        path = [os.path.abspath(folder) for folder in [*sys.path, str(Path(__file__).parents[2])]]
        command = [os.fsdecode(get_executable() or sys.executable), "-I", "-c", CODE, str(memory), *path]
        # Its decoders have one thread each.
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        self.usable = False
        self._seconds = int(timeout) + SPARE if timeout < float("inf") else 0
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "pipesize": 2**20}
        try:
            self._process = subprocess.Popen(command, env=environment, **pipes)  # type: ignore[call-overload]
        except OSError as err:
            reason = f"the process that decodes can't be started: {explain(err)}"
            raise ImageError(reason, kind="crashed") from None
        self._receive("a picture")
        self.usable = True

    def decode(
        self, data: bytes, name: str, limits: ReadingLimits, claim: Callable[[int], None]
    ) -> "PIL.Image.Image":
        """Do what `reading.decode` does. The pixels stay in the process until there is room (`claim`)."""
        import PIL.Image

        self.usable = False
        request = {"bytes": len(data), "name": name, "limits": asdict(limits), "seconds": self._seconds}
        with suppress(OSError):  # it has ended, which is seen when it is to answer
            self._process.stdin.write(json.dumps(request).encode() + b"\n" + data)
            self._process.stdin.flush()
        reply = self._receive(name)
        if "size" not in reply:
            kind = reply.get("kind")
            self.usable = True
            raise ImageError(str(reply.get("reason")), kind=kind if kind in KINDS else "damaged")
        width, height = map(int, reply["size"])
        if 0 < width * height <= limits.max_pixels:
            claim(BYTES_A_PIXEL * width * height)
            pixels = self._process.stdout.read(3 * width * height)
            if len(pixels) == 3 * width * height:
                self.usable = True
                return PIL.Image.frombytes("RGB", (width, height), pixels)
        raise self._make_crash(name)

    def kill(self) -> None:
        """End it now. From any thread, more than once."""
        self.usable = False
        self._process.kill()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(1)

    def _receive(self, name: str) -> dict[str, Any]:
        with suppress(ValueError):
            reply = json.loads(self._process.stdout.readline(100_000))
            if isinstance(reply, dict):
                return reply
        raise self._make_crash(name)

    def _make_crash(self, name: str) -> ImageError:
        self.kill()
        code = self._process.returncode
        how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        return ImageError(f"the process that decoded it ended ({how}): {name}", kind="crashed")


def serve() -> None:
    """Decode what comes in, in the process."""
    from . import reading  # noqa: F401 before the memory is limited

    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # for libraries that print
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's
    warnings.simplefilter("ignore")
    _limit_memory(int(sys.argv[1]))

    def answer(reply: dict[str, Any], pixels: bytes = b"") -> None:
        answers.write(json.dumps(reply).encode() + b"\n" + pixels)
        answers.flush()

    answer({})
    while line := sys.stdin.buffer.readline():
        answer(*_decode(json.loads(line)))


def _decode(request: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    from .reading import decode

    name, data = request["name"], sys.stdin.buffer.read(request["bytes"])
    _stop_after(request["seconds"])
    try:
        image = decode(data, name, ReadingLimits(**request["limits"]))
        return {"size": image.size}, image.tobytes()
    except ImageError as err:
        return {"reason": str(err), "kind": err.kind}, b""
    except MemoryError:
        return {"reason": f"takes more memory than there is: {name}", "kind": "memory"}, b""
    finally:
        _stop_after(0)  # the parent may take its time to read


def _stop_after(seconds: int) -> None:
    if hasattr(signal, "alarm"):
        signal.alarm(seconds)


def _limit_memory(memory: int) -> None:
    try:
        import resource

        own = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (own + memory, own + memory))
    except (ImportError, OSError, ValueError):  # not on Linux
        pass
