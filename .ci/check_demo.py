"""Fail if the demo's means over seeds are not what the README promises."""

import json
import sys
from pathlib import Path
from statistics import variance

metrics = json.loads(Path(sys.argv[1]).read_text(encoding="utf8"))
entities, relations = metrics["ner"], metrics["rel"]


def get_floor(task: str) -> float:
    """RETURNS (float): What the F1 without pictures must reach: that of the text alone less 0.02, and less
    two standard errors of the difference. On another machine trainings differ in rounding, which is like
    another seed.
    """
    by_seed = metrics["by_seed"][task]
    both = [by_seed[key] for key in ("no_images", "text_only")]
    error = sum(variance(found) / len(found) for found in both if len(found) > 1) ** 0.5
    return metrics[task]["text_only"] - 0.02 - 2 * error


checks = {
    "entities with pictures >= 0.95": entities["images"] >= 0.95,
    "entities without pictures <= 0.60": entities["no_images"] <= 0.60,
    "entities without pictures >= those of the text alone": entities["no_images"] >= get_floor("ner"),
    "entities with shuffled pictures <= 0.60": entities["shuffled"] <= 0.60,
    "relations with pictures >= 0.85": relations["images"] >= 0.85,
    "relations without pictures <= 0.55": relations["no_images"] <= 0.55,
    "relations without pictures >= those of the text alone": relations["no_images"] >= get_floor("rel"),
    "relations with shuffled pictures <= 0.55": relations["shuffled"] <= 0.55,
    "entities with their objects (GMNER), trained with boxes >= 0.90": metrics["gmner"]["pointer"] >= 0.90,
}
for kind, scores in (("entities", entities), ("relations", relations), ("gmner", metrics["gmner"])):
    print(kind, {key: round(value, 4) for key, value in scores.items()})
failed = [check for check, ok in checks.items() if not ok]
if failed:
    sys.exit(f"The demo doesn't show what it promises: {', '.join(failed)}")
