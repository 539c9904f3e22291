"""Settings that all picture encoders share."""

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from ..regions.base import RegionGetter

OnImageError: TypeAlias = Literal["warn", "raise"]
Mode: TypeAlias = Literal["crop", "roi", "patches"]


@dataclass(frozen=True)
class EncoderSettings:
    """Settings of a picture encoder's layer; see `encoders.builders.build_torchvision_encoder_v1`. Not
    attributes of the Thinc model: those are restored from a saved model, over what the config says.

    name (str): What messages call the encoder.
    mode (str): "crop": the network runs on every object as a picture of its own; "roi": once a picture,
        objects are cut out of its feature map; "patches": once a picture, a row a patch.
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
