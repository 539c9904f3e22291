"""Splitting a batch of docs so that padding stays small."""

from collections.abc import Iterator, Sequence

from spacy.tokens import Doc


def batches_by_length(docs: Sequence[Doc], max_tokens: int) -> Iterator[list[int]]:
    """Group docs of similar length. Results never depend on the grouping, time and memory do: one post of
    700 tokens would have a thousand tweets beside it padded to its length.

    docs (Sequence[Doc]): A batch; docs without tokens are left out.
    max_tokens (int): Tokens of a group, padding included; a longer doc is a group of its own.
    YIELDS (List[int]): Indices into `docs`.
    """
    order = sorted((i for i, doc in enumerate(docs) if len(doc)), key=lambda i: len(docs[i]))
    group: list[int] = []
    for i in order:
        if group and (len(group) + 1) * len(docs[i]) > max_tokens:
            yield group
            group = []
        group.append(i)
    if group:
        yield group
