"""Posts of the demo corpus: short noisy texts in which the words (phrases.yml) rarely tell the type of a
name, or what two people have to do with each other.
"""

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import srsly

PHRASES: Mapping[str, Any] = srsly.read_yaml(Path(__file__).with_name("phrases.yml"))
LABELS: tuple[str, ...] = tuple(PHRASES["deciding"])
RELATIONS: tuple[str, ...] = tuple(PHRASES["relations"])
"""Labels of pairs, `NO_RELATION` among them."""
NO_RELATION = "None"
RELATED_LABEL = "PER"
"""The only type whose entities have relations."""
RESERVED = ("Rob", "Mia")
"""Names that no post has: they are left to whoever tries the trained model."""


@dataclass(frozen=True)
class Plan:
    """What a post is to be, before it has words.

    kind (str): Whether the text alone leaves the type open ("undecided"), tells it ("decided"), or names
        nothing ("no_entity").
    label (str): The type that its picture, if it gets one, has to show. A post without an entity
        has one too, so that no picture tells whether there is an entity.
    shown (str): The relation that its picture has to show, `NO_RELATION` for none. Every post has one, though
        it holds between two people only: so no picture tells whether there is a pair.
    tells_relation (bool): Whether the text tells what is shown, for posts about two people.
    """

    kind: str
    label: str
    shown: str = NO_RELATION
    n_names: int = 1
    tells_relation: bool = False

    @property
    def relation(self) -> str:
        """RETURNS (str): The relation between any two names of the post, in both directions."""
        return self.shown if self.n_names > 1 and self.label == RELATED_LABEL else NO_RELATION

    @property
    def relation_kind(self) -> str:
        """RETURNS (str): Whether the text leaves the relation open ("undecided"), tells it or a type that has
        none ("decided"), or names no two ("no_pair").
        """
        if self.n_names < 2:
            return "no_pair"
        tells_other_type = self.kind == "decided" and self.label != RELATED_LABEL
        return "decided" if self.tells_relation or tells_other_type else "undecided"


class Post(NamedTuple):
    """The text of a post, what it was to be, where its names begin and end, all of the plan's type, and
    whether it gets a picture.
    """

    text: str
    plan: Plan
    mentions: tuple[tuple[int, int], ...]
    has_picture: bool = True


@dataclass(frozen=True)
class Shares:
    """How many posts are of which kind, each 0-1.

    decided (float): Posts whose text tells the type, among those with a picture.
    decided_without (float): The same, among those without: who shares no picture says more.
    joined (float): Posts with two names, of each type alike: without a picture no guess is better than
        another.
    tells_relation (float): Posts whose text tells the relation, among those about two people whose
        text tells the type: with the others' shares a fifth of all posts about two people.
    without_picture (float): Training posts without a picture.
    """

    decided: float = 0.2
    decided_without: float = 0.8
    no_entity: float = 0.12
    joined: float = 0.82
    tells_relation: float = 0.9
    two_words: float = 0.35
    one_syllable: float = 0.25
    without_picture: float = 0.25


def make_name(rng: random.Random) -> str:
    """RETURNS (str): A pronounceable name that says nothing about what it names: mostly 2-3 different
    syllables and 5-9 letters, sometimes a single closed syllable.
    """
    onsets, vowels = PHRASES["onsets"], PHRASES["vowels"]
    if rng.random() < Shares.one_syllable:
        return (rng.choice(onsets) + rng.choice(vowels[:7]) + rng.choice(PHRASES["codas"])).capitalize()
    while True:
        syllables = rng.sample(onsets, rng.choice((2, 2, 3)))
        name = "".join(onset + rng.choice(vowels) for onset in syllables) + rng.choice(PHRASES["endings"])
        if 5 <= len(name) <= 9:
            return name.capitalize()


