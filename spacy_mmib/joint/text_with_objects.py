"""What a picture shows, told in words behind the post, with no picture vectors at all: as Wang et al., "ITA:
Image-Text Alignments for Multi-Modal Named Entity Recognition", NAACL 2022, a strong and cheap control.
"""

import copy
import math
import re
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, TypeAlias, get_args

from spacy.tokens import Doc
from spacy.util import registry
from thinc.api import Model
from thinc.types import Floats2d

from ..encoders.dropout import goes_without_picture
from ..post.extensions import read_regions
from ..util import warn

Texts: TypeAlias = Literal["labels", "caption"]
GetWords: TypeAlias = Callable[[Doc], list[str]]


def get_labels(doc: Doc) -> str:
    """RETURNS (str): The labels of a post's objects, each once, those of the highest scores first."""
    boxes = [region for region in read_regions(doc) if isinstance(region, dict) and region["label"]]
    boxes.sort(key=lambda box: -math.inf if box["score"] is None else box["score"], reverse=True)
    return " ".join(dict.fromkeys(box["label"] for box in boxes))


def get_caption(doc: Doc, name: str) -> str:
    """RETURNS (str): An attribute of a post, also of one that was read where nobody has registered it; empty
    if there is none, or, with a warning, if it is no text.
    """
    value = doc._.get(name) if Doc.has_extension(name) else doc.user_data.get(("._.", name, None, None))
    if value is not None and not isinstance(value, str):
        warn(f"A post counts as one without a caption: doc._.{name} is {type(value).__name__}, not text.")
    return value if isinstance(value, str) else ""


def _get_words(doc: Doc, *, texts: Texts, caption: str, separator: str, max_words: int) -> list[str]:
    text = get_labels(doc) if texts == "labels" else get_caption(doc, caption)
    words = re.findall(r"\w+|[^\w\s]", text)[:max_words]
    return [separator, *words] if words else []


def _extend(doc: Doc, words: list[str]) -> Doc:
    """RETURNS (Doc): The post and behind it the words, with all that layers look at; the post itself if there
    are none, or if it is empty.
    """
    if not (words and len(doc)):
        return doc
    behind = Doc(doc.vocab, words=words)
    extended = Doc.from_docs([doc, behind], exclude=["spans", "tensor", "user_data"])
    extended.user_data = doc.user_data  # not a copy: what a layer says of the picture is said of the post
    extended.user_hooks.update(doc.user_hooks)
    return extended


def forward(
    model: Model[list[Doc], list[Floats2d]], docs: list[Doc], is_train: bool, *, get_words: GetWords
) -> tuple[list[Floats2d], Callable[[list[Floats2d]], Any]]:
    """Encode posts with words behind them, and give the rows of the posts."""
    words = [[] if is_train and goes_without_picture(doc) else get_words(doc) for doc in docs]
    vectors, backprop_tok2vec = model.layers[0]([_extend(*pair) for pair in zip(docs, words)], is_train)
    result = copy.copy(vectors)  # which may be more than a list
    for i, doc in enumerate(docs):
        result[i] = vectors[i][: len(doc)]

    def backprop(d_result: list[Floats2d]) -> Any:
        d_vectors = [model.ops.xp.zeros_like(rows) for rows in vectors]
        for d_all, d_rows in zip(d_vectors, d_result):
            d_all[: len(d_rows)] = d_rows
        return backprop_tok2vec(d_vectors)

    return result, backprop


def _init(
    model: Model[Any, Any], X: list[Doc] | None = None, Y: Any = None, *, get_words: GetWords, what: str
) -> None:
    tok2vec = model.layers[0]
    words = [get_words(doc) for doc in X or ()]
    if X and not any(words):
        warn(f"spacy-mmib.TextWithObjects.v1: none of the first {len(X)} posts has {what}.")
    tok2vec.initialize(X=X and [_extend(*pair) for pair in zip(X, words)])
    if tok2vec.has_dim("nO"):
        model.set_dim("nO", tok2vec.get_dim("nO"), force=True)


@registry.architectures("spacy-mmib.TextWithObjects.v1")
def build_text_with_objects_v1(
    tok2vec: Model[list[Doc], list[Floats2d]],
    *,
    separator: str = "[SEP]",
    texts: Texts = "labels",
    caption: str = "caption",
    max_words: int = 32,
) -> Model[list[Doc], list[Floats2d]]:
    """Build a `tok2vec` that reads a post together with what its picture shows, in words: the post, a
    separator, and the labels of its objects or a caption. It gives the vectors of the post's own tokens, so
    that no entity can be found in the words behind it. A post without such words is read as it is, and so is
    one whose picture is left out in training (`picture_dropout` of the component). What is published besides,
    text recognised in the picture and an alignment with a model of the text alone, is not built.

    The labels are those of `doc._.regions` at that time: of the corpus, or of a component further up the
    pipeline, such as `mmib_img2vec` (in training among the annotating components). A caption is text in
    another attribute of the doc. One named `caption` belongs to the picture: `spacy-mmib.Corpus.v1` keeps it
    on predicted docs, and it goes where pictures are taken away or shuffled. Another one has to be set by a
    component or a getter.

    tok2vec (Model[List[Doc], List[Floats2d]]): The text encoder. No listener, which knows the posts as they
        are only (for a transformer: `spacy-transformers.Tok2VecTransformer.v3`).
    separator (str): The token between the post and the words; "[SEP]" is BERT's, "</s>" RoBERTa's.
    texts (str): "labels": of the objects, each once, those of the highest scores first. "caption".
    caption (str): The name of the attribute: "caption" for `doc._.caption`.
    max_words (int): Words behind a post, at most.
    RETURNS (Model[List[Doc], List[Floats2d]]): The layer.
    RAISES (ValueError): A setting that is out of range, or a listener.
    """
    if texts not in get_args(Texts):
        raise ValueError(f"texts is {texts!r}; choose one of {', '.join(get_args(Texts))}.")
    if len(separator.split()) != 1 or max_words < 1:
        raise ValueError(
            "separator is one token and max_words at least 1; "
            f"separator is {separator!r} and max_words {max_words}."
        )
    if any(hasattr(node, "upstream_name") for node in tok2vec.walk()):
        raise ValueError(
            "spacy-mmib.TextWithObjects.v1 reads posts with words behind them, so it needs a tok2vec of its "
            "own, not a listener (for a transformer: spacy-transformers.Tok2VecTransformer.v3)."
        )
    get_words = partial(
        _get_words, texts=texts, caption=caption, separator=separator.strip(), max_words=max_words
    )
    what = "objects with a label (doc._.regions)" if texts == "labels" else f"a doc._.{caption}"
    init = partial(_init, get_words=get_words, what=what)
    layer_forward = partial(forward, get_words=get_words)
    return Model("text_with_objects", layer_forward, init=init, layers=[tok2vec], dims={"nO": None})
