"""Names made of syllables: pronounceable, and saying nothing about what they name."""

import random
from collections.abc import Callable, Mapping

ONSETS = ("b", "br", "d", "dr", "f", "fl", "j", "k", "kr", "l", "m", "n", "r", "s", "t", "tr", "v")
VOWELS = ("a", "a", "e", "e", "i", "o", "u", "au", "ei")
CODAS = ("b", "d", "g", "k", "l", "m", "n", "p", "r", "s", "t", "x")
SHORT = 0.25
"""Share of names of one syllable."""
RESERVED = ("Rob", "Mia")
"""Names that no post has: they are left to whoever tries the trained model."""
ENDINGS = ("", "", "n", "l", "r", "s", "th", "m")


def make_names(
    counts: Mapping[str, int], rng: random.Random, is_allowed: Callable[[str], bool]
) -> dict[str, list[str]]:
    """Make names for several splits. No name is in two of them.

    counts (Mapping[str, int]): How many names each split gets.
    rng (random.Random): Decides the syllables.
    is_allowed (Callable[[str], bool]): Says whether a capitalised name may be used, so that none is
        also a word of the posts or cut in two by a tokenizer.
    RETURNS (Dict[str, List[str]]): The names of each split, each a capitalised word.
    """
    seen: set[str] = set()
    names: dict[str, list[str]] = {}
    for split, count in counts.items():
        names[split] = []
        while len(names[split]) < count:
            name = make_name(rng)
            if name not in seen and name not in RESERVED and is_allowed(name):
                seen.add(name)
                names[split].append(name)
    return names


def make_name(rng: random.Random) -> str:
    """RETURNS (str): A capitalised word: mostly 2-3 different syllables and 5-9 letters, sometimes a single
    closed syllable of 3-4 letters (as short as "Rob").
    """
    if rng.random() < SHORT:
        return (rng.choice(ONSETS) + rng.choice(VOWELS[:7]) + rng.choice(CODAS)).capitalize()
    while True:
        onsets = rng.sample(ONSETS, rng.choice((2, 2, 3)))
        name = "".join(onset + rng.choice(VOWELS) for onset in onsets) + rng.choice(ENDINGS)
        if 5 <= len(name) <= 9:
            return name.capitalize()
