"""A torchvision classification network without its classifier."""

from typing import Any

import torch
from torch import nn

from .vision import models

WITH_AUXILIARY = ("googlenet", "inception_v3")


class Backbone(nn.Module):
    """Pooled features of pictures.

    The last linear layer is taken off, so the features are what it would classify (for ResNet-50 the
    2048 averages of the last feature map); networks that end in a convolution (SqueezeNet) are averaged.

    arch (str): A classification model by its torchvision name, e.g. "resnet50".
    preset (Dict[str, Any]): How pictures are prepared for it; kept here because it belongs to the weights
        and has to travel with them. See `layers.picture_transform`.
    trainable (bool): If False, the module stays in evaluation mode whatever `train()` says (so that
        BatchNorm statistics never drift) and no parameter requires a gradient.
    """

    def __init__(self, *, arch: str, preset: dict[str, Any], trainable: bool = False) -> None:
        super().__init__()
        self.settings: dict[str, Any] = {"arch": arch, "preset": preset, "trainable": trainable}
        self.network, self.head_name = _without_head(_build(arch))
        if arch in WITH_AUXILIARY:  # their published weights expect another normalization
            transform_input = bool(preset.get("transform_input", False))
            setattr(self.network, "transform_input", transform_input)  # noqa: B010
        self.trainable = trainable
        self.requires_grad_(trainable)
        self.train(trainable)
        size = int(preset["crop_size"])
        # The width of the features is asked of the network itself, in evaluation mode: one picture
        # has no batch statistics.
        self.network.eval()
        with torch.no_grad():
            self.width = int(self.network(torch.zeros(1, 3, size, size)).shape[1])
        self.train(trainable)

    def train(self, mode: bool = True) -> "Backbone":
        """Switch to training mode, unless the backbone is frozen."""
        super().train(mode and self.trainable)
        return self

    def forward(self, pictures: torch.Tensor, at_once: int) -> torch.Tensor:
        """Encode pictures.

        pictures (torch.Tensor): Prepared by the preset, (r, 3, height, width), at least one.
        at_once (int): Pictures in one pass through the network.
        RETURNS (torch.Tensor): (r, features), float32.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.trainable):
            return torch.cat([self._encode(part).float() for part in pictures.split(at_once)])

    def _encode(self, pictures: torch.Tensor) -> torch.Tensor:
        training = self.training
        if training and len(pictures) == 1:
            # A single picture has no batch statistics (BatchNorm raises): use the running ones.
            self.network.eval()
        features: torch.Tensor = self.network(pictures)
        self.network.train(training)
        return features

    def load_classifier_state(self, state: dict[str, Any]) -> None:
        """Take the weights of a whole classification network; those of its head are left out.

        state (Dict[str, torch.Tensor]): A state dict as `torchvision` models save it.
        RAISES (ValueError): It belongs to another network.
        """
        problem = None
        try:
            missing, unexpected = self.network.load_state_dict(state, strict=False)
            left_out = (self.head_name + ".", "aux1.", "aux2.", "AuxLogits.")
            foreign = [key for key in unexpected if not key.startswith(left_out)]
            if missing or foreign:
                problem = f"missing: {missing[:3]}, unexpected: {foreign[:3]}"
        except (RuntimeError, TypeError, AttributeError) as err:
            problem = " ".join(str(err).split())[:300]
        if problem is not None:
            raise ValueError(
                f"The weights don't fit a torchvision {self.settings['arch']!r} ({problem})."
            )


def _build(arch: str) -> nn.Module:
    known = models.list_models(module=models)
    if arch not in known:
        raise ValueError(f"torchvision has no classification model {arch!r}. It has: {known}.")
    # These two initialize for minutes unless told not to, and return tuples while training as long as
    # their auxiliary classifiers are there.
    extra = {"init_weights": False, "aux_logits": False} if arch in WITH_AUXILIARY else {}
    network: nn.Module = models.get_model(arch, weights=None, **extra)
    return network


def _without_head(network: nn.Module) -> tuple[nn.Module, str]:
    """RETURNS (Tuple[nn.Module, str]): The network, changed in place, and the name of the layer that was
    replaced.
    """
    linear = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    if linear:
        network.set_submodule(linear[-1], nn.Identity())
        return network, linear[-1]
    network.classifier = nn.AdaptiveAvgPool2d(1)
    return network, "classifier"
