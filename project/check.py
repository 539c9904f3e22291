"""Check what is there of a published dataset before anything is converted: texts, pictures and crops, counts
against the paper's Tables I and II, and which version it is. `python -m project.check twitter17 --data
FOLDER`.
"""

import json
import sys
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from wasabi import msg

from project import pictures as opts
from project.facts import PUBLISHED, SPLITS, Counts, Version, count_docs, digest_docs, name_version
from project.gmner import add_boxes
from project.mnre import find_mnre_text, read_mnre_split
from project.pictures import (
    Folders,
    check_folder,
    explain_texts,
    find_crops,
    find_folders,
    find_picture,
    guess_layout,
)
from project.tagged import FormatError, Split, find_twitter_text, read_tagged, read_twitter_text
from project.wikidiverse import find_wikidiverse_text, read_wikidiverse
from spacy_mmib.images.reading import ImageError, probe_image
from spacy_mmib.regions.crops import LayoutError

UNKNOWN = Version("unknown", "not looked at")


@dataclass
class Report:
    """What was found: `problems` say why it can't even be run on texts; nothing else was looked at then. See
    `check_pictures` (by split) and `check_crops` for the others.
    """

    dataset: str
    folders: Folders
    texts: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    counts: Counts = field(default_factory=dict)
    version: Version = UNKNOWN
    digest: str = ""
    pictures: dict[str, dict[str, Any]] = field(default_factory=dict)
    crops: dict[str, Any] | None = None

    @property
    def runs(self) -> list[str]:
        """RETURNS (List[str]): "text", "pictures", "objects": what can be run with."""
        if self.problems:
            return []
        found = ["text"]
        # A picture in training and one in the test: less would say nothing about pictures.
        if self.pictures and all(self.pictures[split]["there"] for split in ("train", "test")):
            found.append("pictures")
            if self.crops is not None and self.crops["problem"] is None:
                found.append("objects")
        return found


def main(
    dataset: Annotated[str, typer.Argument(help=", ".join(PUBLISHED))],
    data: opts.Data = "",
    images: opts.Images = "",
    crops: opts.Crops = "",
    crops_layout: opts.Layout = "auto",
    dicts: opts.Dicts = "",
    orphans: opts.OrphanTags = "drop",
    tag_column: opts.TagColumn = 0,
    metrics: Path = Path("project/metrics"),
) -> None:
    """Check a dataset, print and write what was found."""
    if dataset not in PUBLISHED:
        msg.fail(f"{dataset!r} is no published dataset: choose {', '.join(PUBLISHED)}.", exits=1)
    folders = find_folders(dataset, data, images, crops, dicts)
    report = check_data(dataset, folders, crops_layout, orphans, tag_column)
    metrics.mkdir(parents=True, exist_ok=True)
    path = metrics / f"check_{dataset}.json"
    facts = {"as released": PUBLISHED[dataset]["files"], "paper": PUBLISHED[dataset]["paper"]}
    found = asdict(report) | {"runs_with": report.runs, "folders": folders._asdict(), "facts": facts}
    found["version"], found["version_details"] = report.version
    path.write_text(json.dumps(found, indent=2, default=str) + "\n", encoding="utf8")
    print_report(report)
    msg.text(f"Written to {path}")
    sys.exit(1 if report.problems else 0)


