"""Posts as lines of JSON: telling such a file from others, docs of lines, and what is written about them."""

import base64
import json
import math
import re
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain
from typing import Any, BinaryIO, TypeAlias
from urllib.parse import unquote_to_bytes

from spacy.language import Language
from spacy.tokens import Doc, Span
from spacy.util import get_words_and_spaces

from ..post.boxes import get_region
from ..post.extensions import (
    get_confidence,
    get_image_error,
    read_regions,
    set_image_error,
    set_images,
    set_regions,
)
from ..post.relations import ASKED, has_relations, read_relations, set_relations
from ..training.local_pictures import PictureCounts, PictureFolder
from ..util import one_line

Record: TypeAlias = dict[str, Any]

RELATIONS_ERROR_KEY = ("spacy_mmib", "relations_error", None, None)
"""In `Doc.user_data`: why the relations that the line has are not on the doc."""

BOM = b"\xef\xbb\xbf"
COMPRESSED = "compressed with {0} ({0} -dc FILE | spacy mmib predict MODEL -)"
ZLIB = "a .spacy file (for spacy mmib evaluate, say) or something else compressed with zlib"
UTF16 = "text in UTF-16, not UTF-8"
BEGINNINGS = {
    b"PAR1": "a Parquet file",
    b"ARROW1": "an Arrow (Feather) file",
    b"\x1f\x8b": COMPRESSED.format("gzip"),
    b"BZh": COMPRESSED.format("bzip2"),
    b"\xfd7zXZ\x00": COMPRESSED.format("xz"),
    b"\x28\xb5\x2f\xfd": COMPRESSED.format("zstd"),
    b"PK\x03\x04": "a ZIP archive, as Excel's .xlsx files are",
    b"x\x9c": ZLIB,
    b"x\xda": ZLIB,
    b"\xff\xfe": UTF16,
    b"\xfe\xff": UTF16,
    b"{\x00": UTF16,
    b"\x00{": UTF16,
}
LOOKED_AT = 10
"""Lines, if none of those before is an object."""
AT_ONCE = 4096  # bytes of the first line: a file without lines can be large


class NotJsonLines(ValueError):
    """The input is something else; the message says what."""


class PostError(ValueError):
    """A line that is not a post; the message says why."""


def open_json_lines(source: BinaryIO) -> Iterator[bytes]:
    """RETURNS (Iterator[bytes]): The lines of an input; if the first is an object no other is read ahead.
    RAISES (NotJsonLines): The beginning shows that it holds something else.
    """
    start = source.readline(AT_ONCE)
    for beginning, kind in BEGINNINGS.items():
        if start.startswith(beginning):
            raise NotJsonLines(f"it is {kind}")
    lines = [start if len(start) < AT_ONCE else start + source.readline()]
    while lines[-1] and not _is_object(lines[-1]) and len(lines) < LOOKED_AT:
        lines.append(source.readline())
    what = _recognize(lines)
    if what is not None:
        raise NotJsonLines(f"it is {what}")
    return chain(lines, source)


def _is_object(line: bytes) -> bool:
    return line.removeprefix(BOM).lstrip().startswith(b"{")


def _recognize(lines: list[bytes]) -> str | None:
    """What the first lines are of, if not of JSON lines."""
    lines = [stripped for line in lines if (stripped := line.removeprefix(BOM).strip())]
    first = lines[0] if lines else b""
    if first == b"{":
        return "one JSON object over several lines (jq -c . FILE makes a line of it)"
    if re.match(rb"\[\s*({|$)", first):  # a list of something else is a bad line among others
        return "a JSON array, not an object a line (jq -c '.[]' FILE makes lines of it)"
    if any(map(_is_object, lines)) or first.startswith(b"["):
        return None
    if delimiter := re.search(rb"[,;\t|]", first):
        return (
            f"CSV, with {delimiter[0].decode()!r} between its columns, or the like (in pandas, "
            'read_csv(FILE).to_json("posts.jsonl", orient="records", lines=True) makes lines of it)'
        )
    if len(lines) == LOOKED_AT:
        return f"something else: none of its first {LOOKED_AT} lines begins with {{"
    return None


