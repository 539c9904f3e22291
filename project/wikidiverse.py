"""Read WikiDiverse (Wang et al., ACL 2022), captions of Wikinews: JSON lists of [caption, URL of the picture,
topic, mentions], where each mention is [text, type, first character, one past the last, URL in Wikipedia].
"""

import hashlib
import json
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import spacy
from spacy.tokens import Doc, Span
from spacy.util import filter_spans, get_words_and_spaces

from project.facts import SPLIT_NAMES
from project.tagged import FormatError, Split, find_split_file, join_surrogates

LINK = re.compile(r"ttps?://\S+")
"""Some of the published links lack their first letter, or have others before it."""


def find_wikidiverse_text(data: Path, split: str) -> Path:
    """RETURNS (Path): The file of a split. Raises `FormatError` if there is none, or more than one."""
    names = SPLIT_NAMES[split]
    return find_split_file([data], names, f"{data / names[0]}.json", ".json")


def read_records(path: Path) -> list[tuple[str, str, list[Any]]]:
    """RETURNS (List[Tuple[str, str, List]]): Of each post the caption, the URL of its picture, the mentions.
    RAISES (FormatError): It is no such file.
    """
    try:
        records = json.loads(path.read_bytes().decode("utf-8-sig"))
    except (ValueError, RecursionError) as err:
        raise FormatError(f"{path}: not valid JSON in UTF-8 ({str(err)[:100]}).") from None
    if not isinstance(records, list) or not records:
        raise FormatError(f"{path}: expected a list of posts.")
    found = []
    for number, record in enumerate(records, 1):
        where = f"{path}, post {number}"
        parts = record if isinstance(record, list) and len(record) == 4 else [None] * 4
        if [type(part) for part in parts] != [str, str, str, list]:
            raise FormatError(f"{where}: expected [caption, URL of the picture, topic, list of mentions].")
        found.append((join_surrogates(parts[0], where), join_surrogates(parts[1], where), parts[3]))
    return found


def read_wikidiverse(path: Path) -> Split:
    """Make docs of a file: spaCy's tokens, cut at the ends of mentions, with the published types as labels
    and links as `ent.kb_id_`. A mention whose text is not at its place is moved to the nearest one that has
    it, and left out if there is none, or if it overlaps with a longer mention.

    RAISES (FormatError): It is not in the format.
    """
    nlp = spacy.blank("en")
    names = ("posts", "tokens", "entities", "linked", "moved", "lost", "overlapping_mentions", "empty_posts")
    split = Split([], [], Counter(dict.fromkeys((*names, "with_picture", "missing_pictures"), 0)), Counter())
    for number, (text, url, mentions) in enumerate(read_records(path), 1):
        if not text.strip():
            split.counts["empty_posts"] += 1
            continue
        places, where = [], f"{path}, post {number}"
        for mention in mentions:
            kinds = [type(part) for part in mention] if isinstance(mention, list) else []
            if kinds != [str, str, int, int, str] or not mention[1].strip():
                raise FormatError(
                    f"{where}: expected [text, type, first character, one past the last, URL] instead of "
                    f"{str(mention)[:80]}."
                )
            for part in (mention[1], mention[4]):
                join_surrogates(part, where)
            place = find_mention(text, *mention)
            if place is None:
                split.counts["lost"] += 1
                continue
            split.counts["moved"] += place != tuple(mention[2:4])
            link = LINK.search(mention[4])
            places.append((*place, mention[1].strip(), f"h{link[0]}" if link else ""))
        doc = make_doc(nlp, text, places)
        split.docs.append(doc)
        split.pictures.append(name_picture(url))
        split.labels.update(ent.label_ for ent in doc.ents)
        split.counts.update(posts=1, tokens=len(doc), entities=len(doc.ents))
        split.counts["linked"] += sum(bool(ent.kb_id) for ent in doc.ents)
        split.counts["overlapping_mentions"] += len(places) - len(doc.ents)
    return split


def find_mention(
    text: str, mention: str, label: str, start: int, end: int, link: str
) -> tuple[int, int] | None:
    """RETURNS (Optional[Tuple[int, int]]): The stated place of a mention, or the nearest with its text."""
    name = mention.strip()
    starts = [found.start() for found in re.finditer(f"(?={re.escape(name)})", text)] if name else []
    nearest = min(starts, key=lambda found: abs(found - start), default=None)
    return None if nearest is None else (nearest, nearest + len(name))


def make_doc(nlp: spacy.Language, text: str, places: list[tuple[int, int, str, str]]) -> Doc:
    """RETURNS (Doc): A doc with these entities: first character, one past the last, label, link."""
    edges = sorted({edge for place in places for edge in place[:2]})
    words = []
    for token in nlp.make_doc(text):
        end = token.idx + len(token)
        cuts = [token.idx, *(edge for edge in edges if token.idx < edge < end), end]
        words += [text[a:b] for a, b in pairwise(cuts)]
    doc = Doc(nlp.vocab, *get_words_and_spaces(words, text))
    spans = [doc.char_span(start, end, label=label, kb_id=link) for start, end, label, link in places]
    doc.set_ents(filter_spans([span for span in spans if isinstance(span, Span)]))
    return doc


def name_picture(url: str) -> str:
    """RETURNS (str): The name of a picture's file as in the published archive: a digest of the last part of
    its URL, and its ending, of a drawing (.svg) that of the picture made of it.
    """
    name = url.rsplit("/", 1)[-1]
    ending = re.search(r"\.[A-Za-z]{3,4}$", name)
    digest = hashlib.md5(name.encode(), usedforsecurity=False).hexdigest()
    return digest + (re.sub(r"\.svg$", ".png", ending[0], flags=re.IGNORECASE) if ending else "")
