"""torchvision, imported in one place: it fails in ways that name neither cause nor cure if it doesn't
belong to the installed torch.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    from torchvision import models, ops
    from torchvision.ops import roi_align
    from torchvision.transforms import InterpolationMode
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

__all__ = ["ImageClassification", "InterpolationMode", "models", "ops", "roi_align"]
