"""The reader of posts with pictures: spaCy's own, with the picture kept on the predicted doc."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spacy.tokens import Doc, DocBin
from spacy.training import Corpus, Example
from spacy.training.corpus import FILE_TYPE
from spacy.util import registry
from spacy.vocab import Vocab

from .extensions import ERROR_KEY, IMAGE_KEY, REGIONS_KEY
from .local_pictures import ImageCheck, PictureCounts, PictureFolder
from .util import logger, warn

if TYPE_CHECKING:
    from spacy.language import Language

PICTURE_KEYS = (IMAGE_KEY, REGIONS_KEY, ERROR_KEY)
"""What of `Doc.user_data` goes from the reference to the predicted doc. Not all of it: user data
may hold gold annotations."""

_SAID: set[tuple[str, str, str]] = set()
"""Summaries this process has given. Commands build the same reader more than once, and it is read
again at each evaluation."""


@registry.readers("spacy-mmib.Corpus.v1")
def create_corpus_v1(
    path: Path | None,
    image_root: str | Path | None = None,
    gold_preproc: bool = False,
    max_length: int = 0,
    limit: int = 0,
    augmenter: Callable[..., Any] | None = None,
    shuffle: bool = False,
    check_images: ImageCheck = "header",
) -> Callable[["Language"], Iterable[Example]]:
    """Build the reader `spacy-mmib.Corpus.v1`; see `MultimodalCorpus` for the arguments.

    RETURNS (Callable[[Language], Iterable[Example]]): The reader.
    RAISES (ValueError): No path was given.
    """
    if path is None:
        raise ValueError(
            "spacy-mmib.Corpus.v1 was given no path. Set it in the config or on the command line, "
            "for example with --paths.train corpus/train.spacy --paths.dev corpus/dev.spacy."
        )
    return MultimodalCorpus(
        path,
        image_root=image_root,
        gold_preproc=gold_preproc,
        max_length=max_length,
        limit=limit,
        augmenter=augmenter,
        shuffle=shuffle,
        check_images=check_images,
    )


class MultimodalCorpus(Corpus):
    """Iterate over posts with pictures in `.spacy` files. Like `spacy.training.Corpus`, but
    `Example.predicted` has the picture and its objects, and paths of pictures are absolute.

    path (Union[str, Path]): A `.spacy` file saved with `DocBin(store_user_data=True)`, or a folder
        of them.
    image_root (Optional[Path]): The folder that relative paths of pictures and crops start from. No
        path may lead out of it. By default the folder of each `.spacy` file.
    gold_preproc (bool): Use the tokens and sentences of the file for the predicted docs.
    max_length (int): Posts of this many tokens or more are split into sentences, or left out if the
        file marks none. 0 means no limit.
    limit (int): Read this many posts only. 0 means all.
    augmenter (Optional[Callable]): spaCy's data augmentation.
    shuffle (bool): Shuffle the posts at each reading.
    check_images (str): "header", "decode" or "none"; see `PictureFolder`.

    counts (Optional[PictureCounts]): What the last complete reading found; `None` before.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        image_root: str | Path | None = None,
        gold_preproc: bool = False,
        max_length: int = 0,
        limit: int = 0,
        augmenter: Callable[..., Any] | None = None,
        shuffle: bool = False,
        check_images: ImageCheck = "header",
    ) -> None:
        super().__init__(
            path,
            limit=limit,
            gold_preproc=gold_preproc,
            max_length=max_length,
            augmenter=None if augmenter is None else _keep_pictures(augmenter),
            shuffle=shuffle,
        )
        # An unset variable of a project arrives as an empty string.
        self.image_root = Path(image_root) if image_root not in (None, "") else None
        self.check_images = check_images
        self.counts: PictureCounts | None = None
        # Made here rather than at reading, so that a mistake in the config is said at once.
        self._folders: dict[Path, PictureFolder] = {}
        self._folder_of(Path(path))

    def __call__(self, nlp: "Language") -> Iterator[Example]:
        """Read the posts.

        nlp (Language): The pipeline they are read for.
        YIELDS (Example): The posts.
        RAISES (ValueError): The path can't be read; the message says why and what to do.
        """
        _check_path(self.path)
        yield from super().__call__(nlp)

    def read_docbin(self, vocab: Vocab, locs: Iterable[str | Path]) -> Iterator[Doc]:
        """Read the reference docs, with absolute paths of pictures, and sum up at the end.

        vocab (Vocab): The vocabulary.
        locs (Iterable[Union[str, Path]]): The `.spacy` files.
        YIELDS (Doc): The reference docs.
        """
        counts = PictureCounts()
        for doc, folder in self._read_files(vocab, locs):
            if self.limit >= 1 and counts.posts >= self.limit:
                break
            folder.localize(doc, counts)
            yield doc
        self.counts = counts
        self._say(counts)

    def make_examples(self, nlp: "Language", reference_docs: Iterable[Doc]) -> Iterator[Example]:
        """Like spaCy's, with pictures; those of a post that is split go to each of its parts."""
        # One post at a time: its parts, where it is split, no longer know which post they are of.
        for reference in reference_docs:
            for example in super().make_examples(nlp, [reference]):
                yield _with_picture(example, reference)

    def make_examples_gold_preproc(
        self, nlp: "Language", reference_docs: Iterable[Doc]
    ) -> Iterator[Example]:
        """Like spaCy's, with pictures; see `make_examples`."""
        for reference in reference_docs:
            for example in super().make_examples_gold_preproc(nlp, [reference]):
                yield _with_picture(example, reference)

    def _read_files(
        self, vocab: Vocab, locs: Iterable[str | Path]
    ) -> Iterator[tuple[Doc, PictureFolder]]:
        for loc in map(Path, locs):
            folder = self._folder_of(loc)
            for doc in _load_docbin(loc).get_docs(vocab):
                if len(doc):
                    yield doc, folder

    def _folder_of(self, loc: Path) -> PictureFolder:
        root = self.image_root or loc.parent
        if root not in self._folders:
            self._folders[root] = PictureFolder(root, self.check_images)
        return self._folders[root]

    def _say(self, counts: PictureCounts) -> None:
        line = f"{self.path.name}: {counts.summary()}"
        said = (str(self.path.absolute()), str(self.image_root), line)
        if said in _SAID:
            return
        _SAID.add(said)
        logger.info(line)
        if counts.not_used:
            warn(
                f"{line}. These posts are read without the picture; each says why at "
                f"doc._.image_error. The first: {counts.example}. Paths of pictures are looked up "
                f"in the image root, which is {self._describe_root()}; set image_root if they are "
                "elsewhere."
            )

    def _describe_root(self) -> str:
        if self.image_root is None:
            return "the folder of the .spacy file"
        return f"{self.image_root}{'' if self.image_root.is_dir() else ' (no such folder)'}"


