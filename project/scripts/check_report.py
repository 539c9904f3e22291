"""Print what check_data.py found."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dataset_facts import FILES, NOTES, PAPER, SPLITS, TITLES
from wasabi import msg
from workflow_data import SOURCES, explain_texts

if TYPE_CHECKING:
    from check_data import Report

TABLES = {"twitter15": "Table I", "twitter17": "Table I", "mnre": "Table II"}
LEAKING = (
    "MNRE's published crops leak the label and are not used here; to compare with systems that use them see "
    "'convert-mnre-leaking'."
)


def compare_counts(report: "Report") -> list[tuple[str, str, str, str, str]]:
    """RETURNS (List[Tuple[str, ...]]): Lines of a table: split and what is counted, here, in the files in
    circulation, in the paper, and the difference to the paper.
    """
    lines = []
    files, paper = FILES[report.dataset], PAPER[report.dataset]
    for split in (*SPLITS, "all"):
        for what in dict.fromkeys([*files.get(split, {}), *paper.get(split, {})]):
            number = report.counts.get(split, {}).get(what, 0)
            known, printed = (facts.get(split, {}).get(what) for facts in (files, paper))
            mark = "" if known in (None, number) else "! "
            difference = "" if printed is None else _show_difference(number - printed)
            lines.append((f"{split} {what}", f"{mark}{number:,}", _show(known), _show(printed), difference))
    return lines


def print_report(report: "Report") -> None:
    """Print what was found: texts, counts, version, pictures, crops, and what to do."""
    msg.divider(f"{TITLES[report.dataset]} in {report.folders.data}")
    for split, path in report.texts.items():
        msg.good(f"{split}: {path}")
    for problem in report.problems:
        msg.fail(problem)
    if report.counts:
        head = ("Counts", "here", "as released", f"paper, {TABLES[report.dataset]}", "difference")
        msg.table(compare_counts(report), header=head, aligns=("l", "r", "r", "r", "r"), divider=True)
        if NOTES[report.dataset]:
            msg.text(NOTES[report.dataset])
        show = msg.good if report.version.name == "as released" else msg.warn
        show(f"Version: {report.version} ({report.version.details}); content {report.digest}")
        _print_pictures(report)
        _print_crops(report)
    _print_verdict(report)


def _print_pictures(report: "Report") -> None:
    images = report.folders.images
    if images is None:
        msg.warn("Pictures: no folder is known (--vars.images FOLDER).")
    elif not images.is_dir():
        msg.fail(f"Pictures: there is no folder {images}.")
    for split, check in report.pictures.items():
        line = f"{split} pictures: {check.there:,} of {check.posts:,} posts"
        if check.there == check.posts:
            msg.good(line)
            continue
        msg.warn(f"{line}; {check.missing:,} missing, {check.unreadable:,} unreadable ({check.example})")


def _print_crops(report: "Report") -> None:
    crops = report.crops
    if report.dataset == "mnre":
        if report.folders.crops is not None:
            msg.warn(LEAKING)
    elif crops is None:
        msg.warn("Objects: no folder of crops is known (--vars.crops FOLDER).")
    elif crops.problem is not None:
        msg.fail(f"Objects: {crops.problem}")
    else:
        posts = ", ".join(f"{split} {number:,}" for split, number in crops.posts.items())
        show = msg.warn if crops.missing else msg.good
        show(
            f"Objects: {crops.crops:,} crops in the layout of {crops.layout}, {crops.missing:,} missing; "
            f"posts with a crop: {posts}"
        )


def _print_verdict(report: "Report") -> None:
    msg.divider("What can be run")
    dataset, runs = report.dataset, report.runs
    if not runs:
        msg.fail(f"Nothing. {explain_texts(dataset, report.folders.data)}")
        return
    with_what = {1: "on its TEXT ONLY", 2: "with its pictures", 3: "with pictures and objects"}
    show = msg.good if "pictures" in runs else msg.warn
    show(f"{TITLES[dataset]} can be run {with_what[len(runs)]}.")
    for line in list_missing(report):
        msg.text(f"- {line}")


def list_missing(report: "Report") -> Sequence[str]:
    """RETURNS (List[str]): What to get or to pass for what can't be run yet."""
    lines = []
    lacking = sum(check.posts - check.there for check in report.pictures.values())
    if "pictures" not in report.runs:
        lines.append(
            "For the paper's setting get the pictures, and name their folder with --vars.images: "
            f"{SOURCES[report.dataset]}. Numbers without them are not the paper's."
        )
    elif lacking:
        lines.append(f"{lacking:,} posts will be processed from their text alone: see above.")
    if report.dataset == "mnre":
        lines.append(
            "For objects search for them: a region getter in the config (--vars.config), such as "
            "spacy-mmib.grounding.v1."
        )
    elif "objects" not in report.runs:
        lines.append(
            "For objects get the crops in UMGF's or HVPNeT's layout (--vars.crops, for HVPNeT's --vars.dicts "
            "too), or search for them: a region getter in the config (--vars.config). Both need the pictures."
        )
    return lines


def _show(number: int | None) -> str:
    return "" if number is None else f"{number:,}"


def _show_difference(number: int) -> str:
    return f"{number:+,}" if number else "0"
