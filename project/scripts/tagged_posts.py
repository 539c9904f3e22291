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


def read_twitter_text(path: Path, tag_column: int = 0) -> Iterator[TaggedPost]:
    """Read the format of Twitter-2015/2017: a line `IMGID:<id>`, then a line `token<TAB>tag` for
    each token, and a blank line, which the last post may lack.

    path (Path): The file, UTF-8.
    tag_column (int): Which column has the tag, where lines have more than two; the token is in
        column 1. 0: lines have two columns, and others are refused.
    YIELDS (TaggedPost): The posts, also those without tokens.
    RAISES (FormatError): A line is something else, or no post has a token.
    """
    if tag_column < 0 or tag_column == 1:
        raise FormatError(
            f"--tag-column is {tag_column}; columns are counted from 1, which is the token, so a tag is "
            "in column 2 or later (0: lines have two columns)."
        )
    post: TaggedPost | None = None
    ended = False  # by a blank line
    headers = tokens = 0
    # Only "\n" ends a line: some tokens are characters that Python's splitlines breaks at.
    for number, line in enumerate(_read(path).split("\n"), 1):
        where = f"{path}, line {number}"
        content = line.strip()
        check_line_end(content, where)
        if not content:
            ended = True
        elif line.startswith("IMGID:") and "\t" not in content:  # with a tab it is a token
            if post is not None:
                yield post
            post, ended = TaggedPost(content.removeprefix("IMGID:").strip(), [], [], where), False
            headers += 1
            if not post.id:
                raise FormatError(f"{where}: the id after IMGID: is missing.")
        else:
            token, tag = _split_columns(line, tag_column, where)
            if post is None:
                raise FormatError(f"{where}: a token before the first line IMGID:<id>.")
            if ended:
                raise FormatError(
                    f"{where}: a token after a blank line, which ends a post. Each post begins with a "
                    "line IMGID:<id> of its own: add it, or take the blank line out."
                )
            post.tokens.append(token)
            post.tags.append(_check_tag(tag, where))
            tokens += 1
    if post is not None:
        yield post
    if not tokens:
        found = f"{headers} lines IMGID:<id>, but no token" if headers else "nothing"
        raise FormatError(
            f"{path}: there are no posts in it ({found}); each is a line IMGID:<id>, then lines "
            "token<TAB>tag."
        )


def _split_columns(line: str, tag_column: int, where: str) -> tuple[str, str]:
    """RETURNS (Tuple[str, str]): Token and tag of a line."""
    columns = line.split("\t")
    if len(columns) < 2:
        raise FormatError(f"{where}: expected token<TAB>tag, or IMGID:<id>, but found {line[:60]!r}.")
    if not tag_column and len(columns) > 2:
        raise FormatError(
            f"{where}: {len(columns)} columns, {line[:60]!r}: say which one has the tag, with "
            f"--tag-column 2 to {len(columns)} (in the project --vars.tag_column)."
        )
    if tag_column > len(columns):
        raise FormatError(
            f"{where}: there is no column {tag_column} (--tag-column), but {len(columns)}: {line[:60]!r}."
        )
    return columns[0], columns[(tag_column or 2) - 1].strip()


def read_json_lines(path: Path) -> Iterator[TaggedPost]:
    """Read JSON lines with "tokens", "label" (a BIO tag for each) and "image_id" (a file name) or
    "id".

    path (Path): The file, UTF-8.
    YIELDS (TaggedPost): The posts; `id` is the file name of the picture.
    RAISES (FormatError): A line is something else, or no post has a token.
    """
    found = False
    for number, line in enumerate(_read(path).split("\n"), 1):
        line = line.strip()
        if not line:
            continue
        where = f"{path}, line {number}"
        check_line_end(line, where)
        try:
            record = json.loads(line)
        except RecursionError:
            raise FormatError(f"{where}: nested too deeply.") from None
        except ValueError as err:
            raise FormatError(f"{where}: not valid JSON ({err}).") from None
        record = record if isinstance(record, dict) else {}
        tokens, tags = _strings(record.get("tokens")), _strings(record.get("label"))
        if tokens is None or tags is None or len(tokens) != len(tags):
            raise FormatError(
                f'{where}: expected an object with "tokens" and "label", two lists of strings '
                "of the same length."
            )
        found = found or bool(tokens)
        yield TaggedPost(
            join_surrogates(str(record.get("image_id") or f"{record.get('id', number)}.jpg"), where),
            [join_surrogates(token, where) for token in tokens],
            [_check_tag(join_surrogates(tag, where), where) for tag in tags],
            where,
        )
    if not found:
        raise FormatError(f'{path}: there are no posts in it; each is a line with "tokens".')


def _read(path: Path) -> str:
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as err:
        line = err.object.count(b"\n", 0, err.start) + 1
        raise FormatError(
            f"{path}: not UTF-8 (line {line}, {err.reason} at byte {err.start}). Save it as UTF-8."
        ) from None


def check_line_end(line: str, where: str) -> None:
    """Check that a line is one: old Macs ended lines with a carriage return alone.

    line (str): Without its end.
    where (str): File and line.
    RAISES (FormatError): There is a carriage return in it.
    """
    if "\r" in line:
        raise FormatError(
            f"{where}: there is a carriage return within the line. Lines have to end with \\n or "
            "\\r\\n: save the file with such line ends."
        )


def join_surrogates(text: str, where: str) -> str:
    """Make one character of each surrogate pair, as which escapes can spell it.

    text (str): From a file.
    where (str): File and line.
    RETURNS (str): Text that can be encoded.
    RAISES (FormatError): There is half of a pair.
    """
    try:
        return text.encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError:
        raise FormatError(
            f"{where}: {ascii(text)[:60]} contains half of a surrogate pair, which is no character."
        ) from None


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