def make_plans(n: int, shares: Shares, rng: random.Random) -> list[Plan]:
    """Share out what posts are to be. Types are spread evenly over posts of each kind, and what the
    pictures show of relations evenly over posts of each kind, type and number of names.

    rng (random.Random): Decides the order, and who gets what can't be divided.
    """
    decided, empty = round(n * shares.decided), round(n * shares.no_entity)
    kinds = {"decided": decided, "no_entity": empty, "undecided": n - decided - empty}
    plans = []
    for kind, count in kinds.items():
        labels = _spread(LABELS, count, rng)
        for label in LABELS:
            n = labels.count(label)
            two = round(n * shares.joined)
            can_tell = label == RELATED_LABEL and kind == "decided"
            telling = round(two * shares.tells_relation) if can_tell else 0
            # How many posts have so many names, and whether their text tells the relation.
            groups = [(n - two, 1, False), (two - telling, 2, False), (telling, 2, True)]
            for number, n_names, tells in [(n, 0, False)] if kind == "no_entity" else groups:
                plans += [Plan(kind, label, s, n_names, tells) for s in _spread(RELATIONS, number, rng)]
    rng.shuffle(plans)
    return plans


def _spread(options: Sequence[str], n: int, rng: random.Random) -> list[str]:
    """RETURNS (List[str]): `n` options, each as often as the others; chance decides which get one more."""
    return [*options] * (n // len(options)) + rng.sample([*options], n % len(options))


def make_post(plan: Plan, names: Sequence[str], shares: Shares, rng: random.Random) -> Post:
    """Make one post.

    plan (Plan): What it is to be. Its type changes the text of a post of kind `"decided"` only, and
        what is shown that of a post that tells the relation.
    """
    if plan.kind == "no_entity":
        remark = [rng.choice(PHRASES["misleading"])] if rng.random() < 0.5 else []
        return Post(_add_noise([rng.choice(PHRASES["no_entity"]), *remark], rng), plan, ())
    words = rng.sample(list(names), 2 * plan.n_names)
    entities = [
        f"{first} {second}" if rng.random() < shares.two_words else first
        for first, second in zip(words[::2], words[1::2], strict=True)
    ]
    # The names are put in last, so that no noise can change them.
    slot = "{e}"
    if plan.tells_relation:
        slot = rng.choice(PHRASES["relations"][plan.relation])
    elif plan.kind == "decided":
        slot = rng.choice(PHRASES["deciding"][plan.label])
    parts = [rng.choice(PHRASES["cores"]).replace("{e}", slot)]
    if plan.kind == "undecided" or rng.random() < 0.3:
        parts += rng.sample(PHRASES["misleading"], rng.choice((1, 1, 2)))
        rng.shuffle(parts)
    text = _add_noise(parts, rng)
    text = text.replace("{e}", f" {rng.choice(PHRASES['joiners'])} ".join(entities))
    for place, entity in zip(("{a}", "{b}"), entities, strict=False):
        text = text.replace(place, entity)
    mentions = []
    for entity in entities:
        found = re.search(rf"\b{entity}\b", text)
        assert found is not None
        mentions.append(found.span())
    return Post(text, plan, tuple(mentions))


def _add_noise(parts: Sequence[str], rng: random.Random) -> str:
    """RETURNS (str): The parts of a post joined, with what posts have around them."""
    text = rng.choice((" , ", " ... ", " - ", " ")).join(parts)
    if rng.random() < 0.4:
        text = f"{rng.choice(PHRASES['openers'])} {text}"
    for tail in rng.sample(PHRASES["tails"], rng.choice((0, 1, 1, 2))):
        text = f"{text} {tail}"
    for slot, fillings in (("{user}", "users"), ("{tag}", "tags"), ("{emoji}", "emoji")):
        while slot in text:
            text = text.replace(slot, rng.choice(PHRASES[fillings]), 1)
    if text[0].islower() and rng.random() < 0.3:
        text = text[0].upper() + text[1:]
    return text


def known_words() -> set[str]:
    """RETURNS (Set[str]): Every word of the posts that is no name of theirs, in lower case."""
    groups: list[Any] = [PHRASES[name] for name in ("cores", "misleading", "joiners", "no_entity")]
    groups += [PHRASES[name] for name in ("openers", "tails", "tags", "users")]
    groups += [*PHRASES["deciding"].values(), *PHRASES["relations"].values()]
    groups.append(RESERVED)
    return {word for group in groups for phrase in group for word in re.findall(r"\w+", phrase.lower())}
