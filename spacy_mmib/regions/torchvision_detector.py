"""Detection networks of torchvision, and what all object detectors have in common."""

import hashlib
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

import numpy
import PIL.Image
import torch
from spacy.util import minibatch
from torch import nn

from ..images.errors import explain
from ..post.regions import Region
from .vision import models, ops

T = TypeVar("T")

LARGEST_SIDE = 2048
LEAST_SIDE = 16
MAX_ASPECT = 10
GREY = (124, 116, 104)
"""About the mean of photos, which networks see as zero."""


class TorchvisionDetector:
    """A detection network of torchvision.

    arch, weights, num_classes: See `load_network`.
    labels (Optional[Collection[str]]): Look for these classes only.
    device (str): Where it runs.
    batch_size (int): Pictures in one forward.
    RAISES (OSError): The weights are not on this machine and can't be downloaded.
    RAISES (ValueError): They are of another network; the network or a class isn't known.
    """

    def __init__(
        self,
        arch: str,
        weights: str | None = "DEFAULT",
        *,
        num_classes: int | None = None,
        labels: Collection[str] | None = None,
        device: str = "cpu",
        batch_size: int = 8,
    ) -> None:
        self.device = check_device(device)
        self.batch_size = batch_size
        network, self.classes = load_network(arch, weights, num_classes)
        self.network: Any = network.eval().requires_grad_(False).to(self.device)
        named = {i: name for i, name in enumerate(self.classes) if name not in ("__background__", "N/A")}
        unknown = [label for label in labels or () if label not in named.values()]
        if unknown:
            raise ValueError(
                f"{arch} with these weights knows no class {unknown[0]!r} ('labels'). It knows: "
                f"{', '.join(named.values())}."
            )
        self.wanted = torch.tensor([i for i, name in named.items() if labels is None or name in labels])

    @torch.inference_mode()
    def detect(
        self,
        pictures: Sequence[PIL.Image.Image],
        *,
        threshold: float = 0.5,
        nms: float | None = 0.5,
        most: int | None = None,
    ) -> list[list[Region]]:
        """Look for objects in pictures.

        pictures (Sequence[PIL.Image.Image]): RGB.
        threshold, nms, most: See `choose_regions`. The network has a suppression of its own for each class.
        RETURNS (List[List[Region]]): For each picture its objects, best first.
        """
        for module in (self.network, getattr(self.network, "roi_heads", self.network)):
            if hasattr(module, "score_thresh"):  # below it the network drops boxes by itself
                module.score_thresh = min(module.score_thresh, threshold)
        found: list[list[Region]] = [[] for _ in pictures]
        for batch in group(range(len(pictures)), lambda i: pictures[i].size, self.batch_size):
            tamed = [tame(pictures[i]) for i in batch]
            outputs = self.network([_to_tensor(picture).to(self.device) for picture, _ in tamed])
            for i, (_, scale), output in zip(batch, tamed, outputs):
                boxes, scores, classes = (output[key].cpu() for key in ("boxes", "scores", "labels"))
                wanted = torch.isin(classes, self.wanted)
                found[i] = choose_regions(
                    boxes[wanted] * torch.tensor([*scale, *scale]),
                    scores[wanted],
                    [self.classes[j] for j in classes[wanted].tolist()],
                    size=pictures[i].size,
                    threshold=threshold,
                    nms=nms,
                    most=most,
                )
        return found


def _to_tensor(picture: PIL.Image.Image) -> torch.Tensor:
    """RETURNS (torch.Tensor): (3, height, width), from 0 to 1."""
    pixels = torch.from_numpy(numpy.array(picture))  # a copy, since Pillow's own is read-only
    return pixels.permute(2, 0, 1).float() / 255


def check_device(name: str) -> torch.device:
    """RETURNS (torch.device): The device.
    RAISES (ValueError): It can't be used here.
    """
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except Exception as err:
        raise ValueError(
            f'device = {name!r} can\'t be used here ({explain(err)}). Set it to "auto" or "cpu".'
        ) from None
    return device


