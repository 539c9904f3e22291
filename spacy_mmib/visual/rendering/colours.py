"""The colour of a label: always the same one, whatever else is on the page."""

import hashlib

HUES = {
    "PER": 205,
    "PERSON": 205,
    "ORG": 30,
    "LOC": 130,
    "GPE": 130,
    "MISC": 290,
    "OTHER": 290,
}
"""Hues of frequent types, far from each other. The style sheet gives them lightness, so that text on them
has a contrast of at least 4.5:1, in light and in dark."""


def get_hue(label: str) -> int:
    """RETURNS (int): The hue of a label, 0-359 degrees; from its name if it isn't a frequent one."""
    known = HUES.get(label.upper())
    if known is not None:
        return known
    digest = hashlib.blake2b(label.encode("utf8", "replace"), digest_size=4).digest()
    return int.from_bytes(digest, "big") % 24 * 15
