"""The registry of region getters: what finds the objects in pictures, named in a config by `@region_getters`.

Other packages add theirs by the entry point group `spacy_region_getters`, or by the decorator
`spacy.registry.region_getters("name")`.
"""

from typing import Any

import catalogue
from spacy.util import registry


def get_region_getters() -> Any:
    """RETURNS (catalogue.Registry): The registry, made on the first call. It hangs on spaCy's own, where
    configs look for it.
    """
    if not hasattr(registry, "region_getters"):
        registry.region_getters = catalogue.create("spacy", "region_getters", entry_points=True)
    return registry.region_getters


region_getters = get_region_getters()
