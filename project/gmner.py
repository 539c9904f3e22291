"""Read the boxes of GMNER (Twitter10000, Yu et al., ACL 2023): for each picture that shows an entity an XML
file like those of Pascal VOC, where an object's name is the entity's text.
"""

import html
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import IO, Any

from spacy.tokens import Doc, Span

from project.facts import count_boxes
from project.tagged import FormatError, Split
from spacy_mmib.images.errors import MissingFileError, explain
from spacy_mmib.images.files import existing_inside
from spacy_mmib.post.boxes import set_boxes
from spacy_mmib.post.regions import clip_box
from spacy_mmib.util import warn

MAX_FILES = 100_000  # in the archive
MAX_BYTES = 1_000_000  # of a file; the largest published one has 6,430


def add_boxes(data: Path, splits: dict[str, Split]) -> None:
    """Annotate the entities of all posts with their boxes. An entity without a box is not in the picture, nor
    is any whose picture has no XML file, as published scores have it. What can't be read is said, and the
    entities that it is about are left without annotation.

    data (Path): Has the archive `xml.zip`, or the folder `xml`.
    splits (Dict[str, Split]): Their counts get those of `count_boxes`, and of what was left out.
    RAISES (FormatError): There are no XML files, the archive can't be read, or the extra "gmner" is missing.
    """
    open_file, parse = _find_files(data), _import_parser()
    for split in splits.values():
        split.counts.update(visible=0, boxes=0)
        for doc, picture in zip(split.docs, split.pictures):
            name, objects = f"{picture.removesuffix('.jpg')}.xml", []
            try:
                with open_file(name) as file:
                    objects = read_objects(file.read(MAX_BYTES + 1), parse)
            except (FileNotFoundError, MissingFileError):
                pass
            # What zipfile raises for damaged and encrypted members, too.
            except (ValueError, OSError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as err:
                reason = str(err) if isinstance(err, ValueError) else explain(err)
                warn(f"{name}: {reason}. Where the entities of its post are is not annotated.")
                split.counts["bad_annotations"] += 1
                continue
            split.counts.update(_annotate(doc, objects))
            split.counts.update(count_boxes(doc))


def _import_parser() -> Callable[[bytes], Any]:
    try:
        from defusedxml.ElementTree import fromstring
    except ImportError as err:
        message = f"Boxes are read with defusedxml: pip install 'spacy-mmib[gmner]' ({explain(err)})"
        raise FormatError(message) from err
    return partial(fromstring, forbid_dtd=True)


def read_objects(content: bytes, parse: Callable[[bytes], Any]) -> list[tuple[str, Any]]:
    """Read an XML file, which may come from anywhere.

    parse (Callable): Refuses document types and entities: with them files become large, or read others.
    RETURNS (List[Tuple[str, Any]]): Of each object the name and its box, (x0, y0, x1, y1) in pixels, cut off
        at the edges of the picture; `None` if nothing is left of it, or a number is missing.
    RAISES (ValueError): It is no such file.
    """
    if len(content) > MAX_BYTES:
        raise ValueError(f"more than {MAX_BYTES:,} bytes")
    try:
        tree = parse(content)
    except (SyntaxError, ValueError, LookupError) as err:
        raise ValueError(f"not read as XML ({explain(err)})") from None
    found: list[tuple[str, Any]] = []
    for item in tree.iter("object"):
        box = None
        with suppress(TypeError, ValueError, OverflowError):
            numbers = [float(item.findtext(f"bndbox/{key}")) for key in ("xmin", "ymin", "xmax", "ymax")]
            size = [int(tree.findtext(f"size/{key}")) for key in ("width", "height")]
            box = clip_box(numbers, *size)
        found.append((item.findtext("name") or "", box))
    return found


def _annotate(doc: Doc, objects: list[tuple[str, Any]]) -> Counter[str]:
    """Entities of the same text have the same boxes.

    RETURNS (Counter[str]): How many objects were left out, and why.
    """
    counts: Counter[str] = Counter()
    boxes: dict[Span, list[Any]] = {ent: [] for ent in doc.ents}
    for name, box in objects:
        named = [ent for ent in boxes if ent.text == name.strip()]
        named = named or [ent for ent in boxes if _normalize(ent.text) == _normalize(name)]
        counts["unmatched_boxes"] += not named
        counts["bad_boxes"] += box is None
        for ent in named:
            boxes[ent].append(box)
    for ent, found in boxes.items():
        usable = [box for box in found if box is not None]
        set_boxes(ent, usable if usable or not found else None)
    return counts


def _normalize(text: str) -> str:
    """RETURNS (str): The same for names that differ in spaces, in case or as `&` and `&amp;` do."""
    return html.unescape("".join(text.split())).casefold()


def _find_files(data: Path) -> Callable[[str], IO[bytes]]:
    """RETURNS (Callable): Opens the file of this name. Raises `FileNotFoundError` if there is none."""
    folder, path = data / "xml", data / "xml.zip"
    if folder.is_dir():
        return lambda name: existing_inside(folder, name).open("rb")
    if not path.is_file():
        raise FormatError(f"There is no file {path}, nor a folder {folder}: the boxes of the entities.")
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, ValueError, OSError) as err:
        raise FormatError(f"{path} is no archive that can be read ({explain(err)}).") from None
    members = [info for info in archive.infolist() if info.filename.endswith(".xml")]
    by_name = {info.filename.rsplit("/", 1)[-1]: info for info in members}
    if not 0 < len(by_name) == len(members) <= MAX_FILES:
        n_names = f"{len(members)} XML files of {len(by_name)} names"
        raise FormatError(f"{path} has {n_names}: expected one for each picture.")

    def open_member(name: str) -> IO[bytes]:
        if name not in by_name:
            raise FileNotFoundError
        if by_name[name].compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"compressed in an unusual way in {path}")
        return archive.open(by_name[name])

    return open_member
