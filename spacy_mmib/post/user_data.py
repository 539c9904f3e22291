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

OLD_KEYS: dict[Key, Key] = {
    ("._.", PREFIX + name, None, None): ("._.", name, None, None)
    for name in ("image", "regions", "image_error", "relations")
}
"""By key of an attribute of ours, where version 0.1 kept it."""


def make_key(name: str) -> Key:
    """RETURNS (Key): Where the value of our attribute `doc._.<name>` is kept. spaCy treats it as a key of an
    attribute: `Span.as_doc` doesn't take it along.
    """
    return ("._.", PREFIX + name, None, None)


def is_ours(cls: Any, name: str) -> bool:
    """RETURNS (bool): Whether the attribute `_.<name>` of `Doc` or `Span` is that of this package."""
    getter = cls.get_extension(name)[2] if cls.has_extension(name) else None
    return (getattr(getter, "__module__", None) or "").startswith(PREFIX)


def _is_old(doc: Doc, old: Key) -> bool:
    """Version 0.1 kept values under the key of the attribute itself, which may be another package's now."""
    return old in doc.user_data and is_ours(Doc, old[1])


def get_entry(doc: Doc, key: Key) -> Any:
    """RETURNS (Any): What is kept, as it is there; `None` if there is nothing."""
    value = doc.user_data.get(key)
    old = OLD_KEYS.get(key) if value is None else None
    return doc.user_data[old] if old and _is_old(doc, old) else value


def set_entry(doc: Doc, key: Key, value: Any) -> None:
    """Keep plain values in place of what was there; `None` for nothing."""
    old = OLD_KEYS.get(key)
    if old and _is_old(doc, old):
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
    """Go through a table of rows by component, {name: [row, ...]}, or through those of one component.

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
    before = doc.user_data.get(key)
    table = dict(before) if isinstance(before, dict) else {}
    table.pop(name, None)
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
