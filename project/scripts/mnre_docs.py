"""Instances of MNRE as spaCy docs, and back."""

from corpus_writer import make_doc
from mnre_rows import MnreRow
from spacy.tokens import Doc, Span
from spacy.util import filter_spans
from spacy.vocab import Vocab

from spacy_mmib.post.relations import get_relations, set_relations

ENTITY = "ENTITY"
"""The type of every head and tail. MNRE gives no types. The names of its relations would tell them,
but for related pairs only: types taken from there would leak the label."""

SOURCE_KEY = ("spacy_mmib", "mnre", None, None)
"""In `Doc.user_data`: {"image": the published name of the picture's file, there or not, "rows": the
row of each of `doc._.relations`, "split": of the file, "empty": places of the tokens without
characters}."""


def to_doc(vocab: Vocab, rows: list[MnreRow], numbers: list[int], split: str = "") -> tuple[Doc, int]:
    """Make a doc of instances of one post.

    vocab (Vocab): The vocabulary.
    rows (List[MnreRow]): The instances, at least one.
    numbers (List[int]): Their rows in the file.
    split (str): Of the file: "train", "dev" or "test".
    RETURNS (Tuple[Doc, int]): The doc, all instances in `doc._.relations`, in order; and how many
        of their spans are no entities of it, which can't overlap.
    """
    tokens = rows[0].tokens
    doc = make_doc(vocab, list(tokens))
    places = dict.fromkeys(place for row in rows for place in (row.head, row.tail))
    spans = {place: Span(doc, *place, label=ENTITY) for place in places}
    entities = filter_spans(spans.values())
    doc.set_ents(entities)
    set_relations(doc, [(spans[row.head], spans[row.tail], row.relation) for row in rows])
    doc.user_data[SOURCE_KEY] = {
        "image": rows[0].image,
        "rows": list(numbers),
        "split": split,
        "empty": [i for i, token in enumerate(tokens) if not token],
    }
    return doc, len(spans) - len(entities)


def to_rows(doc: Doc) -> list[tuple[int, MnreRow]]:
    """Convert back.

    doc (Doc): A doc that `to_doc` made, or that was read from a file with such docs.
    RETURNS (List[Tuple[int, MnreRow]]): Its instances, each with its row in the file.
    RAISES (ValueError): It is another doc, or its relations are not those of the file any more.
    """
    source = doc.user_data.get(SOURCE_KEY)
    relations = get_relations(doc)
    if source is None or len(source["rows"]) != len(relations):
        raise ValueError(f"{doc.text[:60]!r} is not as it was converted from MNRE.")
    empty = set(source["empty"])
    tokens = tuple("" if token.i in empty else token.text for token in doc)
    return [
        (
            number,
            MnreRow(
                tokens,
                (relation.head.start, relation.head.end),
                (relation.tail.start, relation.tail.end),
                relation.label,
                source["image"],
            ),
        )
        for number, relation in zip(source["rows"], relations)
    ]
