"""Run commands of `spacy mmib`, and a corpus of `PAIRS` with files to run them on."""

import spacy
from conftest import PAIRS, make_picture, make_rel_examples
from forked import run_forked
from spacy.tokens import DocBin
from typer.testing import CliRunner

from spacy_mmib.cli import mmib_cli


def run(*args, **kwargs):
    return CliRunner().invoke(mmib_cli, [str(arg) for arg in args], **kwargs)


def run_alone(*args, **kwargs):
    """In a process of its own, through spaCy's command line."""
    return run_forked("-m", "spacy", "mmib", *args, **kwargs)


def save_pairs(path, posts=PAIRS, change=lambda docs: None):
    """Write the posts with their pictures as files beside the corpus."""
    docs = [example.reference for example in make_rel_examples(spacy.blank("en"), posts)]
    for doc, (_, colour, _) in zip(docs, posts):
        if colour is not None:
            make_picture(colour).save(path.parent / f"{colour}.png")
            doc._.image, doc._.regions = f"{colour}.png", [(0, 0, 20, 20)]
    change(docs)
    DocBin(docs=docs, store_user_data=True).to_disk(path)
