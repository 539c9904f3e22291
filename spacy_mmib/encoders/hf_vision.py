"""A vision model of transformers as encoder of pictures."""

import inspect
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from .backbone import Autocast
from .modes import training_mode


@dataclass(frozen=True)
class Kind:
    """How the vectors of a type of model are found in its output.

    before (int): Rows of the last hidden state before those of the patches.
    is_map (bool): The last hidden state is a feature map (convolutional models), not rows.
    has_pooler (bool): `pooler_output` is the vector of the picture. Otherwise it is the first row, and the
        model is built without a pooler (most checkpoints of these types hold none, it would be random).
    any_size (bool): The model adapts to the size of the picture by itself.
    """

    before: int = 1
    is_map: bool = False
    has_pooler: bool = True
    any_size: bool = False


KINDS: dict[str, Kind] = {
    "beit": Kind(),
    "clip_vision_model": Kind(),
    "convnext": Kind(before=0, is_map=True, any_size=True),
    "convnextv2": Kind(before=0, is_map=True, any_size=True),
    "deit": Kind(before=2, has_pooler=False),  # CLS and the distillation token
    "dinov2": Kind(any_size=True),
    "dinov2_with_registers": Kind(any_size=True),  # and its registers, see below
    "resnet": Kind(before=0, is_map=True, any_size=True),
    "siglip_vision_model": Kind(before=0),
    "vit": Kind(has_pooler=False),
}
"""By transformers' `model_type`."""

NOT_KEPT = (
    "attn_implementation",
    "auto_map",
    "experts_implementation",
    "fusion_config",
    "out_features",
    "out_indices",
    "quantization_config",
    "stage_names",
)


class HFVision(nn.Module):
    """Pooled vectors of pictures, or vectors of their patches.

    The pooled vector is for CLIP, DINOv2 and ViT the CLS row after the last normalization, for SigLIP the
    output of its attention head, for convolutional models the pooled feature map.

    config (Dict[str, Any]): The vision model's configuration, "model_type" among it; see `clean_config`.
    preset (Dict[str, Any]): How pictures are prepared for it, see `encoders.picture_transform`. Its
        crop_size may differ from the configuration's image_size if the model can interpolate its
        position embeddings.
    trainable (bool): If False, no parameter requires a gradient, and BatchNorm's statistics stay.
    autocast (Optional[str]): "bfloat16" or "float16": run a frozen model in that precision.
    network (Optional[nn.Module]): The model, if it has been built from `config` already; `None` builds one
        with random weights.
    RAISES (ValueError): The configuration is of no known vision model, or the sizes don't fit.
    """

    def __init__(
        self,
        *,
        config: dict[str, Any],
        preset: dict[str, Any],
        trainable: bool = False,
        autocast: Autocast | None = None,
        network: nn.Module | None = None,
    ) -> None:
        super().__init__()
        config = clean_config(config)
        self.settings: dict[str, Any] = {
            "config": config,
            "preset": preset,
            "trainable": trainable,
            "autocast": autocast,
        }
        self.kind = get_kind(config)
        self.network: Any = build_network(config) if network is None else network
        self.network.float()
        self.n_before = self.kind.before + int(config.get("num_register_tokens") or 0)
        width = config["hidden_sizes"][-1] if self.kind.is_map else config["hidden_size"]
        self.width = int(width)
        self.forward_settings = _get_forward_settings(
            self.network, self.kind, config, int(preset["crop_size"])
        )
        self.has_statistics = any(isinstance(module, nn.BatchNorm2d) for module in self.network.modules())
        self.trainable = trainable
        self.autocast = None if autocast is None else getattr(torch, autocast)
        self.requires_grad_(trainable)
        self.eval()

    def train(self, mode: bool = True) -> "HFVision":
        """Stay in evaluation mode, whatever `mode` says: see `training_mode`."""
        super().train(False)
        return self

    def forward(
        self,
        pictures: torch.Tensor,
        at_once: int,
        patches: bool = False,
        *,
        training: bool = False,
    ) -> torch.Tensor:
        """Encode pictures.

        pictures (torch.Tensor): Prepared by the preset, (r, 3, height, width), at least one.
        at_once (int): Pictures in one pass through the model.
        patches (bool): Give the patches too, see `forward_patches`.
        training (bool): Whether the model learns from this pass, if it is trainable.
        RETURNS (torch.Tensor): (r, width), float32; with patches (r, 1 + p, width).
        """
        training = training and self.trainable
        if patches:
            return self.forward_patches(pictures, at_once, training=training)
        with self._precision(pictures.device):
            parts = pictures.split(at_once)
            return torch.cat([self._encode(part, training)[0].float() for part in parts])

    def forward_patches(
        self, pictures: torch.Tensor, at_once: int, *, training: bool = False
    ) -> torch.Tensor:
        """Encode pictures and their patches.

        pictures (torch.Tensor): As in `forward`.
        at_once (int): As in `forward`.
        training (bool): As in `forward`.
        RETURNS (torch.Tensor): (r, 1 + p, width), float32: first the pooled vector, then the patches of
            the picture row by row, as the last hidden state has them. Convolutional models have a patch a
            position of their last feature map.
        """
        rows = []
        with self._precision(pictures.device):
            for part in pictures.split(at_once):
                pooled, patches = self._encode(part, training)
                rows.append(torch.cat((pooled.float().unsqueeze(1), patches.float()), dim=1))
        return torch.cat(rows)

    @contextmanager
    def _precision(self, device: torch.device) -> Iterator[None]:
        with ExitStack() as contexts:
            grad = torch.is_grad_enabled() and self.trainable
            contexts.enter_context(torch.set_grad_enabled(grad))
            if self.autocast is not None and not self.trainable:
                contexts.enter_context(torch.autocast(device.type, self.autocast))
            yield

    def _encode(self, pictures: torch.Tensor, training: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """RETURNS (Tuple[torch.Tensor, torch.Tensor]): (r, width) and (r, p, width)."""
        # A single picture has no batch statistics (BatchNorm raises on a map of one position): use the
        # running ones.
        alone = self.has_statistics and len(pictures) == 1
        with training_mode(self.network, training and not alone):
            output = self.network(pictures, **self.forward_settings)
        hidden = output.last_hidden_state
        rows = hidden.flatten(2).transpose(1, 2) if self.kind.is_map else hidden
        pooled = output.pooler_output if self.kind.has_pooler else hidden[:, 0]
        if pooled is None:
            raise ValueError(
                f"This {self.settings['config']['model_type']!r} was made without the layer that gives the "
                "vector of a whole picture (its config switches it off). Take a checkpoint that has it."
            )
        return pooled.flatten(1), rows[:, self.n_before :]


def clean_config(config: dict[str, Any]) -> dict[str, Any]:
    """Keep of a model's configuration what its numbers depend on.

    Left out are what all configurations of transformers share (labels, settings of text generation), and
    what could make transformers run other code: an attention implementation may name a repository that is
    downloaded and executed.

    config (Dict[str, Any]): As `PretrainedConfig.to_dict()` gives it.
    RETURNS (Dict[str, Any]): "model_type" and what is this model's own.
    """
    from transformers import PretrainedConfig

    shared = set(PretrainedConfig().to_dict()) - {"model_type"}
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in config.items()
        if key not in shared and key not in NOT_KEPT and not key.startswith("_")
    }


