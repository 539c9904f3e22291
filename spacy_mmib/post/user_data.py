"""How things are kept in `Doc.user_data`, which other packages use as well, and files of strangers fill.

Keys of ours are led to by no attribute of another package: `doc._.image` of theirs would otherwise read and
write our pictures. What is found under them is checked before it is used.
"""

import math
import numbers
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

from spacy.tokens import Doc

from ..util import one_line, pack_text, unpack_text

Key: TypeAlias = tuple[str, str, int | None, int | None]

PREFIX = "spacy_mmib."


def make_key(name: str) -> Key:
    """RETURNS (Key): Where the value of our attribute `doc._.<name>` is kept. spaCy treats it as a key of an
    attribute: `Span.as_doc` doesn't take it along.
    """
    return ("._.", PREFIX + name, None, None)


def is_ours(cls: type, name: str) -> bool:
    """RETURNS (bool): Whether the attribute `_.<name>` of `Doc` or `Span` is that of this package."""
    if not cls.has_extension(name):  # type: ignore[attr-defined]
        return False
    getter = cls.get_extension(name)[2]  # type: ignore[attr-defined]
    return (getattr(getter, "__module__", None) or "").startswith(PREFIX)


def _find_old_key(doc: Doc, key: Key) -> Key | None:
    """RETURNS (Optional[Key]): Where version 0.1 kept it, if it did: under the key of the attribute itself,
    which counts unless the attribute is another package's.
    """
    old = ("._.", key[1].removeprefix(PREFIX), None, None)
    return old if old in doc.user_data and is_ours(Doc, old[1]) else None


def get_entry(doc: Doc, key: Key) -> Any:
    """RETURNS (Any): What is kept, as it is there; `None` if there is nothing."""
    value = doc.user_data.get(key)
    if value is None:
        old = _find_old_key(doc, key)
        value = None if old is None else doc.user_data[old]
    return value


def set_entry(doc: Doc, key: Key, value: Any) -> None:
    """Keep something, in place of what was there.

    doc (Doc): The post.
    key (Key): See `make_key`.
    value (Any): Plain values; `None` for nothing.
    """
    old = _find_old_key(doc, key)
    if old is not None:
        del doc.user_data[old]
    if value is None:
        doc.user_data.pop(key, None)
    else:
        doc.user_data[key] = value


def get_line(doc: Doc, key: Key) -> str | None:
    """RETURNS (Optional[str]): The line of text that is kept."""
    text = unpack_text(get_entry(doc, key))
    return None if text is None else one_line(text) or None


def set_line(doc: Doc, key: Key, text: str | None) -> None:
    """Keep a text as one line."""
    set_entry(doc, key, None if text is None else pack_text(one_line(str(text))) or None)


def get_rows(doc: Doc, key: Key, name: str | None = None) -> Iterator[tuple[str, Sequence[Any]]]:
    """Go through a table of rows by component: {name: [row, ...]}.

    doc (Doc): The post.
    key (Key): Of the table.
    name (Optional[str]): Those of this component only.
    YIELDS (Tuple[str, Sequence]): The name of a component, and a row. What has another form is passed over.
    """
    table = doc.user_data.get(key)
    for component, rows in table.items() if isinstance(table, dict) else ():
        if isinstance(component, str) and name in (None, component):
            for row in rows if isinstance(rows, (list, tuple)) else ():
                if isinstance(row, (list, tuple)):
                    yield component, row


def set_rows(doc: Doc, key: Key, name: str, rows: list[list[Any]]) -> None:
    """Keep the rows of a component, in place of its earlier ones and behind those of others."""
    table: dict[str, list[Any]] = {}
    for other, row in get_rows(doc, key):
        if other != name:
            table.setdefault(other, []).append(row)
    if rows:
        table[name] = rows
    set_entry(doc, key, table or None)


def is_whole(value: Any) -> bool:
    """RETURNS (bool): Whether this is a whole number of at least 0."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool) and int(value) >= 0


def is_finite(value: Any) -> bool:
    """RETURNS (bool): Whether this is a number, and finite."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return False
    try:
        return math.isfinite(float(value))
    except OverflowError:
        return False
