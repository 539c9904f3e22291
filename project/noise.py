"""Corpora like the demo's with noise turned up in one modality, in steps: what a bottleneck is to filter.

Text: words are misspelt and in random case, names included, as in hurried posts. Pictures: boxes at random
places (background, pieces of objects) among the objects' boxes, as a detector that finds too much would give.
"""

import json
import random
import shutil
from pathlib import Path

import spacy
import typer
from PIL import Image
from spacy.tokens import Doc, DocBin, Span

from project.facts import SPLITS, get_places
from spacy_mmib.post.extensions import get_image, get_regions, set_image, set_regions
from spacy_mmib.post.relations import get_relations, set_relations
from spacy_mmib.training.corpus import read_docs

CORPORA = {
    "none": (0.0, 0),
    "text-0.2": (0.2, 0),
    "text-0.4": (0.4, 0),
    "picture-8": (0.0, 8),
    "picture-16": (0.0, 16),
}
"""Share of the words that are misspelt, and of those in random case; boxes added to each picture."""
SIDE = (0.15, 0.6)
"""Of a random box, as a share of the picture's; objects are about as large."""


def main(
    demo: Path = Path("project/data/demo"), output: Path = Path("project/data/noise"), seed: int = 0
) -> None:
    """Make the corpora."""
    for name, (share, boxes) in CORPORA.items():
        make_corpus(demo, output / name, share=share, boxes=boxes, seed=seed)
        print(f"{output / name}: share of noisy words {share}, boxes added {boxes}")


def make_corpus(demo: Path, output: Path, *, share: float, boxes: int, seed: int) -> None:
    """Write train.spacy, dev.spacy and test.spacy with noise, and the demo's picture encoder beside them."""
    vocab = spacy.blank("en").vocab
    output.mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        docs = []
        for i, doc in enumerate(read_docs(demo / f"{split}.spacy", vocab)):
            noisy = add_typos(doc, share, random.Random(f"{seed}/{split}/text/{i}"))
            image = get_image(doc)
            if image is not None:
                set_image(noisy, image)
                rng = random.Random(f"{seed}/{split}/picture/{i}")
                set_regions(noisy, add_boxes(doc, demo / image, boxes, rng))
            docs.append(noisy)
        DocBin(docs=docs, store_user_data=True).to_disk(output / f"{split}.spacy")
    # Paths of pictures are relative to the demo's folder.
    meta = json.dumps({"regions": "own", "image_root": demo.resolve().as_posix()})
    (output / "meta.json").write_text(f"{meta}\n", encoding="utf8")
    shutil.copy(demo / "encoder.pth", output / "encoder.pth")


def add_typos(doc: Doc, share: float, rng: random.Random) -> Doc:
    """RETURNS (Doc): A new doc, with the entities and relations of the post and no picture, in which a share
    of the words is misspelt, and independently of that as many are in random case.
    """
    words = [make_noisy(token.text, share, rng) for token in doc]
    noisy = Doc(doc.vocab, words=words, spaces=[bool(token.whitespace_) for token in doc])
    noisy.set_ents([Span(noisy, ent.start, ent.end, label=ent.label) for ent in doc.ents])
    places = [(*get_places(relation), relation.label) for relation in get_relations(doc)]
    set_relations(noisy, [((a, b), (c, d), label) for a, b, c, d, label in places])
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
    """RETURNS (List[Tuple[float, float, float, float]]): The boxes of a post's objects in its picture, and
    `n` at random places among them, in pixels.
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
    typer.run(main)
