"""`spacy-mmib.Img2VecListener.v1`."""

from spacy.tokens import Doc
from spacy.util import registry
from thinc.api import Model
from thinc.types import Floats2d

from .listener import Img2VecListener


@registry.architectures("spacy-mmib.Img2VecListener.v1")
def build_img2vec_listener_v1(
    *, upstream: str = "mmib_img2vec", width: int | None = None
) -> Model[list[Doc], list[Floats2d]]:
    """Build a picture encoder that takes its vectors from a component `mmib_img2vec`, so that several
    components share them: a picture is encoded once a run.

    upstream (str): The name of that component in the pipeline, in which it has to come first; "*" for any.
    width (Optional[int]): Width of its vectors. `None`: learned from it.
    RETURNS (Model[List[Doc], List[Floats2d]]): A row a region, row 0 the whole picture, no rows without a
        picture.
    """
    return Img2VecListener(upstream, width)
