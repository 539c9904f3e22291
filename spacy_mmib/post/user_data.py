"""How things are kept in `Doc.user_data`, which other packages use as well, and files of strangers fill.

An entry of ours has a key that no attribute of another package leads to: `doc._.image` of theirs would
otherwise read and write our pictures. What is found under our keys is checked before it is used.
"""

import math
import numbers
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

from spacy.tokens import Doc

Key: TypeAlias = tuple[str, str, int | None, int | None]

PREFIX = "spacy_mmib."


def make_key(name: str) -> Key:
    """RETURNS (Key): The key of what the attribute `doc._.<name>` of this package holds. spaCy treats it as
    it treats those of attributes: `Span.as_doc` doesn't take it along.
    """
    return ("._.", PREFIX + name, None, None)


def is_ours(cls: type, name: str) -> bool:
    """RETURNS (bool): Whether the attribute `_.<name>` of `Doc` or `Span` is that of this package."""
    if not cls.has_extension(name):  # type: ignore[attr-defined]
        return False
    getter = cls.get_extension(name)[2]  # type: ignore[attr-defined]
    return (getattr(getter, "__module__", None) or "").startswith(PREFIX)


def get_entry(doc: Doc, key: Key) -> Any:
    """RETURNS (Any): What is kept, as it is there; `None` if there is nothing. Up to version 0.1 it was kept
    under the key of the attribute itself, which is looked at too, unless the attribute is another package's.
    """
    value = doc.user_data.get(key)
    if value is None and key[1].startswith(PREFIX):
        name = key[1].removeprefix(PREFIX)
        value = doc.user_data.get(("._.", name, None, None))
        if value is not None and not is_ours(Doc, name):
            return None
    return value


def set_entry(doc: Doc, key: Key, value: Any) -> None:
    """Keep something, in place of what was there.

    doc (Doc): The post.
    key (Key): See `make_key`.
    value (Any): Plain values; `None` for nothing.
    """
    if value is None:
        doc.user_data.pop(key, None)
    else:
        doc.user_data[key] = value
    if key[1].startswith(PREFIX):
        name = key[1].removeprefix(PREFIX)
        old = ("._.", name, None, None)
        if old in doc.user_data and is_ours(Doc, name):
            del doc.user_data[old]


def get_rows(doc: Doc, key: Key, name: str | None = None) -> Iterator[tuple[str, Sequence[Any]]]:
    """Go through a table of rows by component: {name: [row, ...]}.

    doc (Doc): The post.
    key (Key): Of the table.
    name (Optional[str]): Those of this component only.
    YIELDS (Tuple[str, Sequence]): The name of a component, and a row. What isn't of this form is passed over.
    """
    table = doc.user_data.get(key)
    if not isinstance(table, dict):
        return
    for component, rows in table.items():
        if isinstance(component, str) and name in (None, component):
            for row in rows if isinstance(rows, (list, tuple)) else ():
                if isinstance(row, (list, tuple)):
                    yield component, row


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
