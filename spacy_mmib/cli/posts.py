"""JSON lines of posts: reading them into docs, and writing what was found in them."""

import base64
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

from spacy.tokens import Doc
from spacy.util import get_words_and_spaces

from ..post.extensions import (
    get_confidence,
    get_image_error,
    set_image,
    set_image_error,
    set_regions,
)
from ..post.relations import (
    ASKED,
    Relation,
    has_relations,
    read_relations,
    set_relations,
)

if TYPE_CHECKING:
    from spacy.language import Language

    from ..images.local_pictures import PictureCounts, PictureFolder


RELATIONS_ERROR_KEY = ("spacy_mmib", "relations_error", None, None)
"""In `Doc.user_data`: why the relations that the line has are not on the doc."""


class PostError(ValueError):
    """A line that is not a post; the message says why."""


@dataclass(frozen=True)
class Post:
    """A line of the input.

    line (int): Its number, from 1.
    record (Dict[str, Any]): What it says.
    """

    line: int
    record: dict[str, Any]


def read_posts(lines: Iterable[bytes]) -> Iterator[Post | tuple[int, PostError]]:
    """Parse JSON lines one by one. Blank lines are passed over.

    lines (Iterable[bytes]): The lines, UTF-8.
    YIELDS (Union[Post, Tuple[int, PostError]]): A post, or the number of a bad line and why it is
        bad.
    """
    for number, line in enumerate(lines, 1):
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")  # the mark some editors begin a file with
        if not line.strip():
            continue
        try:
            yield Post(number, parse_post(line))
        except PostError as err:
            yield number, err


def parse_post(line: bytes) -> dict[str, Any]:
    """Parse one line. It is a post if it has a text, whatever else it has.

    line (bytes): UTF-8 JSON. NaN and numbers out of range, which JSON doesn't have, are read as null.
    RETURNS (Dict[str, Any]): An object with "text" (a string) or "tokens" (strings, or objects with "text"),
        or both; or such an object under "data", as Label Studio has it.
    RAISES (PostError): It is something else.
    """
    try:
        record = json.loads(line.decode("utf8"), parse_constant=_no_number, parse_float=_to_number)
        json.dumps(record)
    except RecursionError:
        raise PostError("nested too deeply") from None
    except UnicodeDecodeError as err:
        raise PostError(f"not UTF-8 ({err.reason} at byte {err.start})") from None
    except ValueError as err:
        raise PostError(f"not valid JSON ({err})") from None
    if not isinstance(record, dict):
        raise PostError(f"not an object but {_kind(record)}")
    fields = _get_fields(record)
    text, tokens = fields.get("text"), fields.get("tokens")
    if not _has_content(fields):
        if text is None and tokens is None:
            raise PostError('has neither "text" nor "tokens"')
        if text is not None:
            raise PostError(f'"text" is not a string but {_kind(text)}')
        raise PostError('"tokens" is not a list of strings that are not empty')
    try:
        for part in (text, *(_get_words(tokens) or ())):
            if isinstance(part, str):
                part.encode("utf8")
    except UnicodeEncodeError:
        raise PostError("contains half of a surrogate pair, which is no character") from None
    return record


def _no_number(name: str) -> None:
    return None


def _to_number(digits: str) -> float | None:
    number = float(digits)
    return number if math.isfinite(number) else None


def _get_fields(record: dict[str, Any]) -> dict[str, Any]:
    """RETURNS (Dict[str, Any]): The object with the text: the record, or its "data"."""
    data = record.get("data")
    if isinstance(data, dict) and _has_content(data) and not _has_content(record):
        return data
    return record


def _has_content(fields: dict[str, Any]) -> bool:
    return isinstance(fields.get("text"), str) or _get_words(fields.get("tokens")) is not None


def _get_words(tokens: Any) -> list[str] | None:
    """RETURNS (Optional[List[str]]): Tokens as strings; `None` if they are of an unknown form. Prodigy's and
    others' are objects with "text".
    """
    if not isinstance(tokens, list):
        return None
    words: list[Any] = [t.get("text") if isinstance(t, dict) else t for t in tokens]
    return words if all(isinstance(word, str) and word for word in words) else None


