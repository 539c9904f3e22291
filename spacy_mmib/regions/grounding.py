"""Objects found by phrases: zero-shot detection with a model of transformers."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from spacy.tokens import Doc

from ..images.errors import explain
from .base import region_getters
from .detecting import Answer, DetectingGetter, Prompt, fill_up

if TYPE_CHECKING:
    import PIL.Image
    import torch

FOUR_WORDS = ("person", "organization", "location", "miscellaneous")
"""What the published crops without label knowledge were searched with (UMGF, which the paper follows)."""

THRESHOLDS = {"grounding-dino": 0.25, "mm-grounding-dino": 0.25, "owlv2": 0.1, "owlvit": 0.1}
"""The least score that the authors of each family take for a find, by `model_type` in config.json."""

FILES = ("*.json", "*.txt", "*.model", "*.safetensors")
"""What is downloaded of a model: settings, vocabulary, weights."""


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
    def threshold(self) -> float:
        """RETURNS (float): The least score of a find."""
        return THRESHOLDS[self.family]

    def frame(self, picture: "PIL.Image.Image") -> "PIL.Image.Image":
        """RETURNS (PIL.Image.Image): The picture as the model's boxes are relative to it. GroundingDINO takes
        it as it is, OWL-ViT stretches it to a square. OWLv2 fills it up to one on the right and below,
        which is done here with the grey that it was trained with: transformers 5 fills up with black.
        """
        side = max(picture.size)
        return fill_up(picture, side, side, (128, 128, 128)) if self.family == "owlv2" else picture

    def make_prompts(self, phrases: Sequence[str]) -> list[Prompt]:
        """RETURNS (List[Prompt]): As many as are needed to ask for all phrases that say anything."""
        if "dino" in self.family:
            return self._make_dino_prompts(phrases)
        # OWL encodes each phrase by itself and scores each box with each phrase. The text is read with a
        # causal mask and at its end, so what fills it up isn't seen.
        asked = [phrase for phrase in phrases if phrase.strip()]
        if not asked:
            return []
        length = int(self.model.config.text_config.max_position_embeddings)
        encoded = self.tokenizer(asked, padding="max_length", truncation=True, max_length=length)
        return [Prompt(asked, encoded["input_ids"], [(i, i + 1) for i in range(len(asked))])]

    def _make_dino_prompts(self, phrases: Sequence[str]) -> list[Prompt]:
        """GroundingDINO reads all phrases as one text, "person. organization.", and scores each token of it.
        Phrases don't see each other (the model's attention stops at the full stops). The text is limited
        (`max_text_len`, 256 tokens): what doesn't fit is asked in further passes, so that a long post is
        searched like a short one.
        """
        tokenizer = self.tokenizer
        first, last = tokenizer.cls_token_id, tokenizer.sep_token_id
        period = tokenizer.convert_tokens_to_ids(".")
        limit = int(self.model.config.max_text_len)
        prompts: list[Prompt] = []
        ids: list[int] = []
        for phrase in phrases:
            # These two end a phrase for the model, wherever they stand: "u.s. army" would be three.
            text = phrase.lower().replace(".", " ").replace("?", " ")
            tokens = tokenizer(text, add_special_tokens=False)["input_ids"][: limit - 3]
            if not tokens:
                continue
            if not prompts or len(ids) + len(tokens) + 1 > limit:
                ids = [first, last]
                prompts.append(Prompt([], [ids], []))
            prompts[-1].phrases.append(phrase)
            prompts[-1].spans.append((len(ids) - 1, len(ids) - 1 + len(tokens)))
            ids[-1:] = [*tokens, period, last]
        return prompts


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
        """RETURNS (str): The noun chunks, a line each, if they are looked for; else ""."""
        return "" if self.phrases is not None else "\n".join(get_noun_chunks(doc))

    def _ask(self, doc: Doc) -> list[Prompt]:
        phrases = self.phrases or get_noun_chunks(doc)
        return self.loaded.make_prompts(phrases) if phrases else []

    def _load(self, device: "torch.device") -> Grounder:
        import PIL.Image
        import torch
        import transformers

        folder = find_model_folder(self.name)
        common: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        # Networks are built with random weights before theirs are read; nobody else's draws should change.
        with torch.random.fork_rng(devices=[]):
            try:
                config = transformers.AutoConfig.from_pretrained(folder, **common)
                if config.model_type not in THRESHOLDS:
                    raise ValueError(
                        f"its type {config.model_type!r} doesn't look for phrases in pictures; types that "
                        f"do: {', '.join(THRESHOLDS)}"
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
                image_processor(images=PIL.Image.new("RGB", (32, 32)))  # says at once if a package is missing
            except ImportError as err:
                raise ImportError(
                    f"The model {self.name!r} needs a package that isn't installed ({explain(err)}). Run: "
                    'pip install "spacy-mmib[grounding]"'
                ) from None
            except Exception as err:  # whatever is wrong with a file, and each reader has its own errors
                raise ValueError(
                    f"The model {self.name!r} in {folder} can't be loaded ({explain(err)}). It takes all "
                    "files of a zero-shot detector (e.g. IDEA-Research/grounding-dino-tiny), its image "
                    "processor and its tokenizer; weights as safetensors, or as a .bin file of tensors only."
                ) from None
        model.float().eval().requires_grad_(False).to(device)
        return Grounder(model, image_processor, tokenizer)

    def _identify(self) -> str:
        phrases = "noun_chunks" if self.phrases is None else repr(self.phrases)
        return f"grounding {identify_model(self.name)} phrases={phrases}"

    def _run(self, pictures: "list[PIL.Image.Image]", prompts: list[Prompt]) -> "Iterator[Answer]":
        import torch

        from .vision import ops

        grounder: Grounder = self.loaded
        device = grounder.model.device
        framed = [grounder.frame(picture) for picture in pictures]
        ids = torch.tensor([row for prompt in prompts for row in prompt.rows], device=device)
        text = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        pixels = grounder.image_processor(images=framed, return_tensors="pt").to(device)
        outputs = grounder.model(**pixels, **text)
        corners = ops.box_convert(outputs.pred_boxes.float(), "cxcywh", "xyxy")
        size = corners.new_tensor([*framed[0].size, *framed[0].size])
        for prompt, logits, boxes in zip(prompts, outputs.logits.float().sigmoid(), corners * size):
            # A phrase scores as its best token, so the answer is always one of the phrases. (transformers'
            # own post-processing joins all tokens above a threshold, across phrases: "person organization".)
            scores, which = torch.stack([logits[:, a:b].amax(1) for a, b in prompt.spans], 1).max(1)
            yield boxes, scores, [prompt.phrases[i] for i in which.tolist()]


def find_model_folder(name: str) -> Path:
    """Find the folder of a model; download it if it isn't on this machine. What is in the cache is taken
    without asking the hub for something newer: results stay the same.

    name (str): A local folder, or the name of a model on the Hugging Face hub.
    RETURNS (Path): The folder; for a name on the hub it is called after the commit.
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
            folder = snapshot_download(name, local_files_only=local_files_only, allow_patterns=list(FILES))
            if _is_complete(Path(folder)):  # a download that was cut short leaves a part
                return Path(folder)
        except Exception as err:  # the hub's client has some twenty kinds
            reason = explain(err)
    raise OSError(
        f"The model {name!r} is neither a local folder (looked for in {Path.cwd()}), nor in the Hugging Face "
        f"cache ({HF_HUB_CACHE}), nor could it be downloaded ({reason}). On a machine with network run "
        f"'hf download {name} --local-dir {Path(name).name}', copy that folder, and set 'name' to its path."
    )


def identify_model(name: str) -> str:
    """RETURNS (str): Name and commit of a model of the hub; a hash of the content of a local folder."""
    folder = find_model_folder(name)
    if not Path(name).is_dir():
        return f"{name}@{folder.name}"
    digest = hashlib.blake2b(digest_size=16)
    paths = {path for pattern in (*FILES, "pytorch_model*.bin") for path in folder.glob(pattern)}
    for path in sorted(filter(Path.is_file, paths), key=lambda path: path.name):
        digest.update(f"{path.name} {path.stat().st_size} ".encode())
        with path.open("rb") as file:
            hashlib.file_digest(file, lambda: digest)  # goes on with it
    return digest.hexdigest()


def _is_complete(folder: Path) -> bool:
    weights = any(path.suffix in (".safetensors", ".bin") for path in folder.iterdir())
    return weights and (folder / "config.json").is_file()


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
