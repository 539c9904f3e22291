"""The demo's corpus: the picture decides types and relations, the text mostly can't, and nothing leaks
between the splits.
"""

import math
import os
import random
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import permutations
from pathlib import Path

import pytest
import spacy
from PIL import Image
from spacy.tokens import Doc, DocBin

from project.demo import data, drawing, encoder, texts
from spacy_mmib.post.relations import has_relations

ROOT = Path(__file__).parents[2]
COUNTS = {"train": 50, "dev": 10, "test": 20}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("demo")
    data.make_demo_data(output, COUNTS, seed=3)
    return output


def read_docs(corpus: Path, split: str) -> list[Doc]:
    return list(DocBin().from_disk(corpus / f"{split}.spacy").get_docs(spacy.blank("en").vocab))


def read_bytes(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@cache
def split_posts(split: str, n: int, **shares: float) -> list:
    """Shared: don't change it."""
    names = data.make_split_names(spacy.blank("en"), 0)
    return data.make_split_posts(split, n, names[split], 0, texts.Shares(**shares))


@pytest.mark.slow
def test_same_seed_same_bytes_in_another_process(corpus: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "project.demo.data", "--output", str(tmp_path), "--seed", "3"]
    for split, n in COUNTS.items():
        command += [f"--n-{split}", str(n)]
    env = {**os.environ, "PYTHONHASHSEED": "77"}
    subprocess.run(command, check=True, capture_output=True, env=env, cwd=ROOT)
    assert read_bytes(tmp_path) == read_bytes(corpus)


def test_other_seed_other_posts(corpus: Path, tmp_path: Path) -> None:
    data.make_demo_data(tmp_path, {"dev": 5}, seed=4)
    found = {doc.text for doc in read_docs(corpus, "dev")}
    assert not found & {doc.text for doc in read_docs(tmp_path, "dev")}


def test_a_split_does_not_depend_on_the_size_of_another(corpus: Path, tmp_path: Path) -> None:
    data.make_demo_data(tmp_path, {"train": 7, "dev": COUNTS["dev"]}, seed=3)
    assert (tmp_path / "dev.spacy").read_bytes() == (corpus / "dev.spacy").read_bytes()


def test_docs_have_what_a_post_has(corpus: Path) -> None:
    for split, n in COUNTS.items():
        docs = read_docs(corpus, split)
        assert len(docs) == n
        assert sum(doc._.image is None for doc in docs) == (12 if split == "train" else 0)
        kinds = Counter(doc.user_data[data.RELATION_KIND_KEY] for doc in docs)
        assert kinds["no_pair"] == sum(len(doc.ents) < 2 for doc in docs)
        for doc in docs:
            has_entity = doc.user_data[data.KIND_KEY] != "no_entity"
            assert len(doc.ents) in ((1, 2) if has_entity else (0,))
            assert len({ent.label_ for ent in doc.ents}) <= 1
            assert all(token.is_title for ent in doc.ents for token in ent)


def test_pictures_open_and_regions_lie_inside_without_labels(corpus: Path) -> None:
    for split in COUNTS:
        for doc in read_docs(corpus, split):
            if doc._.image is None:
                assert doc._.regions == []
                continue
            assert doc._.image.startswith(f"images/{split}/")
            with Image.open(corpus / doc._.image) as image:
                image.load()
                assert image.mode == "RGB"
                width, height = image.size
            assert len(doc._.regions) in (3, 4)
            for region in doc._.regions:
                assert region["label"] is None
                assert region["score"] is None
                left, upper, right, lower = region["box"]
                assert 0 <= left < right <= width
                assert 0 <= upper < lower <= height


def test_names_are_the_object_that_shows_their_type(corpus: Path) -> None:
    docs = [doc for split in COUNTS for doc in read_docs(corpus, split) if doc.ents]
    for doc in docs:
        boxes = [ent._.boxes for ent in doc.ents]
        if doc._.image is None:
            assert boxes == [None] * len(doc.ents)
        else:
            assert len(boxes[0]) == 1
            assert boxes == [boxes[0]] * len(doc.ents)
            assert boxes[0][0] in doc._.regions
    places = {doc._.regions.index(doc.ents[0]._.boxes[0]) for doc in docs if doc._.image is not None}
    assert places >= {0, 1, 2}  # where it is in the list says nothing


def test_every_ordered_pair_of_entities_is_annotated(corpus: Path) -> None:
    for split in COUNTS:
        for doc in read_docs(corpus, split):
            assert has_relations(doc)
            relations = doc._.relations
            # Spans compare with their labels: these are the entities themselves.
            assert [(r.head, r.tail) for r in relations] == list(permutations(doc.ents, 2))
            assert all(r.label in texts.RELATIONS and r.score is None for r in relations)
            assert len({r.label for r in relations}) <= 1, "a relation is the same in both directions"


def test_type_and_picture_decide_the_relation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = []

    def draw(*args):
        pictures.append(drawing.draw_post_picture(*args))
        return pictures[-1]

    monkeypatch.setattr(data, "draw_post_picture", draw)
    data.make_demo_data(tmp_path, {"train": 150}, seed=5)
    docs = [doc for doc in read_docs(tmp_path, "train") if doc._.image is not None]
    seen = Counter()
    for doc, picture in zip(docs, pictures, strict=True):
        assert [tuple(r["box"]) for r in doc._.regions] == [o.box for o in picture.objects]
        kinds = {thing.kind for thing in picture.objects}
        objects = sorted(kinds & set(drawing.RELATING))
        people = "person" in kinds
        assert len(objects) <= 1
        assert people == (doc.ents[0].label_ == "PER" if doc.ents else people)
        expected = drawing.RELATING[objects[0]] if people and objects else "None"
        for relation in doc._.relations:
            assert relation.label == expected
            seen[people, bool(objects)] += 1
    assert len(seen) == 4, "pairs of people and of others, with and without an object of a relation"


def test_pictures_differ(corpus: Path) -> None:
    pictures = [data for name, data in read_bytes(corpus).items() if name.endswith(".png")]
    assert len(set(pictures)) == len(pictures)


def test_no_name_of_dev_or_test_occurs_in_training(corpus: Path) -> None:
    train_words = {token.lower_ for doc in read_docs(corpus, "train") for token in doc}
    for split in ("dev", "test"):
        for doc in read_docs(corpus, split):
            for ent in doc.ents:
                assert not {token.lower_ for token in ent} & train_words
    names = data.make_split_names(spacy.blank("en"), 0)
    for split, others in (("train", ("dev", "test")), ("dev", ("test",))):
        for other in others:
            assert not set(names[split]) & set(names[other])


@pytest.mark.parametrize("decided", [0.0, 0.2, 0.5])
def test_share_of_agreeing_posts_is_as_stated(decided: float) -> None:
    posts = split_posts("train", 500, decided=decided)
    pictured = [item.plan for item in posts if item.has_picture]
    assert len(posts) - len(pictured) == 125
    agreeing = sum(plan.kind == "decided" for plan in pictured)
    assert agreeing / len(pictured) == pytest.approx(decided, abs=0.005)


def words_of(post) -> set[str]:
    text = post.text
    for start, end in reversed(post.mentions):
        text = text[:start] + text[end:]
    return set(text.lower().split())


def learn_from_words(posts: Sequence, label_of: Callable) -> Callable:
    """A guess at a post's label from how often each of its words came with each label."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for post in posts:
        for word in words_of(post):
            counts[word][label_of(post)] += 1
    shares = {label: n / len(posts) for label, n in sorted(Counter(map(label_of, posts)).items())}

    def score(word: str, label: str) -> float:
        return math.log((counts[word][label] + 1) / (counts[word].total() * shares[label] + 1))

    def guess(post) -> str:
        words = sorted(words_of(post) & set(counts))
        scores = {
            label: math.log(share) + sum(score(word, label) for word in words)
            for label, share in shares.items()
        }
        return max(scores, key=lambda label: scores[label])

    return guess


def accuracy(guess: Callable, posts: Sequence, label_of: Callable) -> float:
    return sum(guess(post) == label_of(post) for post in posts) / len(posts)


# The number of names is visible, and people come in pairs more often than others.
@pytest.mark.parametrize("n_names", [0, 1, 2])
def test_words_tell_the_type_of_decided_posts_only(n_names: int) -> None:
    def label_of(post) -> str:
        return post.plan.label

    def select(split: str, n: int) -> list:
        return [item for item in split_posts(split, n) if item.plan.n_names == n_names]

    guess = learn_from_words(select("train", 8000), label_of)
    test = select("test", 3000)
    open_ones = [post for post in test if post.plan.kind != "decided"]
    commonest = max(Counter(map(label_of, open_ones)).values()) / len(open_ones)
    assert accuracy(guess, open_ones, label_of) < commonest + 0.06
    if n_names:
        decided = [post for post in test if post.plan.kind == "decided"]
        assert accuracy(guess, decided, label_of) > 0.9


def test_words_tell_the_relation_of_decided_posts_only() -> None:
    def label_of(post) -> str:
        return post.plan.relation

    def select(split: str, n: int) -> list:
        return [post for post in split_posts(split, n) if post.plan.label == "PER" and post.plan.n_names == 2]

    guess = learn_from_words(select("train", 8000), label_of)
    test = select("test", 3000)
    decided = [post for post in test if post.plan.relation_kind == "decided"]
    undecided = [post for post in test if post.plan.relation_kind == "undecided"]
    assert accuracy(guess, decided, label_of) > 0.9
    assert accuracy(guess, undecided, label_of) == pytest.approx(0.25, abs=0.07)
    # Text that tells of people, but not of a relation, has to leave the relation open too.
    telling = [post for post in undecided if post.plan.kind == "decided"]
    assert {post.plan.relation for post in telling} == set(texts.RELATIONS)


def test_text_alone_can_not_tell_most_relations() -> None:
    plans = [item.plan for item in split_posts("test", 2000)]
    pairs = [plan for plan in plans if plan.n_names == 2]
    related = sum(plan.relation != "None" for plan in pairs)

    def f1(guess: str) -> float:
        """Of a reader who is right wherever the text tells the relation, and else has one guess."""
        right = predicted = 0
        for plan in pairs:
            answer = plan.relation if plan.relation_kind == "decided" else guess
            predicted += answer != "None"
            right += answer == plan.relation != "None"
        return 2 * right / (predicted + related)

    assert max(f1(guess) for guess in texts.RELATIONS) < 0.4


@pytest.mark.parametrize("n_names", [1, 2])
def test_text_of_undecided_posts_does_not_depend_on_what_the_picture_shows(n_names: int) -> None:
    names = ["Kanal", "Mira", "Bolet", "Saro"]

    def text(seed: int, kind: str, label: str, shown: str) -> str:
        plan = texts.Plan(kind, label, shown, n_names)
        return texts.make_post(plan, names, texts.Shares(), random.Random(seed)).text

    for seed in range(50):
        found = {text(seed, "undecided", label, shown) for label in texts.LABELS for shown in texts.RELATIONS}
        assert len(found) == 1
        for label in texts.LABELS:
            assert len({text(seed, "decided", label, s) for s in texts.RELATIONS}) == 1


def test_shares_of_pairs() -> None:
    # Those with a picture; as in the splits without any other post.
    plans = [item.plan for item in split_posts("train", 2000) if item.has_picture]
    types = Counter(plan.label for plan in plans if plan.n_names)
    assert max(types.values()) - min(types.values()) <= 4
    pairs = [plan for plan in plans if plan.n_names == 2]
    people = [plan for plan in pairs if plan.label == "PER"]
    assert len(pairs) / types.total() == pytest.approx(0.82, abs=0.01)
    assert len(people) / len(pairs) == pytest.approx(0.25, abs=0.01)
    relations = Counter(plan.relation for plan in people)
    assert sorted(relations) == sorted(texts.RELATIONS)
    assert max(relations.values()) - min(relations.values()) <= 5
    telling = [plan for plan in people if plan.relation_kind == "decided"]
    assert len(telling) / len(people) == pytest.approx(0.2, abs=0.02)
    assert {plan.relation for plan in pairs if plan.label != "PER"} == {"None"}


def test_posts_without_a_picture_say_more_and_have_every_relation() -> None:
    posts = [item.plan for item in split_posts("train", 2000) if not item.has_picture]
    assert len(posts) == 500
    kinds = Counter(plan.kind for plan in posts)
    assert kinds["decided"] == 400
    assert min(kinds[kind] for kind in ("no_entity", "undecided")) > 0
    relations = Counter(plan.relation for plan in posts if plan.label == "PER" and plan.n_names == 2)
    assert sorted(relations) == sorted(texts.RELATIONS)
    assert max(relations.values()) - min(relations.values()) <= 3


def test_pictures_of_all_posts_show_relations_alike() -> None:
    shown: dict[tuple[str, int], Counter[str]] = defaultdict(Counter)
    for item in split_posts("train", 2000):
        shown[item.plan.label, item.plan.n_names][item.plan.shown] += 1
    assert len(shown) == 12
    for counts in shown.values():
        assert sorted(counts) == sorted(texts.RELATIONS)
        assert max(counts.values()) - min(counts.values()) <= 3


def test_undecided_posts_mislead_and_hold_no_deciding_word() -> None:
    groups = {
        "anywhere": (
            phrase
            for name in ("cores", "misleading", "no_entity", "joiners")
            for phrase in texts.PHRASES[name]
        ),
        **texts.PHRASES["deciding"],
        **texts.PHRASES["relations"],
    }
    words = {key: {w for phrase in group for w in phrase.split()} for key, group in groups.items()}
    for label, phrases in groups.items():
        elsewhere = set().union(*(group for key, group in words.items() if key != label))
        for phrase in phrases if label != "anywhere" else ():
            assert set(phrase.split()) - elsewhere, phrase
    for item in split_posts("train", 300):
        if item.plan.kind == "undecided":
            text = item.text.lower()
            assert any(remark in text for remark in texts.PHRASES["misleading"]), text


def test_mentions_are_the_names() -> None:
    nlp = spacy.blank("en")
    names = set(data.make_split_names(nlp, 0)["train"])
    for item in split_posts("train", 300):
        doc = data.make_doc(nlp, item)
        inside = {token.i for ent in doc.ents for token in ent}
        assert {token.i for token in doc if token.text in names} == inside
        assert all(len(ent) in (1, 2) for ent in doc.ents)


@pytest.mark.parametrize("kind", list(drawing.SHAPES))
def test_every_kind_is_drawn(kind: str) -> None:
    rng = random.Random(1)
    for longest in (20, 60):
        tile = drawing.draw_object(kind, longest, rng)
        assert max(tile.size) == longest
        assert tile.getchannel("A").getextrema()[1] == 255
    first, second = (drawing.draw_object(kind, 40, rng).tobytes() for _ in range(2))
    assert first != second


@pytest.mark.parametrize("shown", texts.RELATIONS)
@pytest.mark.parametrize("label", texts.LABELS)
def test_a_picture_shows_type_and_relation_among_distractors(label: str, shown: str) -> None:
    positions: Counter[int] = Counter()
    for seed in range(40):
        picture = drawing.draw_post_picture(label, shown, random.Random(seed))
        kinds = [thing.kind for thing in picture.objects]
        deciding = [kind for kind in kinds if kind in drawing.DECIDING]
        relating = [kind for kind in kinds if kind in drawing.RELATING]
        assert [drawing.DECIDING[kind] for kind in deciding] == [label]
        assert [drawing.RELATING[kind] for kind in relating] == [shown] * (shown != "None")
        assert set(kinds) - {*deciding, *relating} <= set(drawing.DISTRACTORS)
        assert len(set(kinds)) == len(kinds)
        positions[kinds.index((relating or deciding)[0])] += 1
        for i, thing in enumerate(picture.objects):
            # Something was drawn in every box: it is not as smooth as the background.
            colours = picture.image.crop(thing.box).getcolors(maxcolors=1 << 20)
            assert len(colours) > 20
            for other in picture.objects[:i]:
                a, b = thing.box, other.box
                assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
    assert set(positions) == {0, 1, 2, 3}


def test_number_of_objects_tells_neither_type_nor_relation() -> None:
    numbers: Counter[int] = Counter()
    for seed in range(40):
        found = {
            len(drawing.draw_post_picture(label, shown, random.Random(seed)).objects)
            for label in texts.LABELS
            for shown in texts.RELATIONS
        }
        assert len(found) == 1
        numbers.update(found)
    assert set(numbers) == {3, 4}
    assert min(numbers.values()) >= 10


def test_labels_are_what_pictures_show() -> None:
    assert sorted(texts.LABELS) == sorted(drawing.DECIDING.values())
    assert sorted(texts.RELATIONS) == sorted([*drawing.RELATING.values(), "None"])


@pytest.fixture
def torch_settings() -> Iterator[None]:
    import torch

    before = torch.are_deterministic_algorithms_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(before)
    torch.utils.deterministic.fill_uninitialized_memory = fill


@pytest.mark.usefixtures("torch_settings")
def test_picture_encoder_is_repeatable_and_loads_into_torchvision(tmp_path: Path) -> None:
    import torch
    from torchvision.models import get_model

    settings = {"n_pictures": 16, "epochs": 1, "learn_rate": 1e-3, "seed": 1}
    first, second = (encoder.train_encoder("resnet18", 32, **settings)[0] for _ in range(2))
    torch.save(first.state_dict(), tmp_path / "encoder.pth")
    loaded = get_model("resnet18", weights=None, num_classes=len(drawing.SHAPES))
    loaded.load_state_dict(torch.load(tmp_path / "encoder.pth", weights_only=True))
    for key, value in second.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value), key


def test_picture_encoder_crops_hold_the_object() -> None:
    rng = random.Random(0)
    for _ in range(50):
        picture = drawing.draw_post_picture("PER", "couple", rng)
        for thing in picture.objects:
            left, upper, right, lower = thing.box
            x0, y0, x1, y1 = encoder.around_box(thing.box, picture.image, rng)
            assert 0 <= x0 <= left < right <= x1 <= picture.image.width
            assert 0 <= y0 <= upper < lower <= y1 <= picture.image.height
            x0, y0, x1, y1 = encoder.near_box(thing.box, rng)
            assert x1 - x0 >= 0.8 * (right - left)
            assert y1 - y0 >= 0.8 * (lower - upper)
