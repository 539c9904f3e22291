"""What is known of the published datasets, and which version of them a corpus is.

Numbers are by split and by what is counted: "posts", "entities" and their types, or for relations
"instances", "None", "overlapping".
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias, TypedDict

from mnre_docs import SOURCE_KEY
from published import find_dataset
from spacy.tokens import Doc
from spacy.vocab import Vocab

from spacy_mmib.post.relations import get_relations, has_relations
from spacy_mmib.training.corpus import read_docs

Counts: TypeAlias = dict[str, dict[str, int]]
"""By split and by what is counted; "all" are all splits together."""

SPLITS = ("train", "dev", "test")
NEGATIVE = "None"
"""MNRE's label of a pair without a relation."""

TITLES = {"twitter15": "Twitter-2015", "twitter17": "Twitter-2017", "mnre": "MNRE"}


def _tagged(posts: int, entities: int, per: int, loc: int, org: int, misc: int) -> dict[str, int]:
    types = {"PER": per, "LOC": loc, "ORG": org, "MISC": misc}
    return {"posts": posts, "entities": entities, **types}


PAPER: dict[str, Counts] = {
    "twitter15": {
        "train": _tagged(4000, 7176, 2217, 2091, 928, 940),
        "dev": _tagged(1000, 1546, 552, 522, 247, 225),
        "test": _tagged(3257, 5078, 1816, 1697, 939, 726),
    },
    "twitter17": {
        "train": _tagged(3373, 6049, 2943, 731, 1674, 701),
        "dev": _tagged(723, 1324, 626, 173, 375, 150),
        "test": _tagged(723, 1351, 621, 178, 395, 157),
    },
    "mnre": {"all": {"posts": 9201, "heads and tails": 30970, "labels": 23, "pictures": 9201}},
}
"""Tables I and II, as printed. Two of Table I's sums are not those of its own lines: its types of
Twitter-2015 add up to 6,176 in train and to 5,178 in test."""

FILES: dict[str, Counts] = {
    "twitter15": {
        "train": _tagged(4000, 6166, 2217, 2091, 927, 931),
        "dev": _tagged(1000, 1541, 552, 522, 247, 220),
        "test": _tagged(3257, 5072, 1816, 1697, 839, 720),
    },
    "twitter17": PAPER["twitter17"],
    "mnre": {
        "train": {"posts": 7356, "instances": 12247, NEGATIVE: 7744, "overlapping": 59},
        "dev": {"posts": 931, "instances": 1624, NEGATIVE: 1000, "overlapping": 3},
        "test": {"posts": 914, "instances": 1614, NEGATIVE: 974, "overlapping": 5},
        "all": {"posts": 9201, "heads and tails": 30970, "labels": 23, "pictures": 9201},
    },
}
"""What is in the original release, as it circulates; an entity is what begins with `B-`."""

NOTES = {
    "twitter15": "Table I's figures for Twitter-2015 are not those of the files in circulation, whoever "
    "counts them (its ORG of test, 939, and its totals of train and test don't add up either). A corrected "
    "re-annotation circulates, too (HVPNeT's download), whose scores can't be compared with those of the "
    "original.",
    "twitter17": "",
    "mnre": "Table II counts pairs of text and picture as sentences, and a head and a tail for each instance "
    "as entities.",
}

VersionName: TypeAlias = Literal["as released", "unknown", "own"]


class Version(NamedTuple):
    """Which version of a dataset a corpus is.

    name (str): "as released", "unknown", or "own" for what is no published dataset.
    details (str): Why, in a line.
    """

    name: VersionName
    details: str

    def __str__(self) -> str:
        return f"{self.name} version" if self.name == "unknown" else self.name


class DatasetVersion(TypedDict):
    """What results are filed under; see `get_dataset_version`."""

    name: str
    version: VersionName
    details: str
    digest: str
    regions: str | None