def parse_post(line: bytes | str | Record) -> Record:
    """Parse a line of JSON, or take what it holds: a post if it has a text, whatever else it has. NaN and
    numbers out of range, which JSON doesn't have, are read as null.

    RETURNS (Dict[str, Any]): An object with "text" (a string) or "tokens" (strings, or objects with "text"),
        or both; or such an object under "data", as Label Studio has it.
    RAISES (PostError): It is something else.
    """
    try:
        record: Any = line
        if not isinstance(line, dict):
            content = line.decode("utf8") if isinstance(line, bytes) else line
            record = json.loads(content, parse_constant=lambda name: None, parse_float=_to_number)
        json.dumps([[[record]]])  # it is written again, below the key "as_given" perhaps
    except RecursionError:
        raise PostError("nested too deeply") from None
    except UnicodeDecodeError as err:
        raise PostError(f"not UTF-8 ({err.reason} at byte {err.start})") from None
    except (TypeError, ValueError) as err:
        raise PostError(f"not valid JSON ({err})") from None
    if not isinstance(record, dict):
        raise PostError(f"not an object but {_kind(record)}")
    fields = _get_fields(record)
    text, tokens = fields.get("text"), fields.get("tokens")
    if not _has_content(fields):
        if text is not None:
            raise PostError(f'"text" is not a string but {_kind(text)}')
        if tokens is not None:
            raise PostError('"tokens" is not a list of strings that are not empty')
        raise PostError('has neither "text" nor "tokens"')
    try:
        "".join([text if isinstance(text, str) else "", *(_get_words(tokens) or ())]).encode("utf8")
    except UnicodeEncodeError:
        raise PostError("contains half of a surrogate pair, which is no character") from None
    return record


def _to_number(digits: str) -> float | None:
    number = float(digits)
    return number if math.isfinite(number) else None


def _get_fields(record: Record) -> Record:
    """The object with the text: the record, or its "data"."""
    data: Any = record.get("data")
    is_inside = isinstance(data, dict) and _has_content(data) and not _has_content(record)
    return data if is_inside else record


def _has_content(fields: Record) -> bool:
    return isinstance(fields.get("text"), str) or _get_words(fields.get("tokens")) is not None


def _get_words(tokens: Any) -> list[str] | None:
    """Tokens as strings, if their form is known. Prodigy's and others' are objects with "text"."""
    if not isinstance(tokens, list):
        return None
    words: list[Any] = [t.get("text") if isinstance(t, dict) else t for t in tokens]
    return words if all(isinstance(word, str) and word for word in words) else None


def _kind(value: Any) -> str:
    names = {type(None): "null", bool: "true or false", dict: "an object", list: "a list", str: "a string"}
    return names.get(type(value), "a number")


def make_doc(nlp: Language, record: Record, folder: PictureFolder, counts: PictureCounts) -> Doc:
    """Build the doc of a post. A picture that can't be used is left out, with `doc._.image_error`. Tokens,
    regions and relations of an unknown form are left out, too.

    RETURNS (Doc): The doc. Tokens that are given are kept, with the spaces of the text if that is
        given too and fits, otherwise with one space between each.
    RAISES (PostError): The post can't be made into a doc, or asks for relations that it can't have.
    """
    fields = _get_fields(record)
    doc = _make_tokens(nlp, fields)
    problem, kind, images, unusable = None, "box", list[str | bytes](), dict[int, str]()
    try:
        set_regions(doc, fields.get("regions"))
    except (TypeError, ValueError) as err:
        problem = f"its objects are not used: {one_line(str(err))}"
    relations = fields.get("relations")
    try:
        set_relations(doc, relations)
    except (TypeError, ValueError) as err:
        if _asks(relations):
            raise PostError(one_line(str(err))) from None
        doc.user_data[RELATIONS_ERROR_KEY] = one_line(str(err))
    try:
        images, unusable = _read_images(fields.get("image"), fields.get("images"))
    except (TypeError, ValueError) as err:
        problem, kind = one_line(str(err)), "not_a_picture"
        set_regions(doc, None)
    set_images(doc, images)
    folder.localize(doc, counts, unusable)
    if problem is not None:
        set_image_error(doc, "; ".join(filter(None, (get_image_error(doc), problem))))
        counts.reasons[kind] = counts.reasons.get(kind, 0) + 1
    return doc


def _make_tokens(nlp: Language, fields: Record) -> Doc:
    text: Any = fields.get("text")
    tokens: Any = fields.get("tokens")
    words = _get_words(tokens)
    spaces = None
    if words is not None and isinstance(text, str):
        with suppress(ValueError):  # the words don't make up the text
            aligned, found = get_words_and_spaces(words, text)
            spaces = found if aligned == words else None
        # Objects may be about another text than the one they were cut from, such as pieces of words.
        is_foreign = spaces is None and any(isinstance(token, dict) for token in tokens)
        if is_foreign or (not words and text):
            words = None
    try:
        if words is None:
            return nlp.make_doc(text)
        if spaces is None:
            said = [token.get("ws") if isinstance(token, dict) else None for token in tokens]
            spaces = [i < len(said) - 1 if ws is None else bool(ws) for i, ws in enumerate(said)]
        return Doc(nlp.vocab, words=words, spaces=spaces)
    except (TypeError, ValueError) as err:  # too long
        raise PostError(one_line(str(err))) from None