def check_data(
    dataset: str,
    folders: Folders,
    crops_layout: str = "auto",
    orphans: str = "drop",
    tag_column: int = 0,
    *,
    data_format: str = "",
) -> Report:
    """Check a dataset.

    data_format (str): "twitter" or "mnre", if the dataset's name doesn't say it.
    crops_layout (str): "umgf", "hvpnet", "none" (crops are not looked at), or "auto".
    RETURNS (Report): What was found. Nothing raises that is wrong with the data.
    """
    report = Report(dataset, folders)
    splits: dict[str, Split] = {}
    kind = data_format or PUBLISHED[dataset]["format"]
    mnre = kind == "mnre"
    finders = {"mnre": find_mnre_text, "wikidiverse": find_wikidiverse_text}
    for split in SPLITS:
        try:
            path = finders.get(kind, find_twitter_text)(folders.data, split)
            report.texts[split] = str(path)
            if mnre:
                splits[split] = read_mnre_split(path, split)
            elif kind == "wikidiverse":
                splits[split] = read_wikidiverse(path)
            else:
                splits[split] = read_tagged(read_twitter_text(path, tag_column), orphans)
        except (FormatError, OSError) as err:
            report.problems.append(str(err))
    try:
        if kind == "gmner" and not report.problems:
            add_boxes(folders.data, splits)
    except FormatError as err:
        report.problems.append(str(err))
    if report.problems:
        return report
    docs = {split: found.docs for split, found in splits.items()}
    names = {split: found.pictures for split, found in splits.items()}
    begun = {split: found.counts["begin_with_i"] for split, found in splits.items()}
    report.counts = count_docs(docs)
    report.version = name_version(dataset, report.counts, begun if orphans == "begin" else None)
    report.digest = digest_docs(docs)
    if folders.images is not None and folders.images.is_dir():
        report.pictures = {
            split: check_pictures(folders.images, found, split if mnre else None)
            for split, found in names.items()
        }
    if folders.crops is not None and kind in ("twitter", "gmner") and crops_layout != "none":
        report.crops = check_crops(folders, folders.crops, crops_layout, names)
    return report


def check_pictures(images: Path, names: list[str], split: str | None) -> dict[str, Any]:
    """Look for the picture of each post, and read its header.

    split (Optional[str]): Look in the folder of this split first, as the converter of MNRE does.
    RETURNS (Dict[str, Any]): Of how many "posts" they are "there", "missing", and "unreadable" or outside the
        folder; and an "example" of why.
    """
    root = images.resolve()
    check: dict[str, Any] = {"posts": len(names), "there": 0, "missing": 0, "unreadable": 0, "example": None}
    for name, posts in Counter(names).items():
        try:
            probe_image(str(root / find_picture(root, name, root, split)))
            check["there"] += posts
        except ImageError as err:
            check["missing" if err.kind == "missing" else "unreadable"] += posts
            check["example"] = check["example"] or str(err)
    return check


def check_crops(folders: Folders, crops: Path, layout: str, names: dict[str, list[str]]) -> dict[str, Any]:
    """RETURNS (Dict[str, Any]): Of posts whose pictures have these names the "layout" of the crops, by split
    how many "posts" have one, "crops" that are there, those "missing", and the "problem" with them.
    """
    check: dict[str, Any] = {"layout": layout, "posts": {}, "crops": 0, "missing": 0, "problem": None}
    try:
        check_folder(crops)
        check["layout"] = layout if layout != "auto" else guess_layout(crops, names["train"])
        dicts, name = folders.dicts or folders.data, folders.data.resolve().name
        for split, pictures in names.items():
            find = find_crops(crops, check["layout"], dicts, name, split, crops.resolve())
            found = [find(picture) for picture in pictures]
            check["posts"][split] = sum(bool(there) for there, _ in found)
            check["crops"] += sum(len(there) for there, _ in found)
            check["missing"] += sum(missing for _, missing in found)
        if not check["crops"]:
            raise LayoutError(f"None of the posts' crops is in {crops}.")
    except LayoutError as err:
        check["problem"] = str(err)
    return check


def compare_counts(report: Report) -> list[tuple[str, str, str, str, str]]:
    """RETURNS (List[Tuple[str, ...]]): Lines of a table: split and what is counted, here, in the files in
    circulation, in the paper, and the difference to the paper.
    """
    lines = []
    for split in (*SPLITS, "all"):
        files, paper = (PUBLISHED[report.dataset][which].get(split, {}) for which in ("files", "paper"))
        for what in {**files, **paper} or report.counts.get(split, {}):
            number = report.counts.get(split, {}).get(what, 0)
            known, printed = files.get(what), paper.get(what)
            shown = ["" if value is None else f"{value:,}" for value in (known, printed)]
            mark = "" if known in (None, number) else "! "
            difference = "" if printed is None else f"{number - printed:+,}" if number != printed else "0"
            lines.append((f"{split} {what}", f"{mark}{number:,}", *shown, difference))
    return lines


