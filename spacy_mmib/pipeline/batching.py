"""Splitting a batch of docs so that padding stays small."""

from collections.abc import Iterator, Sequence

from spacy.tokens import Doc

MOST_PADDING = 1.25
"""Tokens with padding to tokens without, in a group of any size worth the while."""

WORTHWHILE = 512
"""Tokens with padding of a group that keeps a processor busy."""


def batches_by_length(docs: Sequence[Doc], max_tokens: int) -> Iterator[list[int]]:
    """Group docs of similar length. Results never depend on the grouping, time and memory do: one post of
    700 tokens would have a thousand tweets beside it padded to its length.

    docs (Sequence[Doc]): A batch; docs without tokens are left out.
    max_tokens (int): Tokens of a group, padding included; a longer doc is a group of its own.
    YIELDS (List[int]): Indices into `docs`.
    """
    order = sorted((i for i, doc in enumerate(docs) if len(doc)), key=lambda i: len(docs[i]))
    group: list[int] = []
    tokens = 0
    for i in order:
        length = len(docs[i])
        padded = (len(group) + 1) * length
        wasteful = padded > WORTHWHILE and padded > MOST_PADDING * (tokens + length)
        if group and (padded > max_tokens or wasteful):
            yield group
            group, tokens = [], 0
        group.append(i)
        tokens += length
    if group:
        yield group


def batches_of_pairs(
    lengths: Sequence[int], numbers: Sequence[int], max_tokens: int, *, per_pair: bool
) -> Iterator[list[tuple[int, int, int]]]:
    """The same for docs with pairs of spans to classify.

    lengths (Sequence[int]): Tokens of each doc.
    numbers (Sequence[int]): Pairs of each doc; docs without are left out.
    max_tokens (int): Tokens of a group, padding included; a longer doc is a group of its own.
    per_pair (bool): A doc is encoded once a pair, so that its pairs can be spread over groups.
    YIELDS (List[Tuple[int, int, int]]): A doc's index, and the first and one past the last of its pairs.
    """
    order = sorted((i for i, number in enumerate(numbers) if number), key=lambda i: lengths[i])
    group: list[tuple[int, int, int]] = []
    encoded = 0
    for i in order:
        start = 0
        while start < numbers[i]:
            room = max(1, max_tokens // max(1, lengths[i]))  # encodings of this length in a group
            if group and encoded >= room:
                yield group
                group, encoded = [], 0
            end = min(numbers[i], start + room - encoded) if per_pair else numbers[i]
            group.append((i, start, end))
            encoded += end - start if per_pair else 1
            start = end
    if group:
        yield group
