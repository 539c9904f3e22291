"""Check what is there of a published dataset before anything is converted: texts, pictures and crops, counts
against the paper's Tables I and II, and which version it is. What `spacy project run check-twitter17` calls.
"""

import argparse
import json
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from check_pictures import CropCheck, PictureCheck, check_crops, check_pictures
from check_report import print_report
from convert_twitter import find_twitter_text
from corpus_writer import make_doc
from dataset_facts import (
    FILES,
    PAPER,
    SPLITS,
    Counts,
    Version,
    count_docs,
    digest_docs,
    name_version,
)
from mnre_docs import to_doc
from mnre_rows import find_mnre_text, group_rows, read_mnre
from spacy.tokens import Doc
from spacy.vocab import Vocab
from tagged_posts import FormatError, check_orphans, read_twitter_text, repair_tags
from wasabi import msg
from workflow_data import Folders, add_folder_arguments, read_folders

METRICS = Path("project/metrics")
UNKNOWN = Version("unknown", "not looked at")


@dataclass
class Report:
    """What was found.

    dataset (str): "twitter15", "twitter17" or "mnre".
    folders (Folders): Where.
    texts (Dict[str, str]): The text file of each split that is there.
    problems (List[str]): Why it can't even be run on texts; nothing else was looked at then.
    counts (Dict[str, Dict[str, int]]): What is in the texts, see `count_docs`.
    version (Version): Which version of the dataset it is.
    digest (str): Of its content, see `digest_docs`.
    pictures (Dict[str, PictureCheck]): By split; empty if no folder of pictures is known.
    crops (Optional[CropCheck]): `None` if no folder of crops is known.
    """

    dataset: str
    folders: Folders
    texts: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    counts: Counts = field(default_factory=dict)
    version: Version = UNKNOWN
    digest: str = ""
    pictures: dict[str, PictureCheck] = field(default_factory=dict)
    crops: CropCheck | None = None

    @property
    def runs(self) -> list[str]:
        """RETURNS (List[str]): "text", "pictures", "objects": what can be run with."""
        if self.problems:
            return []
        found = ["text"]
        # A picture in training and one in the test: less would say nothing about pictures.
        if self.pictures and all(self.pictures[split].there for split in ("train", "test")):
            found.append("pictures")
            if self.crops is not None and self.crops.problem is None:
                found.append("objects")
        return found


def main() -> None:
    """Read the command line, check, print and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_folder_arguments(parser)
    parser.add_argument("--metrics", type=Path, default=METRICS)
    args = parser.parse_args()
    report = check_data(args.dataset, read_folders(args), args.crops_layout, args.orphans, args.tag_column)
    args.metrics.mkdir(parents=True, exist_ok=True)
    path = args.metrics / f"check_{args.dataset}.json"
    path.write_text(json.dumps(to_json(report), indent=2) + "\n", encoding="utf8")
    print_report(report)
    msg.text(f"Written to {path}")
    sys.exit(1 if report.problems else 0)


def check_data(
    dataset: str,
    folders: Folders,
    crops_layout: str = "auto",
    orphans: str = "drop",
    tag_column: int = 0,
) -> Report:
    """Check a dataset.

    dataset (str): "twitter15", "twitter17" or "mnre".
    folders (Folders): Where it is.
    crops_layout (str): "umgf", "hvpnet", "none" (crops are not looked at), or "auto".
    orphans (str): See `tagged_posts.Orphans`.
    tag_column (int): See `tagged_posts.read_twitter_text`.
    RETURNS (Report): What was found. Nothing raises that is wrong with the data.
    """
    report = Report(dataset, folders)
    docs: dict[str, list[Doc]] = {}
    names: dict[str, list[str]] = {}
    begun: dict[str, int] = {}
    for split in SPLITS:
        try:
            path = find_text(dataset, folders.data, split)
            report.texts[split] = str(path)
            docs[split], names[split], begun[split] = read_posts(dataset, path, orphans, tag_column)
        except (FormatError, OSError) as err:
            report.problems.append(str(err))
    if report.problems:
        return report
    report.counts = count_docs(docs)
    report.version = name_version(dataset, report.counts, begun if orphans == "begin" else None)
    report.digest = digest_docs(docs)
    if folders.images is not None and folders.images.is_dir():
        report.pictures = check_pictures(folders.images, names, in_splits=dataset == "mnre")
    if folders.crops is not None and dataset != "mnre" and crops_layout != "none":
        dicts = folders.dicts or folders.data
        name = folders.data.resolve().name
        report.crops = check_crops(folders.crops, crops_layout, dicts, name, names)
    return report


def find_text(dataset: str, data: Path, split: str) -> Path:
    """RETURNS (Path): The text file of a split. Raises `FormatError` if there is none."""
    return find_mnre_text(data, split) if dataset == "mnre" else find_twitter_text(data, split)


def read_posts(
    dataset: str, path: Path, orphans: str, tag_column: int = 0
) -> tuple[list[Doc], list[str], int]:
    """Read a text file as its converter does.

    dataset (str): Which format it has.
    path (Path): The file.
    orphans (str): See `tagged_posts.Orphans`.
    tag_column (int): See `tagged_posts.read_twitter_text`.
    RETURNS (Tuple[List[Doc], List[str], int]): The posts, the file names of their pictures, and how many
        entities begin with `I-`.
    RAISES (FormatError): It is in another format.
    """
    vocab = Vocab()
    if dataset == "mnre":
        rows = read_mnre(path).rows
        groups = group_rows(rows)
        docs = [to_doc(vocab, [rows[i] for i in group], group)[0] for group in groups]
        return docs, [rows[group[0]].image for group in groups], 0
    docs, names, begun = [], [], 0
    policy = check_orphans(orphans)
    for post in read_twitter_text(path, tag_column):
        if post.tokens:
            tags, began = repair_tags(post.tags, policy)
            docs.append(make_doc(vocab, post.tokens, tags))
            names.append(f"{post.id}.jpg")
            begun += began
    return docs, names, begun


def to_json(report: Report) -> dict[str, Any]:
    """RETURNS (Dict[str, Any]): Plain values."""
    return {
        "dataset": report.dataset,
        "runs_with": report.runs,
        "folders": {k: None if v is None else str(v) for k, v in asdict(report.folders).items()},
        "texts": report.texts,
        "problems": report.problems,
        "counts": report.counts,
        "facts": {"as released": FILES[report.dataset], "paper": PAPER[report.dataset]},
        "version": report.version.name,
        "version_details": report.version.details,
        "digest": report.digest,
        "pictures": {split: asdict(check) for split, check in report.pictures.items()},
        "crops": None if report.crops is None else asdict(report.crops),
    }


if __name__ == "__main__":
    main()
