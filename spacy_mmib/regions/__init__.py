"""The objects in a picture: `values` knows the forms they are given in, `loading` cuts them out."""

from .values import Region, clip_box, normalize_regions

__all__ = ["Region", "clip_box", "normalize_regions"]
