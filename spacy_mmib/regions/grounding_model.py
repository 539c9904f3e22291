"""Zero-shot object detection: boxes in pictures for phrases."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import PIL.Image
import torch

from .detector_base import Detection, check_device, group, make_detections, tame
from .grounding_prompts import DinoPrompts, OwlPrompts, Prompt, Prompts
from .hub import find_model_folder

FAMILIES: dict[str, type[Prompts]] = {
    "grounding-dino": DinoPrompts,
    "mm-grounding-dino": DinoPrompts,
    "owlv2": OwlPrompts,
    "owlvit": OwlPrompts,
}
"""By `model_type` in a model's config.json."""


@dataclass
class _Job:
    """A picture and a prompt for it.

    picture (int): Which picture.
    frame (Tuple[float, float]): Width and height of what boxes are relative to, in pixels of the picture.
    pixels (Dict[str, torch.Tensor]): What the image processor made of it, a batch of one.
    prompt (Prompt): The prompt.
    """

    picture: int
    frame: tuple[float, float]
    pixels: dict[str, torch.Tensor]
    prompt: Prompt


@dataclass
class _Found:
    """What was found in a picture: tensors of boxes (k, 4), scores (k), indices of queries (k)."""

    boxes: list[torch.Tensor] = field(default_factory=list)
    scores: list[torch.Tensor] = field(default_factory=list)
    indices: list[torch.Tensor] = field(default_factory=list)


class GroundingDetector:
    """A zero-shot object detector of transformers: GroundingDINO, OWLv2 or OWL-ViT.

    name (str): Its name on the Hugging Face hub, or a local folder.
    device (str): Where it runs.
    batch_size (int): Pictures in one forward.
    RAISES (OSError): It is not on this machine and can't be downloaded.
    RAISES (ValueError): It is there, but no such model.
    RAISES (ImportError): It needs a package that isn't installed.
    """

    def __init__(self, name: str, *, device: str = "cpu", batch_size: int = 8) -> None:
        self.device = check_device(device)
        self.batch_size = batch_size
        folder = find_model_folder(name)
        self.family = _read_family(name, folder)
        self.model, self.image_processor, tokenizer = _load(name, folder)
        self.model.float().eval().requires_grad_(False).to(self.device)
        self.prompts = FAMILIES[self.family](self.model.config, tokenizer)
        self._prepare(PIL.Image.new("RGB", (32, 32)))  # says at once if a package is missing

    @property
    def default_threshold(self) -> float:
        """RETURNS (float): The least score its authors take for a find; scores differ between families."""
        return self.prompts.default_threshold

    @torch.inference_mode()
    def detect(
        self,
        pictures: Sequence[PIL.Image.Image],
        queries: Sequence[Sequence[str]],
        *,
        threshold: float | None = None,
        nms: float | None = 0.5,
        most: int | None = None,
    ) -> list[list[Detection]]:
        """Look for phrases in pictures. What is found in one doesn't depend on the others.

        pictures (Sequence[PIL.Image.Image]): RGB.
        queries (Sequence[Sequence[str]]): The phrases to look for in each.
        threshold (Optional[float]): The least score; `default_threshold` if `None`.
        nms (Optional[float]): See `detector_base.select_boxes`.
        most (Optional[int]): At most so many boxes a picture.
        RETURNS (List[List[Detection]]): For each picture its objects, best first. A box has the one query
            that fits it best.
        """
        found = [_Found() for _ in pictures]
        jobs = self._make_jobs(pictures, queries)
        for batch in group(jobs, _get_shape, self.batch_size):
            self._run(batch, found)
        return [
            make_detections(
                torch.cat(one.boxes),
                torch.cat(one.scores),
                torch.cat(one.indices),
                lambda i, asked=asked: asked[i],  # type: ignore[misc]
                size=picture.size,
                threshold=self.default_threshold if threshold is None else threshold,
                nms=nms,
                most=most,
            )
            if one.boxes
            else []
            for picture, asked, one in zip(pictures, queries, found, strict=True)
        ]

    def _make_jobs(
        self, pictures: Sequence[PIL.Image.Image], queries: Sequence[Sequence[str]]
    ) -> Iterator[_Job]:
        known: dict[tuple[str, ...], list[Prompt]] = {}
        for i, (picture, asked) in enumerate(zip(pictures, queries, strict=True)):
            if tuple(asked) not in known:
                known[tuple(asked)] = self.prompts.make(asked)
            prompts = known[tuple(asked)]
            if prompts:
                tamed, scale = tame(picture)
                framed = self.prompts.frame(tamed)
                pixels = self._prepare(framed)
                frame = framed.width * scale[0], framed.height * scale[1]
                for prompt in prompts:
                    yield _Job(i, frame, pixels, prompt)

    def _prepare(self, picture: PIL.Image.Image) -> dict[str, torch.Tensor]:
        try:
            prepared = self.image_processor(images=picture, return_tensors="pt")
        except ImportError as err:
            package = "scipy" if "scipy" in str(err) else str(err).split("\n")[0][:100]
            extra = '"spacy-mmib[grounding]"'
            command = f"pip install {extra if package == 'scipy' else package}"
            raise ImportError(
                f"The image processor of {self.family} needs a package that isn't installed: {package}. "
                f"Run: {command}"
            ) from None
        return {key: prepared[key] for key in ("pixel_values", "pixel_mask") if key in prepared}

    def _run(self, batch: list[_Job], found: list[_Found]) -> None:
        pixels = {
            key: torch.cat([job.pixels[key] for job in batch]).to(self.device)
            for key in batch[0].pixels
            if key in self.prompts.pixel_inputs
        }
        text = self.prompts.collate([job.prompt for job in batch])
        text = {key: value.to(self.device) for key, value in text.items()}
        outputs = self.model(**pixels, **text)
        centers = outputs.pred_boxes.float()
        corners = torch.cat(
            [centers[..., :2] - centers[..., 2:] / 2, centers[..., :2] + centers[..., 2:] / 2], -1
        )
        for job, logits, boxes in zip(batch, outputs.logits.float(), corners):
            best = self.prompts.score(job.prompt, logits.sigmoid()).max(1)
            found[job.picture].boxes.append((boxes * boxes.new_tensor([*job.frame] * 2)).cpu())
            found[job.picture].scores.append(best.values.cpu())
            queries = torch.tensor(job.prompt.queries)
            found[job.picture].indices.append(queries[best.indices.cpu()])


