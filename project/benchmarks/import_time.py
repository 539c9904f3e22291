"""What the installed plugin adds to `import spacy` and `spacy.blank("en")`, side by side.

Both sides run the same code in fresh processes, alternating; one of them doesn't see our entry points.
"""

import subprocess
import sys
from statistics import median

CODE = """
import sys, time
import catalogue  # reads the entry points
if sys.argv[1] == "without":
    entry_points = catalogue.Registry._get_entry_points
    catalogue.Registry._get_entry_points = lambda self: [
        e for e in entry_points(self) if not e.value.startswith("spacy_mmib")
    ]
start = time.perf_counter()
import spacy
nlp = spacy.blank("en")
seconds = time.perf_counter() - start
assert any(m.startswith("spacy_mmib") for m in sys.modules) == (sys.argv[1] == "with"), sys.argv
print(seconds)
"""


def main(repeats: int = 7) -> None:
    """Print medians over alternating repeats, their difference and their ratio."""
    seconds: dict[str, list[float]] = {"with": [], "without": []}
    for _ in range(repeats + 1):  # the first fills the disk cache
        for side, found in seconds.items():
            found.append(float(subprocess.check_output([sys.executable, "-c", CODE, side])))
    ours, bare = (1000 * median(found[1:]) for found in seconds.values())
    print(f"with {ours:.1f} ms, without {bare:.1f} ms (medians of {repeats})")
    print(f"added {ours - bare:.1f} ms, ratio {ours / bare:.3f}")


if __name__ == "__main__":
    main()