def tame(picture: PIL.Image.Image) -> tuple[PIL.Image.Image, tuple[float, float]]:
    """Bring a picture into bounds: 16 to 2048 pixels a side, and a side at most 10 times the other.

    Networks look at 800 to 1400 pixels a side, but some image processors blur every pixel of a huge picture
    for that, in float64 (scipy, for OWLv2), or fill a panorama up to a square first. Of tiny and thin
    pictures they take a side of 1 or 3 pixels for colour channels, or rescale them to a height of nothing:
    those get a margin on the right and below.

    picture (PIL.Image.Image): RGB.
    RETURNS (Tuple[PIL.Image.Image, Tuple[float, float]]): The picture, and by what x and y have to be
        multiplied for pixels of the one that was given.
    """
    width, height = picture.size
    if max(picture.size) > LARGEST_SIDE:
        ratio = LARGEST_SIDE / max(picture.size)
        smaller = max(1, round(width * ratio)), max(1, round(height * ratio))
        picture = picture.resize(smaller, PIL.Image.Resampling.BICUBIC, reducing_gap=3.0)
    scale = width / picture.width, height / picture.height
    least = max(LEAST_SIDE, math.ceil(max(picture.size) / MAX_ASPECT))
    if min(picture.size) < least:
        padded = PIL.Image.new("RGB", (max(picture.width, least), max(picture.height, least)), GREY)
        padded.paste(picture)
        picture = padded
    return picture, scale


def group(items: Iterable[T], key: Callable[[T], Any], at_once: int) -> Iterator[list[T]]:
    """YIELDS (List): Items with the same key, at most so many. A network sees the margin that fills up the
    smaller pictures of a batch, so only pictures of one size go together: results don't depend on
    neighbours.
    """
    for _, same in groupby(sorted(items, key=key), key):
        yield from minibatch(same, at_once)


def choose_regions(
    boxes: torch.Tensor,
    scores: torch.Tensor,
    labels: Sequence[str],
    *,
    size: tuple[int, int],
    threshold: float,
    nms: float | None,
    most: int | None,
) -> list[Region]:
    """Choose the best boxes.

    boxes (torch.Tensor): x0, y0, x1, y1 in pixels, (k, 4).
    scores (torch.Tensor): (k).
    labels (Sequence[str]): (k).
    size (Tuple[int, int]): Width and height of the picture. Boxes are clipped to it, and left out if less
        than a pixel is left.
    threshold (float): The least score.
    nms (Optional[float]): Of two boxes with a larger intersection over union, whatever their labels, the one
        with the lower score is left out.
    most (Optional[int]): At most so many.
    RETURNS (List[Region]): Best first.
    """
    boxes, scores = boxes.float().cpu(), scores.float().cpu()
    finite = boxes.isfinite().all(1) & scores.isfinite()
    boxes = boxes.nan_to_num().clamp(min=0).minimum(torch.tensor([*size, *size]))
    real = (boxes[:, 2:] - boxes[:, :2] >= 1).all(1)
    kept = (finite & real & (scores >= threshold)).nonzero()[:, 0]
    kept = kept[scores[kept].argsort(descending=True, stable=True)]
    if nms is not None:
        kept = kept[ops.nms(boxes[kept], scores[kept], nms)]
    kept = kept[:most]
    found = zip(boxes[kept].tolist(), kept.tolist(), scores[kept].tolist())
    return [{"box": box, "label": labels[i], "score": score} for box, i, score in found]


def load_network(
    arch: str, weights: str | None, num_classes: int | None = None
) -> tuple[nn.Module, list[str]]:
    """Build a network and read its weights, without drawing from anybody's random numbers.

    arch (str): A detection network, as torchvision calls it.
    weights (Optional[str]): One of torchvision's names for its weights, or the path of a state dict; `None`:
        random weights, always the same.
    num_classes (Optional[int]): Its classes, the background included; from the weights if `None`.
    RETURNS (Tuple[nn.Module, List[str]]): The network and the names of its classes: "0" (for most networks
        the background), "1", ... if the weights aren't torchvision's.
    RAISES (OSError): Weights are missing.
    RAISES (ValueError): Weights are of another network.
    """
    published = _get_published(arch)
    state: dict[str, torch.Tensor] = {}
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)  # torch.manual_seed would seed the GPU's too
        if weights is None:
            num_classes = num_classes or len(published["DEFAULT"].meta["categories"])
        elif weights in published:
            return _load_published(arch, published[weights], num_classes)
        else:
            state = _read_state(arch, Path(weights))
            num_classes = num_classes or count_classes(arch, state, Path(weights))
        network: nn.Module = models.get_model(
            arch, weights=None, weights_backbone=None, num_classes=num_classes
        )
    if weights is not None:
        _fill(network, state, arch, Path(weights))
        for entry in published.values():
            categories = entry.meta["categories"]
            # torchvision's file, put somewhere else.
            if Path(entry.url).name == Path(weights).name and len(categories) == num_classes:
                return network, list(categories)
    return network, [str(i) for i in range(num_classes)]