def _kind(value: Any) -> str:
    names = {bool: "true or false", dict: "an object", list: "a list", str: "a string"}
    if value is None:
        return "null"
    return names.get(type(value), "a number")


def make_doc(
    nlp: "Language", post: Post, folder: "PictureFolder", counts: "PictureCounts | None" = None
) -> Doc:
    """Build the doc of a post. A picture that can't be used is left out, with `doc._.image_error`. Tokens,
    regions and relations of an unknown form are left out, too.

    nlp (Language): The pipeline it is for.
    post (Post): The post.
    folder (PictureFolder): Where its picture may be.
    counts (Optional[PictureCounts]): Where it is counted.
    RETURNS (Doc): The doc. Tokens that are given are kept, with the spaces of the text if that is
        given too and fits, otherwise with one space between each.
    RAISES (PostError): The post can't be made into a doc, or asks for relations that it can't have.
    """
    fields = _get_fields(post.record)
    words = _get_fitting_words(fields)
    try:
        if words is None:
            doc = nlp.make_doc(fields["text"])
        else:
            doc = Doc(nlp.vocab, words=words, spaces=_get_spaces(words, fields))
    except (TypeError, ValueError) as err:  # too long
        raise PostError(_one_line(err)) from None
    problem, kind = None, "box"
    try:
        set_regions(doc, fields.get("regions"))
    except (TypeError, ValueError) as err:
        problem = f"its objects are not used: {_one_line(err)}"
    relations = fields.get("relations")
    try:
        set_relations(doc, relations)
    except (TypeError, ValueError) as err:
        if _asks(relations):
            raise PostError(_one_line(err)) from None
        doc.user_data[RELATIONS_ERROR_KEY] = _one_line(err)
    try:
        set_image(doc, _read_image(fields.get("image")))
    except (TypeError, ValueError) as err:
        problem, kind = _one_line(err), "not_a_picture"
        set_regions(doc, None)
    folder.localize(doc, counts)
    if problem is not None:
        set_image_error(doc, "; ".join(filter(None, (get_image_error(doc), problem))))
        if counts is not None:
            counts.reasons[kind] = counts.reasons.get(kind, 0) + 1
    return doc


def _asks(relations: Any) -> bool:
    """RETURNS (bool): Whether there is a question among relations, without whose answer a post is no use."""
    if not isinstance(relations, list):
        return False
    labels = (
        relation.get("label") if isinstance(relation, dict) else relation[2:3]
        for relation in relations
        if isinstance(relation, (dict, list))
    )
    return any(label in (ASKED, [ASKED]) for label in labels)


