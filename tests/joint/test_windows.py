"""Word pieces, tokens and windows."""

import pickle
from pathlib import Path

import numpy
import pytest
import spacy
from spacy.tokens import Doc
from spacy.vocab import Vocab
from tiny_text import save_text_model

from spacy_mmib.joint.windows import WordPieces, cut

VOCAB = Vocab()


@pytest.fixture(scope="module")
def pieces(tmp_path_factory) -> WordPieces:
    folder = save_text_model(tmp_path_factory.mktemp("models") / "bert", "bert")
    return WordPieces((Path(folder) / "tokenizer.json").read_text(encoding="utf8"))


def make_doc(*words, spaces=None) -> Doc:
    return Doc(VOCAB, words=list(words), spaces=spaces)


def test_which_piece_belongs_to_which_token(pieces):
    assert (pieces.before, pieces.after) == ([2], [3])
    # A letter is a piece; an unknown word is one piece, also if it is several tokens.
    doc = make_doc("ab", "\n", "ħ", "ŋ", "c", spaces=[True, False, False, True, False])
    ids, pairs = pieces.split(doc)
    assert len(ids) == 4
    assert pairs == [(0, 0), (1, 0), (2, 2), (2, 3), (3, 4)]


@pytest.mark.parametrize("text", ["[SEP]", "[PAD] a", "[CLS] [MASK]"])
def test_special_tokens_in_a_post_are_text(pieces, text):
    for splitter in (pieces, pickle.loads(pickle.dumps(pieces))):
        ids, _ = splitter.split(make_doc(*text.split()))
        assert not {0, 2, 3, 4} & {*ids}


def test_nothing_but_white_space(pieces):
    windows = cut([make_doc(" "), make_doc()], pieces, window=8, stride=4, pooling="mean")
    assert (windows.ids, windows.n_tokens, len(windows.tokens)) == ([], 1, 0)
    assert list(windows.in_parts(3)) == []


@pytest.mark.parametrize(("window", "stride"), [(10, 5), (10, 8), (3, 1), (12, 7)])
@pytest.mark.parametrize("pooling", ["mean", "first"])
def test_no_piece_is_lost_or_taken_twice(pieces, window, stride, pooling):
    """Each from the window that it is nearest to the middle of, by a search through all of them."""
    docs = [make_doc(*(["abc", "d", "efghijk"] * n)) for n in (1, 0, 3, 40)]
    found = cut(docs, pieces, window=window, stride=stride, pooling=pooling)
    assert all(len(x) <= window for x in found.ids)
    assert found.n_tokens == sum(map(len, docs))
    assert {*found.tokens.tolist()} == {*range(found.n_tokens)}
    numpy.testing.assert_allclose(numpy.bincount(found.tokens, found.weights), 1, rtol=1e-6)
    taken = zip(found.numbers, found.places, found.tokens)
    taken = [(found.posts[i], found.ids[i][place], int(token)) for i, place, token in taken]
    expected, first = [], 0
    for i, doc in enumerate(docs):
        ids, pairs = pieces.split(doc)
        tokens = set()
        for piece, token in pairs:
            if pooling == "mean" or token not in tokens:
                expected.append((i, ids[piece], first + token))
            tokens.add(token)
        first += len(doc)
    assert taken == expected
    room = window - 2
    if pooling == "mean":
        starts = [stride * list(found.posts[:k]).count(p) for k, p in enumerate(found.posts)]
        at = [starts[i] + place - 1 for i, place in zip(found.numbers, found.places)]
        for i, piece in zip(found.numbers, at):
            own = [k for k, post in enumerate(found.posts) if post == found.posts[i]]
            inside = [k for k in own if starts[k] <= piece < starts[k] + room]
            distances = {k: abs(piece - (starts[k] + (room - 1) / 2)) for k in inside}
            assert distances[i] <= min(distances.values()) + 1


def test_parts_are_the_whole(pieces):
    docs = [make_doc(*(["abc", "d", "efghijk"] * n)) for n in (1, 5, 9)]
    whole = cut(docs, pieces, window=10, stride=5, pooling="mean")
    for size in (1, 2, 100):
        parts = list(whole.in_parts(size))
        assert [x for part in parts for x in part.ids] == whole.ids
        assert [x for part in parts for x in part.posts] == whole.posts
        tokens = [part.tokens + part.first for part in parts]
        assert numpy.array_equal(numpy.concatenate(tokens), whole.tokens)
        assert all(0 <= x < part.n_tokens for part in parts for x in part.tokens)
        numbers = [part.numbers + size * i for i, part in enumerate(parts)]
        assert numpy.array_equal(numpy.concatenate(numbers), whole.numbers)


def test_windows_grow_with_the_text(pieces):
    """Not with its square: as many pieces are encoded as the text has, and those of the overlaps once more."""
    nlp = spacy.blank("en")
    for n in (100, 1000, 4000):
        windows = cut([nlp.make_doc("abcdefghij " * n)], pieces, window=128, stride=96, pooling="mean")
        assert max(map(len, windows.ids)) <= 128
        assert sum(map(len, windows.ids)) <= 128 * (1 + 10 * n / 96)
