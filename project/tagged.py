"""Read posts with a tag for each token: the Twitter-2015/2017 text format and JSON lines."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from spacy.tokens import Doc
from spacy.vocab import Vocab

from project.facts import SPLIT_NAMES

EMPTY_TOKEN = "\ufffd"
"""Stands for a token without characters, which spaCy can't have; dropping it would shift the tags."""
RENAMED_LABELS = {"OTHER": "MISC"}
"""Twitter-2015's name for what Twitter-2017 and the papers call MISC."""
TAG = re.compile(r"O|[BI]-\S+")


class FormatError(ValueError):
    """A line that is not in the format; the message names file and line."""


class TaggedPost(NamedTuple):
    """A post: the file name of its picture, its tokens as published, and a BIO tag for each."""

    picture: str
    tokens: list[str]
    tags: list[str]


class Split(NamedTuple):
    """A split as published: its docs, the file name of each one's picture, there or not, and how many there
    are of what is counted, and of each label.
    """

    docs: list[Doc]
    pictures: list[str]
    counts: Counter[str]
    labels: Counter[str]


def find_split_file(
    folders: Iterable[Path], stems: Iterable[str], expected: str, suffix: str = ".txt"
) -> Path:
    """Find the text file of a split by its name. White space round the name is passed over: a
    published file is called `mnre_val .txt`.

    folders (Iterable[Path]): Where it may be; those that aren't there are passed over.
    expected (str): Which file there should be, for the message.
    RAISES (FormatError): There is none, or more than one.
    """
    stems, found = set(stems), {}  # a file may be there under two names, by a link
    for folder in folders:
        for path in sorted(folder.glob(f"*{suffix}*")):
            if path.name.strip().removesuffix(suffix).rstrip() in stems and path.is_file():
                found.setdefault(path.resolve(), path)
    if len(found) > 1:
        shown = " and ".join(repr(str(path)) for path in found.values())
        raise FormatError(
            f"More than one file could be the same split: {shown}. Put those of one version into a "
            "folder of their own."
        )
    if not found:
        raise FormatError(f"There is no file {expected}.")
    return next(iter(found.values()))


def find_twitter_text(data: Path, split: str) -> Path:
    """RETURNS (Path): The text file of a split. Raises `FormatError` if there is none, or more than one."""
    names = SPLIT_NAMES[split]
    expected = f"{data / names[0]}.txt: the data folder holds train, valid and test.txt"
    return find_split_file([data], names, expected)


def read_tagged(posts: Iterable[TaggedPost], orphans: str) -> Split:
    """Make docs of the posts of a split, but for those without tokens.

    orphans (str): What becomes of an `I-` tag that continues nothing. "drop": it is `O`, so that entities are
        what begins with `B-`, as the papers count them; "begin": it begins an entity, as seqeval reads it.
    RAISES (FormatError): `orphans` is another word, or what the posts are read from is not in the format.
    """
    if orphans not in ("drop", "begin"):
        raise FormatError(f"orphans is {orphans!r}; choose drop or begin.")
    names = ("posts", "tokens", "entities", "begin_with_i", "empty_tokens", "empty_posts")
    names += ("with_picture", "missing_pictures", "crops", "missing_crops")
    split = Split([], [], Counter(dict.fromkeys(names, 0)), Counter())
    vocab = Vocab()
    for post in posts:
        if not post.tokens:
            split.counts["empty_posts"] += 1
            continue
        tags, begin_with_i = repair_tags(post.tags, orphans)
        doc = make_doc(vocab, post.tokens, tags)
        split.docs.append(doc)
        split.pictures.append(post.picture)
        split.labels.update(ent.label_ for ent in doc.ents)
        split.counts.update(posts=1, tokens=len(doc), entities=len(doc.ents), begin_with_i=begin_with_i)
        split.counts.update(empty_tokens=post.tokens.count(""))
    return split


def make_doc(vocab: Vocab, tokens: Iterable[str], tags: list[str] | None = None) -> Doc:
    """RETURNS (Doc): A doc of just these tokens, with BIO tags of its entities; see `EMPTY_TOKEN`."""
    # Spaces are not known. Said so, spaCy trains and evaluates on these very tokens, those
    # published scores are counted on, rather than on its own tokenization of the joined text.
    return Doc(vocab, words=[token or EMPTY_TOKEN for token in tokens], ents=tags)