def _get_shape(job: _Job) -> tuple[int, ...]:
    return tuple(job.pixels["pixel_values"].shape)


def _read_family(name: str, folder: Path) -> str:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf8"))
        family = str(config["model_type"])
    except (OSError, ValueError, KeyError, TypeError) as err:
        reason = f"{type(err).__name__}: {err}"[:200]
        raise ValueError(f"The model {name!r} has no readable config.json in {folder} ({reason}).") from None
    if family not in FAMILIES:
        raise ValueError(
            f"The model {name!r} is of the type {family!r}, which doesn't look for phrases in pictures here. "
            f"Types that do: {', '.join(FAMILIES)}; e.g. IDEA-Research/grounding-dino-tiny or "
            "google/owlv2-base-patch16-ensemble."
        )
    return family


def _load(name: str, folder: Path) -> tuple[Any, Any, Any]:
    """RETURNS (Tuple): The model, its image processor and its tokenizer."""
    from transformers import (
        AutoConfig,
        AutoImageProcessor,
        AutoModelForZeroShotObjectDetection,
        AutoTokenizer,
    )

    common: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    # Networks are built with random weights before theirs are read; nobody else's draws should change.
    with torch.random.fork_rng(devices=[]):
        try:
            config = AutoConfig.from_pretrained(folder, **common)
            config.disable_custom_kernels = True  # nothing is compiled or fetched at run time
            model, info = AutoModelForZeroShotObjectDetection.from_pretrained(
                folder, config=config, output_loading_info=True, **common
            )
            image_processor = AutoImageProcessor.from_pretrained(folder, **common)
            tokenizer = AutoTokenizer.from_pretrained(folder, **common)
        except ImportError as err:
            reason = " ".join(str(err).split())[:200]
            raise ImportError(f"The model {name!r} can't be loaded: {reason}") from None
        except Exception as err:  # whatever is wrong with a file, and each reader has its own errors
            reason = " ".join(f"{type(err).__name__}: {err}".split())[:200]
            raise ValueError(
                f"The model {name!r} in {folder} can't be loaded ({reason}). The folder has to hold all "
                "files of the model, its image processor and its tokenizer; weights as safetensors, or as a "
                ".bin file with nothing but tensors in it."
            ) from None
    missing = sorted(map(str, info["missing_keys"]))
    if missing:
        raise ValueError(
            f"The weights of {name!r} in {folder} are not of the whole detector: {len(missing)} tensors are "
            f"missing ({', '.join(missing[:3])})."
        )
    return model, image_processor, tokenizer
