"""Take the pictures away from posts, or give each post another one's: what does a model owe to them?"""

from collections.abc import Sequence

from spacy.training import Example

from ..post.extensions import remove_image
from ..training.shuffling import shuffle_pictures


def remove_images(examples: Sequence[Example]) -> list[Example]:
    """RETURNS (List[Example]): Copies without pictures and objects, as `doc._.image_error` says then."""
    result = []
    for example in examples:
        result.append(Example(remove_image(example.predicted.copy()), example.reference))
    return result


def shuffle_images(examples: Sequence[Example], seed: int = 0) -> tuple[list[Example], int]:
    """Copies of posts, each with the pictures and the objects of another; see `shuffle_pictures`.

    RETURNS (Tuple[List[Example], int]): The posts in order, and how many of them have the same picture as
        before.
    """
    docs = [example.predicted.copy() for example in examples]
    kept = shuffle_pictures(docs, seed)
    return [Example(doc, example.reference) for doc, example in zip(docs, examples)], kept