def read_twitter_text(path: Path, tag_column: int = 0) -> Iterator[TaggedPost]:
    """Read the format of Twitter-2015/2017: a line `IMGID:<id>`, then a line `token<TAB>tag` for
    each token, and a blank line, which the last post may lack.

    tag_column (int): Which column has the tag, where lines have more than two; the token is in
        column 1. 0: lines have two columns, and others are refused.
    RAISES (FormatError): A line is something else, or no post has a token.
    """
    if tag_column < 0 or tag_column == 1:
        raise FormatError(
            f"--tag-column is {tag_column}; columns are counted from 1, which is the token, so a tag is "
            "in column 2 or later (0: lines have two columns)."
        )
    post: TaggedPost | None = None
    ended = False  # by a blank line
    tokens = 0
    for where, line in _read_lines(path):
        if not line.strip():
            ended = True
        elif line.startswith("IMGID:") and "\t" not in line.strip():  # with a tab it is a token
            if post is not None:
                yield post
            picture = line.strip().removeprefix("IMGID:").strip() + ".jpg"
            post, ended = TaggedPost(picture, [], []), False
            if picture == ".jpg":
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
        raise FormatError(f"{path}: there are no posts in it; each is IMGID:<id>, then lines token<TAB>tag.")


def read_json_lines(path: Path) -> Iterator[TaggedPost]:
    """Read JSON lines with "tokens", "label" (a BIO tag for each) and "image_id" (a file name) or
    "id".

    RAISES (FormatError): A line is something else, or no post has a token.
    """
    found = False
    for number, (where, line) in enumerate(_read_lines(path), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except RecursionError:
            raise FormatError(f"{where}: nested too deeply.") from None
        except ValueError as err:
            raise FormatError(f"{where}: not valid JSON ({err}).") from None
        record = record if isinstance(record, dict) else {}
        tokens, tags = (record.get(key) for key in ("tokens", "label"))
        if not is_strings(tokens) or not is_strings(tags) or len(tokens) != len(tags):
            raise FormatError(
                f'{where}: expected an object with "tokens" and "label", two lists of strings '
                "of the same length."
            )
        found = found or bool(tokens)
        yield TaggedPost(
            join_surrogates(str(record.get("image_id") or f"{record.get('id', number)}.jpg"), where),
            [join_surrogates(token, where) for token in tokens],
            [_check_tag(join_surrogates(tag, where), where) for tag in tags],
        )
    if not found:
        raise FormatError(f'{path}: there are no posts in it; each is a line with "tokens".')


def check_line_end(line: str, where: str) -> None:
    """RAISES (FormatError): There is a carriage return within a line: old Macs ended lines with one alone."""
    if "\r" in line.strip():
        raise FormatError(
            f"{where}: there is a carriage return within the line. Lines have to end with \\n or "
            "\\r\\n: save the file with such line ends."
        )


def join_surrogates(text: str, where: str) -> str:
    """RETURNS (str): Text with one character for each surrogate pair, as which escapes can spell it.
    RAISES (FormatError): There is half of a pair.
    """
    try:
        return text.encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError:
        raise FormatError(
            f"{where}: {ascii(text)[:60]} contains half of a surrogate pair, which is no character."
        ) from None


def is_strings(value: Any) -> bool:
    """RETURNS (bool): Whether it is a list of strings."""
    return isinstance(value, list) and all(isinstance(x, str) for x in value)


def repair_tags(tags: list[str], orphans: str) -> tuple[list[str], int]:
    """Make every entity begin with `B-`; see `read_tagged` for `orphans`.

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


def _read_lines(path: Path) -> Iterator[tuple[str, str]]:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as err:
        line = err.object.count(b"\n", 0, err.start) + 1
        raise FormatError(
            f"{path}: not UTF-8 (line {line}, {err.reason} at byte {err.start}). Save it as UTF-8."
        ) from None
    # Only "\n" ends a line: some tokens are characters that Python's splitlines breaks at.
    for number, line in enumerate(text.split("\n"), 1):
        where = f"{path}, line {number}"
        check_line_end(line, where)
        yield where, line


def _split_columns(line: str, tag_column: int, where: str) -> tuple[str, str]:
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


def _check_tag(tag: str, where: str) -> str:
    if not TAG.fullmatch(tag):
        raise FormatError(f"{where}: expected O, B-<label> or I-<label> as tag, but found {tag!r}.")
    prefix, _, label = tag.partition("-")
    return f"{prefix}-{RENAMED_LABELS.get(label, label)}" if label else tag
