"""What the other tests run in forked processes ends as in new ones: what fails there fails here."""

import subprocess
import sys

import pytest
from conftest import run_python
from forked import run_forked


@pytest.mark.parametrize(
    ("code", "returncode", "said"),
    [
        ("print('done')", 0, ""),
        ("import sys; sys.exit(3)", 3, ""),
        ("raise SystemExit('stopped')", 1, "stopped\n"),
        ("import os; os.kill(os.getpid(), 9)", -9, ""),
        ("import threading; threading.Thread(target=print, args=['late']).start()", 0, ""),
        ("1 / 0", 1, "ZeroDivisionError: division by zero\n"),
        ("import nowhere", 1, "ModuleNotFoundError: No module named 'nowhere'\n"),
    ],
)
def test_it_ends_as_a_new_process_does(code, returncode, said):
    new = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    for result in (new, run_forked("-c", code)):
        assert result.returncode == returncode
        assert result.stderr.endswith(said)
        assert bool(result.stderr) == bool(said)
        assert result.stdout == new.stdout


def test_what_it_gets_and_gives(tmp_path, monkeypatch):
    monkeypatch.setenv("MMIB_TEST", "ü")
    lines = "import os, sys\nprint(__name__, sys.argv[1:], os.getcwd(), os.environ['MMIB_TEST'], input())\n"
    (tmp_path / "script.py").write_text(lines)
    expected = f"__main__ ['a', 'b'] {tmp_path} ü read\n"
    for first in (["-c", lines], ["-m", "script"], ["script.py"]):
        result = run_forked(*first, "a", "b", cwd=tmp_path, input="read\n")
        assert (result.stdout, result.stderr, result.returncode) == (expected, "", 0)
    # Nothing of that is left to the next one.
    assert run_forked("-c", "import sys; print('script' in sys.modules, len(sys.argv))").stdout == "False 1\n"


def test_one_that_hangs_is_killed():
    with pytest.raises(subprocess.TimeoutExpired):
        run_forked("-c", "import time; print('here', flush=True); time.sleep(1000)", timeout=1)
    assert run_forked("-c", "print('next')").stdout == "next\n"


def test_it_has_nothing_of_the_tests():
    code = "import sys, spacy; print('conftest' in sys.modules, 'pytest' in sys.modules);"
    code += "print(any('test' in name for name in spacy.registry.architectures.get_all()))"
    assert run_forked("-c", code).stdout == "False False\nFalse\n"


def test_a_failure_fails_the_test():
    with pytest.raises(AssertionError, match="division by zero"):
        run_python("-c", "print('so far'); 1 / 0")
