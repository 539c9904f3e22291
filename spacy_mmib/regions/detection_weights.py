"""Builds torchvision's detection networks and reads their weights."""

import hashlib
from pathlib import Path

import torch
from torch import nn

from .vision import models


def load_network(
    arch: str, weights: str | None, num_classes: int | None = None
) -> tuple[nn.Module, list[str]]:
    """Build a network and read its weights. Nobody else's random draws change.

    arch (str): A detection network, as torchvision calls it.
    weights (Optional[str]): One of torchvision's names for its weights, or the path of a state dict; random
        weights from a fixed seed if `None`.
    num_classes (Optional[int]): Its classes, the background included; from the weights if `None`.
    RETURNS (Tuple[nn.Module, List[str]]): The network, and the names of its classes. They are known if the
        weights are torchvision's, and otherwise "1", "2", ...; before them "0", which is the background for
        most networks.
    RAISES (OSError): Weights are missing.
    RAISES (ValueError): Weights are of another network.
    """
    _check_arch(arch)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)  # torch.manual_seed would seed the GPU's too
        if weights is None:
            network = _build(arch, num_classes)
            count = num_classes or len(_published_classes(arch))
            return network, [str(i) for i in range(count)]
        if weights in weights_names(arch):
            return _load_published(arch, weights, num_classes)
        path = Path(weights)
        state = _read_state(arch, path)
        count = num_classes or _count_classes(arch, state, path)
        network = _build(arch, count)
        _fill(network, state, arch, path)
    return network, _class_names(arch, path, count)


def identify_weights(arch: str, weights: str | None) -> str:
    """RETURNS (str): What tells the weights from others: torchvision's own name, which never changes its
    meaning, or a hash of a file's content.
    """
    _check_arch(arch)
    if weights is None:
        return f"random, torch {torch.__version__}"
    if weights in weights_names(arch):
        return str(models.get_model_weights(arch)[weights].name)
    path = Path(weights)
    _check_file(arch, path)
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()


def weights_names(arch: str) -> list[str]:
    """RETURNS (List[str]): torchvision's names for the weights of a network."""
    return [entry.name for entry in models.get_model_weights(arch)] + ["DEFAULT"]


def _check_arch(arch: str) -> None:
    known = models.list_models(module=models.detection)
    if arch not in known:
        raise ValueError(f"torchvision has no detection model {arch!r}. It has: {', '.join(known)}.")


def _published_classes(arch: str) -> list[str]:
    return list(models.get_model_weights(arch)["DEFAULT"].meta["categories"])


def _class_names(arch: str, path: Path, count: int) -> list[str]:
    for entry in models.get_model_weights(arch):
        # torchvision's file, put somewhere else.
        if Path(entry.url).name == path.name and len(entry.meta["categories"]) == count:
            return list(entry.meta["categories"])
    return [str(i) for i in range(count)]


def _build(arch: str, num_classes: int | None) -> nn.Module:
    network: nn.Module = models.get_model(arch, weights=None, weights_backbone=None, num_classes=num_classes)
    return network


def _load_published(arch: str, name: str, num_classes: int | None) -> tuple[nn.Module, list[str]]:
    entry = models.get_model_weights(arch)[name]
    classes = list(entry.meta["categories"])
    if num_classes not in (None, len(classes)):
        raise ValueError(
            f"The weights {name} of {arch} are for {len(classes)} classes, not {num_classes}. Leave "
            "'num_classes' out, or set 'weights' to the path of a state dict."
        )
    file = Path(torch.hub.get_dir()) / "checkpoints" / entry.url.rsplit("/", 1)[-1]
    try:
        # Read twice: this refuses a file with anything but tensors in it. torchvision itself would unpickle
        # it, but knows what belongs to each of its weights (frozen normalization, with another epsilon).
        entry.get_state_dict(progress=False, check_hash=True, weights_only=True)
        network: nn.Module = models.get_model(arch, weights=entry, progress=False)
    except Exception as err:
        reason = " ".join(f"{type(err).__name__}: {err}".split())[:200]
        raise OSError(
            f"The weights {name} of {arch} are neither on this machine nor could they be downloaded "
            f"({reason}). Put the file {entry.url} at {file}, or set 'weights' to the path of any local "
            "state dict of this network."
        ) from None
    return network, classes


def _check_file(arch: str, path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(
            f"weights = {str(path)!r} is neither a file nor one of torchvision's names for the weights of "
            f"{arch} ({', '.join(weights_names(arch))}). A relative path is looked for in the folder the "
            f"command runs in ({Path.cwd()})."
        )


def _read_state(arch: str, path: Path) -> dict[str, torch.Tensor]:
    _check_file(arch, path)
    try:
        if path.suffix == ".safetensors":
            import safetensors.torch

            state = safetensors.torch.load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as err:
        reason = " ".join(f"{type(err).__name__}: {err}".split())[:200]
        raise ValueError(
            f"{path} can't be read as a state dict ({reason}). Save one with "
            "torch.save(model.state_dict(), path); files with anything else pickled in them are refused."
        ) from None
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise ValueError(f"{path} holds no state dict (names and tensors).")
    return state


def _count_classes(arch: str, state: dict[str, torch.Tensor], path: Path) -> int:
    """RETURNS (int): How many classes weights are for. Families of networks keep it in different places; in
    all of them what depends on it has a number of rows in proportion to it.
    """
    with torch.device("meta"):  # without storage
        two, three = (_build(arch, count).state_dict() for count in (2, 3))
    for name, tensor in two.items():
        if tensor.shape != three[name].shape and name in state:
            return max(2 * len(state[name]) // len(tensor), 1)
    raise ValueError(
        f"The weights in {path} don't fit a torchvision {arch!r}: they have no classification layer."
    )


def _fill(network: nn.Module, state: dict[str, torch.Tensor], arch: str, path: Path) -> None:
    problem = None
    try:
        missing, unexpected = network.load_state_dict(state, strict=False)
        # Networks trained with frozen normalization have no such counters.
        missing = [key for key in missing if not key.endswith("num_batches_tracked")]
        if missing or unexpected:
            problem = f"missing: {missing[:3]}, unexpected: {unexpected[:3]}"
    except (RuntimeError, TypeError, AttributeError) as err:
        problem = " ".join(str(err).split())[:300]
    if problem is not None:
        raise ValueError(f"The weights in {path} don't fit a torchvision {arch!r} ({problem}).")
