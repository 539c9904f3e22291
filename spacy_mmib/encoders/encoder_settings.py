"""Settings that all picture encoders share, and where in a model they are. Free of torch and Pillow, so that
components and batchers can import it.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from spacy.tokens import Doc
from thinc.api import Model

from ..regions.base import RegionGetter

OnImageError: TypeAlias = Literal["warn", "raise"]
Mode: TypeAlias = Literal["crop", "roi", "patches"]

LAYER = "picture_encoder"
"""Name of the layers that are picture encoders."""

QUEUE = "queue"
"""Their attribute with the `PictureQueue`."""

FOLLOWING = "spacy_mmib_following"
"""Among the hooks of a doc in training (`Doc.user_hooks`): gives the docs of the batch after its own."""


@dataclass(frozen=True)
class EncoderSettings:
    """Settings of a picture encoder's layer; see `encoders.torchvision.build_torchvision_encoder_v1`. Not
    attributes of the Thinc model: those are restored from a saved model, over what the config says.

    name (str): What messages call the encoder.
    mode (str): "crop": the network runs on every object as a picture of its own; "roi": once a picture,
        objects are cut out of its feature map; "patches": once a picture, a row a part of it.
    trainable (bool): Whether the network learns.
    max_regions (Optional[int]): At most so many objects a post.
    batch_size (int): Pictures in one forward.
    on_image_error (str): "warn" or "raise".
    mixed_precision (bool): See `wrap_module`.
    get_regions (RegionGetter): Finds the objects.
    reader (PictureReader): Reads pictures.
    cache (Optional[FeatureCache]): Keeps vectors and objects.
    random (bool): Whether the network's weights are random on initialization.
    """

    name: str
    mode: Mode
    trainable: bool
    max_regions: int | None
    batch_size: int
    on_image_error: OnImageError
    mixed_precision: bool
    get_regions: RegionGetter
    reader: Any
    cache: Any
    random: bool


def find_encoder_layers(model: Any) -> list[Any]:
    """RETURNS (List[Model]): The layers of picture encoders in a model."""
    return [node for node in model.walk() if node.name == LAYER] if isinstance(model, Model) else []


def get_settings(layer: Model[Any, Any]) -> EncoderSettings:
    """RETURNS (EncoderSettings): Of a picture encoder's layer."""
    settings: EncoderSettings = layer.attrs[QUEUE].settings
    return settings


def read_ahead(layers: Sequence[Any], docs: Sequence[Doc]) -> None:
    """Begin to read the pictures of posts that will be encoded soon.

    layers (Sequence[Model]): Picture encoders. One that hasn't been used yet doesn't read ahead.
    docs (Sequence[Doc]): The posts.
    """
    for layer in layers:
        # What fails now fails again when it is asked for, where it belongs to a post.
        with contextlib.suppress(Exception):
            layer.attrs[QUEUE].begin(docs)
