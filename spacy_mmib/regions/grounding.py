"""Objects found by phrases: zero-shot detection with a model of transformers."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from spacy.tokens import Doc

from ..images.errors import explain
from ..post.regions import Region
from .base import region_getters
from .detecting import DetectingGetter, choose_regions, group, tame

if TYPE_CHECKING:
    import PIL.Image
    import torch

Answer: TypeAlias = "tuple[torch.Tensor, torch.Tensor, list[str]]"
"""Corners in pixels, scores and phrases of the boxes in a picture."""

FOUR_WORDS = ("person", "organization", "location", "miscellaneous")
"""What the published crops without label knowledge were searched with (UMGF, which the paper follows)."""

THRESHOLDS = {"grounding-dino": 0.25, "mm-grounding-dino": 0.25, "owlv2": 0.1, "owlvit": 0.1}
"""The least score that the authors of each family take for a find, by `model_type` in config.json."""

FILES = ("*.json", "*.txt", "*.model", "*.safetensors")
"""What is downloaded of a model: settings, vocabulary, weights."""


@dataclass(frozen=True)
class Prompt:
    """What a detector is asked in one forward.

    queries (Tuple[str, ...]): The phrases.
    rows (Tuple[Tuple[int, ...], ...]): Token ids: one row with all phrases, or a row a phrase, of one length.
    spans (Tuple[Tuple[int, int], ...]): The columns of the model's answer that each phrase has.
    """

    queries: tuple[str, ...]
    rows: tuple[tuple[int, ...], ...]
    spans: tuple[tuple[int, int], ...]


class Grounder(NamedTuple):
    """A model, its image processor and its tokenizer."""

    model: Any
    image_processor: Any
    tokenizer: Any

    @property
    def family(self) -> str:
        """RETURNS (str): One of `THRESHOLDS`."""
        return str(self.model.config.model_type)

    @property
    def is_dino(self) -> bool:
        """RETURNS (bool): Whether it reads all phrases as one text."""
        return "dino" in self.family

    def frame(self, picture: "PIL.Image.Image") -> "PIL.Image.Image":
        """RETURNS (PIL.Image.Image): The picture as the model's boxes are relative to it. GroundingDINO takes
        it as it is, OWL-ViT stretches it to a square. OWLv2 fills it up to one on the right and below,
        which is done here with the grey that it was trained with: transformers 5 fills up with black.
        """
        import PIL.Image

        if self.family != "owlv2" or picture.width == picture.height:
            return picture
        square = PIL.Image.new("RGB", (max(picture.size), max(picture.size)), (128, 128, 128))
        square.paste(picture)
        return square

    def prepare(self, picture: "PIL.Image.Image") -> "dict[str, torch.Tensor]":
        """RETURNS (Dict[str, torch.Tensor]): The pixels as the model takes them.
        RAISES (ImportError): That needs a package that isn't installed.
        """
        try:
            prepared = self.image_processor(images=picture, return_tensors="pt")
        except ImportError as err:
            package = "scipy" if "scipy" in str(err) else str(err).split("\n")[0][:100]
            extra = '"spacy-mmib[grounding]"' if package == "scipy" else package
            raise ImportError(
                f"The image processor of {self.family} needs a package that isn't installed: {package}. "
                f"Run: pip install {extra}"
            ) from None
        keys = ("pixel_values", "pixel_mask") if self.is_dino else ("pixel_values",)
        return {key: prepared[key] for key in keys if key in prepared}


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

    def _find(self, docs: list[Doc], pictures: "list[PIL.Image.Image]") -> list[list[Region]]:
        queries = [self.phrases or get_noun_chunks(doc) for doc in docs]
        return self.detect(pictures, queries) if any(queries) else [[] for _ in docs]

    def _load(self) -> Grounder:
        import PIL.Image

        device = self._check_device()
        grounder = load_grounder(self.name)
        grounder.model.float().eval().requires_grad_(False).to(device)
        grounder.prepare(PIL.Image.new("RGB", (32, 32)))  # says at once if a package is missing
        return grounder

    def _identify(self) -> str:
        phrases = "noun_chunks" if self.phrases is None else repr(self.phrases)
        return f"grounding {identify_model(self.name)} phrases={phrases}"

    def detect(
        self, pictures: "Sequence[PIL.Image.Image]", queries: Sequence[Sequence[str]]
    ) -> list[list[Region]]:
        """Look for phrases in pictures (RGB). Only pictures and prompts of one size share a batch, so results
        don't depend on neighbours.

        queries (Sequence[Sequence[str]]): The phrases to look for in each.
        RETURNS (List[List[Region]]): For each picture its objects, best first, each with the phrase that fits
            best.
        """
        import torch

        jobs = [(i, prompt) for i, asked in enumerate(queries) for prompt in self.make_prompts(asked)]

        def get_shape(job: tuple[int, Prompt]) -> tuple[Any, ...]:
            return pictures[job[0]].size, len(job[1].rows), len(job[1].rows[0])

        answers: defaultdict[int, list[Answer]] = defaultdict(list)
        with torch.inference_mode():
            for batch in group(jobs, get_shape, self.batch_size):
                for (i, _), answer in zip(batch, self._run(batch, pictures)):
                    answers[i].append(answer)
        found: list[list[Region]] = [[] for _ in pictures]
        for i, parts in answers.items():
            boxes, scores, labels = zip(*parts)
            found[i] = choose_regions(
                torch.cat(boxes),
                torch.cat(scores),
                list(chain.from_iterable(labels)),
                size=pictures[i].size,
                threshold=THRESHOLDS[self.loaded.family] if self.threshold is None else self.threshold,
                nms=self.nms,
                most=self.max_regions,
            )
        return found

    def _run(
        self, batch: Sequence[tuple[int, Prompt]], pictures: "Sequence[PIL.Image.Image]"
    ) -> "Iterator[Answer]":
        """YIELDS (Answer): That of the model for each picture and prompt."""
        import torch

        from .vision import ops

        grounder: Grounder = self.loaded
        device = grounder.model.device
        prepared, frames = {}, {}
        for i in {i for i, _ in batch}:
            tamed, scale = tame(pictures[i])
            framed = grounder.frame(tamed)
            prepared[i] = grounder.prepare(framed)
            frames[i] = framed.width * scale[0], framed.height * scale[1]
        keys = prepared[batch[0][0]]
        pixels = {key: torch.cat([prepared[i][key] for i, _ in batch]).to(device) for key in keys}
        ids = torch.tensor([row for _, prompt in batch for row in prompt.rows], device=device)
        text = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if grounder.is_dino:
            text["token_type_ids"] = torch.zeros_like(ids)
        outputs = grounder.model(**pixels, **text)
        corners = ops.box_convert(outputs.pred_boxes.float(), "cxcywh", "xyxy")
        for (i, prompt), logits, boxes in zip(batch, outputs.logits.float().sigmoid(), corners):
            # A phrase scores as its best token, so the answer is always one of the phrases. (transformers'
            # own post-processing joins all tokens above a threshold, across phrases: "person organization".)
            scores, which = torch.stack([logits[:, a:b].amax(1) for a, b in prompt.spans], 1).max(1)
            labels = [prompt.queries[j] for j in which.tolist()]
            yield (boxes * boxes.new_tensor([*frames[i], *frames[i]])).cpu(), scores.cpu(), labels

    def make_prompts(self, queries: Sequence[str]) -> list[Prompt]:
        """RETURNS (List[Prompt]): As many as are needed to ask for all phrases that say anything."""
        make = _make_dino_prompts if self.loaded.is_dino else _make_owl_prompts
        return make(self.loaded, queries)


def _make_dino_prompts(grounder: Grounder, queries: Sequence[str]) -> list[Prompt]:
    """GroundingDINO reads all phrases as one text, "person. organization.", and scores each token of it.
    Phrases don't see each other (the model's attention stops at the full stops). The text is limited
    (`max_text_len`, 256 tokens): what doesn't fit is asked in further passes, so that a long post is
    searched like a short one.
    """
    tokenizer = grounder.tokenizer
    period = tokenizer.convert_tokens_to_ids(".")
    limit = int(grounder.model.config.max_text_len) - 2  # [CLS] and [SEP]
    parts: list[tuple[list[str], list[int], list[tuple[int, int]]]] = []  # phrases, ids, spans
    room = 0
    for query in queries:
        # These two end a phrase for the model, wherever they stand: "u.s. army" would be three.
        text = query.lower().replace(".", " ").replace("?", " ")
        tokens = tokenizer(text, add_special_tokens=False)["input_ids"][: limit - 1]
        if not tokens:
            continue
        if len(tokens) + 1 > room:  # a full stop after each
            parts.append(([], [tokenizer.cls_token_id], []))
            room = limit
        phrases, ids, spans = parts[-1]
        phrases.append(query)
        spans.append((len(ids), len(ids) + len(tokens)))
        ids += [*tokens, period]
        room -= len(tokens) + 1
    end = tokenizer.sep_token_id
    return [Prompt(tuple(phrases), ((*ids, end),), tuple(spans)) for phrases, ids, spans in parts]


def _make_owl_prompts(grounder: Grounder, queries: Sequence[str]) -> list[Prompt]:
    """OWL-ViT and OWLv2 encode each phrase by itself and score each box with each phrase. The text is
    read with a causal mask and at its end, so what fills it up isn't seen.
    """
    asked = tuple(query for query in queries if query.strip())
    if not asked:
        return []
    length = int(grounder.model.config.text_config.max_position_embeddings)
    rows = grounder.tokenizer(list(asked), padding="max_length", truncation=True, max_length=length)[
        "input_ids"
    ]
    return [Prompt(asked, tuple(map(tuple, rows)), tuple((i, i + 1) for i in range(len(asked))))]


def find_model_folder(name: str) -> Path:
    """Find the folder of a model; download it if it isn't on this machine. What is in the cache is taken
    without asking the hub for something newer: results stay the same.

    name (str): A local folder, or the name of a model on the Hugging Face hub.
    RETURNS (Path): The folder. For a name on the hub it is called after the commit.
    RAISES (OSError): It holds no model, or the model couldn't be downloaded.
    """
    if Path(name).is_dir():
        if _is_complete(Path(name)):
            return Path(name)
        raise OSError(
            f"The folder {name!r} holds no transformers model: it needs config.json, model.safetensors "
            "(or pytorch_model.bin), and the files of its image processor and tokenizer."
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.constants import HF_HUB_CACHE

    reason = "it has no model.safetensors"
    for local_files_only in (True, False):
        try:
            folder = Path(
                snapshot_download(name, local_files_only=local_files_only, allow_patterns=list(FILES))
            )
            # A download that was cut short leaves a part.
            if _is_complete(folder):
                return folder
        except Exception as err:  # the hub's client has some twenty kinds
            reason = explain(err)
    raise OSError(
        f"The model {name!r} is neither a local folder (looked for in {Path.cwd()}), nor in the Hugging Face "
        f"cache ({HF_HUB_CACHE}), nor could it be downloaded ({reason}). On a machine with network run "
        f"'hf download {name} --local-dir {Path(name).name}', copy that folder, and set 'name' to its path."
    )


def identify_model(name: str) -> str:
    """RETURNS (str): Name and commit of a model of the hub; of a local folder a hash of its content, so that
    it can be moved.
    """
    folder = find_model_folder(name)
    if not Path(name).is_dir():
        return f"{name}@{folder.name}"
    digest = hashlib.blake2b(digest_size=16)
    paths = {path for pattern in (*FILES, "pytorch_model*.bin") for path in folder.glob(pattern)}
    for path in sorted(filter(Path.is_file, paths), key=lambda path: path.name):
        digest.update(f"{path.name} {path.stat().st_size} ".encode())
        with path.open("rb") as file:
            while part := file.read(1 << 20):
                digest.update(part)
    return digest.hexdigest()


def _is_complete(folder: Path) -> bool:
    weights = any(path.suffix in (".safetensors", ".bin") for path in folder.iterdir())
    return weights and (folder / "config.json").is_file()


def load_grounder(name: str) -> Grounder:
    """Load a model, without drawing from anybody's random numbers.

    name (str): As for `find_model_folder`.
    RAISES (OSError): It is not on this machine and can't be downloaded.
    RAISES (ValueError): It is there, but no such model.
    RAISES (ImportError): It needs a package that isn't installed.
    """
    import torch
    import transformers

    folder = find_model_folder(name)
    common: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    # Networks are built with random weights before theirs are read; nobody else's draws should change.
    with torch.random.fork_rng(devices=[]):
        try:
            config = transformers.AutoConfig.from_pretrained(folder, **common)
            if config.model_type not in THRESHOLDS:
                raise ValueError(
                    f"its type {config.model_type!r} doesn't look for phrases in pictures; types that do: "
                    f"{', '.join(THRESHOLDS)}"
                )
            config.disable_custom_kernels = True  # nothing is compiled or fetched at run time
            model, info = transformers.AutoModelForZeroShotObjectDetection.from_pretrained(
                folder, config=config, output_loading_info=True, **common
            )
            if info["missing_keys"]:
                missing = sorted(map(str, info["missing_keys"]))
                raise ValueError(
                    f"its weights are not of the whole detector: {len(missing)} tensors are missing "
                    f"({', '.join(missing[:3])})"
                )
            image_processor = transformers.AutoImageProcessor.from_pretrained(folder, **common)
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **common)
        except Exception as err:  # whatever is wrong with a file, and each reader has its own errors
            kind = ImportError if isinstance(err, ImportError) else ValueError
            raise kind(
                f"The model {name!r} in {folder} can't be loaded ({explain(err)}). It takes all files of a "
                "zero-shot detector (e.g. IDEA-Research/grounding-dino-tiny), its image processor and its "
                "tokenizer; weights as safetensors, or as a .bin file with nothing but tensors in it."
            ) from None
    return Grounder(model, image_processor, tokenizer)


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
