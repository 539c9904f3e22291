"""Classification networks of torchvision as picture encoders."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from threading import get_ident
from typing import Any, Literal

import torch
from spacy.util import registry
from torch import nn

from ..images.errors import explain
from ..regions.vision import ImageClassification, models, read_state_dict
from .base import VisionBackbone, explain_download
from .img2vec import ImageEncoder, build_encoder

WITH_AUXILIARY = ("googlenet", "inception_v3")


class Backbone(VisionBackbone):
    """A classification network, `arch` by its torchvision name, without its classifier.

    The vectors are what its last linear layer would get (for ResNet-50 the 2048 averages of the last feature
    map); networks that end in a convolution (SqueezeNet) are averaged.
    """

    def _build(self) -> nn.Module:
        arch = self.settings["arch"]
        known = models.list_models(module=models)
        if arch not in known:
            raise ValueError(f"torchvision has no classification model {arch!r}. It has: {known}.")
        # These two initialize for minutes unless told not to, and return tuples while training as long as
        # their auxiliary classifiers are there.
        extra = {"init_weights": False, "aux_logits": False} if arch in WITH_AUXILIARY else {}
        network: nn.Module = models.get_model(arch, weights=None, **extra)
        if arch in WITH_AUXILIARY:  # their published weights expect another normalization
            transform_input = bool(self.settings["preset"].get("transform_input", False))
            setattr(network, "transform_input", transform_input)  # noqa: B010
        linear = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
        self.head_name = linear[-1] if linear else "classifier"
        network.set_submodule(self.head_name, nn.Identity() if linear else nn.AdaptiveAvgPool2d(1))
        self.layers: tuple[str, ...] = ()
        self.outputs: dict[int, dict[str, torch.Tensor]] = {}  # by the thread that runs the network
        if self.rows == "pyramid":
            self.layers = ("layer1", "layer2", "layer3", "layer4")
            if not all(hasattr(network, stage) for stage in self.layers):
                raise ValueError(f'rows = "pyramid" needs the four stages of a ResNet; {arch!r} has none.')
        elif self.needs_map:
            least = self.rows_size if self.rows == "auto" and not self.settings["rois"] else 1
            self.layers = _find_feature_map(network.eval(), int(self.settings["preset"]["crop_size"]), least)
        for name in self.layers:
            network.get_submodule(name).register_forward_hook(partial(self._keep, name))
        return network

    def _keep(self, name: str, layer: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        if get_ident() in self.outputs:
            self.outputs[get_ident()][name] = output

    def _encode(self, pictures: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        outputs = self.outputs[get_ident()] = {}
        try:
            pooled = self.network(pictures)
        finally:
            del self.outputs[get_ident()]
        return pooled, [outputs[name] for name in self.layers]

    def load_classifier_state(self, state: dict[str, Any]) -> None:
        """Take the weights of a whole classification network, but for those of its head."""
        left_out = (f"{self.head_name}.", "aux1.", "aux2.", "AuxLogits.")
        try:
            self.network.load_state_dict({k: x for k, x in state.items() if not k.startswith(left_out)})
        except (RuntimeError, TypeError, AttributeError) as err:
            arch = self.settings["arch"]
            raise ValueError(f"The weights don't fit a torchvision {arch!r} ({explain(err)}).") from err


@torch.no_grad()
def _find_feature_map(network: nn.Module, size: int, least: int) -> tuple[str, ...]:
    """The layer whose output the network averages to its vectors, if one has so many places a side."""
    outputs: dict[str, torch.Tensor] = {}

    def keep(name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        outputs.pop(name, None)  # the last call counts, in the order of last calls
        if isinstance(output, torch.Tensor) and output.dim() == 4:
            outputs[name] = output.clone()

    handles = [m.register_forward_hook(partial(keep, name)) for name, m in network.named_modules() if name]
    pooled = network(torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0)))
    for handle in handles:
        handle.remove()
    fitting = [
        name
        for name, output in outputs.items()
        if output.shape[1] == pooled.shape[1]
        and output.shape[-1] >= least
        and (output.mean((2, 3)) - pooled).abs().max() < 1e-4 * pooled.abs().max()
    ]
    # The largest of them, that is before the pooling; of equally large ones the last.
    fitting.sort(key=lambda name: outputs[name].shape[-1])
    return tuple(fitting[-1:])


def load(arch: str, weights: str | None, *, image_size: int | None, **settings: Any) -> Backbone:
    """Build a network and read its weights, which `build_torchvision_encoder_v1` describes."""
    names: list[str] = []
    if arch in models.list_models(module=models):  # otherwise `Backbone` says what is wrong with the name
        names = [entry.name for entry in models.get_model_weights(arch)] + ["DEFAULT"]
    preset = make_preset(arch, weights if weights in names else None, image_size)
    backbone = Backbone(arch=arch, preset=preset, **settings)
    if weights in names:
        entry = models.get_model_weights(arch)[weights]
        file = Path(torch.hub.get_dir()) / "checkpoints" / entry.url.rsplit("/", 1)[-1]
        try:
            state = entry.get_state_dict(progress=False, check_hash=True, weights_only=True)
        except Exception as err:
            text = explain_download(f"{weights} of {arch}", err, f"{entry.url} at {file}, or")
            raise OSError(text) from err
        backbone.load_classifier_state(state)
    elif weights is not None:
        others = f"one of torchvision's names for the weights of {arch} ({', '.join(names)})"
        backbone.load_classifier_state(read_state_dict(weights, others))
    return backbone


def make_preset(arch: str, weights: str | None, image_size: int | None) -> dict[str, Any]:
    """RETURNS (Dict[str, Any]): How pictures are prepared for named weights, without a name as for ImageNet
    (shorter side to 256, central 224), see `base.PictureTransform`. `image_size` overrides both sizes.
    """
    transform = ImageClassification(crop_size=224)
    if weights is not None:
        transform = models.get_model_weights(arch)[weights].transforms()
    return {
        "crop_size": image_size or int(transform.crop_size[0]),
        "resize_size": image_size or int(transform.resize_size[0]),
        "mean": [float(x) for x in transform.mean],
        "std": [float(x) for x in transform.std],
        "interpolation": transform.interpolation.value,
        **({} if weights is None else {"transform_input": True}),
    }


@registry.architectures("spacy-mmib.TorchvisionEncoder.v1")
def build_torchvision_encoder_v1(
    *,
    arch: str = "resnet50",
    weights: str | Path | None = None,
    rows: Literal["auto", "regions", "grid", "pyramid"] = "auto",
    grid_size: int = 2,
    pyramid_size: int = 2,
    trainable: bool = False,
    image_size: int | None = None,
    get_regions: Callable[..., Any] | None = None,
    max_pictures: int | None = 4,
    max_regions: int | None = 16,
    region_features: Literal["crop", "roi"] = "crop",
    batch_size: int = 64,
    on_image_error: Literal["warn", "raise"] = "warn",
    read_picture: Any = None,
    cache: Any = None,
    memory_format: Literal["auto", "contiguous", "channels_last"] = "auto",
    autocast: Literal["bfloat16", "float16"] | None = None,
    mixed_precision: bool = False,
) -> ImageEncoder:
    """Build a picture encoder from a classification network of torchvision.

    arch (str): torchvision's name of the network, e.g. "resnet50" (the paper's), "vit_b_16".
    weights (Optional[Union[str, Path]]): torchvision's name of its weights ("IMAGENET1K_V1" are the paper's;
        downloaded unless in torch's cache), the path of a state dict (.safetensors, or .pth, of which only
        tensors are unpickled), or `None` for random weights. Read on initialization: a saved pipeline holds
        its weights.
    rows (str): "regions": a row for the whole picture and one for each object. "grid": a row for the whole
        picture and one for each of grid_size x grid_size parts of it, averages of the last feature map, row
        by row; objects aren't searched for. "auto": as "regions" for a picture with objects that can be used,
        and as "grid" for one without, by the same pass through the network; or only the row for the whole
        picture if the network has no such map. A pipeline keeps the rows it was saved with. "pyramid": for
        the whole picture and for each object pyramid_size x pyramid_size rows, in each the averages of the
        maps of a ResNet's four stages over that part.
    trainable (bool): Train the network with the component. If `False` (the paper's) it is truly frozen,
        BatchNorm statistics included.
    image_size (Optional[int]): In pixels: scale the shorter side to this and take the central square.
        `None`: the preset of the named weights, or ImageNet's (256, then the central 224).
    get_regions (Optional[Callable]): Finds the objects, see `regions.base.RegionGetter`; a function that
        `@region_getters` names. `None`: those in `doc._.regions`.
    max_pictures (Optional[int]): At most so many pictures a post, from the first; `None` for all.
    max_regions (Optional[int]): m, at most so many objects a picture, from the first; `None` for all.
    region_features (str): "crop": every object goes through the network as a picture of its own, as in the
        paper. "roi": the network runs once over the whole picture, rescaled to a square as the paper says,
        and objects are cut out of its last feature map by RoIAlign (He et al., Mask R-CNN): as many passes
        as pictures. For networks that average their last feature map.
    batch_size (int): Pictures and objects in one forward: the bound on memory. A network that is trained
        keeps what its backward pass needs for the whole batch of posts all the same.
    on_image_error (str): "warn": a post whose picture can't be read is processed from its text, the reason
        is at `doc._.image_error`. "raise": it raises.
    read_picture (Optional[PictureReader]): `spacy-mmib.picture_reader.v1`. `None`: its defaults.
    cache (Optional[FeatureCache]): `spacy-mmib.feature_cache.v1`. `None`: nothing is kept.
    memory_format (str): "channels_last" or "contiguous" in the network; "auto": channels last if it is
        frozen: convolutions are faster so, on CPU and GPU.
    autocast (Optional[str]): "bfloat16" or "float16": run the network in this precision, see
        `spacy-mmib.NER.v1`. Vectors of a frozen one differ in the third digit.
    mixed_precision (bool): An older name of autocast = "float16", of a network that is trained.
    RETURNS (Model[List[Doc], List[Floats2d]]): The rows of each post, none without a picture.
    RAISES (ValueError): Settings that don't fit together.
    """
    settings = dict(locals())  # the signature is spelled out, since configs are filled and checked by it
    own = {key: settings.pop(key) for key in ("arch", "weights")}
    return build_encoder(Backbone, load, own, **settings)