def name_version(dataset: str, counts: Counts, begun: Mapping[str, int] | None = None) -> Version:
    """Tell the original release of a dataset from other versions by its counts.

    dataset (str): A name such as "twitter17", or of anything else.
    counts (Dict[str, Dict[str, int]]): What is in the corpus, see `count_docs`.
    begun (Optional[Dict[str, int]]): For each split, how many of the entities were orphan `I-` tags, if the
        corpus was converted so that these begin entities.
    RETURNS (Version): The version.
    """
    known = find_dataset(dataset)
    if known is None:
        return Version("own", "no published dataset")
    differences = []
    for split, facts in FILES[known].items():
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

    splits (Dict[str, Iterable[Doc]]): Converted posts.
    RETURNS (Dict[str, Dict[str, int]]): The counts. A post is a text with its picture, however many docs it
        is in; "heads and tails", "labels" and "pictures" (that posts name) are of MNRE.
    """
    counts: Counts = {}
    labels: set[str] = set()
    pictures: set[str] = set()
    for split, docs in splits.items():
        found: dict[str, int] = {}
        posts: set[Any] = set()
        for number, doc in enumerate(docs):
            posts.add(_identify(doc, number))
            if has_relations(doc):
                labels |= _count_relations(doc, found)
                pictures.add(doc.user_data.get(SOURCE_KEY, {}).get("image", ""))
            else:
                found["entities"] = found.get("entities", 0) + len(doc.ents)
                for ent in doc.ents:
                    found[ent.label_] = found.get(ent.label_, 0) + 1
        counts[split] = {"posts": len(posts), **found}
    counts["all"] = {"posts": sum(found["posts"] for found in counts.values())}
    if labels:
        instances = sum(found.get("instances", 0) for found in counts.values())
        counts["all"] |= {"heads and tails": 2 * instances, "labels": len(labels)}
        counts["all"]["pictures"] = len(pictures)
    return counts


def digest_docs(splits: Mapping[str, Iterable[Doc]]) -> str:
    """Digest the content of a corpus: words, entities, relations and splits; neither paths nor pictures.

    splits (Dict[str, Iterable[Doc]]): The posts.
    RETURNS (str): 12 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for split in sorted(splits):
        for doc in splits[split]:
            relations = None
            if has_relations(doc):
                relations = [
                    (r.head.start, r.head.end, r.tail.start, r.tail.end, r.label) for r in get_relations(doc)
                ]
            entities = [(ent.start, ent.end, ent.label_) for ent in doc.ents]
            record = (split, [token.text for token in doc], entities, relations)
            digest.update(json.dumps(record).encode() + b"\n")
    return digest.hexdigest()[:12]


def get_dataset_version(folder: Path) -> DatasetVersion:
    """Say what a converted corpus is.

    folder (Path): With train.spacy, dev.spacy and test.spacy (those that are there count), and meta.json if a
        converter wrote it. Its name is the dataset's.
    RETURNS (DatasetVersion): "name", "version" (see `Version`), "details", "digest" (see `digest_docs`) and
        "regions", which objects the converter attached, `None` if none has.
    """
    splits = {}
    for split in SPLITS:
        path = folder / f"{split}.spacy"
        if path.exists():
            splits[split] = list(read_docs(path, Vocab()))
    path = folder / "meta.json"
    meta = json.loads(path.read_text(encoding="utf8")) if path.exists() else {}
    begun = None
    if meta.get("orphans") == "begin":
        begun = {split: found.get("begin_with_i", 0) for split, found in meta["splits"].items()}
    regions = meta.get("regions")
    name = folder.resolve().name
    version = name_version(name, count_docs(splits), begun)
    return {
        "name": name,
        "version": version.name,
        "details": version.details,
        "digest": digest_docs(splits),
        "regions": regions.get("protocol") if isinstance(regions, dict) else regions,
    }


def _identify(doc: Doc, number: int) -> Any:
    """RETURNS (Any): The same for docs of the same post; tagged posts are a doc each."""
    source = doc.user_data.get(SOURCE_KEY)
    if source is None:
        return number
    return source["image"], tuple(token.text for token in doc), tuple(source["empty"])


def _count_relations(doc: Doc, found: dict[str, int]) -> set[str]:
    """RETURNS (Set[str]): The labels of a post's relations, which are counted."""
    relations = get_relations(doc)
    for what, number in (
        ("instances", len(relations)),
        (NEGATIVE, sum(r.label == NEGATIVE for r in relations)),
        (
            "overlapping",
            sum(max(r.head.start, r.tail.start) < min(r.head.end, r.tail.end) for r in relations),
        ),
    ):
        found[what] = found.get(what, 0) + number
    return {relation.label for relation in relations}
