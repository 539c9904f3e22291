"""Posts to word pieces, in windows as long as a transformer takes. Free of torch."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy
from spacy.tokens import Doc

Ints: TypeAlias = "numpy.ndarray[Any, Any]"
"""int64, (n,)."""


class WordPieces:
    """A fast tokenizer of transformers. Any number of threads may use it.

    data (str): The content of its tokenizer.json.
    before, after (List[int]): The special tokens round a text, [CLS] and [SEP] for example.
    """

    def __init__(self, data: str) -> None:
        from tokenizers import Tokenizer

        self._data, self._tokenizer = data, Tokenizer.from_str(data)
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = True  # who writes "[SEP]" in a post means five characters
        example = self._tokenizer.encode("a")
        first = example.special_tokens_mask.index(0)
        last = len(example.ids) - example.special_tokens_mask[::-1].index(0)
        self.before, self.after = example.ids[:first], example.ids[last:]

    def __reduce__(self) -> Any:
        return WordPieces, (self._data,)  # its own pickle forgets the settings above

    def split(self, doc: Doc) -> tuple[list[int], list[tuple[int, int]]]:
        """RETURNS (Tuple[List[int], List[Tuple[int, int]]]): The pieces of a post, no special tokens, and
        pairs of a piece and a token that has a character in it: "gonna" may be one piece and two tokens.
        """
        text = doc.text
        owners = numpy.full(len(text), -1)
        for token in doc:
            owners[token.idx : token.idx + len(token)] = token.i
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        pairs = [
            (piece, token)
            for piece, (start, end) in enumerate(encoding.offsets)
            for token in sorted({*owners[start:end].tolist()} - {-1})
        ]
        return encoding.ids, pairs


@dataclass
class Windows:
    """Word pieces of a batch of posts, and how rows of tokens are made of them: row `tokens[i]` is the sum of
    `weights[i]` times place `places[i]` of window `numbers[i]`. Everything is in the order of the posts.

    ids (List[List[int]]): Of each window, special tokens included.
    posts (List[int]): The number of the post that each window is of.
    n_tokens (int): Of all posts together.
    first (int): The number of the first token.
    """

    ids: list[list[int]]
    posts: list[int]
    numbers: Ints
    places: Ints
    tokens: Ints
    weights: "numpy.ndarray[Any, Any]"
    n_tokens: int
    first: int = 0

    def in_parts(self, size: int) -> Iterator["Windows"]:
        """YIELDS (Windows): So many windows at a time, with the tokens, numbered anew, that have a piece in
        them. A token may have one in two parts.
        """
        for start in range(0, len(self.ids), size):
            a, b = numpy.searchsorted(self.numbers, [start, start + size])
            tokens, stop = self.tokens[a:b], start + size
            first, n_tokens = (int(tokens.min()), int(numpy.ptp(tokens)) + 1) if a < b else (0, 0)
            of_tokens = self.numbers[a:b] - start, self.places[a:b], tokens - first, self.weights[a:b]
            yield Windows(self.ids[start:stop], self.posts[start:stop], *of_tokens, n_tokens, first)


def cut(docs: Sequence[Doc], pieces: WordPieces, *, window: int, stride: int, pooling: str) -> Windows:
    """Cut posts into windows; short ones are one. Each piece is taken from the window that it is nearest to
    the middle of: its neighbours on both sides are seen, and there is no average of two encodings.

    window (int): Pieces of a window at most, special tokens included.
    stride (int): By how many pieces windows follow each other.
    pooling (str): Rows of tokens are the "mean" of their pieces, or the "first" one.
    """
    room = window - len(pieces.before) - len(pieces.after)
    margin = (room - stride) // 2  # of the overlap, what the earlier window keeps
    result: list[tuple[int, int, int, float]] = []
    windows: list[list[int]] = []
    posts: list[int] = []
    n_tokens = 0
    for i, doc in enumerate(docs):
        ids, pairs = pieces.split(doc) if len(doc) else ([], [])
        if pooling == "first":
            pairs = sorted({token: piece for piece, token in reversed(pairs)}.items())
            pairs = [(piece, token) for token, piece in pairs]
        counts = Counter(token for _, token in pairs)
        n_windows = 1 + max(0, -(-(len(ids) - room) // stride)) if pairs else 0
        for piece, token in pairs:
            number = min(max(0, (piece - margin) // stride), n_windows - 1)
            place = len(pieces.before) + piece - number * stride
            result.append((len(windows) + number, place, n_tokens + token, 1 / counts[token]))
        for start in range(0, n_windows * stride, stride):
            windows.append([*pieces.before, *ids[start : start + room], *pieces.after])
            posts.append(i)
        n_tokens += len(doc)
    table = numpy.asarray(result, dtype="float64").reshape(-1, 4)
    numbers, places, tokens = table[:, :3].T.astype("int64")
    return Windows(windows, posts, numbers, places, tokens, table[:, 3].astype("float32"), n_tokens)