def _asks(relations: Any) -> bool:
    """Whether there is a question among relations, without whose answer a post is no use."""
    return isinstance(relations, list) and any(
        relation.get("label") == ASKED if isinstance(relation, dict) else relation[2:3] == [ASKED]
        for relation in relations
        if isinstance(relation, (dict, list))
    )


def _read_images(first: Any, images: Any) -> tuple[list[str | bytes], dict[int, str]]:
    """The pictures of a post, whose first may be said alone, and why some can't be used, by index."""
    if images is not None and not isinstance(images, list):
        raise TypeError(f'"images" is not a list but {_kind(images)}')
    if images and first not in (None, images[0]):
        raise ValueError('"image" is not the first of "images": give one of them')
    found: list[str | bytes] = []
    unusable = {}
    for i, value in enumerate(images or ([] if first is None else [first])):
        try:
            found.append(_read_image(value))
        except (TypeError, ValueError) as err:
            found.append(b"")  # in its place, for the objects of others
            unusable[i] = one_line(str(err))
    return found, unusable


def _read_image(value: Any) -> str | bytes:
    """A path, or what a data URI holds. Nothing is fetched for it."""
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


def to_record(record: Record, doc: Doc) -> Record:
    """What is written about a post, once its doc has been through the pipeline.

    RETURNS (Dict[str, Any]): Everything the line said, with "text" and "tokens" as in the doc (all
        offsets are into these), "entities", "relations" if there are any or a component looks for
        them, "image_error" if the picture was not used, and "relations_error" if the relations of the line
        were not. What the line said in another form under these names is at "as_given".
    """
    entities = [entity_to_json(ent) for ent in doc.ents]
    found: Record = {"text": doc.text, "tokens": [token.text for token in doc], "entities": entities}
    if has_relations(doc):
        found["relations"] = [relation.to_json() for relation in read_relations(doc)]
        for relation in found["relations"]:
            if relation["score"] is not None:
                relation["score"] = round(relation["score"], 5)
    errors = {"image_error": get_image_error(doc), "relations_error": doc.user_data.get(RELATIONS_ERROR_KEY)}
    result = {key: value for key, value in record.items() if key not in errors} | found
    result.update({key: error for key, error in errors.items() if error is not None})
    given = {key: record[key] for key in found if record.get(key) not in (None, found[key])}
    if errors["relations_error"] is None:
        given.pop("relations", None)
    foreign = {key: value for key, value in given.items() if not _is_own(key, value)}
    if foreign:
        before = record.get("as_given")
        result["as_given"] = {**(before if isinstance(before, dict) else {}), **foreign}
    return result


def _is_own(key: str, value: Any) -> bool:
    """Whether a text, tokens or entities have the form in which they are written."""
    if key == "tokens":
        return isinstance(value, list) and all(isinstance(token, str) for token in value)
    if key == "entities":
        return isinstance(value, list) and all(isinstance(x, dict) and "confidence" in x for x in value)
    return key == "text" and isinstance(value, str)


def entity_to_json(ent: Span) -> Record:
    """RETURNS (Dict[str, Any]): Characters, tokens, text, label and confidence of an entity; and if somebody
    has looked for it, "region": which object it is ("index" and "box", null for none), "score", "source".
    """
    confidence, found = get_confidence(ent), get_region(ent)
    region: Record = {}
    if found is not None:
        place = None if found.index is None else read_regions(ent.doc)[found.index]
        box = place["box"] if isinstance(place, dict) else None
        region = {"index": found.index, "box": box, "score": round(found.score, 5), "source": found.source}
    return {
        "start": ent.start_char,
        "end": ent.end_char,
        "start_token": ent.start,
        "end_token": ent.end,
        "text": ent.text,
        "label": ent.label_,
        # Digits beyond these depend on what else is in the batch.
        "confidence": None if confidence is None else round(float(confidence), 5),
        **({"region": region} if region else {}),
    }


def to_line(record: Record) -> str:
    """RETURNS (str): A line of JSON. Half a surrogate pair, as a path may have it, is escaped."""
    line = json.dumps(record, ensure_ascii=False)
    try:
        line.encode("utf8")
    except UnicodeEncodeError:
        line = json.dumps(record)
    return f"{line}\n"
