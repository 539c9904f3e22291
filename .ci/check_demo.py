"""Fail if the demo's means over seeds are not what the README promises."""

import json
import sys
from pathlib import Path

metrics = json.loads(Path(sys.argv[1]).read_text(encoding="utf8"))
entities, relations = metrics["ner"], metrics["rel"]
checks = {
    "entities with pictures >= 0.95": entities["images"] >= 0.95,
    "entities without pictures <= 0.60": entities["no_images"] <= 0.60,
    # The margin is for the noise between seeds and machines.
    "entities without pictures >= those of the text alone - 0.03": entities["no_images"]
    >= entities["text_only"] - 0.03,
    "entities with shuffled pictures <= 0.60": entities["shuffled"] <= 0.60,
    "relations with pictures >= 0.85": relations["images"] >= 0.85,
    "relations without pictures <= 0.55": relations["no_images"] <= 0.55,
    "relations without pictures >= those of the text alone - 0.03": relations["no_images"]
    >= relations["text_only"] - 0.03,
    "relations with shuffled pictures <= 0.55": relations["shuffled"] <= 0.55,
    "entities with their objects (GMNER), trained with boxes >= 0.90": metrics["gmner"]["pointer"] >= 0.90,
}
for kind, scores in (("entities", entities), ("relations", relations), ("gmner", metrics["gmner"])):
    print(kind, {key: round(value, 4) for key, value in scores.items()})
failed = [check for check, ok in checks.items() if not ok]
if failed:
    sys.exit(f"The demo doesn't show what it promises: {', '.join(failed)}")
