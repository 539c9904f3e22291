"""What the installed plugin adds to `import spacy` and `spacy.blank("en")`, side by side.

Both sides run the same code in fresh processes, alternating; one of them doesn't see our entry points.
"""

import json
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
import json
print(json.dumps({"seconds": seconds, "modules": len(sys.modules)}))
"""


def measure(side: str) -> dict[str, float]:
    """RETURNS (Dict[str, float]): Seconds, and number of modules imported."""
    command = [sys.executable, "-c", CODE, side]
    result: dict[str, float] = json.loads(subprocess.check_output(command))
    return result


def main(repeats: int = 7) -> None:
    """Print medians over alternating repeats, their difference and their ratio."""
    for side in ("with", "without"):  # fill the disk cache
        measure(side)
    runs: dict[str, list[dict[str, float]]] = {"with": [], "without": []}
    for _ in range(repeats):
        for side, found in runs.items():
            found.append(measure(side))
    seconds = {side: median(run["seconds"] for run in found) for side, found in runs.items()}
    modules = {side: int(median(run["modules"] for run in found)) for side, found in runs.items()}
    added = 1000 * (seconds["with"] - seconds["without"])
    for side in runs:
        print(f"{side:8} {1000 * seconds[side]:8.1f} ms {modules[side]:6} modules")
    ratio = seconds["with"] / seconds["without"]
    print(f"added    {added:8.1f} ms, ratio {ratio:.3f} (medians of {repeats})")


if __name__ == "__main__":
    main()
