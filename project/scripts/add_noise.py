"""Corpora like the demo's with noise turned up in one modality, in steps: what a bottleneck is to filter.

Text: words are misspelt and in random case, names included, as in hurried posts. Pictures: boxes at random
places (background, pieces of objects) among the objects' boxes, as a detector that finds too much would give.
"""

import argparse
import os
import random
import shutil
from pathlib import Path

import spacy
from PIL import Image
from spacy.tokens import Doc, DocBin, Span

from spacy_mmib.post.extensions import get_image, get_regions, set_image, set_regions
from spacy_mmib.post.relations import get_relations, set_relations
from spacy_mmib.training.corpus import read_docs

STEPS = {"text": (0.2, 0.4), "picture": (8, 16)}
"""Share of the words that are misspelt, and of those in random case; boxes added to each picture. The corpus
without any noise is the common first step, "none".
"""

SIDE = (0.15, 0.6)
"""Of a random box, as a share of the picture's; objects are about as large."""


def main() -> None:
    """Read the command line and make the corpora."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--demo", type=Path, default=Path("project/data/demo"), help="to start with")
    parser.add_argument("--output", type=Path, default=Path("project/data/noise"))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    for name, share, boxes in list_corpora():
        make_corpus(args.demo, args.output / name, share=share, boxes=boxes, seed=args.seed)
        print(f"{args.output / name}: share of noisy words {share}, boxes added {boxes}")


def list_corpora() -> list[tuple[str, float, int]]:
    """RETURNS (List[Tuple[str, float, int]]): Name, share of noisy words and added boxes of each corpus."""
    corpora: list[tuple[str, float, int]] = [("none", 0.0, 0)]
    corpora += [(f"text-{share}", share, 0) for share in STEPS["text"]]
    return corpora + [(f"picture-{n}", 0.0, int(n)) for n in STEPS["picture"]]


def make_corpus(demo: Path, output: Path, *, share: float, boxes: int, seed: int) -> None:
    """Write train.spacy, dev.spacy and test.spacy with noise, and the demo's picture encoder beside them.

    demo (Path): The demo's folder; its pictures stay there.
    output (Path): The folder of the new corpus.
    share (float): Of the words that are noisy, 0-1.
    boxes (int): Added to the regions of each picture.
    seed (int): Decides which, and where.
    """
    vocab = spacy.blank("en").vocab
    output.mkdir(parents=True, exist_ok=True)
    for split in ("train", "dev", "test"):
        docs = []
        for i, doc in enumerate(read_docs(demo / f"{split}.spacy", vocab)):
            noisy = add_typos(doc, share, random.Random(f"{seed}/{split}/text/{i}"))
            image = get_image(doc)
            if image is not None:
                picture = demo / image
                set_image(noisy, os.path.relpath(picture, demo))
                rng = random.Random(f"{seed}/{split}/picture/{i}")
                set_regions(noisy, add_boxes(doc, picture, boxes, rng))
            docs.append(noisy)
        DocBin(docs=docs, store_user_data=True).to_disk(output / f"{split}.spacy")
    # Paths of pictures are relative to the demo's folder.
    meta = f'{{"regions": "own", "image_root": "{demo.resolve().as_posix()}"}}\n'
    (output / "meta.json").write_text(meta, encoding="utf8")
    encoder = output / "encoder.pth"
    encoder.unlink(missing_ok=True)
    try:
        os.link(demo / "encoder.pth", encoder)
    except OSError:
        shutil.copy(demo / "encoder.pth", encoder)


def add_typos(doc: Doc, share: float, rng: random.Random) -> Doc:
    """Make words of a post noisy.

    doc (Doc): The post.
    share (float): Of words that are misspelt, and of words in random case, 0-1; independent of each other.
    rng (random.Random): Decides which, and how.
    RETURNS (Doc): A new doc, with the entities and relations of the post, and no picture.
    """
    words = [make_noisy(token.text, share, rng) for token in doc]
    noisy = Doc(doc.vocab, words=words, spaces=[bool(token.whitespace_) for token in doc])
    noisy.set_ents([Span(noisy, ent.start, ent.end, label=ent.label) for ent in doc.ents])
    relations = [
        (*((span.start, span.end) for span in (rel.head, rel.tail)), rel.label) for rel in get_relations(doc)
    ]
    set_relations(noisy, relations)
    return noisy


def make_noisy(word: str, share: float, rng: random.Random) -> str:
    """RETURNS (str): The word, or with the given probability misspelt, or in another case, or both."""
    misspell, recase = rng.random() < share, rng.random() < share
    at = rng.randrange(len(word))
    if misspell and len(word) > 2 and word.isalpha():
        changed = {
            "dropped": word[:at] + word[at + 1 :],
            "doubled": word[:at] + word[at] + word[at:],
            "exchanged": word[: at - 1] + word[at] + word[at - 1] + word[at + 1 :] if at else word,
        }
        word = changed[rng.choice(sorted(changed))]
    if recase:
        word = rng.choice((str.lower, str.upper, str.capitalize))(word)
    return word


def add_boxes(doc: Doc, picture: Path, n: int, rng: random.Random) -> list[tuple[float, float, float, float]]:
    """Put boxes at random places among those of a post's objects.

    doc (Doc): The post, with its regions.
    picture (Path): Its picture.
    n (int): How many boxes to add.
    rng (random.Random): Decides where, and between which regions.
    RETURNS (List[Tuple[float, float, float, float]]): All boxes, in pixels.
    """
    regions = [tuple(region["box"]) for region in get_regions(doc)]
    with Image.open(picture, formats=["PNG"]) as image:
        width, height = image.size
    for _ in range(n):
        w, h = (round(side * rng.uniform(*SIDE)) for side in (width, height))
        x, y = rng.randint(0, width - w), rng.randint(0, height - h)
        regions.insert(rng.randint(0, len(regions)), (x, y, x + w, y + h))
    return regions


if __name__ == "__main__":
    main()
