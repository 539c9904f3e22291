from collections import Counter

import pytest
import spacy
from spacy.tokens import Doc
from spacy.training import Example

import spacy_mmib.post.extensions  # noqa: F401
from spacy_mmib.evaluation.ablation import remove_images, shuffle_images


@pytest.fixture
def vocab():
    return spacy.blank("en").vocab


def make_examples(vocab, images):
    examples = []
    for i, image in enumerate(images):
        doc = Doc(vocab, words=[f"post{i}"])
        doc._.image = image
        if image is not None:
            doc._.regions = [f"crop-of-{image}"]
        examples.append(Example(doc, Doc(vocab, words=[f"post{i}"], ents=["B-PER"])))
    return examples


def images_of(examples):
    return [example.predicted._.image for example in examples]


def test_remove(vocab):
    examples = make_examples(vocab, ["a", None, "b"])
    removed = remove_images(examples)
    assert images_of(removed) == [None] * 3
    assert all(example.predicted._.regions == [] for example in removed)
    assert [example.reference for example in removed] == [example.reference for example in examples]
    assert images_of(examples) == ["a", None, "b"]


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(
    "images",
    [
        list("abcdefgh"),
        list("aabbccd"),
        list("aaab") + list("cd"),
        list("aabb"),
        ["a", None, "b", None, "c"],
        ["a", "b"],
    ],
)
def test_nobody_keeps_a_picture(vocab, images, seed):
    examples = make_examples(vocab, images)
    shuffled, kept = shuffle_images(examples, seed)
    assert kept == 0
    for before, after in zip(examples, shuffled):
        assert after.text == before.text
        if before.predicted._.image is None:
            assert after.predicted._.image is None
        else:
            assert after.predicted._.image not in (None, before.predicted._.image)
            assert after.predicted._.regions == [f"crop-of-{after.predicted._.image}"]
    assert Counter(images_of(shuffled)) == Counter(images)
    assert images_of(examples) == images


@pytest.mark.parametrize(
    ("images", "least"), [(["a"], 1), (list("aaab"), 2), (list("aaa"), 3), ([None, None], 0), ([], 0)]
)
def test_as_few_as_possible_keep_theirs(vocab, images, least):
    examples = make_examples(vocab, images)
    shuffled, kept = shuffle_images(examples, 3)
    assert kept == least
    assert sum(a is not None and a == b for a, b in zip(images, images_of(shuffled))) == least


def test_seeds(vocab):
    examples = make_examples(vocab, [str(i) for i in range(50)])
    first, second, third = (images_of(shuffle_images(examples, seed)[0]) for seed in (0, 0, 1))
    assert first == second != third
    # Not merely moved on by one place.
    steps = {(int(image) - i) % 50 for i, image in enumerate(first)}
    assert len(steps) > 10


def test_same_pixels_are_the_same_picture(vocab):
    examples = make_examples(vocab, [b"x", b"x", b"y", b"z"])
    shuffled, kept = shuffle_images(examples)
    assert kept == 0
    assert images_of(shuffled)[0] != b"x"


def test_all_pictures_of_a_post_move_together(vocab):
    examples = make_examples(vocab, [None] * 4)
    for i, example in enumerate(examples[:3]):
        example.predicted._.images = [f"{i}a", f"{i}b"][: 2 - i % 2]
        example.predicted._.regions = [{"box": (0, 0, i + 1, 1), "image": 1 - i % 2}]
    removed = [example.predicted for example in remove_images(examples)]
    assert [(doc._.images, doc._.regions) for doc in removed] == [([], [])] * 4
    shuffled = [example.predicted for example in shuffle_images(examples)[0]]
    before = {example.predicted._.image: example.predicted for example in examples}
    for example, doc in zip(examples, shuffled):
        source = before[doc._.image]
        assert (doc is None) == (source is example.predicted) or doc._.image is None
        assert (doc._.images, doc._.regions) == (source._.images, source._.regions)
    assert sorted(str(doc._.images) for doc in shuffled) == sorted(str(d._.images) for d in before.values())
