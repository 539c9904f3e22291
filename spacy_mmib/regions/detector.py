"""Objects of fixed classes, found by a detection network of torchvision."""

import hashlib
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy
from spacy.tokens import Doc

from ..images.errors import explain
from ..post.regions import Region
from ..util import warn
from .base import region_getters
from .detecting import DetectingGetter, choose_regions, group, tame

if TYPE_CHECKING:
    import PIL.Image
    import torch
    from torch import nn


class Detector(NamedTuple):
    """A network, the names of its classes, and the numbers of those that are looked for."""

    network: Any
    classes: list[str]
    wanted: "torch.Tensor"


@region_getters("spacy-mmib.detector.v1")
class DetectorRegions(DetectingGetter):
    """Boxes of the classes that a detection network of torchvision was trained for. The text isn't looked at.

    arch (str): The network, as torchvision calls it.
    weights (Optional[str]): One of torchvision's names for its weights (downloaded if they aren't there), the
        path of a state dict (.pth or .safetensors), or `None` for random weights.
    num_classes (Optional[int]): How many classes the weights are for, the background included; `None`: found
        out from them.
    labels (Optional[List[str]]): Look for these classes only. Classes have names if the weights are
        torchvision's ("person", "dog", ...), and are called "1", "2", ... otherwise.
    max_regions, threshold, nms, device, batch_size: See `DetectingGetter`. Without `nms` there is only the
        network's own suppression within a class.
    RAISES (ValueError): A setting is out of range.
    """

    def __init__(
        self,
        arch: str = "fasterrcnn_resnet50_fpn_v2",
        weights: str | None = "DEFAULT",
        num_classes: int | None = None,
        labels: list[str] | None = None,
        max_regions: int = 4,
        threshold: float = 0.5,
        nms: float | None = 0.5,
        device: str = "auto",
        batch_size: int = 8,
    ) -> None:
        super().__init__(
            max_regions=max_regions, threshold=threshold, nms=nms, device=device, batch_size=batch_size
        )
        if labels is not None and not labels:
            raise ValueError("labels is empty: name at least one class, or set it to null for all.")
        self.arch = arch
        self.weights = weights
        self.num_classes = num_classes
        self.labels = None if labels is None else sorted(set(labels))

    def _load(self) -> Detector:
        import torch

        device = self._check_device()
        if self.weights is None:
            warn(
                f"the object detector ({self.arch}) has random weights, so its boxes mean nothing. Set "
                "'weights' to \"DEFAULT\" or to a local state dict."
            )
        network, classes = load_network(self.arch, self.weights, self.num_classes)
        named = {i: name for i, name in enumerate(classes) if name not in ("__background__", "N/A")}
        unknown = [label for label in self.labels or () if label not in named.values()]
        if unknown:
            raise ValueError(
                f"{self.arch} with these weights knows no class {unknown[0]!r} ('labels'). It knows: "
                f"{', '.join(named.values())}."
            )
        wanted = [i for i, name in named.items() if self.labels is None or name in self.labels]
        network.eval().requires_grad_(False).to(device)
        return Detector(network, classes, torch.tensor(wanted))

    def _identify(self) -> str:
        weights = identify_weights(self.arch, self.weights)
        return f"detector {self.arch} {weights} num_classes={self.num_classes} labels={self.labels}"

    def _find(self, docs: list[Doc], pictures: "list[PIL.Image.Image]") -> list[list[Region]]:
        import torch

        network, classes, all_wanted = self.loaded
        device = next(network.parameters()).device
        threshold = self.threshold or 0.0
        for module in (network, getattr(network, "roi_heads", network)):
            if hasattr(module, "score_thresh"):  # below it the network drops boxes by itself
                module.score_thresh = min(module.score_thresh, threshold)
        found: list[list[Region]] = [[] for _ in pictures]
        for batch in group(range(len(pictures)), lambda i: pictures[i].size, self.batch_size):
            tamed = [tame(pictures[i]) for i in batch]
            # A copy, since Pillow's own is read-only.
            pixels = [torch.from_numpy(numpy.array(picture)).to(device) for picture, _ in tamed]
            with torch.inference_mode():
                outputs = network([one.permute(2, 0, 1).float() / 255 for one in pixels])
            for i, (_, scale), output in zip(batch, tamed, outputs):
                boxes, scores, numbers = (output[key].cpu() for key in ("boxes", "scores", "labels"))
                wanted = torch.isin(numbers, all_wanted)
                found[i] = choose_regions(
                    boxes[wanted] * torch.tensor([*scale, *scale]),
                    scores[wanted],
                    [classes[j] for j in numbers[wanted].tolist()],
                    size=pictures[i].size,
                    threshold=threshold,
                    nms=self.nms,
                    most=self.max_regions,
                )
        return found


def load_network(
    arch: str, weights: str | None, num_classes: int | None = None
) -> "tuple[nn.Module, list[str]]":
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
    import torch

    from .vision import models

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
        return f"random, torch {version('torch')}"
    if weights in published:
        return str(published[weights].name)
    with _check_file(arch, Path(weights)).open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def count_classes(arch: str, state: "dict[str, torch.Tensor]", path: Path) -> int:
    """RETURNS (int): How many classes weights are for. Families of networks keep it in different places; in
        all of them what depends on it has a number of rows in proportion to it.
    RAISES (ValueError): The weights are of another network.
    """
    import torch

    from .vision import models

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
    from .vision import models

    known = models.list_models(module=models.detection)
    if arch not in known:
        raise ValueError(f"torchvision has no detection model {arch!r}. It has: {', '.join(known)}.")
    return dict(models.get_model_weights(arch).__members__)  # with the alias "DEFAULT"


def _load_published(arch: str, entry: Any, num_classes: int | None) -> "tuple[nn.Module, list[str]]":
    import torch

    from .vision import models

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


def _read_state(arch: str, path: Path) -> "dict[str, torch.Tensor]":
    import torch

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


def _fill(network: "nn.Module", state: "dict[str, torch.Tensor]", arch: str, path: Path) -> None:
    try:
        missing, unexpected = network.load_state_dict(state, strict=False)
        # Networks trained with frozen normalization have no such counters.
        missing = [key for key in missing if not key.endswith("num_batches_tracked")]
        problem = f"missing: {missing[:3]}, unexpected: {unexpected[:3]}" if missing or unexpected else None
    except (RuntimeError, TypeError, AttributeError) as err:
        problem = explain(err)
    if problem is not None:
        raise ValueError(f"The weights in {path} don't fit a torchvision {arch!r} ({problem}).")
