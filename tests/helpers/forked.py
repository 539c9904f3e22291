"""Runs `python` in processes forked from one that has imported the heavy packages, which takes a new
interpreter seconds. Our own package is imported by each of them (but for the few lines that spaCy imports
with itself), and found by its entry points.

For tests of what a command does. What an interpreter imports, reads from its environment (PYTHONHASHSEED and
the like) or finds installed needs a new one, and so does what is to be killed.
"""

import gc
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from types import ModuleType

HEAVY = ("spacy.cli", "spacy_transformers", "torchvision", "sklearn.linear_model")
"""What is imported before the fork: other packages only, those that are installed."""
ENVIRON = {**os.environ, "PYTHONIOENCODING": "utf8"}
"""What the server starts with, whatever the test has set that is the first to need it."""


def run_forked(*args, cwd=None, input="", stdout=None, timeout=240) -> subprocess.CompletedProcess:
    """What `python` does with these words: `-m MODULE ...`, `-c CODE ...` or a file and its arguments.

    cwd (Optional[Path]): The folder to be in. Default: the current one.
    input (str): What is read from standard input.
    stdout (Optional[IO]): A file or a pipe to write to, instead of returning it.
    timeout (float): Seconds after which it is killed, with all it has started.
    RETURNS (subprocess.CompletedProcess): As `subprocess.run` does, with text.
    RAISES (subprocess.TimeoutExpired): It took longer.
    """
    command = [str(arg) for arg in args]
    if not sys.platform.startswith("linux"):  # nothing else forks well
        return subprocess.run(
            [sys.executable, *command], cwd=cwd, input=input, stdout=stdout or subprocess.PIPE,
            stderr=subprocess.PIPE, timeout=timeout, encoding="utf8", check=False,
        )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        streams = [Path(folder) / name for name in ("in", "out", "err")]
        for path, text in zip(streams, (input, "", "")):
            path.write_text(text, encoding="utf8")
        request = {"command": command, "cwd": str(cwd or os.getcwd()), "environ": dict(os.environ)}
        request["streams"] = [str(path) for path in streams]
        if stdout is not None:
            request["streams"][1] = f"/proc/{os.getpid()}/fd/{stdout.fileno()}"
        server = _start_server()
        print(json.dumps(request), file=server.stdin, flush=True)
        pid, late = int(server.stdout.readline()), threading.Event()
        timer = threading.Timer(timeout, lambda: (late.set(), os.killpg(pid, signal.SIGKILL)))
        timer.start()
        code = int(server.stdout.readline())
        timer.cancel()
        out, err = (path.read_text(encoding="utf8") for path in streams[1:])
    if late.is_set():
        raise subprocess.TimeoutExpired(command, timeout, out, err)
    return subprocess.CompletedProcess([sys.executable, *command], code, out, err)


@lru_cache
def _start_server() -> subprocess.Popen:
    """It ends with this process, which closes its standard input."""
    return subprocess.Popen(
        [sys.executable, __file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        encoding="utf8",
        env=ENVIRON,
    )


def _wait_for_requests() -> dict | None:
    """In the server: forks for each request, and answers with the process's number, then its exit code.

    RETURNS (Optional[dict]): In a forked process its request, in the server nothing when no more can come.
    """
    for line in iter(sys.stdin.readline, ""):
        pid = os.fork()
        if pid == 0:
            return json.loads(line)
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
    return None


def _execute(command: list[str], cwd: str, streams: list[str], environ: dict[str, str]) -> None:
    """What a new interpreter would do. What is raised ends this process, as it would end that one."""
    import numpy

    os.setsid()
    for number, (path, mode) in enumerate(zip(streams, ("rb", "ab", "ab"))):
        with open(path, mode) as file:
            os.dup2(file.fileno(), number)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environ)
    numpy.random.seed()  # others are seeded anew by Python, or always begin alike
    first, *rest = command
    if first == "-c":
        sys.path[0], sys.argv = "", ["-c", *rest[1:]]
        main = sys.modules["__main__"] = ModuleType("__main__")
        exec(compile(rest[0], "<string>", "exec"), vars(main))
    elif first == "-m":
        sys.path[0], sys.argv = cwd, ["-m", *rest[1:]]
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.path[0], sys.argv = str(Path(first).resolve().parent), command
        runpy.run_path(first, run_name="__main__")


if __name__ == "__main__":
    for name in HEAVY:
        with suppress(ModuleNotFoundError):
            importlib.import_module(name)
    assert len(os.listdir("/proc/self/task")) == 1  # a fork would have none of the others
    gc.collect()
    gc.freeze()  # or the last collection of each fork would write to all of its memory, for two seconds
    request = _wait_for_requests()
    if request is not None:
        _execute(**request)
