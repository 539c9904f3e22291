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


def main(repeats: int = 7) -> None:
    """Print medians over alternating repeats, their difference and their ratio."""
    runs: dict[str, list[dict[str, float]]] = {"with": [], "without": []}
    for _ in range(repeats + 1):  # the first fills the disk cache
        for side, found in runs.items():
            found.append(json.loads(subprocess.check_output([sys.executable, "-c", CODE, side])))
    seconds = {side: median(run["seconds"] for run in found[1:]) for side, found in runs.items()}
    for side, found in runs.items():
        print(f"{side:8} {1000 * seconds[side]:8.1f} ms {found[-1]['modules']:6} modules")
    added, ratio = 1000 * (seconds["with"] - seconds["without"]), seconds["with"] / seconds["without"]
    print(f"added    {added:8.1f} ms, ratio {ratio:.3f} (medians of {repeats})")


if __name__ == "__main__":
    main()
