"""How things are kept in `Doc.user_data`, which other packages use as well, and files of strangers fill.

Keys of ours are led to by no attribute of another package: `doc._.image` of theirs would otherwise read and
write our pictures. What is found under them is checked before it is used.
"""

import math
import numbers
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

from spacy.tokens import Doc

from ..images.values import PathInRoot
from ..util import one_line

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


def get_entry(doc: Doc, key: Key) -> Any:
    """RETURNS (Any): What is kept, as it is there; `None` if there is nothing."""
    value = doc.user_data.get(key)
    old = OLD_KEYS.get(key) if value is None else None
    # Version 0.1 kept values under the key of the attribute itself, which may be another package's now.
    return doc.user_data[old] if old and old in doc.user_data and is_ours(Doc, old[1]) else value


def set_entry(doc: Doc, key: Key, value: Any) -> None:
    """Keep plain values in place of what was there; `None` for nothing."""
    old = OLD_KEYS.get(key)
    if old and old in doc.user_data and is_ours(Doc, old[1]):
        del doc.user_data[old]
    if value is None:
        doc.user_data.pop(key, None)
    else:
        doc.user_data[key] = value


def pack_text(text: str) -> str | bytes:
    """RETURNS (Union[str, bytes]): The same, or as bytes if it has halves of surrogate pairs (file names that
    aren't UTF-8 have), which no serialization of a doc can write.
    """
    try:
        text.encode("utf8")
    except UnicodeEncodeError:
        return text.encode("utf8", "surrogatepass")
    return text


def unpack_text(stored: Any) -> str | None:
    """RETURNS (Optional[str]): The inverse of `pack_text`; `None` for what isn't its result."""
    if isinstance(stored, bytes):
        try:
            return stored.decode("utf8", "surrogatepass")
        except UnicodeDecodeError:
            return None
    return stored if isinstance(stored, str) else None


def pack_path(path: str) -> Any:
    """RETURNS (Union[str, Tuple]): What is kept of a path: itself, or ("path", path, folder or None) if it is
    bound to a folder or can't be serialized as text, as not all file names can.
    """
    text, root = pack_text(str.__str__(path)), getattr(path, "root", None)
    if root is None and isinstance(text, str):
        return text
    return ("path", text, None if root is None else pack_text(root))


def unpack_path(stored: Any) -> Any:
    """RETURNS (Union[str, PathInRoot]): The inverse of `pack_path`; what isn't its result stays as it is."""
    if not isinstance(stored, (list, tuple)) or len(stored) != 3 or stored[0] != "path":
        return stored
    path, root = unpack_text(stored[1]), unpack_text(stored[2])
    if path is None or (root is None and stored[2] is not None):
        return stored
    return path if root is None else PathInRoot(path, root)


def get_line(doc: Doc, key: Key) -> str | None:
    """RETURNS (Optional[str]): The text that is kept, as one line."""
    return one_line(unpack_text(get_entry(doc, key)) or "") or None


def set_line(doc: Doc, key: Key, text: str | None) -> None:
    """Keep a text as one line."""
    line = "" if text is None else one_line(str(text))
    set_entry(doc, key, pack_text(line) if line else None)


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
    before = doc.user_data.pop(key, None)
    table = dict(before) if isinstance(before, dict) else {}
    table.pop(name, None)
    if rows:
        table[name] = rows
    if table:
        doc.user_data[key] = table


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
