"""Make the demo corpus: posts, and drawn pictures that show the type of their entities and how two people
are related.
"""

import argparse
import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any

import spacy
from demo_names import make_names
from demo_pictures import draw_post_picture
from demo_texts import LABELS, RELATIONS, Post, Shares, known_words, make_posts
from spacy.language import Language
from spacy.tokens import Doc, DocBin

from spacy_mmib.post.extensions import set_image, set_regions
from spacy_mmib.post.relations import set_relations

NAMES = {"train": 600, "dev": 150, "test": 250}
"""Words that names are made of, per split. Fixed, so that no post depends on a split's size."""

KIND_KEY = "demo_kind"
"""Where `doc.user_data` says what the text tells about the type: see `demo_texts.Kind`."""

RELATION_KIND_KEY = "demo_relation_kind"
"""Where it says what the text tells about the relation of its names: see `demo_texts.RelationKind`."""


@dataclass(frozen=True)
class PicturedPost:
    """A post and whether it gets a picture.

    post (Post): The text.
    has_picture (bool): Whether a picture belongs to it.
    """

    post: Post
    has_picture: bool


def main() -> None:
    """Read the command line and make the corpus."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("project/data/demo"), help="folder to fill")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same bytes")
    parser.add_argument("--n-train", type=int, default=1800, help="posts to train on")
    parser.add_argument("--n-dev", type=int, default=300, help="posts to choose a model with")
    parser.add_argument("--n-test", type=int, default=500, help="posts to test with")
    parser.add_argument(
        "--decided", type=float, default=0.2, help="share of posts whose text tells the type too"
    )
    parser.add_argument(
        "--without-picture",
        type=float,
        default=0.08,
        help="share of training posts without a picture",
    )
    args = parser.parse_args()
    stats = make_demo_data(
        args.output,
        {"train": args.n_train, "dev": args.n_dev, "test": args.n_test},
        seed=args.seed,
        decided=args.decided,
        without_picture=args.without_picture,
    )
    print(json.dumps(stats, indent=2))


def make_demo_data(
    output: Path,
    counts: dict[str, int],
    *,
    seed: int = 0,
    decided: float = 0.2,
    without_picture: float = 0.08,
) -> dict[str, Any]:
    """Write pictures, `{train,dev,test}.spacy` and `stats.json`.

    output (Path): The folder; made if need be.
    counts (Dict[str, int]): Posts per split, for any of the keys of `NAMES`.
    seed (int): Decides everything. No split depends on the size of another.
    decided (float): Share of posts whose text tells the type, as the picture does, 0-1.
    without_picture (float): Share of training posts without a picture, 0-1.
    RETURNS (Dict[str, Any]): What is in `stats.json`.
    """
    nlp = spacy.blank("en")
    names = make_split_names(nlp, seed)
    shares = Shares(decided=decided)
    stats: dict[str, Any] = {"seed": seed}
    for split, n in counts.items():
        share = without_picture if split == "train" else 0.0
        posts = make_split_posts(split, n, names[split], shares, share, seed)
        docs = [make_doc(nlp, item.post) for item in posts]
        for i, (doc, item) in enumerate(zip(docs, posts, strict=True)):
            if item.has_picture:
                # A generator of its own, so that a picture depends on its number only.
                rng = random.Random(f"{seed}/{split}/picture/{i}")
                attach_picture(doc, item.post, output, f"images/{split}/{i:04d}.png", rng)
        output.mkdir(parents=True, exist_ok=True)
        DocBin(docs=docs, store_user_data=True).to_disk(output / f"{split}.spacy")
        stats[split] = count(posts)
    (output / "stats.json").write_text(json.dumps(stats, indent=2) + "\n", encoding="utf-8")
    return stats


def make_split_names(nlp: Language, seed: int) -> dict[str, list[str]]:
    """Make the names of every split: none in two splits, none a word of the posts.

    nlp (Language): Its tokenizer must leave a name whole.
    seed (int): Decides the names.
    RETURNS (Dict[str, List[str]]): Capitalised words per split.
    """
    taken = known_words()

    def is_allowed(name: str) -> bool:
        return name.lower() not in taken and len(nlp.make_doc(name)) == 1

    return make_names(NAMES, random.Random(f"{seed}/names"), is_allowed)


def make_split_posts(
    split: str, n: int, names: Sequence[str], shares: Shares, without_picture: float, seed: int
) -> list[PicturedPost]:
    """Make the posts of a split. With and without a picture they are of the same kinds.

    split (str): Name of the split; part of the seed.
    n (int): Number of posts.
    names (Sequence[str]): What entities may be called.
    shares (Shares): Which kinds of posts there are.
    without_picture (float): Share of posts without a picture, 0-1.
    seed (int): Decides the rest.
    RETURNS (List[PicturedPost]): The posts in random order.
    """
    rng = random.Random(f"{seed}/{split}/posts")
    n_without = round(n * without_picture)
    posts = [PicturedPost(post, True) for post in make_posts(n - n_without, names, shares, rng)]
    posts += [PicturedPost(post, False) for post in make_posts(n_without, names, shares, rng)]
    rng.shuffle(posts)
    return posts


def make_doc(nlp: Language, post: Post) -> Doc:
    """Turn a post into a doc with its gold entities and relations.

    Every ordered pair of entities is annotated, those without a relation too.

    nlp (Language): Tokenizes the text.
    post (Post): The post.
    RETURNS (Doc): Without a picture as yet.
    RAISES (ValueError): A name doesn't begin and end with a token.
    """
    doc = nlp.make_doc(post.text)
    spans = [doc.char_span(m.start, m.end, label=m.label) for m in post.mentions]
    if any(span is None for span in spans):
        raise ValueError(f"A name of this post is no span of tokens: {post.text!r}")
    doc.set_ents([span for span in spans if span is not None])
    set_relations(doc, [(head, tail, post.plan.relation) for head, tail in permutations(doc.ents, 2)])
    doc.user_data[KIND_KEY] = post.plan.kind
    doc.user_data[RELATION_KIND_KEY] = post.plan.relation_kind
    return doc


def attach_picture(doc: Doc, post: Post, output: Path, path: str, rng: random.Random) -> None:
    """Draw the picture of a post, save it and attach it with the boxes of its objects.

    doc (Doc): The doc of the post.
    post (Post): The post, which says what the picture has to show.
    output (Path): The folder of the corpus.
    path (str): Where in that folder the picture goes.
    rng (random.Random): Decides how it looks.
    """
    picture = draw_post_picture(post.plan.label, post.plan.shown, rng)
    (output / path).parent.mkdir(parents=True, exist_ok=True)
    picture.image.save(output / path, compress_level=1)
    set_image(doc, path)
    # Boxes only: the kind of an object would give the answer away.
    set_regions(doc, [thing.box for thing in picture.objects])


def count(posts: Sequence[PicturedPost]) -> dict[str, Any]:
    """Count what a split holds.

    posts (Sequence[PicturedPost]): The split.
    RETURNS (Dict[str, Any]): Numbers of posts, of entities, and of ordered pairs of entities by relation;
        `agreeing_share` is the share of posts, among those with a picture, whose text and picture both
        tell the type; `relation_shown` counts pictures by the relation that they show, whatever the post.
    """
    plans = [item.post.plan for item in posts]
    kinds = Counter(plan.kind for plan in plans)
    relation_kinds = Counter(plan.relation_kind for plan in plans)
    labels = Counter(mention.label for item in posts for mention in item.post.mentions)
    relations = Counter(plan.relation for plan in plans if plan.n_names == 2)
    shown = Counter(item.post.plan.shown for item in posts if item.has_picture)
    agreeing = sum(item.has_picture and item.post.plan.kind == "decided" for item in posts)
    pictured = sum(item.has_picture for item in posts)
    return {
        "posts": len(posts),
        "posts_without_picture": len(posts) - pictured,
        "kinds": {kind: kinds[kind] for kind in ("undecided", "decided", "no_entity")},
        "agreeing_posts": agreeing,
        "agreeing_share": round(agreeing / pictured, 4) if pictured else 0.0,
        "posts_with_two_entities": relations.total(),
        "entities": {label: labels[label] for label in LABELS},
        "relation_kinds": {kind: relation_kinds[kind] for kind in ("undecided", "decided", "no_pair")},
        # A pair has its relation in both directions.
        "relations": {label: 2 * relations[label] for label in RELATIONS},
        "relation_shown": {label: shown[label] for label in RELATIONS},
    }


if __name__ == "__main__":
    main()
