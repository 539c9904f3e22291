"""Objects found by phrases: zero-shot detection with a model of transformers."""

from collections.abc import Iterable
from typing import Any, Literal

from spacy.tokens import Doc

from ..post.regions import Region
from .base import DetectingGetter, region_getters

FOUR_WORDS = ("person", "organization", "location", "miscellaneous")
"""What the published crops without label knowledge were searched with (UMGF, which the paper follows)."""


@region_getters("spacy-mmib.grounding.v1")
class GroundingRegions(DetectingGetter):
    """Boxes for phrases: the modern form of the visual grounding toolkit that the paper takes (section
    III-B). The phrases are a setting or come from the grammar of the text; entities and relations are never
    looked at, so regions know nothing of labels.

    name (str): A GroundingDINO, OWLv2 or OWL-ViT model: its name on the Hugging Face hub, or a local folder.
    phrases (Union[List[str], str]): What to look for, or "noun_chunks": those of each text, which needs a
        parser earlier in the pipeline.
    max_regions (int): At most so many objects a picture: m in the paper, which doesn't say how many; 4 as in
        UMGF's crops.
    threshold (Optional[float]): The least score; `None`: what the authors of the model take (0.25 for
        GroundingDINO, 0.1 for OWL).
    nms, device, batch_size: See `DetectingGetter`. GroundingDINO takes about 1.2 GB a picture of a batch.
    RAISES (ValueError): A setting is out of range, or there are no phrases.
    """

    def __init__(
        self,
        name: str = "IDEA-Research/grounding-dino-tiny",
        phrases: list[str] | Literal["noun_chunks"] = [*FOUR_WORDS],  # noqa: B006
        max_regions: int = 4,
        threshold: float | None = None,
        nms: float | None = 0.5,
        device: str = "auto",
        batch_size: int = 4,
    ) -> None:
        super().__init__(
            max_regions=max_regions, threshold=threshold, nms=nms, device=device, batch_size=batch_size
        )
        self.name = name
        self.phrases: list[str] | None = None
        if phrases != "noun_chunks":
            self.phrases = [] if isinstance(phrases, str) else _unique(phrases)
            if not self.phrases:
                raise ValueError(
                    f"phrases is {phrases!r}, and has to be a list of at least one phrase to look for, or "
                    '"noun_chunks".'
                )

    def get_query(self, doc: Doc) -> str:
        """RETURNS (str): The noun chunks, a line each, if they are looked for; else "".
        RAISES (ValueError): They are, and the doc isn't parsed.
        """
        return "" if self.phrases is not None else "\n".join(get_noun_chunks(doc))

    def _find(self, docs: list[Doc], pictures: list[Any]) -> list[list[Region]]:
        queries = [self.phrases or get_noun_chunks(doc) for doc in docs]
        return self._detect(pictures, queries) if any(queries) else [[] for _ in docs]

    def _load(self) -> Any:
        from .zero_shot_detector import GroundingDetector

        return GroundingDetector(self.name, device=self._get_device(), batch_size=self.batch_size)

    def _identify(self) -> str:
        from .zero_shot_detector import identify_model

        phrases = "noun_chunks" if self.phrases is None else repr(self.phrases)
        return f"grounding {identify_model(self.name)} phrases={phrases}"


def get_noun_chunks(doc: Doc) -> list[str]:
    """RETURNS (List[str]): The noun chunks of a text in lower case, each once, without pronouns, which name
        nothing that could be looked for.
    RAISES (ValueError): The doc isn't parsed, or its language has no noun chunks.
    """
    if not len(doc):
        return []
    if doc.noun_chunks_iterator is None:
        raise ValueError(
            f'phrases = "noun_chunks": spaCy has no noun chunks for the language {doc.lang_!r}. Set '
            "'phrases' to a list."
        )
    missing = [name for name in ("DEP", "POS") if not doc.has_annotation(name)]
    if missing:
        raise ValueError(
            f'phrases = "noun_chunks" needs a parsed text, and {doc.text[:60]!r} has no '
            f"{' and no '.join(missing)}. Put a parser, and a tagger or morphologizer that sets POS, before "
            "this component, for training also in [training.annotating_components]; or set 'phrases' to a "
            "list."
        )
    return _unique(chunk.text for chunk in doc.noun_chunks if chunk.root.pos_ != "PRON")


def _unique(phrases: Iterable[Any]) -> list[str]:
    cleaned = (" ".join(str(phrase).lower().split()) for phrase in phrases)
    return [phrase for phrase in dict.fromkeys(cleaned) if phrase]
