"""Read MNRE's text files: a Python dict a line, an instance each."""

import ast
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tagged_posts import FormatError

FILES = {"train": ("train",), "dev": ("val", "dev", "valid"), "test": ("test",)}
"""Our names of the splits, and those in file names."""

EXPECTED = (
    'a dict with "token" (strings), "h" and "t" (each with "pos", the first token and one past the '
    'last), "img_id" and "relation"'
)


@dataclass(frozen=True)
class MnreRow:
    """An instance: a pair of spans of a post, and their relation.

    tokens (Tuple[str, ...]): The post.
    head (Tuple[int, int]): Its first token, and one past its last.
    tail (Tuple[int, int]): The same. May overlap with the head.
    relation (str): As published; "None" for none.
    image (str): The name of the picture's file.
    """

    tokens: tuple[str, ...]
    head: tuple[int, int]
    tail: tuple[int, int]
    relation: str
    image: str

    @property
    def post(self) -> tuple[tuple[str, ...], str]:
        """RETURNS (Tuple[Tuple[str, ...], str]): The same for instances of the same post."""
        return self.tokens, self.image

    @property
    def overlaps(self) -> bool:
        """RETURNS (bool): Whether head and tail share tokens."""
        return max(self.head[0], self.tail[0]) < min(self.head[1], self.tail[1])


@dataclass(frozen=True)
class MnreFile:
    """What is in a text file.

    rows (List[MnreRow]): Its instances. The place in this list is the row by which the published
        dictionaries of crops go.
    other_names (int): Heads and tails whose "name" is not what the tokens at their place say.
    """

    rows: list[MnreRow]
    other_names: int


def find_mnre_text(data: Path, split: str) -> Path:
    """Find the text file of a split: `mnre_<split>.txt`, or `txt/ours_<split>.txt` in HVPNeT's
    layout.

    data (Path): The folder of the data.
    split (str): "train", "dev" or "test".
    RETURNS (Path): The file.
    RAISES (FormatError): There is none.
    """
    for folder in (data, data / "txt"):
        for prefix in ("mnre", "ours"):
            for name in FILES[split]:
                path = folder / f"{prefix}_{name}.txt"
                if path.is_file():
                    return path
    name = FILES[split][0]
    raise FormatError(
        f"There is no file {data / f'mnre_{name}.txt'}, nor {data / 'txt' / f'ours_{name}.txt'} as "
        "in HVPNeT's layout."
    )


def read_mnre(path: Path) -> MnreFile:
    """Read a text file. Only literals are read: nothing in it is run. Other keys of the dicts, such
    as "caption" and "entity" in HVPNeT's files, are passed over.

    path (Path): The file, UTF-8.
    RETURNS (MnreFile): What is in it.
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
        raise FormatError(
            f"{path}: there are no instances in it; expected on each line {EXPECTED}."
        )
    return MnreFile(rows, other_names)


def group_rows(rows: Iterable[MnreRow]) -> list[list[int]]:
    """Bring instances of the same post together.

    rows (Iterable[MnreRow]): The instances.
    RETURNS (List[List[int]]): For each post, in order of its first instance, its instances by their
        place in `rows`.
    """
    posts: dict[Any, list[int]] = {}
    for i, row in enumerate(rows):
        posts.setdefault(row.post, []).append(i)
    return list(posts.values())


def _read_line(line: bytes, where: str) -> tuple[MnreRow, int]:
    """RETURNS (Tuple[MnreRow, int]): The instance, and how many of its two names don't fit."""
    try:
        record = ast.literal_eval(line.decode("utf-8-sig").strip())
    except UnicodeDecodeError as err:
        raise FormatError(f"{where}: not UTF-8 ({err.reason} at byte {err.start}).") from None
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as err:
        reason = " ".join(str(err).split())[:100]
        raise FormatError(f"{where}: not a Python dict ({reason}); expected {EXPECTED}.") from None
    if not isinstance(record, dict):
        raise FormatError(f"{where}: {str(record)[:60]!r} is no dict; expected {EXPECTED}.")
    tokens = record.get("token")
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        raise FormatError(f'{where}: "token" is not a list of strings; expected {EXPECTED}.')
    image, relation = (_read_string(record, key, where) for key in ("img_id", "relation"))
    head, tail = (_read_pos(record, key, len(tokens), where) for key in ("h", "t"))
    row = MnreRow(tuple(tokens), head, tail, relation, image)
    names = ((record[key].get("name"), pos) for key, pos in (("h", head), ("t", tail)))
    return row, sum(name != " ".join(tokens[slice(*pos)]) for name, pos in names)


def _read_string(record: dict[Any, Any], key: str, where: str) -> str:
    value = record.get(key)
    if not isinstance(value, str) or not value.strip():
        raise FormatError(f'{where}: "{key}" is {str(value)[:60]!r}; expected a string with text.')
    return value


def _read_pos(record: dict[Any, Any], key: str, length: int, where: str) -> tuple[int, int]:
    span = record.get(key)
    pos = span.get("pos") if isinstance(span, dict) else None
    if (
        not isinstance(pos, (list, tuple))
        or len(pos) != 2
        or not all(isinstance(x, int) and not isinstance(x, bool) for x in pos)
    ):
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
