"""Read MNRE's text files (a Python dict or a JSON object a line, an instance each); its instances as docs,
and back.
"""

import ast
import json
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from spacy.tokens import Doc, Span
from spacy.util import filter_spans
from spacy.vocab import Vocab

from project.facts import SOURCE_KEY, SPLIT_NAMES
from project.tagged import FormatError, check_line_end, find_split_file, is_strings, join_surrogates
from spacy_mmib.post.relations import set_relations

EMPTY_TOKEN = "\ufffd"
"""Stands for a token without characters, which spaCy can't have; dropping it would shift the tags."""
ENTITY = "ENTITY"
"""The type of every head and tail. MNRE gives no types. The names of its relations would tell them,
but for related pairs only: types taken from there would leak the label."""
EXPECTED = (
    'a dict with "token" (strings), "h" and "t" (each with "pos", the first token and one past the '
    'last), "img_id" and "relation"'
)
Place: TypeAlias = tuple[int, int]
"""The first token of a span, and one past its last."""


class MnreRow(NamedTuple):
    """An instance: a pair of spans of a post, which may overlap, their relation as published ("None" for
    none), and the name of the picture's file.
    """

    tokens: tuple[str, ...]
    head: Place
    tail: Place
    relation: str
    image: str


class MnreFile(NamedTuple):
    """The instances of a text file, in the order by which the published dictionaries of crops go; and how
    many heads and tails have a "name" that is not what the tokens at their place say.
    """

    rows: list[MnreRow]
    other_names: int


def find_mnre_text(data: Path, split: str) -> Path:
    """Find the text file of a split: `mnre_<split>.txt` (`mnre_org_<split>.txt` in version 1), also
    in the folder `mnre_txt` as in the official repository, or `txt/ours_<split>.txt` in HVPNeT's
    layout.

    RAISES (FormatError): There is none, or more than one.
    """
    found = find_split_file(
        [data, data / "mnre_txt", data / "txt"],
        [f"{prefix}_{name}" for prefix in ("mnre", "mnre_org", "ours") for name in SPLIT_NAMES[split]],
    )
    if found is None:
        name = "val" if split == "dev" else split
        raise FormatError(
            f"There is no file {data / f'mnre_{name}.txt'}, nor {data / 'txt' / f'ours_{name}.txt'} "
            f"as in HVPNeT's layout, nor a folder {data / 'mnre_txt'} with it as in the official "
            "repository."
        )
    return found


def read_mnre(path: Path) -> MnreFile:
    """Read a text file. A line that is JSON is read as JSON, any other as a literal of Python: nothing in
    it is run. Other keys of the dicts, such as "caption" in HVPNeT's files, are passed over.

    RAISES (FormatError): A line is something else.
    """
    rows: list[MnreRow] = []
    other_names = 0
    with warnings.catch_warnings():
        # A backslash in a caption, to which the parser of Python has something to say.
        warnings.simplefilter("ignore", SyntaxWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        # Only "\n" ends a line: a token may be a character that Python's splitlines breaks at.
        for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
            if line.strip():
                row, others = _read_line(line, f"{path}, line {number}")
                rows.append(row)
                other_names += others
    if not rows:
        raise FormatError(f"{path}: there are no instances in it; expected on each line {EXPECTED}.")
    return MnreFile(rows, other_names)


def group_rows(rows: Iterable[MnreRow]) -> list[list[int]]:
    """RETURNS (List[List[int]]): For each post (text and picture), in order of its first instance, its
    instances by their place in `rows`.
    """
    posts: dict[Any, list[int]] = {}
    for i, row in enumerate(rows):
        posts.setdefault((row.tokens, row.image), []).append(i)
    return list(posts.values())


def make_doc(vocab: Vocab, tokens: Iterable[str], tags: list[str] | None = None) -> Doc:
    """RETURNS (Doc): A doc of just these tokens, with BIO tags of its entities; see `EMPTY_TOKEN`."""
    # Spaces are not known. Said so, spaCy trains and evaluates on these very tokens, those
    # published scores are counted on, rather than on its own tokenization of the joined text.
    return Doc(vocab, words=[token or EMPTY_TOKEN for token in tokens], ents=tags)


def to_doc(vocab: Vocab, rows: list[MnreRow], numbers: list[int], split: str = "") -> tuple[Doc, int]:
    """Make a doc of instances of one post.

    RETURNS (Tuple[Doc, int]): The doc, all instances in `doc._.relations`, in order; and how many
        of their spans are no entities of it, which can't overlap.
    """
    tokens = rows[0].tokens
    doc = make_doc(vocab, tokens)
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


def _read_line(line: bytes, where: str) -> tuple[MnreRow, int]:
    """RETURNS (Tuple[MnreRow, int]): The instance, and how many of its two names don't fit."""
    try:
        text = line.decode("utf-8-sig").strip()
    except UnicodeDecodeError as err:
        raise FormatError(
            f"{where}: not UTF-8 ({err.reason} at byte {err.start} of the line). Save the file as UTF-8."
        ) from None
    check_line_end(text, where)
    record = _parse(text, where)
    if not isinstance(record, dict):
        raise FormatError(f"{where}: {str(record)[:60]!r} is no dict; expected {EXPECTED}.")
    tokens = record.get("token")
    if not is_strings(tokens):
        raise FormatError(f'{where}: "token" is not a list of strings; expected {EXPECTED}.')
    tokens = [join_surrogates(token, where) for token in tokens]
    image, relation = (_read_string(record, key, where) for key in ("img_id", "relation"))
    head, tail = (_read_pos(record, key, len(tokens), where) for key in ("h", "t"))
    row = MnreRow(tuple(tokens), head, tail, relation, image)
    other = 0
    for key, pos in (("h", head), ("t", tail)):
        name = record[key].get("name")
        if isinstance(name, str):  # which is only compared, so half a surrogate pair is no error
            name = name.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
        other += name != " ".join(tokens[slice(*pos)])
    return row, other


def _parse(text: str, where: str) -> Any:
    """RETURNS (Any): What a line says. The two notations differ: an escaped slash and a surrogate pair mean
    something in JSON only.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as err:
        reason = " ".join(str(err).split())[:100]
        raise FormatError(f"{where}: not a Python dict ({reason}), nor JSON; expected {EXPECTED}.") from None


def _read_string(record: dict[Any, Any], key: str, where: str) -> str:
    value = record.get(key)
    if not isinstance(value, str) or not value.strip():
        shown = None if value is None else repr(str(value)[:60])
        raise FormatError(f'{where}: "{key}" is {shown}; expected a string with text.')
    return join_surrogates(value, where)


def _read_pos(record: dict[Any, Any], key: str, length: int, where: str) -> Place:
    span = record.get(key)
    pos = span.get("pos") if isinstance(span, dict) else None
    if not isinstance(pos, (list, tuple)) or [type(x) for x in pos] != [int, int]:
        raise FormatError(
            f'{where}: "pos" of "{key}" is {str(pos)[:60]}; expected two numbers, the first token '
            "and one past the last."
        )
    start, end = pos
    if not 0 <= start < end <= length:
        raise FormatError(
            f'{where}: "pos" of "{key}" is [{start}, {end}], which is no span of {length} tokens.'
        )
    return start, end
