"""`spacy mmib audit`: what of a corpus's labels can be told without looking at its content."""

from typing import Annotated, Any

from typer import Option
from wasabi import msg

from ..evaluation.audit import FEATURES, TASKS, audit
from . import app

HEADER = ("Feature", "Accuracy", "Majority", "Gain", "95 %", "Information", "")


@app.command("audit", output=())
def audit_cli(
    corpus: app.CorpusArg,
    image_root: app.ImageRootOpt = None,
    negative_label: Annotated[
        str, Option("--negative-label", "-n", help="Label of pairs that are not related")
    ] = "None",
    folds: Annotated[int, Option("--folds", "-k", min=2, help="Folds of the cross-validation")] = 5,
    seed: app.SeedOpt = 0,
    output: app.ResultOpt = None,
) -> None:
    """Tell how far things that are not content predict the labels of a corpus.

    Number of regions, picture or not, size of the picture, length of the text, order of head and
    tail: small decision trees learn from them alone, and are tested on posts they have not seen,
    against always saying the most frequent label. What beats it with 95 % confidence is flagged. A
    flag is a finding, not a failure: the exit code is 0 whenever something could be measured or
    there was nothing to measure.

    Needs scikit-learn: pip install "spacy-mmib[audit]".
    """
    result = audit(corpus, image_root=image_root, negative_label=negative_label, folds=folds, seed=seed)
    print_audit(result)
    if output is not None:
        app.save(output, result, "the result")


def print_audit(result: dict[str, Any]) -> None:
    """Print what `spacy_mmib.evaluation.audit.audit` returns, as tables."""
    posts, different, pictures = result["posts"], result["different_posts"], result["pictures"]
    msg.divider(f"{posts} posts")
    msg.text(
        f"{different} different ones (posts with the same text or the same picture count as one); "
        f"{pictures['stated']} with a picture, {pictures['unreadable']} of them unreadable"
    )
    for leak in result["leaks"]:
        msg.warn(f"The regions of {leak['posts']} posts are known to leak: {leak['note']}")
    for problem, n in result["problems"].items():
        msg.warn(f"{n} posts have {problem}: counted as if there were none.")
    for name, task in result["tasks"].items():
        _print_task(TASKS[name], task)
    for name, reason in result["left_out"].items():
        msg.info(f"{TASKS[name]}: not measured, because {reason}.")
    features = [f for task in result["tasks"].values() for f in task["features"].values() if f["measured"]]
    if not features:
        msg.warn("Nothing could be measured.")
        return
    msg.text(
        "Gain: of accuracy over always saying the most frequent label, in points, with an interval that "
        "holds for all features of a table together. Information: how much of what there is to know about "
        "the label the feature tells, in %."
    )
    if any(feature["flagged"] or feature["shift"] for feature in features):
        msg.text(
            "FLAGGED: tells labels without content. shift: changes how frequent they are, but not the best "
            "guess. Either may be natural (longer texts have more entities) or betray how the corpus was "
            "made (regions chosen by the answer). A model can use both, so look into it before trusting "
            "a score."
        )
    else:
        msg.good("Nothing that was measured predicts a label.")


def _print_task(title: str, task: dict[str, Any]) -> None:
    msg.divider(title)
    msg.text(
        f"{task['instances']} {task['unit']} of {task['posts']} different posts, {task['labels']} labels; "
        f"{100 * task['majority_share']:.1f} % are {task['majority']}; {task['folds']} folds"
    )
    rows, rules = [], {}
    not_measured: dict[str, list[str]] = {}
    for name, feature in task["features"].items():
        title, _ = FEATURES[name]
        if not feature["measured"]:
            not_measured.setdefault(feature["why"], []).append(title)
            continue
        accuracy, majority, information = (
            f"{100 * feature[key]:.1f}" for key in ("accuracy", "majority", "information")
        )
        gain, low, high = (f"{100 * share:+.1f}" for share in (feature["gain"], *feature["gain_interval"]))
        found = "FLAGGED" if feature["flagged"] else "shift" if feature["shift"] else ""
        rows.append((title, accuracy, majority, gain, f"[{low}, {high}]", information, found))
        if feature["rule"] is not None:
            rules[name] = f"{title}: {feature['rule']['text']}"
    if rows:
        msg.table(rows, header=HEADER, aligns=("l", "r", "r", "r", "r", "r", "l"))
    for name, line in rules.items():
        if name != "all_together" or len(rules) == 1:  # else it repeats one of the others
            msg.warn(line)
    for reason, names in not_measured.items():
        msg.text(f"Not measured: {', '.join(names)} ({reason}).")
