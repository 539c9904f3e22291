"""Read MNRE's text files: a Python dict or a JSON object a line, an instance each."""

import ast
import json
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from split_files import find_split_file
from tagged_posts import FormatError, check_line_end, join_surrogates

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
    """Find the text file of a split: `mnre_<split>.txt` (`mnre_org_<split>.txt` in version 1), also
    in the folder `mnre_txt` as in the official repository, or `txt/ours_<split>.txt` in HVPNeT's
    layout.

    data (Path): The folder of the data.
    split (str): "train", "dev" or "test".
    RETURNS (Path): The file.
    RAISES (FormatError): There is none, or more than one.
    """
    found = find_split_file(
        [data, data / "mnre_txt", data / "txt"],
        [f"{prefix}_{name}" for prefix in ("mnre", "mnre_org", "ours") for name in FILES[split]],
    )
    if found is None:
        name = FILES[split][0]
        raise FormatError(
            f"There is no file {data / f'mnre_{name}.txt'}, nor {data / 'txt' / f'ours_{name}.txt'} "
            f"as in HVPNeT's layout, nor a folder {data / 'mnre_txt'} with it as in the official "
            "repository."
        )
    return found


def read_mnre(path: Path) -> MnreFile:
    """Read a text file. A line that is JSON is read as JSON, any other as a literal of Python: nothing in
    it is run. Other keys of the dicts, such
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
        raise FormatError(f"{path}: there are no instances in it; expected on each line {EXPECTED}.")
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
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        raise FormatError(f'{where}: "token" is not a list of strings; expected {EXPECTED}.')
    tokens = [join_surrogates(token, where) for token in tokens]
    image, relation = (_read_string(record, key, where) for key in ("img_id", "relation"))
    head, tail = (_read_pos(record, key, len(tokens), where) for key in ("h", "t"))
    row = MnreRow(tuple(tokens), head, tail, relation, image)
    names = ((record[key].get("name"), pos) for key, pos in (("h", head), ("t", tail)))
    return row, sum(_joined(name) != " ".join(tokens[slice(*pos)]) for name, pos in names)


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


def _joined(name: Any) -> Any:
    """RETURNS (Any): A name as the tokens are; it is only compared, so half a pair is no error."""
    if isinstance(name, str):
        return name.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
    return name


def _read_string(record: dict[Any, Any], key: str, where: str) -> str:
    value = record.get(key)
    if not isinstance(value, str) or not value.strip():
        shown = None if value is None else repr(str(value)[:60])
        raise FormatError(f'{where}: "{key}" is {shown}; expected a string with text.')
    return join_surrogates(value, where)


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
