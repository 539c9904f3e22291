"""Make the demo corpus: posts, and drawn pictures that show the type of their entities and how two people
are related.
"""

import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Annotated

import spacy
import typer
from spacy.language import Language
from spacy.tokens import Doc, DocBin

from project.demo.drawing import DECIDING, draw_post_picture
from project.demo.texts import Post, Shares, known_words, make_name, make_plans, make_post
from spacy_mmib.post.boxes import set_boxes
from spacy_mmib.post.extensions import set_image, set_regions
from spacy_mmib.post.relations import set_relations

NAMES = {"train": 600, "dev": 150, "test": 250}
"""Words that names are made of, per split. Fixed, so that no post depends on a split's size."""
KIND_KEY, RELATION_KIND_KEY = "demo_kind", "demo_relation_kind"
"""Where `doc.user_data` says what the text tells about the type and the relation; see `texts.Plan`."""


def main(
    output: Annotated[Path, typer.Option(help="Folder to fill")] = Path("project/data/demo"),
    seed: Annotated[int, typer.Option(help="The same seed gives the same bytes")] = 0,
    n_train: Annotated[int, typer.Option(help="Posts to train on")] = 2000,
    n_dev: Annotated[int, typer.Option(help="Posts to choose a model with")] = 300,
    n_test: Annotated[int, typer.Option(help="Posts to test with")] = 500,
) -> None:
    """Make the demo corpus."""
    counts = {"train": n_train, "dev": n_dev, "test": n_test}
    make_demo_data(output, counts, seed=seed)
    print(f"{counts} posts in {output}")


def make_demo_data(output: Path, counts: dict[str, int], *, seed: int = 0) -> None:
    """Write pictures and `{train,dev,test}.spacy`.

    counts (Dict[str, int]): Posts per split, for any of the keys of `NAMES`.
    seed (int): Decides everything. No split depends on the size of another.
    """
    nlp = spacy.blank("en")
    names = make_split_names(nlp, seed)
    for split, n in counts.items():
        docs = []
        (output / "images" / split).mkdir(parents=True, exist_ok=True)
        for i, post in enumerate(make_split_posts(split, n, names[split], seed)):
            doc = make_doc(nlp, post)
            if post.has_picture:
                # A generator of its own, so that a picture depends on its number only.
                rng = random.Random(f"{seed}/{split}/picture/{i}")
                picture = draw_post_picture(post.plan.label, post.plan.shown, rng)
                path = f"images/{split}/{i:04d}.png"
                picture.image.save(output / path, compress_level=1)
                set_image(doc, path)
                # Boxes only: the kind of an object would give the answer away.
                set_regions(doc, [thing.box for thing in picture.objects])
                # What the names are of: all have the type that the picture shows.
                deciding = [x.box for x in picture.objects if DECIDING.get(x.kind) == post.plan.label]
                for ent in doc.ents:
                    set_boxes(ent, deciding)
            docs.append(doc)
        DocBin(docs=docs, store_user_data=True).to_disk(output / f"{split}.spacy")


def make_split_names(nlp: Language, seed: int) -> dict[str, list[str]]:
    """RETURNS (Dict[str, List[str]]): Names per split: none in two, none a word of the posts, each a
    token.
    """
    rng, taken = random.Random(f"{seed}/names"), known_words()
    names: dict[str, list[str]] = {split: [] for split in NAMES}
    for split, found in names.items():
        while len(found) < NAMES[split]:
            name = make_name(rng)
            if name.lower() not in taken and len(nlp.make_doc(name)) == 1:
                taken.add(name.lower())
                found.append(name)
    return names


def make_split_posts(
    split: str, n: int, names: Sequence[str], seed: int, shares: Shares | None = None
) -> list[Post]:
    """RETURNS (List[Post]): The posts of a split in random order."""
    shares = shares or Shares()
    rng = random.Random(f"{seed}/{split}/posts")
    n_without = round(n * shares.without_picture) if split == "train" else 0
    without = replace(shares, decided=shares.decided_without)
    posts = [
        make_post(plan, names, of, rng)._replace(has_picture=of is shares)
        for number, of in ((n - n_without, shares), (n_without, without))
        for plan in make_plans(number, of, rng)
    ]
    rng.shuffle(posts)
    return posts


def make_doc(nlp: Language, post: Post) -> Doc:
    """Turn a post into a doc with its gold entities and relations.

    RETURNS (Doc): Without a picture as yet. Every ordered pair of entities is annotated, those without a
        relation too.
    """
    doc = nlp.make_doc(post.text)
    spans = [doc.char_span(*place, label=post.plan.label) for place in post.mentions]
    doc.set_ents(spans)
    set_relations(doc, [(head, tail, post.plan.relation) for head, tail in permutations(doc.ents, 2)])
    doc.user_data[KIND_KEY] = post.plan.kind
    doc.user_data[RELATION_KIND_KEY] = post.plan.relation_kind
    return doc


if __name__ == "__main__":
    typer.run(main)
