"""Components for `--code`: one that looks at pictures, and one that fails on some posts."""

import PIL.Image
import spacy
from spacy.language import Language

from spacy_mmib.post.extensions import set_predicted


@Language.component("test_picture_ner")
def picture_ner(doc):
    """Calls the first token of a post by its picture: red is PER, anything else LOC, without O."""
    if doc._.image is not None and len(doc):
        pixel = PIL.Image.open(doc._.image).convert("RGB").getpixel((0, 0))
        label = "PER" if pixel[0] > 128 else "LOC"
        doc.set_ents([spacy.tokens.Span(doc, 0, 1, label=label)])
        set_predicted(doc, "test_picture_ner", {(doc[0].idx, doc[0].idx + len(doc[0]), label): 0.75})
    return doc


class Fragile:
    """Fails on a whole batch for one bad post, as components of spaCy do, or past the error handlers."""

    def __init__(self, bypass):
        self.bypass = bypass
        self.error_handler = spacy.util.raise_error

    def __call__(self, doc):
        return next(iter(self.pipe([doc])))

    def pipe(self, stream, batch_size=2):
        for docs in spacy.util.minibatch(stream, batch_size):
            try:
                if any("BAD" in doc.text for doc in docs):
                    raise RuntimeError("can't do this one")
                yield from docs
            except RuntimeError as err:
                if self.bypass:
                    raise
                self.error_handler("fragile", self, docs, err)

    def set_error_handler(self, handler):
        self.error_handler = handler

    def get_error_handler(self):
        return self.error_handler


@Language.factory("test_fragile", default_config={"bypass": False})
def make_fragile(nlp, name, bypass):
    return Fragile(bypass)