def _read_image(value: Any) -> str | bytes | None:
    """RETURNS (Union[str, bytes, None]): A path, or what a data URI holds. Nothing is fetched for it."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise TypeError(f'"image" is not a path but {_kind(value)}')
    if value[:5].lower() != "data:":
        return value
    head, _, data = value.partition(",")
    content = unquote_to_bytes(data)
    if head.lower().endswith(";base64"):
        try:
            content = base64.b64decode(b"".join(content.split()), validate=True)
        except ValueError as err:
            raise ValueError(f'"image" is a data URI that can\'t be decoded ({err})') from None
    if not content:
        raise ValueError('"image" is a data URI without data')
    return content


def _get_fitting_words(fields: dict[str, Any]) -> list[str] | None:
    """RETURNS (Optional[List[str]]): The tokens that are given, if they can be used."""
    tokens: Any = fields.get("tokens")
    text = fields.get("text")
    words = _get_words(tokens)
    if not isinstance(text, str) or words is None:
        return words
    if not words and text:
        return None
    # Objects may be about another text than the one they were cut from, such as pieces of words.
    is_foreign = any(isinstance(token, dict) for token in tokens)
    return None if is_foreign and _align(words, text) is None else words


def _align(words: list[str], text: str) -> list[bool] | None:
    """RETURNS (Optional[List[bool]]): Whether a space follows each word, if the words make up the text."""
    try:
        aligned, spaces = get_words_and_spaces(words, text)
    except ValueError:
        return None
    return spaces if aligned == words else None


def _get_spaces(words: list[str], fields: dict[str, Any]) -> list[bool]:
    spaces = _align(words, fields["text"]) if isinstance(fields.get("text"), str) else None
    if spaces is None:
        said = [token.get("ws") if isinstance(token, dict) else None for token in fields["tokens"]]
        last = len(words) - 1
        spaces = [i < last if ws is None else bool(ws) for i, ws in enumerate(said)]
    return spaces


def _one_line(err: Exception) -> str:
    return " ".join(str(err).split())


def to_record(post: Post, doc: Doc) -> dict[str, Any]:
    """What is written about a post.

    post (Post): The post.
    doc (Doc): Its doc, after the pipeline.
    RETURNS (Dict[str, Any]): Everything the line said, with "text" and "tokens" as in the doc (all
        offsets are into these), "entities", "relations" if there are any or a component looks for
        them, "image_error" if the picture was not used, and "relations_error" if the relations of the line
        were not. What the line said in another form under these names is at "as_given".
    """
    result = {
        **post.record,
        "text": doc.text,
        "tokens": [token.text for token in doc],
        "entities": [_entity_record(ent) for ent in doc.ents],
    }
    if has_relations(doc):
        result["relations"] = [_relation_record(relation) for relation in read_relations(doc)]
    result.pop("image_error", None)
    result.pop("relations_error", None)
    error = get_image_error(doc)
    if error is not None:
        result["image_error"] = error
    relations_error = doc.user_data.get(RELATIONS_ERROR_KEY)
    if relations_error is not None:
        result["relations_error"] = relations_error
    kept = {
        key: value
        for key in ("text", "tokens", "entities", "relations")
        if (value := post.record.get(key)) is not None
        and result[key] != value
        and not _is_own(key, value, relations_error)
    }
    if kept:
        before = post.record.get("as_given")
        result["as_given"] = {**(before if isinstance(before, dict) else {}), **kept}
    return result


def _is_own(key: str, value: Any, relations_error: str | None) -> bool:
    """RETURNS (bool): Whether what a line says is in the form in which it is written."""
    if key == "text":
        return isinstance(value, str)
    if key == "tokens":
        return isinstance(value, list) and all(isinstance(token, str) for token in value)
    if key == "entities":
        return isinstance(value, list) and all(
            isinstance(entity, dict) and "confidence" in entity for entity in value
        )
    return relations_error is None


def to_line(post: Post, doc: Doc) -> str:
    """Write a post as a line of JSON.

    post (Post): The post.
    doc (Doc): Its doc, after the pipeline.
    RETURNS (str): What `to_record` says, and a line end. Half a surrogate pair, as a path may have it, is
        escaped.
    RAISES (PostError): It is nested too deeply to be written.
    """
    record = to_record(post, doc)
    try:
        line = json.dumps(record, ensure_ascii=False)
        try:
            line.encode("utf8")
        except UnicodeEncodeError:
            line = json.dumps(record)
    except RecursionError:
        raise PostError("nested too deeply") from None
    return f"{line}\n"


def _relation_record(relation: Relation) -> dict[str, Any]:
    record = relation.to_json()
    if relation.score is not None:
        record["score"] = round(relation.score, 5)
    return record


def _entity_record(ent: Any) -> dict[str, Any]:
    confidence = get_confidence(ent)
    return {
        "start": ent.start_char,
        "end": ent.end_char,
        "start_token": ent.start,
        "end_token": ent.end,
        "text": ent.text,
        "label": ent.label_,
        # Digits beyond these depend on what else is in the batch.
        "confidence": None if confidence is None else round(float(confidence), 5),
    }