def identify_weights(arch: str, weights: str | None) -> str:
    """RETURNS (str): torchvision's own name of weights, which never changes its meaning, or a hash of the
    content of a file.
    """
    published = _get_published(arch)
    if weights is None:
        return f"random, torch {torch.__version__}"
    if weights in published:
        return str(published[weights].name)
    with _check_file(arch, Path(weights)).open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def count_classes(arch: str, state: dict[str, torch.Tensor], path: Path) -> int:
    """RETURNS (int): How many classes weights are for. Families of networks keep it in different places; in
        all of them what depends on it has a number of rows in proportion to it.
    RAISES (ValueError): The weights are of another network.
    """
    with torch.device("meta"):  # without storage
        two, three = (
            models.get_model(arch, weights=None, weights_backbone=None, num_classes=count).state_dict()
            for count in (2, 3)
        )
    for name, tensor in two.items():
        if tensor.shape != three[name].shape and name in state:
            return max(2 * len(state[name]) // len(tensor), 1)
    raise ValueError(
        f"The weights in {path} don't fit a torchvision {arch!r}: they have no classification layer."
    )


def _get_published(arch: str) -> dict[str, Any]:
    """RETURNS (Dict[str, WeightsEnum]): The weights of a network that torchvision has, by name."""
    known = models.list_models(module=models.detection)
    if arch not in known:
        raise ValueError(f"torchvision has no detection model {arch!r}. It has: {', '.join(known)}.")
    return dict(models.get_model_weights(arch).__members__)  # with the alias "DEFAULT"


def _load_published(arch: str, entry: Any, num_classes: int | None) -> tuple[nn.Module, list[str]]:
    classes = list(entry.meta["categories"])
    if num_classes not in (None, len(classes)):
        raise ValueError(
            f"The weights {entry.name} of {arch} are for {len(classes)} classes, not {num_classes}. Leave "
            "'num_classes' out, or set 'weights' to the path of a state dict."
        )
    file = Path(torch.hub.get_dir()) / "checkpoints" / entry.url.rsplit("/", 1)[-1]
    try:
        # Read twice: this refuses a file with anything but tensors in it. torchvision itself would unpickle
        # it, but knows what belongs to each of its weights (frozen normalization, with another epsilon).
        entry.get_state_dict(progress=False, check_hash=True, weights_only=True)
        network: nn.Module = models.get_model(arch, weights=entry, progress=False)
    except Exception as err:
        raise OSError(
            f"The weights {entry.name} of {arch} are neither on this machine nor could they be downloaded "
            f"({explain(err)}). Put the file {entry.url} at {file}, or set 'weights' to the path of a local "
            "state dict of this network."
        ) from None
    return network, classes


def _check_file(arch: str, path: Path) -> Path:
    if not path.is_file():
        raise FileNotFoundError(
            f"weights = {str(path)!r} is neither a file nor one of torchvision's names for the weights of "
            f"{arch} ({', '.join(_get_published(arch))}). A relative path is looked for in the folder the "
            f"command runs in ({Path.cwd()})."
        )
    return path


def _read_state(arch: str, path: Path) -> dict[str, torch.Tensor]:
    _check_file(arch, path)
    try:
        if path.suffix == ".safetensors":
            import safetensors.torch

            state = safetensors.torch.load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as err:
        raise ValueError(
            f"{path} can't be read as a state dict ({explain(err)}). Save one with "
            "torch.save(model.state_dict(), path); files with anything else pickled in them are refused."
        ) from None
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise ValueError(f"{path} holds no state dict (names and tensors).")
    return state


def _fill(network: nn.Module, state: dict[str, torch.Tensor], arch: str, path: Path) -> None:
    try:
        missing, unexpected = network.load_state_dict(state, strict=False)
        # Networks trained with frozen normalization have no such counters.
        missing = [key for key in missing if not key.endswith("num_batches_tracked")]
        problem = f"missing: {missing[:3]}, unexpected: {unexpected[:3]}" if missing or unexpected else None
    except (RuntimeError, TypeError, AttributeError) as err:
        problem = explain(err)
    if problem is not None:
        raise ValueError(f"The weights in {path} don't fit a torchvision {arch!r} ({problem}).")
