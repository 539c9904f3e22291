"""torchvision, imported in one place, and the weights of its detection networks."""

import hashlib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..images.errors import explain

# It fails in ways that name neither cause nor cure if it doesn't belong to the installed torch.
try:
    from torchvision import models, ops
    from torchvision.ops import roi_align
    from torchvision.transforms import InterpolationMode, functional
    from torchvision.transforms._presets import ImageClassification
except (ImportError, RuntimeError, OSError, AttributeError) as err:

    def _version(package: str) -> str:
        try:
            return version(package)
        except PackageNotFoundError:
            return "(not installed)"

    raise ImportError(
        f"torchvision {_version('torchvision')} can't be imported with torch {_version('torch')} "
        f"({type(err).__name__}: {err}). The two have to belong together. Let torchvision choose its torch: "
        "pip install --force-reinstall torchvision"
    ) from err

__all__ = ["ImageClassification", "InterpolationMode", "functional", "models", "ops", "roi_align"]


def load_network(arch: str, weights: str | None, num_classes: int | None) -> tuple[nn.Module, list[str]]:
    """Build a detection network and read its weights, without drawing from anybody's random numbers. The
    arguments are those of `spacy-mmib.detector.v1`; random weights are always the same.

    RETURNS (Tuple[nn.Module, List[str]]): The network and the names of its classes: "0" (for most networks
        the background), "1", ... if the weights aren't torchvision's.
    RAISES (OSError, ValueError): Weights are missing, or of another network.
    """
    published = _get_published(arch)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)  # torch.manual_seed would seed the GPU's too
        if weights in published:
            return _load_published(arch, published[weights], num_classes)
        if weights is None:
            num_classes = num_classes or len(published["DEFAULT"].meta["categories"])
            return _build(arch, num_classes), [str(i) for i in range(num_classes)]
        state = read_state_dict(weights, _describe_names(arch))
        try:
            num_classes = num_classes or count_classes(arch, state)
            network = _build(arch, num_classes)
            missing, unexpected = network.load_state_dict(state, strict=False)
            # Networks trained with frozen normalization have no such counters.
            missing = [key for key in missing if not key.endswith("num_batches_tracked")]
            if missing or unexpected:
                raise ValueError(f"missing: {missing[:3]}, unexpected: {unexpected[:3]}")
        except (ValueError, RuntimeError, TypeError, AttributeError) as err:
            raise ValueError(
                f"The weights in {weights} don't fit a torchvision {arch!r} ({explain(err)})."
            ) from None
    # torchvision's file, put somewhere else, has names for the classes.
    names = {Path(entry.url).name: entry.meta["categories"] for entry in published.values()}
    categories = names.get(Path(weights).name, ())
    return network, list(categories) if len(categories) == num_classes else list(map(str, range(num_classes)))


def _build(arch: str, num_classes: int) -> nn.Module:
    network: nn.Module = models.get_model(arch, weights=None, weights_backbone=None, num_classes=num_classes)
    return network


def identify_weights(arch: str, weights: str | None) -> str:
    """RETURNS (str): torchvision's name of weights, which never change, or a hash of a file's content."""
    published = _get_published(arch)
    if weights is None:
        return f"random, torch {torch.__version__}"
    if weights in published:
        return str(published[weights].name)
    with _find_file(weights, _describe_names(arch)).open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def count_classes(arch: str, state: dict[str, torch.Tensor]) -> int:
    """RETURNS (int): How many classes weights are for. Families of networks keep it in different places; in
    all of them what depends on it has a number of rows in proportion to it.
    """
    with torch.device("meta"):  # without storage
        two, three = (_build(arch, count).state_dict() for count in (2, 3))
    for name, tensor in two.items():
        if tensor.shape != three[name].shape and name in state:
            return max(2 * len(state[name]) // len(tensor), 1)
    raise ValueError("they have no classification layer")


def read_state_dict(weights: str, others: str) -> dict[str, torch.Tensor]:
    """Read a state dict that safetensors or `torch.save` wrote. Nothing but tensors is unpickled.

    others (str): What else `weights` could have been, for the message.
    """
    path = _find_file(weights, others)
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
        ) from err
    if not isinstance(state, dict):
        raise ValueError(f"{path} holds a {type(state).__name__}, not a state dict.")
    return state


def _find_file(weights: str, others: str) -> Path:
    path = Path(weights)
    if not path.is_file():
        raise FileNotFoundError(
            f"weights = {weights!r} is neither a file nor {others}. A relative path is looked for in the "
            f"folder the command runs in ({Path.cwd()})."
        )
    return path


def _get_published(arch: str) -> dict[str, Any]:
    """RETURNS (Dict[str, WeightsEnum]): The weights of a network that torchvision has, by name."""
    known = models.list_models(module=models.detection)
    if arch not in known:
        raise ValueError(f"torchvision has no detection model {arch!r}. It has: {', '.join(known)}.")
    return dict(models.get_model_weights(arch).__members__)  # with the alias "DEFAULT"


def _describe_names(arch: str) -> str:
    return f"one of torchvision's names for the weights of {arch} ({', '.join(_get_published(arch))})"


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
        return models.get_model(arch, weights=entry, progress=False), classes
    except Exception as err:
        raise OSError(
            f"The weights {entry.name} of {arch} are neither on this machine nor could they be downloaded "
            f"({explain(err)}). Put the file {entry.url} at {file}, or set 'weights' to the path of a local "
            "state dict of this network."
        ) from None
