"""Read MNRE's text files (a Python dict or a JSON object a line, an instance each); its instances as docs,
and back.
"""

import ast
import json
import warnings
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from spacy.tokens import Span
from spacy.util import filter_spans
from spacy.vocab import Vocab

from project.facts import SOURCE_KEY, SPLIT_NAMES
from project.tagged import (
    FormatError,
    Split,
    check_line_end,
    find_split_file,
    is_strings,
    join_surrogates,
    make_doc,
)
from spacy_mmib.post.relations import set_relations

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


def find_mnre_text(data: Path, split: str) -> Path:
    """Find the text file of a split: `mnre_<split>.txt` (`mnre_org_<split>.txt` in version 1), also
    in the folder `mnre_txt` as in the official repository, or `txt/ours_<split>.txt` in HVPNeT's
    layout.

    RAISES (FormatError): There is none, or more than one.
    """
    names = [f"{prefix}_{name}" for prefix in ("mnre", "mnre_org", "ours") for name in SPLIT_NAMES[split]]
    name = "val" if split == "dev" else split
    expected = (
        f"{data / f'mnre_{name}.txt'}, nor {data / 'txt' / f'ours_{name}.txt'} as in HVPNeT's layout, nor a "
        f"folder {data / 'mnre_txt'} with it as in the official repository"
    )
    return find_split_file([data, data / "mnre_txt", data / "txt"], names, expected)


def read_mnre(path: Path) -> tuple[list[MnreRow], int]:
    """Read a text file. A line that is JSON is read as JSON, any other as a literal of Python: nothing in
    it is run. Other keys of the dicts, such as "caption" in HVPNeT's files, are passed over.

    RETURNS (Tuple[List[MnreRow], int]): The instances, in the order by which the published dictionaries of
        crops go; and how many heads and tails have a "name" that is not what the tokens at their place say.
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
    return rows, other_names


def read_mnre_split(path: Path, split: str, *, grouped: bool = True) -> Split:
    """Make docs of a text file.

    grouped (bool): One for each post (text and picture), in order of its first instance, rather than for each
        instance.
    RAISES (FormatError): It is not in the format.
    """
    rows, other_names = read_mnre(path)
    posts: dict[Any, list[int]] = {}
    for i, row in enumerate(rows):
        posts.setdefault((row.tokens, row.image), []).append(i)
    labels = Counter(row.relation for row in rows)
    counts = Counter(
        instances=len(rows),
        posts=len(posts),
        **dict.fromkeys(("docs", "tokens", "entities", "not_entities"), 0),
        labels=len(labels),
        overlapping=sum(r.head[0] < r.tail[1] and r.tail[0] < r.head[1] for r in rows),
        repeated=len(rows) - len({(row.tokens, row.image, row.head, row.tail) for row in rows}),
        other_names=other_names,
        **dict.fromkeys(("empty_tokens", "with_picture", "missing_pictures"), 0),
        **dict.fromkeys(("crops", "missing_crops", "refused_crops"), 0),
    )
    vocab, docs, pictures = Vocab(), [], []
    for numbers in posts.values() if grouped else [[number] for number in range(len(rows))]:
        found = [rows[number] for number in numbers]
        doc = make_doc(vocab, found[0].tokens)
        places = dict.fromkeys(place for row in found for place in (row.head, row.tail))
        spans = {place: Span(doc, *place, label=ENTITY) for place in places}
        doc.set_ents(filter_spans(spans.values()))  # entities can't overlap
        set_relations(doc, [(spans[row.head], spans[row.tail], row.relation) for row in found])
        empty = [i for i, token in enumerate(found[0].tokens) if not token]
        source = {"image": found[0].image, "rows": numbers, "split": split, "empty": empty}
        doc.user_data[SOURCE_KEY] = source
        docs.append(doc)
        pictures.append(found[0].image)
        counts.update(docs=1, tokens=len(doc), entities=len(doc.ents), empty_tokens=len(empty))
        counts.update(not_entities=len(spans) - len(doc.ents))
    return Split(docs, pictures, counts, labels)


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
    other = 0
    for key, pos in (("h", head), ("t", tail)):
        name = record[key].get("name")
        if isinstance(name, str):  # which is only compared, so half a surrogate pair is no error
            name = name.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
        other += name != " ".join(tokens[slice(*pos)])
    return MnreRow(tuple(tokens), head, tail, relation, image), other


def _parse(text: str, where: str) -> Any:
    # The two notations differ: an escaped slash and a surrogate pair mean something in JSON only.
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
