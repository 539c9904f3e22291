"""The reader of posts with pictures: spaCy's own, with the picture kept on the predicted doc."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import islice, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from spacy.tokens import Doc, DocBin, Span
from spacy.training import Corpus, Example
from spacy.training.corpus import FILE_TYPE
from spacy.util import registry
from spacy.vocab import Vocab
from srsly.msgpack import Unpacker

from ..images.errors import explain, quote
from ..post.boxes import BOXES_KEY, get_boxes, has_boxes, set_boxes
from ..post.extensions import (
    PICTURE_KEYS,
    get_regions,
    get_regions_note,
    get_stored_image,
    remove_image,
    set_regions_note,
)
from ..post.given import Given, check_given, give
from ..post.relations import RELATIONS_KEY, get_relations, has_relations, set_relations
from ..post.user_data import get_entry, set_entry
from ..util import logger, warn
from .local_pictures import ImageCheck, PictureCounts, PictureFolder
from .shuffling import shuffle_pictures

if TYPE_CHECKING:
    from spacy.language import Language

Images: TypeAlias = Literal["own", "none", "both", "shuffled"]
"""Which picture each post is read with."""

LOST_RELATIONS = (
    "relations are between two sentences of a post that was split into sentences, and are lost to training "
    "and evaluation (gold_preproc = false and max_length = 0 keep posts whole)"
)
LOST_ANNOTATIONS = (
    "times an augmenter moved the tokens of a post, which then counts as not annotated for relations "
    "and boxes (augmenters that change no length, such as lower-casing, keep them)"
)
LOST_QUESTIONS = (
    "pairs could not be given to predicted docs, whose tokens (or text) don't fit those of the gold ones; "
    "gold_preproc = true takes the gold tokens"
)
UNREADABLE = "posts have relations that can't be read, and count as not annotated for relations"
TOO_LONG = (
    "posts have more characters than nlp.max_length ({}) and are left out; raise nlp.max_length to keep them"
)


@registry.readers("spacy-mmib.Corpus.v1")
class MultimodalCorpus(Corpus):
    """Iterate over posts with pictures in `.spacy` files. Like `spacy.training.Corpus`, but
    `Example.predicted` has the picture and its objects, and paths of pictures are absolute.

    path (Union[str, Path]): A `.spacy` file saved with `DocBin(store_user_data=True)`, or a folder of them.
    image_root (Optional[Path]): The folder that relative paths of pictures and crops start from. No path may
        lead out of it. By default the folder of each `.spacy` file.
    gold_preproc (bool): Use the tokens and sentences of the file for the predicted docs.
    max_length (int): Posts of this many tokens or more are split into sentences, or left out if the file
        marks none. 0 means no limit.
    limit (int): Read this many posts only. 0 means all.
    augmenter (Optional[Callable]): spaCy's data augmentation.
    shuffle (bool): Shuffle the posts at each reading.
    check_images (str): "header", "decode" or "none"; see `PictureFolder`.
    given (str): What of the gold annotations the predicted docs get: "none", "entities", or "pairs", which is
        the entities and the pairs of spans whose relation is annotated, without its label.
    images (str): "own"; "none": posts are read without their pictures and objects, for a model of the text
        alone; "both": posts with a picture are read once more without it, so that on dev a model is chosen
        that is good at both; "shuffled": each post that has a picture is read with another one's and its
        objects, without gold boxes, for a model that owes nothing to what its pictures show. It is the same
        one at each reading, as long as the same posts are read: they are all kept in memory, and
        `shuffle_pictures` deals out their pictures with the seed 0.

    RAISES (ValueError): A setting is none of its values, or there is no path.

    `counts` (Optional[PictureCounts]) is what the last complete reading found, `None` before; `notes`
    (Dict[str, int]) the notes on regions that it found, with their posts.
    """

    def __init__(
        self,
        path: str | Path | None,
        *,
        image_root: str | Path | None = None,
        gold_preproc: bool = False,
        max_length: int = 0,
        limit: int = 0,
        augmenter: Callable[..., Any] | None = None,
        shuffle: bool = False,
        check_images: ImageCheck = "header",
        given: Given = "none",
        images: Images = "own",
    ) -> None:
        if path is None:
            raise ValueError(
                "spacy-mmib.Corpus.v1 was given no path. Set it in the config or on the command line, for "
                "example with --paths.train corpus/train.spacy --paths.dev corpus/dev.spacy."
            )
        super().__init__(
            path,
            limit=limit,
            gold_preproc=gold_preproc,
            max_length=max_length,
            augmenter=None if augmenter is None else self._keep_post(augmenter),
            shuffle=shuffle,
        )
        # An unset variable of a project arrives as an empty string.
        self.image_root = Path(image_root) if image_root else None
        self.check_images = check_images
        check_given(given)
        self.given = given
        if images not in get_args(Images):
            raise ValueError(f"images is {images!r}; choose one of {', '.join(get_args(Images))}.")
        self.images = images
        self.counts: PictureCounts | None = None
        self.notes: dict[str, int] = {}
        self._said: set[str] = set()
        self._lost: dict[str, tuple[int, str]] = {}  # how much was lost in which way, and the first of it
        # Made here rather than at reading, so that a mistake in the config is said at once.
        self._folders: dict[Path, PictureFolder] = {}
        self._folder_of(Path(path))

    def __call__(self, nlp: "Language") -> Iterator[Example]:
        """Read the posts.

        YIELDS (Example): The posts.
        RAISES (ValueError): The path can't be read; the message says why and what to do.
        """
        check_path(self.path)
        finders = [name for name in nlp.pipe_names if "doc.ents" in nlp.get_pipe_meta(name).assigns]
        if self.given != "none" and finders:
            self._say(
                f'given = "{self.given}" puts the gold entities on the posts, but {", ".join(finders)} finds '
                "entities itself: its scores will count the gold ones. Read with given = "
                '"none", or without that component.'
            )
        self._lost = {}
        for example in super().__call__(nlp):
            self._note(LOST_QUESTIONS, give(example, self.given))
            yield example
            if self.images == "both" and get_stored_image(example.predicted) is not None:
                yield Example(remove_image(example.predicted.copy()), example.reference)
        for what, (number, first) in self._lost.items():
            more = f" The first: {first}" if first else ""
            # With augmenters, the number is another one each time.
            self._say(f"{number} {what}.{more}", about=what)

    def _note(self, what: str, number: int = 1, first: str = "") -> None:
        if number:
            before, first = self._lost.get(what, (0, first))
            self._lost[what] = before + number, first

    def read_docbin(self, vocab: Vocab, locs: Iterable[str | Path]) -> Iterator[Doc]:
        """Read the reference docs of `.spacy` files, with absolute paths of pictures, and sum up at the end.

        YIELDS (Doc): The reference docs.
        """
        docs: Iterable[Doc] = self._read(vocab, locs)
        if self.images == "shuffled":
            docs = list(docs)
            kept = shuffle_pictures(docs)
            if kept:
                self._say(
                    f'images = "shuffled": {kept} posts are read with their own picture, as too few of the '
                    "posts read have a different one."
                )
        yield from docs

    def _read(self, vocab: Vocab, locs: Iterable[str | Path]) -> Iterator[Doc]:
        counts = PictureCounts()
        notes: Counter[str] = Counter()
        docs = ((doc, self._folder_of(loc)) for loc in map(Path, locs) for doc in read_docs(loc, vocab))
        posts = ((doc, folder) for doc, folder in docs if len(doc))
        for doc, folder in islice(posts, self.limit if self.limit >= 1 else None):
            if self.images == "none":
                remove_image(doc)
            note = get_regions_note(doc)
            folder.localize(doc, counts)
            if note is not None:
                notes[note] += 1
                # The same regions under absolute paths, if any could be used.
                set_regions_note(doc, note if get_regions(doc) else None)
            try:
                get_relations(doc)
            except ValueError as err:  # written past the setter
                set_relations(doc, None)
                self._note(UNREADABLE, first=str(err))
            yield doc
        self.counts = counts
        self.notes = dict(notes)
        summary = counts.summary()
        self._say(summary, logger.info)
        if counts.not_used:
            root = "the folder of the .spacy file"
            if self.image_root is not None:
                there = self.image_root.is_dir()
                root = f"{quote(self.image_root)}{'' if there else ' (no such folder)'}"
            self._say(
                f"{summary}. These posts are read without the picture; each says why at doc._.image_error. "
                f"The first: {counts.example}. Paths of pictures are looked up in the image root, which is "
                f"{root}; set image_root if they are elsewhere."
            )
        for note, number in notes.items():
            self._say(f"{number} of {counts.posts} posts have regions with a note: {note.rstrip('.')}.")

    def make_examples(self, nlp: "Language", reference_docs: Iterable[Doc]) -> Iterator[Example]:
        """Like spaCy's, with pictures; those of a post that is split go to each of its parts. Its relations
        go to the part that both of their spans are in.
        """
        for reference in reference_docs:
            for part in self._get_parts(reference):
                # spaCy takes no longer texts, not even of docs that have their tokens already.
                if len(part) and part[-1].idx + len(part[-1].text_with_ws) > nlp.max_length:
                    self._note(TOO_LONG.format(nlp.max_length), first=repr(part[:12].text[:40]))
                elif len(part):
                    example = self._make_example(nlp, part, self.gold_preproc)
                    _add_picture(example, part)
                    yield example

    make_examples_gold_preproc = make_examples

    def _get_parts(self, reference: Doc) -> list[Doc]:
        """RETURNS (List[Doc]): The post, or its sentences."""
        if not (self.gold_preproc or self._is_too_long(reference)):
            return [reference]
        if not reference.has_annotation("SENT_START"):
            return [reference] if self.gold_preproc else []
        parts = [_make_part(sentence) for sentence in reference.sents]
        kept = sum(len(get_relations(part)) for part in parts)
        self._note(LOST_RELATIONS, len(get_relations(reference)) - kept)
        return [part for part in parts if self.gold_preproc or not self._is_too_long(part)]

    def _is_too_long(self, doc: Doc) -> bool:
        return 0 < self.max_length <= len(doc)

    def _keep_post(self, augmenter: Callable[..., Any]) -> Callable[..., Iterator[Example]]:
        """spaCy's augmenters build new docs from text and annotations, and so lose the picture and the
        relations.
        """

        def augment(nlp: "Language", example: Example) -> Iterator[Example]:
            for augmented in augmenter(nlp, example):
                # An augmenter that takes the picture off on purpose leaves it on the reference.
                sides = (augmented.reference, augmented.predicted)
                if all(get_entry(doc, key) is None for doc in sides for key in PICTURE_KEYS):
                    _add_picture(augmented, example.reference)
                if not _keep_annotations(example.reference, augmented.reference):
                    self._note(LOST_ANNOTATIONS)
                yield augmented

        return augment

    def _folder_of(self, loc: Path) -> PictureFolder:
        root = self.image_root or loc.parent
        if root not in self._folders:
            self._folders[root] = PictureFolder(root, self.check_images)
        return self._folders[root]

    def _say(self, line: str, how: Callable[[str], None] = warn, about: str | None = None) -> None:
        """Say something of the corpus (or about the same, in the words of that time) once."""
        if (about or line) not in self._said:
            self._said.add(about or line)
            how(f"{self.path.name}: {line}")


create_corpus_v1 = MultimodalCorpus


def check_path(path: Path) -> None:
    """RAISES (ValueError): There is no corpus at this path; the message says what to do."""
    if not path.exists():
        raise ValueError(
            f"There is no corpus at {quote(path)}. Check the path (with spacy train: --paths.train and "
            "--paths.dev), or make the file first, for example with python -m project.convert."
        )
    if not path.is_dir() and not path.name.endswith(FILE_TYPE):
        raise ValueError(
            f"{quote(path)} is not a {FILE_TYPE} file. spacy-mmib.Corpus.v1 reads what "
            "DocBin(store_user_data=True, docs=docs).to_disk('corpus.spacy') writes, or a folder "
            "of such files; python -m project.convert converts the published text formats."
        )


def read_docs(loc: Path, vocab: Vocab) -> Iterator[Doc]:
    """Read the docs of a `.spacy` file with user data, which may be damaged or made by a stranger.

    YIELDS (Doc): The docs.
    RAISES (ValueError): The file can't be read, or not to its end; the message says so, with its name.
    """
    try:
        docbin = DocBin().from_disk(loc)
    except Exception as err:  # whatever zlib, msgpack or numpy make of foreign bytes
        raise ValueError(
            f"{quote(loc)} can't be read as a {FILE_TYPE} file ({explain(err)}). It has to be made with "
            "DocBin(store_user_data=True, docs=docs).to_disk(path); if it was, it is damaged: make or copy "
            "it again."
        ) from err
    if len(docbin) and all(data is None for data in docbin.user_data):
        raise ValueError(
            f"{quote(loc)} was saved without user data, so the pictures of its posts are lost. Save it again "
            "with DocBin(store_user_data=True). If its posts never had pictures, read it with spaCy's "
            "own reader, spacy.Corpus.v1."
        )
    read = 0
    try:
        # One for all posts: for each that srsly makes it looks through all installed packages for its hooks.
        unpacker, fed = Unpacker(raw=False, use_list=False), 0
        user_data, docbin.user_data = docbin.user_data, []
        for doc, packed in zip_longest(docbin.get_docs(vocab), user_data[: len(docbin)]):
            if packed is not None:
                unpacker.feed(packed)
                doc.user_data.update(unpacker.unpack())
                fed += len(packed)
                if unpacker.tell() != fed:
                    raise ValueError("user data of other posts")
            # Whether its annotations are of the right type, at places of the text, and have their strings.
            if not isinstance(doc.cats, dict):
                raise TypeError(f"cats are {type(doc.cats).__name__}")
            doc.copy().to_dict(exclude=["user_data"])
            doc.to_json()
            _ = [span.id_ for group in doc.spans.values() for span in group]
            read += 1
            yield doc
    except Exception as err:  # whatever msgpack or numpy make of foreign bytes
        raise ValueError(
            f"{quote(loc)} can't be read to its end (post {read + 1}: {explain(err)}): it is damaged. Make "
            "or copy it again."
        ) from err


def _add_picture(example: Example, source: Doc) -> None:
    for key in PICTURE_KEYS:
        value = get_entry(source, key)
        if value is not None:
            set_entry(example.predicted, key, value)
            set_entry(example.reference, key, value)


def _make_part(sentence: Span) -> Doc:
    """RETURNS (Doc): A sentence as a doc of its own, with what the post has beside its text."""
    whole, first = sentence.doc, sentence.start
    part = sentence.as_doc()
    # as_doc forgets it: the tokens of the file would be used for whole posts only.
    part.has_unknown_spaces = whole.has_unknown_spaces
    for key in PICTURE_KEYS:
        set_entry(part, key, get_entry(whole, key))
    if has_relations(whole):
        inside = []
        for relation in get_relations(whole):
            spans = (relation.head, relation.tail)
            if all(first <= span.start and span.end <= sentence.end for span in spans):
                head, tail = (
                    Span(part, span.start - first, span.end - first, label=span.label_) for span in spans
                )
                inside.append((head, tail, relation.label, relation.score))
        set_relations(part, inside)
    for ent, found in zip(sentence.ents, part.ents) if has_boxes(whole) else ():
        set_boxes(found, get_boxes(ent))
    return part


def _keep_annotations(reference: Doc, augmented: Doc) -> bool:
    """Annotate the relations of a post, and the boxes of its entities, on what an augmenter made of it, if
    its tokens are where they were.

    RETURNS (bool): Whether no annotation was lost.
    """
    lost = [
        key
        for key, has in ((RELATIONS_KEY, has_relations), (BOXES_KEY, has_boxes))
        if has(reference) and not has(augmented)
    ]
    if not lost:
        return True
    places = ([(token.idx, len(token)) for token in doc] for doc in (reference, augmented))
    if next(places) != next(places):
        return False
    for key in lost:
        set_entry(augmented, key, list(get_entry(reference, key)))
    return True