def get_kind(config: dict[str, Any]) -> Kind:
    """RETURNS (Kind): Of the model type that is configured.
    RAISES (ValueError): It is none of those known here.
    """
    model_type = config.get("model_type")
    if model_type not in KINDS:
        raise ValueError(
            f"Found a model of type {model_type!r}, which is no vision model that pictures can be encoded "
            f"with here. Known types: {', '.join(sorted(KINDS))}, and whole CLIP and SigLIP models."
        )
    return KINDS[model_type]


def get_build_settings(config: dict[str, Any]) -> dict[str, Any]:
    """RETURNS (Dict[str, Any]): What the model's class takes beside its configuration."""
    return {} if get_kind(config).has_pooler else {"add_pooling_layer": False}


def build_network(config: dict[str, Any]) -> nn.Module:
    """Build a model with random weights.

    config (Dict[str, Any]): From `clean_config`.
    RETURNS (nn.Module): The model.
    """
    from transformers import AutoConfig, AutoModel

    network: nn.Module = AutoModel.from_config(AutoConfig.for_model(**config), **get_build_settings(config))
    return network


def _get_forward_settings(
    network: nn.Module, kind: Kind, config: dict[str, Any], size: int
) -> dict[str, Any]:
    """RETURNS (Dict[str, Any]): What the model has to be told about pictures of this size."""
    patch, own = _as_pair(config.get("patch_size", 1)), _as_pair(config.get("image_size", size))
    if size < max(patch):
        raise ValueError(
            f"Pictures of {size} x {size} are smaller than a patch of this {config['model_type']!r} "
            f"({patch[0]} x {patch[1]}). Set a larger image_size."
        )
    if kind.any_size or own == (size, size):
        return {}
    if "interpolate_pos_encoding" in inspect.signature(network.forward).parameters:
        return {"interpolate_pos_encoding": True}
    raise ValueError(
        f"This {config['model_type']!r} was made for pictures of {own[0]} x {own[1]} and the installed "
        f"version of transformers can't use it with {size} x {size}. Set image_size to {own[0]}, or "
        "upgrade transformers."
    )


def _as_pair(size: Any) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    return int(height), int(width)