def _check_path(path: Path) -> None:
    if not path.exists():
        raise ValueError(
            f"There is no corpus at {path}. Check the path (with spacy train: --paths.train and "
            "--paths.dev), or make the file first, for example with the scripts in project/."
        )
    if not path.is_dir() and not path.name.endswith(FILE_TYPE):
        raise ValueError(
            f"{path} is not a {FILE_TYPE} file. spacy-mmib.Corpus.v1 reads what "
            "DocBin(store_user_data=True, docs=docs).to_disk('corpus.spacy') writes, or a folder "
            "of such files; the scripts in project/ convert the published text formats."
        )


def _load_docbin(loc: Path) -> DocBin:
    try:
        docbin = DocBin().from_disk(loc)
    except Exception as err:  # whatever zlib, msgpack or numpy make of foreign bytes
        raise ValueError(
            f"{loc} can't be read as a {FILE_TYPE} file ({type(err).__name__}: {err}). It has to "
            "be made with DocBin(store_user_data=True, docs=docs).to_disk(path); if it was, it is "
            "damaged: make or copy it again."
        ) from err
    if len(docbin) and all(data is None for data in docbin.user_data):
        raise ValueError(
            f"{loc} was saved without user data, so the pictures of its posts are lost. Save it "
            "again with DocBin(store_user_data=True). If its posts never had pictures, read it "
            "with spaCy's own reader, spacy.Corpus.v1."
        )
    return docbin


def _with_picture(example: Example, reference: Doc) -> Example:
    for key in PICTURE_KEYS:
        if key in reference.user_data:
            example.predicted.user_data[key] = reference.user_data[key]
            # The sentences of a post are docs of their own.
            example.reference.user_data.setdefault(key, reference.user_data[key])
    return example


def _keep_pictures(augmenter: Callable[..., Any]) -> Callable[..., Iterator[Example]]:
    """spaCy's augmenters build new docs from text and annotations, and so lose the picture."""

    def augment(nlp: "Language", example: Example) -> Iterator[Example]:
        for augmented in augmenter(nlp, example):
            # An augmenter that takes the picture off on purpose leaves it on the reference.
            if not _has_picture(augmented.reference) and not _has_picture(augmented.predicted):
                augmented = _with_picture(augmented, example.reference)
            yield augmented

    return augment


def _has_picture(doc: Doc) -> bool:
    return any(key in doc.user_data for key in PICTURE_KEYS)
