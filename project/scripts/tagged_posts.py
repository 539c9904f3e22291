"""Read posts with a tag for each token: the Twitter-2015/2017 text format and JSON lines."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast, get_args

Orphans: TypeAlias = Literal["drop", "begin"]
"""What becomes of an `I-` tag that continues nothing: "drop": it is `O`, so that entities are what
begins with `B-`, as the papers count them; "begin": it begins an entity, as seqeval reads it."""

RENAMED_LABELS = {"OTHER": "MISC"}
"""Twitter-2015's name for what Twitter-2017 and the papers call MISC."""

TAG = re.compile(r"O|[BI]-\S+")


class FormatError(ValueError):
    """A line that is not in the format; the message names file and line."""


@dataclass(frozen=True)
class TaggedPost:
    """A post.

    id (str): The published id, which is also the name of its picture file.
    tokens (List[str]): The tokens, as published.
    tags (List[str]): A BIO tag for each.
    where (str): File and line it begins at.
    """

    id: str
    tokens: list[str]
    tags: list[str]
    where: str


def read_twitter_text(path: Path) -> Iterator[TaggedPost]:
    """Read the format of Twitter-2015/2017: a line `IMGID:<id>`, then a line `token<TAB>tag` for
    each token, and a blank line, which the last post may lack.

    path (Path): The file, UTF-8.
    YIELDS (TaggedPost): The posts.
    RAISES (FormatError): A line is something else.
    """
    post: TaggedPost | None = None
    # Only "\n" ends a line: some tokens are characters that Python's splitlines breaks at.
    for number, line in enumerate(_read(path).split("\n"), 1):
        where = f"{path}, line {number}"
        line = line.removesuffix("\r")
        if line.startswith("IMGID:"):
            if post is not None:
                yield post
            post = TaggedPost(line.removeprefix("IMGID:").strip(), [], [], where)
            if not post.id:
                raise FormatError(f"{where}: the id after IMGID: is missing.")
        elif line.strip():
            token, tab, tag = line.rpartition("\t")
            if not tab:
                raise FormatError(
                    f"{where}: expected token<TAB>tag, or IMGID:<id>, but found {line[:60]!r}."
                )
            if post is None:
                raise FormatError(f"{where}: a token before the first line IMGID:<id>.")
            post.tokens.append(token)
            post.tags.append(_check_tag(tag.strip(), where))
    if post is None:
        raise FormatError(f"{path}: there are no posts in it; each begins with a line IMGID:<id>.")
    yield post


def read_json_lines(path: Path) -> Iterator[TaggedPost]:
    """Read JSON lines with "tokens", "label" (a BIO tag for each) and "image_id" (a file name) or
    "id".

    path (Path): The file, UTF-8.
    YIELDS (TaggedPost): The posts; `id` is the file name of the picture.
    RAISES (FormatError): A line is something else.
    """
    for number, line in enumerate(_read(path).split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            record = json.loads(line)
        except ValueError as err:
            raise FormatError(f"{where}: not valid JSON ({err}).") from None
        record = record if isinstance(record, dict) else {}
        tokens, tags = _strings(record.get("tokens")), _strings(record.get("label"))
        if tokens is None or tags is None or len(tokens) != len(tags):
            raise FormatError(
                f'{where}: expected an object with "tokens" and "label", two lists of strings '
                "of the same length."
            )
        yield TaggedPost(
            str(record.get("image_id") or f"{record.get('id', number)}.jpg"),
            tokens,
            [_check_tag(tag, where) for tag in tags],
            where,
        )


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as err:
        raise FormatError(f"{path}: not UTF-8 ({err.reason} at byte {err.start}).") from None


def _strings(value: Any) -> list[str] | None:
    return value if isinstance(value, list) and all(isinstance(x, str) for x in value) else None


def _check_tag(tag: str, where: str) -> str:
    if not TAG.fullmatch(tag):
        raise FormatError(f"{where}: expected O, B-<label> or I-<label> as tag, but found {tag!r}.")
    prefix, _, label = tag.partition("-")
    return f"{prefix}-{RENAMED_LABELS.get(label, label)}" if label else tag


def check_orphans(value: str) -> Orphans:
    """RETURNS (str): The value; see `Orphans`. Raises `FormatError` if it is another word."""
    if value not in get_args(Orphans):
        raise FormatError(f"orphans is {value!r}; choose {' or '.join(get_args(Orphans))}.")
    return cast(Orphans, value)


def repair_tags(tags: list[str], orphans: Orphans) -> tuple[list[str], int]:
    """Make every entity begin with `B-`.

    tags (List[str]): BIO tags.
    orphans (str): See `Orphans`.
    RETURNS (Tuple[List[str], int]): The tags, and the number of entities that began with `I-`.
    """
    repaired = []
    found = 0
    open_as_found = open_label = ""  # the label of the entity before, as published and as repaired
    for tag in tags:
        prefix, _, label = tag.partition("-")
        if prefix == "I" and label != open_as_found:
            found += 1
        if prefix == "I" and label != open_label:
            tag = f"B-{label}" if orphans == "begin" else "O"
        open_as_found, open_label = label, label if tag != "O" else ""
        repaired.append(tag)
    return repaired, found
