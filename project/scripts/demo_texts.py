"""Posts of the demo corpus: short noisy texts in which the words rarely tell the type of a name."""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from demo_phrases import (
    CORES,
    DECIDING_PHRASES,
    EMOJI,
    MISLEADING,
    NO_ENTITY,
    OPENERS,
    TAGS,
    TAILS,
    USERS,
)

LABELS: tuple[str, ...] = tuple(DECIDING_PHRASES)

Kind: TypeAlias = Literal["undecided", "decided", "no_entity"]
"""Whether the text alone leaves the type open, tells it, or names nothing."""


@dataclass(frozen=True)
class Mention:
    """A name in a text.

    start (int): Offset of its first character.
    end (int): Offset after its last character.
    label (str): Its type.
    """

    start: int
    end: int
    label: str


@dataclass(frozen=True)
class Post:
    """The text of a post.

    text (str): What it says.
    kind (Kind): What the text tells about the type.
    label (str): The type that its picture, if it gets one, has to show. A post without an entity
        has one too, so that no picture tells whether there is an entity.
    mentions (Tuple[Mention, ...]): The names, in order, all of type `label`.
    """

    text: str
    kind: Kind
    label: str
    mentions: tuple[Mention, ...]


@dataclass(frozen=True)
class Shares:
    """How many posts are of which kind, each 0-1.

    decided (float): Posts whose text tells the type.
    no_entity (float): Posts without a name.
    joined (float): Posts with two names, among those with any.
    two_words (float): Names of two words, among all names.
    """

    decided: float = 0.2
    no_entity: float = 0.12
    joined: float = 0.15
    two_words: float = 0.35


def make_posts(n: int, names: Sequence[str], shares: Shares, rng: random.Random) -> list[Post]:
    """Make posts in random order, with exactly the shares asked for, as far as `n` can be divided.

    n (int): How many.
    names (Sequence[str]): What entities may be called.
    shares (Shares): How many are of which kind.
    rng (random.Random): Decides the rest; types are drawn evenly and independently of everything.
    RETURNS (List[Post]): The posts.
    """
    n_decided, n_empty = round(n * shares.decided), round(n * shares.no_entity)
    kinds: list[Kind] = ["decided"] * n_decided
    kinds += ["no_entity"] * n_empty
    kinds += ["undecided"] * (n - n_decided - n_empty)
    rng.shuffle(kinds)
    return [make_post(kind, rng.choice(LABELS), names, shares, rng) for kind in kinds]


def make_post(
    kind: Kind, label: str, names: Sequence[str], shares: Shares, rng: random.Random
) -> Post:
    """Make one post.

    kind (Kind): What its text tells about the type.
    label (str): The type of its names. It changes the text of a post of kind `"decided"` only.
    names (Sequence[str]): What entities may be called.
    shares (Shares): How often there are two names, and names of two words.
    rng (random.Random): Decides words and names.
    RETURNS (Post): The post.
    """
    if kind == "no_entity":
        remark = [rng.choice(MISLEADING)] if rng.random() < 0.5 else []
        return Post(_add_noise([rng.choice(NO_ENTITY), *remark], rng), kind, label, ())
    n = 2 if rng.random() < shares.joined else 1
    words = rng.sample(list(names), 2 * n)
    entities = [
        f"{words[2 * i]} {words[2 * i + 1]}" if rng.random() < shares.two_words else words[2 * i]
        for i in range(n)
    ]
    # The names are put in last, so that no noise can change them.
    slot = "{e}" if kind == "undecided" else rng.choice(DECIDING_PHRASES[label])
    parts = [rng.choice(CORES).replace("{e}", slot)]
    if kind == "undecided" or rng.random() < 0.3:
        parts += rng.sample(MISLEADING, rng.choice((1, 1, 2)))
        rng.shuffle(parts)
    text = _add_noise(parts, rng).replace("{e}", rng.choice((" and ", " & ")).join(entities))
    mentions = []
    for entity in entities:
        found = re.search(rf"\b{entity}\b", text)
        assert found is not None
        mentions.append(Mention(*found.span(), label))
    return Post(text, kind, label, tuple(mentions))


def _add_noise(parts: Sequence[str], rng: random.Random) -> str:
    """Join the parts of a post and put around them what posts have around them."""
    text = rng.choice((" , ", " ... ", " - ", " ")).join(parts)
    if rng.random() < 0.4:
        text = f"{rng.choice(OPENERS)} {text}"
    for tail in rng.sample(TAILS, rng.choice((0, 1, 1, 2))):
        text = f"{text} {tail}"
    for slot, fillings in (("{user}", USERS), ("{tag}", TAGS), ("{emoji}", EMOJI)):
        while slot in text:
            text = text.replace(slot, rng.choice(fillings), 1)
    if text[0].islower() and rng.random() < 0.3:
        text = text[0].upper() + text[1:]
    return text


def known_words() -> set[str]:
    """RETURNS (Set[str]): Every word of the posts that is no name, in lower case."""
    phrases = [*CORES, *MISLEADING, *NO_ENTITY, *OPENERS, *TAILS, *TAGS, *USERS]
    phrases += [phrase for group in DECIDING_PHRASES.values() for phrase in group]
    return {word for phrase in phrases for word in re.findall(r"\w+", phrase.lower())}
