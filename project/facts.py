"""What is known of the published datasets (published.yml), and which version of them a corpus is.

Counts are by split ("all": together) and by what is counted: "posts", "entities" and their types, or for
relations "instances", "None", "overlapping".
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import srsly
from spacy.tokens import Doc
from spacy.vocab import Vocab

from project.config import read_meta
from spacy_mmib.post.boxes import get_boxes, has_boxes
from spacy_mmib.post.relations import Relation, get_relations, has_relations
from spacy_mmib.training.corpus import read_docs

Counts: TypeAlias = dict[str, dict[str, int]]

PUBLISHED: dict[str, dict[str, Any]] = srsly.read_yaml(Path(__file__).with_name("published.yml"))
SPLITS = ("train", "dev", "test")
SPLIT_NAMES = {"train": ("train",), "dev": ("valid", "val", "dev"), "test": ("test",)}
"""Our names of the splits, and those in names of published files."""
NEGATIVE = "None"
"""MNRE's label of a pair without a relation."""
SOURCE_KEY = ("spacy_mmib", "mnre", None, None)
"""In `Doc.user_data` of MNRE's docs: {"image": the published name of the picture's file, there or not,
"rows": the row of each of `doc._.relations`, "split": of the file, "empty": places of the tokens without
characters}.
"""


class Version(NamedTuple):
    """Which version of a dataset a corpus is: "as released", "unknown", or "own" for what is no published
    dataset; and why, in a line.
    """

    name: str
    details: str


def find_dataset(name: str) -> str | None:
    """RETURNS (Optional[str]): The published dataset that a folder of ours is of, "mnre-leaking" of MNRE."""
    return next((known for known in PUBLISHED if name == known or name.startswith(f"{known}-")), None)


def name_version(dataset: str, counts: Counts, begun: Mapping[str, int] | None = None) -> Version:
    """Tell the original release of a dataset from other versions by its counts.

    begun (Optional[Dict[str, int]]): For each split, how many of the entities were orphan `I-` tags, if the
        corpus was converted so that these begin entities.
    """
    known = find_dataset(dataset)
    if known is None:
        return Version("own", "no published dataset")
    if not PUBLISHED[known]["files"]:
        return Version("unknown", "the counts of the original release are not known here")
    differences = []
    for split, facts in PUBLISHED[known]["files"].items():
        found = dict(counts.get(split, {}))
        if begun is not None and "entities" in found:
            # Their types are not known any more.
            found["entities"] -= begun.get(split, 0)
            facts = {what: facts[what] for what in ("posts", "entities")}
        differences += [
            f"{split} {what} {found.get(what, 0)} instead of {number}"
            for what, number in facts.items()
            if found.get(what, 0) != number
        ]
    if differences:
        more = f" and {len(differences) - 4} more" if len(differences) > 4 else ""
        return Version("unknown", f"counts differ: {', '.join(differences[:4])}{more}")
    return Version("as released", "counts equal those of the original release")


def count_docs(splits: Mapping[str, Iterable[Doc]]) -> Counts:
    """Count what the facts are about.

    RETURNS (Dict[str, Dict[str, int]]): The counts. A post is a text with its picture, however many docs it
        is in; "heads and tails", "labels" and "pictures" (that posts name) are of MNRE.
    """
    counts: Counts = {}
    labels, pictures = set(), set()
    for split, docs in splits.items():
        found: Counter[str] = Counter()
        posts = set()
        for number, doc in enumerate(docs):
            source = doc.user_data.get(SOURCE_KEY)
            if source is None:
                posts.add(number)
            else:
                posts.add((source["image"], tuple(token.text for token in doc), tuple(source["empty"])))
                pictures.add(source["image"])
            if has_boxes(doc):
                found.update(count_boxes(doc))
            if not has_relations(doc):
                found.update(entities=len(doc.ents))
                found.update(ent.label_ for ent in doc.ents)
            for relation in get_relations(doc):
                labels.add(relation.label)
                a, b, c, d = get_places(relation)
                found.update(
                    {"instances": 1, NEGATIVE: relation.label == NEGATIVE, "overlapping": a < d and c < b}
                )
        counts[split] = {"posts": len(posts), **found}
    counts["all"] = {"posts": sum(found["posts"] for found in counts.values())}
    if labels:
        instances = sum(found.get("instances", 0) for found in counts.values())
        counts["all"] |= {"heads and tails": 2 * instances, "labels": len(labels), "pictures": len(pictures)}
    return counts


def count_boxes(doc: Doc) -> Counter[str]:
    """RETURNS (Counter[str]): "visible", entities with a box, and "boxes", those of all entities."""
    boxes = [len(get_boxes(ent) or ()) for ent in doc.ents]
    return Counter(visible=sum(map(bool, boxes)), boxes=sum(boxes))


def get_places(relation: Relation) -> tuple[int, int, int, int]:
    """RETURNS (Tuple[int, int, int, int]): First token and one past the last of head and tail."""
    return relation.head.start, relation.head.end, relation.tail.start, relation.tail.end


def digest_docs(splits: Mapping[str, Iterable[Doc]]) -> str:
    """RETURNS (str): 12 hexadecimal digits of the content of a corpus: words, entities, boxes, relations and
    splits; neither paths nor pictures.
    """
    digest = hashlib.sha256()
    for split in sorted(splits):
        for doc in splits[split]:
            relations = None
            if has_relations(doc):
                relations = [(*get_places(relation), relation.label) for relation in get_relations(doc)]
            entities = [(ent.start, ent.end, ent.label_) for ent in doc.ents]
            record: list[Any] = [split, [token.text for token in doc], entities, relations]
            if has_boxes(doc):
                record.append([[box["box"] for box in get_boxes(ent) or ()] for ent in doc.ents])
            digest.update(json.dumps(record).encode() + b"\n")
    return digest.hexdigest()[:12]


def get_dataset_version(folder: Path) -> dict[str, Any]:
    """RETURNS (Dict[str, Any]): Of a converted corpus (of the splits that are there) the "name", which is its
    folder's, "version" and "details" (see `Version`), "digest" (see `digest_docs`) and "regions", which
    objects the converter attached, `None` if no converter has been there.
    """
    paths = {split: folder / f"{split}.spacy" for split in SPLITS}
    splits = {split: list(read_docs(path, Vocab())) for split, path in paths.items() if path.exists()}
    meta = read_meta(folder)
    begun = None
    if meta.get("orphans") == "begin":
        begun = {split: found.get("begin_with_i", 0) for split, found in meta["splits"].items()}
    regions = meta.get("regions")
    name = folder.resolve().name
    version, details = name_version(name, count_docs(splits), begun)
    regions = regions.get("protocol") if isinstance(regions, dict) else regions
    digest = digest_docs(splits)
    return {"name": name, "version": version, "details": details, "digest": digest, "regions": regions}
