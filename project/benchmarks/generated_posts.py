"""Posts for measuring speed: made-up words in the lengths of real tweets, pictures with four objects.

Nothing in them can be learned. What matters is what costs time: tokens a post, word pieces a token, pixels
and bytes a picture.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from PIL import Image, ImageDraw

Box: TypeAlias = tuple[int, int, int, int]
Span: TypeAlias = tuple[int, int, str]
Picture: TypeAlias = tuple[Path, tuple[Box, ...]]
"""A file, and the objects in it."""

LABELS = ("LOC", "MISC", "ORG", "PER")

# Posts of 5, 6, 7, ... tokens among the 3,373 training posts of Twitter-2017, counted.
N_POSTS_BY_LENGTH = (8, 37, 56, 88, 146, 193, 226, 232, 239, 294, 238, 261, 236, 203, 167, 141, 145)
N_POSTS_BY_LENGTH += (95, 109, 78, 50, 32, 26, 22, 17, 9, 13, 3, 2, 2, 2, 0, 0, 1, 1)
SHORTEST = 5

ENTITIES_A_POST = 1.8
"""As in Twitter-2017: 6,049 in 3,373 posts."""

# Tokens of these posts that the tokenizer of bert-base-uncased takes apart into 1, 2, 3, 4, more pieces, in
# thousandths: 1.15 pieces a token.
N_TOKENS_BY_PIECES = (912, 44, 25, 11, 8)

CONSONANTS, VOWELS = "bdfghklmnprstvz", "aeiou"
SYLLABLES = [c + v for c in CONSONANTS for v in VOWELS]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
N_STEMS = 3000
PICTURE_SIZE = (1024, 768)
N_OBJECTS = 4


@dataclass(frozen=True)
class Post:
    """A post.

    entities (Tuple[Tuple[int, int, str], ...]): First token, one past the last token, label of each.
    boxes (Tuple[Tuple[int, int, int, int], ...]): Objects in it: left, upper, right, lower, in pixels.
    """

    words: tuple[str, ...]
    entities: tuple[Span, ...]
    picture: Path
    boxes: tuple[Box, ...]

    def get_tags(self) -> list[str]:
        """RETURNS (List[str]): BIO tags of the tokens."""
        tags = ["O"] * len(self.words)
        for start, end, label in self.entities:
            tags[start:end] = [f"B-{label}", *[f"I-{label}"] * (end - start - 1)]
        return tags


def make_word_pieces(size: int) -> list[str]:
    """Make the vocabulary of a word piece tokenizer, in which stems have three syllables and suffixes one, so
    that it is known what words come apart into.

    size (int): Entries, as many as there are at least; the rest is never used.
    """
    entries = [*SPECIAL, *make_stems(), *(f"##{syllable}" for syllable in SYLLABLES)]
    return entries + [f"[unused{i}]" for i in range(size - len(entries))]


def make_stems() -> list[str]:
    """RETURNS (List[str]): The stems, the same ones each time."""
    rng = random.Random(0)
    stems: dict[str, None] = {}
    while len(stems) < N_STEMS:
        stems["".join(rng.choices(SYLLABLES, k=3))] = None
    return list(stems)


def make_posts(number: int, pictures: list[Picture], seed: int) -> list[Post]:
    """Make up posts. Whatever their number, short and long ones have the same shares."""
    rng = random.Random(seed)
    stems = make_stems()
    counted = [SHORTEST + i for i, n in enumerate(N_POSTS_BY_LENGTH) for _ in range(n)]
    lengths = [counted[int((i + 0.5) / number * len(counted))] for i in range(number)]
    rng.shuffle(lengths)
    posts = []
    for i, length in enumerate(lengths):
        words = []
        for _ in range(length):
            (n_suffixes,) = rng.choices(range(len(N_TOKENS_BY_PIECES)), N_TOKENS_BY_PIECES)
            words.append(rng.choice(stems) + "".join(rng.choices(SYLLABLES, k=n_suffixes)))
        entities = tuple(_make_entities(length, rng))
        posts.append(Post(tuple(words), entities, *pictures[i % len(pictures)]))
    return posts


def _make_entities(length: int, rng: random.Random) -> Iterator[Span]:
    number = int(ENTITIES_A_POST) + (rng.random() < ENTITIES_A_POST % 1)
    # Two tokens each at most, one token apart at least.
    for start in sorted(rng.sample(range(0, length - 1, 3), k=min(number, length // 3))):
        yield start, start + rng.choice((1, 2)), rng.choice(LABELS)


def list_pictures(folder: Path, number: int) -> list[Picture]:
    """RETURNS (List[Picture]): Where `draw_pictures` puts its files, and the objects in them."""
    return [
        (folder / f"{i}.jpg", tuple(_make_box(random.Random(N_OBJECTS * i + k)) for k in range(N_OBJECTS)))
        for i in range(number)
    ]


def draw_pictures(pictures: list[Picture]) -> None:
    """Draw pictures that take as long to read as photos: 100 to 200 KB each, all of them different."""
    for i, (path, boxes) in enumerate(pictures):
        path.parent.mkdir(parents=True, exist_ok=True)
        _draw(boxes, random.Random(i)).save(path, quality=85)


def _make_box(rng: random.Random) -> Box:
    sizes = [rng.randint(side // 8, side // 2) for side in PICTURE_SIZE]
    left, upper = (rng.randint(0, side - own) for side, own in zip(PICTURE_SIZE, sizes))
    return left, upper, left + sizes[0], upper + sizes[1]


def _draw(boxes: tuple[Box, ...], rng: random.Random) -> Image.Image:
    picture = Image.blend(_make_noise(6, rng), _make_noise(40, rng), 0.3)
    draw = ImageDraw.Draw(picture)
    for box in boxes:
        shape = rng.choice((draw.ellipse, draw.rectangle))
        shape(box, fill=tuple(rng.randrange(256) for _ in "rgb"))
    # What makes a photo large in bytes: texture everywhere.
    return Image.blend(picture, _make_noise(512, rng), rng.uniform(0.1, 0.18))


def _make_noise(cells: int, rng: random.Random) -> Image.Image:
    rows = cells * 3 // 4
    noise = Image.frombytes("RGB", (cells, rows), rng.randbytes(3 * cells * rows))
    return noise.resize(PICTURE_SIZE, Image.Resampling.BICUBIC)
