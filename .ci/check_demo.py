"""Fail if the demo's means over seeds are not what the README promises."""

import json
import sys
from pathlib import Path

scores = json.loads(Path(sys.argv[1]).read_text(encoding="utf8"))["ner"]
checks = {
    "images >= 0.90": scores["images"] >= 0.90,
    "no_images <= 0.60": scores["no_images"] <= 0.60,
    "shuffled <= 0.60": scores["shuffled"] <= 0.60,
}
print({key: round(value, 4) for key, value in scores.items()})
failed = [check for check, ok in checks.items() if not ok]
if failed:
    sys.exit(f"The demo doesn't show what it promises: {', '.join(failed)}")
