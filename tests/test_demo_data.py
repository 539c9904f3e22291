"""The demo's corpus: the picture decides, the text mostly can't, and nothing leaks between the splits."""

import importlib
import json
import os
import random
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import spacy
from PIL import Image
from spacy.tokens import Doc, DocBin

SCRIPTS = Path(__file__).parents[1] / "project" / "scripts"
COUNTS = {"train": 50, "dev": 10, "test": 20}


def load_script(name: str) -> ModuleType:
    if str(SCRIPTS) not in sys.path:
        sys.path.insert(0, str(SCRIPTS))
    return importlib.import_module(name)


make_demo_data = load_script("make_demo_data")
demo_phrases = load_script("demo_phrases")
demo_pictures = load_script("demo_pictures")
demo_texts = load_script("demo_texts")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("demo")
    make_demo_data.make_demo_data(output, COUNTS, seed=3)
    return output


def read_docs(corpus: Path, split: str) -> list[Doc]:
    return list(DocBin().from_disk(corpus / f"{split}.spacy").get_docs(spacy.blank("en").vocab))


def read_bytes(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def split_posts(split: str, n: int, without_picture: float = 0.0) -> list:
    names = make_demo_data.make_split_names(spacy.blank("en"), 0)
    shares = demo_texts.Shares()
    return make_demo_data.make_split_posts(split, n, names[split], shares, without_picture, 0)


def test_same_seed_same_bytes_in_another_process(corpus: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        str(SCRIPTS / "make_demo_data.py"),
        "--output",
        str(tmp_path),
        "--seed",
        "3",
    ]
    for split, n in COUNTS.items():
        command += [f"--n-{split}", str(n)]
    subprocess.run(
        command, check=True, capture_output=True, env={**os.environ, "PYTHONHASHSEED": "77"}
    )
    assert read_bytes(tmp_path) == read_bytes(corpus)


def test_other_seed_other_posts(corpus: Path, tmp_path: Path) -> None:
    make_demo_data.make_demo_data(tmp_path, {"dev": 5}, seed=4)
    texts = {doc.text for doc in read_docs(corpus, "dev")}
    assert not texts & {doc.text for doc in read_docs(tmp_path, "dev")}


def test_a_split_does_not_depend_on_the_size_of_another(corpus: Path, tmp_path: Path) -> None:
    make_demo_data.make_demo_data(tmp_path, {"train": 7, "dev": COUNTS["dev"]}, seed=3)
    assert (tmp_path / "dev.spacy").read_bytes() == (corpus / "dev.spacy").read_bytes()


def test_docs_have_what_a_post_has(corpus: Path) -> None:
    stats = json.loads((corpus / "stats.json").read_text(encoding="utf-8"))
    for split, n in COUNTS.items():
        docs = read_docs(corpus, split)
        assert len(docs) == stats[split]["posts"] == n
        assert sum(doc._.image is None for doc in docs) == stats[split]["posts_without_picture"]
        labels = Counter(ent.label_ for doc in docs for ent in doc.ents)
        assert dict(labels) == {k: v for k, v in stats[split]["entities"].items() if v}
        for doc in docs:
            has_entity = doc.user_data[make_demo_data.KIND_KEY] != "no_entity"
            assert len(doc.ents) in ((1, 2) if has_entity else (0,))
            assert len({ent.label_ for ent in doc.ents}) <= 1
            assert all(token.is_title for ent in doc.ents for token in ent)
    assert stats["train"]["posts_without_picture"] == 4
    assert stats["dev"]["posts_without_picture"] == stats["test"]["posts_without_picture"] == 0


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


def test_pictures_differ(corpus: Path) -> None:
    pictures = [data for name, data in read_bytes(corpus).items() if name.endswith(".png")]
    assert len(set(pictures)) == len(pictures)


def test_no_name_of_dev_or_test_occurs_in_training(corpus: Path) -> None:
    train_words = {token.lower_ for doc in read_docs(corpus, "train") for token in doc}
    for split in ("dev", "test"):
        for doc in read_docs(corpus, split):
            for ent in doc.ents:
                assert not {token.lower_ for token in ent} & train_words
    names = make_demo_data.make_split_names(spacy.blank("en"), 0)
    for split, others in (("train", ("dev", "test")), ("dev", ("test",))):
        for other in others:
            assert not set(names[split]) & set(names[other])


@pytest.mark.parametrize("decided", [0.0, 0.2, 0.5])
def test_share_of_agreeing_posts_is_as_stated(decided: float) -> None:
    names = make_demo_data.make_split_names(spacy.blank("en"), 0)["train"]
    shares = demo_texts.Shares(decided=decided)
    posts = make_demo_data.make_split_posts("train", 500, names, shares, 0.08, 0)
    stats = make_demo_data.count(posts)
    assert stats["posts_without_picture"] == 40
    assert stats["agreeing_share"] == pytest.approx(decided, abs=0.005)


def words_of(post) -> set[str]:
    text = post.text
    for mention in reversed(post.mentions):
        text = text[: mention.start] + text[mention.end :]
    return set(text.lower().split())


def test_words_tell_the_type_of_decided_posts_only() -> None:
    train = [item.post for item in split_posts("train", 1500, 0.08)]
    test = [item.post for item in split_posts("test", 1000)]
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for post in train:
        for word in words_of(post):
            counts[word][post.label] += 1

    def guess(post) -> str:
        scores: Counter[str] = Counter()
        for word in sorted(words_of(post)):
            total = sum(counts[word].values())
            for label in demo_texts.LABELS:
                # How much more often than by chance the word came with the label.
                scores[label] += (counts[word][label] / total - 0.25) if total else 0.0
        return scores.most_common(1)[0][0]

    def accuracy(kind: str) -> float:
        posts = [post for post in test if post.kind == kind]
        return sum(guess(post) == post.label for post in posts) / len(posts)

    assert accuracy("undecided") == pytest.approx(0.25, abs=0.06)
    assert accuracy("no_entity") == pytest.approx(0.25, abs=0.13)
    assert accuracy("decided") > 0.9


def test_text_of_undecided_posts_does_not_depend_on_the_label() -> None:
    names = ["Kanal", "Mira", "Bolet", "Saro"]
    for seed in range(50):
        texts = {
            demo_texts.make_post(
                "undecided", label, names, demo_texts.Shares(), random.Random(seed)
            ).text
            for label in demo_texts.LABELS
        }
        assert len(texts) == 1


def test_undecided_posts_mislead_and_hold_no_deciding_word() -> None:
    other = {
        word
        for phrase in (*demo_phrases.CORES, *demo_phrases.MISLEADING, *demo_phrases.NO_ENTITY)
        for word in phrase.split()
    }
    for label, phrases in demo_phrases.DECIDING_PHRASES.items():
        elsewhere = {
            word
            for key, group in demo_phrases.DECIDING_PHRASES.items()
            if key != label
            for phrase in group
            for word in phrase.split()
        }
        for phrase in phrases:
            assert set(phrase.split()) - other - elsewhere, phrase
    for item in split_posts("train", 300):
        if item.post.kind == "undecided":
            text = item.post.text.lower()
            assert any(remark in text for remark in demo_phrases.MISLEADING), text


def test_mentions_are_the_names() -> None:
    nlp = spacy.blank("en")
    names = set(make_demo_data.make_split_names(nlp, 0)["train"])
    for item in split_posts("train", 300):
        doc = make_demo_data.make_doc(nlp, item.post)
        inside = {token.i for ent in doc.ents for token in ent}
        assert {token.i for token in doc if token.text in names} == inside
        assert all(len(ent) in (1, 2) for ent in doc.ents)


@pytest.mark.parametrize("kind", list(demo_pictures.DRAW))
def test_every_kind_is_drawn(kind: str) -> None:
    rng = random.Random(1)
    for longest in (20, 60):
        tile = demo_pictures.draw_object(kind, longest, rng)
        assert max(tile.size) == longest
        assert tile.getchannel("A").getextrema()[1] == 255
    first, second = (demo_pictures.draw_object(kind, 40, rng).tobytes() for _ in range(2))
    assert first != second


@pytest.mark.parametrize("label", demo_texts.LABELS)
def test_a_picture_shows_its_type_among_distractors(label: str) -> None:
    positions = Counter()
    for seed in range(40):
        picture = demo_pictures.draw_post_picture(label, random.Random(seed))
        kinds = [thing.kind for thing in picture.objects]
        deciding = [kind for kind in kinds if kind in demo_pictures.DECIDING]
        assert [demo_pictures.DECIDING[kind] for kind in deciding] == [label]
        assert len(kinds) in (3, 4)
        assert len(set(kinds)) == len(kinds)
        positions[kinds.index(deciding[0])] += 1
        for i, thing in enumerate(picture.objects):
            # Something was drawn in every box: it is not as smooth as the background.
            colours = picture.image.crop(thing.box).getcolors(maxcolors=1 << 20)
            assert len(colours) > 20
            for other in picture.objects[:i]:
                a, b = thing.box, other.box
                assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
    assert set(positions) == {0, 1, 2, 3}


def test_labels_are_the_types_of_the_pictures() -> None:
    assert sorted(demo_texts.LABELS) == sorted(demo_pictures.DECIDING.values())


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

    script = load_script("train_picture_encoder")
    settings = {"n_pictures": 16, "epochs": 1, "learn_rate": 1e-3, "seed": 1}
    first, second = (script.train_encoder("resnet18", 32, **settings)[0] for _ in range(2))
    torch.save(first.state_dict(), tmp_path / "encoder.pth")
    loaded = get_model("resnet18", weights=None, num_classes=len(demo_pictures.DRAW))
    loaded.load_state_dict(torch.load(tmp_path / "encoder.pth", weights_only=True))
    for key, value in second.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value), key


def test_picture_encoder_crops_hold_the_object() -> None:
    script = load_script("train_picture_encoder")
    rng = random.Random(0)
    for _ in range(50):
        picture = demo_pictures.draw_post_picture("PER", rng)
        for thing in picture.objects:
            left, upper, right, lower = thing.box
            x0, y0, x1, y1 = script.around_box(thing.box, picture.image, rng)
            assert 0 <= x0 <= left < right <= x1 <= picture.image.width
            assert 0 <= y0 <= upper < lower <= y1 <= picture.image.height
            x0, y0, x1, y1 = script.near_box(thing.box, rng)
            assert x1 - x0 >= 0.8 * (right - left)
            assert y1 - y0 >= 0.8 * (lower - upper)