def print_report(report: Report) -> None:
    """Print what was found: texts, counts, version, pictures, crops, and what to do."""
    facts = PUBLISHED[report.dataset]
    msg.divider(f"{facts['title']} in {report.folders.data}")
    for split, path in report.texts.items():
        msg.good(f"{split}: {path}")
    for problem in report.problems:
        msg.fail(problem)
    if report.counts:
        head = ("Counts", "here", "as released", f"paper {facts['table']}".strip(), "difference")
        msg.table(compare_counts(report), header=head, aligns=("l", "r", "r", "r", "r"), divider=True)
        if facts["note"]:
            msg.text(facts["note"])
        show = msg.good if report.version.name == "as released" else msg.warn
        show(f"Version: {report.version.name} ({report.version.details}); content {report.digest}")
        print_pictures(report)
    msg.divider("What can be run")
    if not report.runs:
        msg.fail(f"Nothing. {explain_texts(report.dataset, report.folders.data)}")
        return
    with_what = {1: "on its TEXT ONLY", 2: "with its pictures", 3: "with pictures and objects"}
    show = msg.good if "pictures" in report.runs else msg.warn
    show(f"{facts['title']} can be run {with_what[len(report.runs)]}.")
    for line in list_missing(report):
        msg.text(f"- {line}")


def print_pictures(report: Report) -> None:
    """Print which pictures and crops are there, if a folder of them is known."""
    images, crops = report.folders.images, report.crops
    if images is not None and not images.is_dir():
        msg.fail(f"Pictures: there is no folder {images}.")
    for split, check in report.pictures.items():
        line = f"{split} pictures: {check['there']:,} of {check['posts']:,} posts"
        if check["there"] == check["posts"]:
            msg.good(line)
        else:
            why = f"{check['missing']:,} missing, {check['unreadable']:,} unreadable ({check['example']})"
            msg.warn(f"{line}; {why}")
    if crops is not None and crops["problem"] is not None:
        msg.fail(f"Objects: {crops['problem']}")
    elif crops is not None:
        show = msg.warn if crops["missing"] else msg.good
        posts = ", ".join(f"{split} {number:,}" for split, number in crops["posts"].items())
        missing = f"{crops['missing']:,} missing; posts with a crop: {posts}"
        show(f"Objects: {crops['crops']:,} crops in the layout of {crops['layout']}, {missing}")


def list_missing(report: Report) -> list[str]:
    """RETURNS (List[str]): What to get or to pass for what can't be run yet."""
    lines = []
    lacking = sum(check["posts"] - check["there"] for check in report.pictures.values())
    if "pictures" not in report.runs:
        lines.append(
            "For the paper's setting get the pictures, and name their folder with --vars.images: "
            f"{PUBLISHED[report.dataset]['source']}. Numbers without them are not the paper's."
        )
    elif lacking:
        lines.append(f"{lacking:,} posts will be processed from their text alone: see above.")
    if report.dataset == "mnre":
        lines.append(
            "For objects search for them: a region getter in the config (--vars.config), such as "
            "spacy-mmib.grounding.v1. The published crops leak the label and are not used here; to compare "
            "with systems that use them see 'convert-mnre-leaking'."
        )
    elif "objects" not in report.runs and report.dataset != "wikidiverse":
        lines.append(
            "For objects get the crops in UMGF's or HVPNeT's layout (--vars.crops, for HVPNeT's --vars.dicts "
            "too), or search for them: a region getter in the config (--vars.config). Both need the pictures."
        )
    return lines


if __name__ == "__main__":
    typer.run(main)
