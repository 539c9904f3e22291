"""A process that decodes pictures: can be killed, has a memory of its own, and takes nobody down with it.

It is not made by `multiprocessing`, which runs the main module of the program again, or copies a process
that has threads. What it sends back is sizes, texts and pixels, nothing that is unpickled: whoever breaks
into the decoder is in that process only.
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
from typing import TYPE_CHECKING, Any, BinaryIO

from ..post.kinds import KINDS
from .errors import ImageError, explain
from .limits import ReadingLimits

if TYPE_CHECKING:
    import PIL.Image

CODE = "import sys; sys.path[:] = sys.argv[2:]; from spacy_mmib.images.process import serve; serve()"
"""What it runs: this package as its parent finds it (`-I` looks neither in the current folder nor at
environment variables for it), and of that nothing that imports spaCy or torch."""

GO, STOP = b"+", b"-"
"""What the process is told once it has said how large a picture is."""

PIPE_SIZE = 2**20

SPARE = 10
"""Seconds after which a picture that nobody stops, because the parent was killed, stops by itself."""


class DecoderProcess:
    """The process, as the one that has started it sees it.

    memory (int): Bytes it may take, beyond what it takes by itself; where the system has such a limit for
        address spaces (Linux).
    timeout (float): Seconds after which the parent will have killed it. 0: never.
    usable (bool): Whether it can be given another picture.
    RAISES (ImageError): It can't be started.
    """

    def __init__(self, memory: int, timeout: float) -> None:
        from multiprocessing.spawn import get_executable

        path = [os.path.abspath(folder) for folder in [*sys.path, str(Path(__file__).parents[2])]]
        command = [os.fsdecode(get_executable() or sys.executable), "-I", "-c", CODE, str(memory)]
        # Its decoders have one thread each.
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        self.usable = False
        self._seconds = int(timeout) + SPARE if timeout else 0
        try:
            self._process = subprocess.Popen(
                [*command, *path],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=environment,
                pipesize=PIPE_SIZE,
            )
        except OSError as err:
            raise ImageError(
                f"the process that decodes can't be started: {explain(err)}", kind="crashed"
            ) from None

    def wait_until_ready(self) -> None:
        """RAISES (ImageError): It ended."""
        self._receive("a picture")
        self.usable = True

    def decode(
        self, data: bytes, name: str, limits: ReadingLimits, claim: Callable[[int], None]
    ) -> "PIL.Image.Image":
        """Decode the content of a picture file.

        data (bytes): The content.
        name (str): What messages call it.
        limits (ReadingLimits): What it may be at most.
        claim (Callable[[int], None]): See `reading.decode_image`.
        RETURNS (PIL.Image.Image): See `reading.read_image`.
        RAISES (ImageError): It can't be decoded, or the process ended (kind "crashed").
        """
        import PIL.Image

        self.usable = False
        request = {
            "bytes": len(data),
            "name": name,
            "limits": asdict(limits),
            "seconds": self._seconds,
        }
        self._send(json.dumps(request).encode() + b"\n", data)
        reply = self._receive(name)
        if "pixels" in reply:
            try:
                claim(int(reply["pixels"]))
            except Exception:
                self._send(STOP)
                self.usable = True
                raise
            self._send(GO)
            reply = self._receive(name)
        if "size" not in reply:
            kind = reply.get("kind")
            self.usable = True
            raise ImageError(str(reply.get("reason")), kind=kind if kind in KINDS else "damaged")
        width, height = map(int, reply["size"])
        if not 0 < width * height <= limits.max_pixels:
            raise self._make_crash(name)
        assert self._process.stdout is not None
        pixels = self._process.stdout.read(3 * width * height)
        if len(pixels) < 3 * width * height:
            raise self._make_crash(name)
        self.usable = True
        return PIL.Image.frombytes("RGB", (width, height), pixels)

    def kill(self) -> None:
        """End it now. From any thread, more than once."""
        self.usable = False
        self._process.kill()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(1)

    def _send(self, *parts: bytes) -> None:
        assert self._process.stdin is not None
        with suppress(OSError):  # it has ended, which is seen when it is to answer
            for part in parts:
                self._process.stdin.write(part)
            self._process.stdin.flush()

    def _receive(self, name: str) -> dict[str, Any]:
        assert self._process.stdout is not None
        try:
            reply = json.loads(self._process.stdout.readline(100_000))
        except ValueError:
            reply = None
        if not isinstance(reply, dict):
            raise self._make_crash(name)
        return reply

    def _make_crash(self, name: str) -> ImageError:
        self.kill()
        code = self._process.returncode
        how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        return ImageError(f"the process that decoded it ended ({how}): {name}", kind="crashed")


def serve() -> None:
    """Decode what comes in, until nothing does any more. Runs in the process."""
    from .reading import decode_image

    # Libraries print where the answers go.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's
    warnings.simplefilter("ignore")
    _limit_memory(int(sys.argv[1]))
    _answer(answers, {})
    while line := sys.stdin.buffer.readline():
        request = json.loads(line)
        if hasattr(signal, "alarm"):
            signal.alarm(request["seconds"])
        data, image, pixels = b"", None, b""
        try:
            data = sys.stdin.buffer.read(request["bytes"])
            image = decode_image(
                data,
                request["name"],
                ReadingLimits(**request["limits"]),
                claim=lambda n_bytes: _ask(answers, n_bytes),
            )
            pixels = image.tobytes()
            _answer(answers, {"size": image.size}, pixels)
        except _Stopped:
            pass
        except ImageError as err:
            _answer(answers, {"reason": str(err), "kind": err.kind})
        except MemoryError:
            reason = f"takes more memory than there is: {request['name']}"
            _answer(answers, {"reason": reason, "kind": "memory"})
        del data, image, pixels
        if hasattr(signal, "alarm"):
            signal.alarm(0)


class _Stopped(Exception):
    pass


def _ask(answers: BinaryIO, n_bytes: int) -> None:
    _answer(answers, {"pixels": n_bytes})
    if sys.stdin.buffer.read(1) != GO:
        raise _Stopped


def _answer(answers: BinaryIO, reply: dict[str, Any], data: bytes = b"") -> None:
    answers.write(json.dumps(reply).encode() + b"\n")
    answers.write(data)
    answers.flush()


def _limit_memory(memory: int) -> None:
    try:
        import resource

        own = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (own + memory, own + memory))
    except (ImportError, OSError, ValueError):  # not on Linux
        pass
