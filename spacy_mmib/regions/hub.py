"""Where a transformers model lies on this machine, and how to tell it from others. This module imports
neither torch nor transformers.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

FILES = ("*.json", "*.txt", "*.model", "*.safetensors", "pytorch_model*.bin")
"""Files of a model: settings, vocabulary, weights."""

SETTINGS = ("*.json", "*.txt", "*.model")
WEIGHTS = (("model*.safetensors", "model.safetensors"), ("pytorch_model*.bin", "pytorch_model.bin"))
"""In the order of preference: patterns of the files of weights, and the file if there is only one."""


def find_model_folder(name: str) -> Path:
    """Find the folder of a model; download it if it isn't on this machine.

    name (str): A local folder, or the name of a model on the Hugging Face hub.
    RETURNS (Path): The folder. For a name on the hub it is called after the commit.
    RAISES (OSError): There is no such folder, and it couldn't be downloaded.
    """
    if Path(name).is_dir():
        return _check_folder(Path(name))
    try:
        return _find_on_hub(name)
    except Exception as err:  # the hub's client has some twenty kinds
        reason = " ".join(f"{type(err).__name__}: {err}".split())[:200]
    raise OSError(
        f"The model {name!r} is neither a local folder (looked for in {Path.cwd()}), nor in the Hugging Face "
        f"cache ({_cache_folder()}), nor could it be downloaded ({reason}). On a machine with network run "
        f"'hf download {name} --local-dir {Path(name).name}', copy that folder, and set 'name' to its path."
    )


def identify_model(name: str) -> str:
    """Tell a model from others.

    name (str): As for `find_model_folder`.
    RETURNS (str): Name and commit of a model of the hub; for a local folder a hash of the content of its
        files, so the folder can be moved.
    RAISES (OSError): As `find_model_folder`.
    """
    folder = find_model_folder(name)
    if not Path(name).is_dir():
        return f"{name}@{folder.name}"
    digest = hashlib.blake2b(digest_size=16)
    paths = {path for pattern in FILES for path in folder.glob(pattern) if path.is_file()}
    for path in sorted(paths, key=lambda path: path.name):
        digest.update(f"{path.name} {path.stat().st_size} ".encode())
        for part in _read_parts(path):
            digest.update(part)
    return digest.hexdigest()


def _read_parts(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            yield part


def _check_folder(folder: Path) -> Path:
    if (folder / "config.json").is_file() and _has_weights(folder):
        return folder
    raise OSError(
        f"The folder {str(folder)!r} holds no transformers model: it needs config.json, model.safetensors "
        "(or pytorch_model.bin), and the files of its image processor and tokenizer."
    )


def _has_weights(folder: Path) -> bool:
    for _, single in WEIGHTS:
        index = folder / f"{single}.index.json"
        if (folder / single).is_file():
            return True
        if index.is_file():
            names = set(json.loads(index.read_text(encoding="utf8"))["weight_map"].values())
            return all((folder / name).is_file() for name in names)
    return False


def _cache_folder() -> str:
    try:
        from huggingface_hub.constants import HF_HUB_CACHE
    except ImportError:
        return os.environ.get("HF_HUB_CACHE", "~/.cache/huggingface/hub")
    return str(HF_HUB_CACHE)


def _find_on_hub(name: str) -> Path:
    """What is in the cache is taken without asking the hub whether there is something newer: results stay
    the same until somebody deletes it.
    """
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(name, local_files_only=True))
    except Exception:  # not in the cache, or no possible name, which is said below
        pass
    else:
        # A download that was cut short leaves a part: settings are fetched first, weights last.
        if (folder / "config.json").is_file() and _has_weights(folder):
            return folder
    snapshot_download(name, allow_patterns=list(SETTINGS))
    for pattern, _ in WEIGHTS:
        folder = Path(snapshot_download(name, allow_patterns=[pattern]))
        if _has_weights(folder):
            return folder
    raise FileNotFoundError("it has no weights that transformers could read")
