"""JSON lines of posts: reading them into docs, and writing what was found in them."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from spacy.tokens import Doc
from spacy.util import get_words_and_spaces

from ..extensions import get_confidence, get_image_error, set_image, set_regions
from ..relations import Relation, has_relations, read_relations, set_relations

if TYPE_CHECKING:
    from spacy.language import Language

    from ..local_pictures import PictureCounts, PictureFolder


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
    """Parse one line and check the types of what it says.

    line (bytes): UTF-8 JSON.
    RETURNS (Dict[str, Any]): An object with "text" (a string) or "tokens" (strings), or both.
    RAISES (PostError): It is something else.
    """
    try:
        record = json.loads(line.decode("utf8"), parse_constant=_no_constant)
        # What can't be written again: half a surrogate pair, a number out of range.
        json.dumps(record, ensure_ascii=False, allow_nan=False).encode("utf8")
    except RecursionError:
        raise PostError("nested too deeply") from None
    except UnicodeEncodeError:
        raise PostError("contains half of a surrogate pair, which is no character") from None
    except UnicodeDecodeError as err:
        raise PostError(f"not UTF-8 ({err.reason} at byte {err.start})") from None
    except ValueError as err:
        raise PostError(f"not valid JSON ({err})") from None
    if not isinstance(record, dict):
        raise PostError(f"not an object but {_kind(record)}")
    text, tokens, image = record.get("text"), record.get("tokens"), record.get("image")
    if text is None and tokens is None:
        raise PostError('has neither "text" nor "tokens"')
    if text is not None and not isinstance(text, str):
        raise PostError(f'"text" is not a string but {_kind(text)}')
    if tokens is not None and not (
        isinstance(tokens, list) and all(isinstance(token, str) and token for token in tokens)
    ):
        raise PostError('"tokens" is not a list of strings that are not empty')
    if image is not None and not isinstance(image, str):
        raise PostError(f'"image" is not a path but {_kind(image)}')
    return record


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _kind(value: Any) -> str:
    names = {bool: "true or false", dict: "an object", list: "a list", str: "a string"}
    if value is None:
        return "null"
    return names.get(type(value), "a number")


def make_doc(
    nlp: "Language", post: Post, folder: "PictureFolder", counts: "PictureCounts | None" = None
) -> Doc:
    """Build the doc of a post. A picture that can't be used is left out, with `doc._.image_error`.

    nlp (Language): The pipeline it is for.
    post (Post): The post.
    folder (PictureFolder): Where its picture may be.
    counts (Optional[PictureCounts]): Where it is counted.
    RETURNS (Doc): The doc. Tokens that are given are kept, with the spaces of the text if that is
        given too and fits, otherwise with one space between each.
    RAISES (PostError): The post can't be made into a doc.
    """
    record = post.record
    try:
        if record.get("tokens") is None:
            doc = nlp.make_doc(record["text"])
        else:
            doc = Doc(nlp.vocab, words=record["tokens"], spaces=_spaces(record))
        set_regions(doc, record.get("regions"))
        set_relations(doc, record.get("relations"))
    except (TypeError, ValueError) as err:  # too long; regions or relations of a wrong form
        raise PostError(" ".join(str(err).split())) from None
    set_image(doc, record.get("image"))
    folder.localize(doc, counts)
    return doc


def _spaces(record: dict[str, Any]) -> list[bool]:
    words = record["tokens"]
    if record.get("text") is not None:
        try:
            aligned, spaces = get_words_and_spaces(words, record["text"])
        except ValueError:
            aligned, spaces = [], []
        if aligned == words:
            return spaces
    return [True] * (len(words) - 1) + [False] * bool(words)


def to_record(post: Post, doc: Doc) -> dict[str, Any]:
    """What is written about a post.

    post (Post): The post.
    doc (Doc): Its doc, after the pipeline.
    RETURNS (Dict[str, Any]): Everything the line said, with "text" and "tokens" as in the doc (all
        offsets are into these), "entities", "relations" if there are any or a component looks for
        them, and "image_error" if the picture was not used.
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
    error = get_image_error(doc)
    if error is not None:
        result["image_error"] = error
    return result


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
