import ast
import json
import random
import subprocess
import sys
from pathlib import Path

import commands
import PIL.Image
import pytest
from forked import run_forked
from spacy.tokens import Doc, DocBin
from spacy.vocab import Vocab

import spacy_mmib.evaluation.audit
from project.convert import convert_twitter
from spacy_mmib.evaluation import EvaluationError, MissingExtraError
from spacy_mmib.evaluation.audit import audit
from spacy_mmib.post.extensions import IMAGE_KEY, REGIONS_KEY, set_regions_note
from spacy_mmib.post.relations import RELATIONS_KEY

pytest.importorskip("sklearn")

TASKS = {"relation", "related", "entity_type", "has_entity"}
SINGLE = ("region_count", "picture_presence", "picture_size", "text_length")


def make_doc(vocab, rng, *, length=None, image=None, regions=0, relation=None, ents=("PER",), words=None):
    words = words or [f"w{rng.randrange(10**9)}" for _ in range(length or rng.randint(6, 20))]
    doc = Doc(vocab, words=words, ents=[f"B-{e}" for e in ents] + ["O"] * (len(words) - len(ents)))
    doc._.image = image
    doc._.regions = [(0, 0, 1, 1)] * regions
    if relation is not None:
        doc._.relations = [((0, 1), (1, 2), relation)]
    return doc


def save(path, docs):
    path.parent.mkdir(parents=True, exist_ok=True)
    DocBin(docs=docs, store_user_data=True).to_disk(path)
    return path


def random_corpus(path, plant=None, n=120, seed=0):
    """Posts in which nothing predicts the labels, or (the size of the pictures etc. of `plant`) one
    thing does: for 9 in 10 posts, it depends on whether the labels are those of the first half."""
    rng = random.Random(seed)
    vocab = Vocab()
    docs = []
    path.parent.mkdir(parents=True, exist_ok=True)
    for i in range(n):
        first = i < 0.6 * n
        high = first if rng.random() < 0.9 else not first
        values = {
            "region_count": rng.randint(0, 4),
            "picture_presence": rng.random() < 0.7,
            "picture_size": (rng.randint(4, 30), rng.randint(4, 30)),
            "text_length": rng.randint(6, 20),
        }
        if plant:
            values[plant] = {
                "region_count": 1 if high else 3,
                "picture_presence": high,
                "picture_size": (rng.randint(4, 30), rng.randint(5, 10) if high else 20),
                "text_length": rng.randint(6, 10) if high else rng.randint(11, 20),
            }[plant]
        image = None
        if values["picture_presence"]:
            image = f"{path.stem}_{i}.png"
            PIL.Image.new("L", values["picture_size"]).save(path.parent / image)
        doc = make_doc(
            vocab,
            rng,
            length=values["text_length"],
            image=image,
            regions=values["region_count"],
            relation="None" if first else rng.choice(["member_of"] * 9 + ["couple"]),
            ents=("PER",) if first else ("LOC",),
        )
        docs.append(doc)
    rng.shuffle(docs)
    return save(path, docs)


def flagged(result, task="related", what="flagged"):
    features = result["tasks"][task]["features"]
    return {name for name, feature in features.items() if feature["measured"] and feature[what]}


def run(*args):
    return commands.run("audit", *args)


# What is found


@pytest.mark.parametrize("plant", SINGLE)
def test_planted_leak_is_flagged_alone(tmp_path, plant):
    result = audit(random_corpus(tmp_path / "corpus.spacy", plant))
    for task in ("relation", "related", "entity_type"):
        assert flagged(result, task) - {"all_together"} == {plant}, task
        assert flagged(result, task, "shift") - {"all_together"} == {plant}, task
    assert "all_together" in flagged(result)
    feature = result["tasks"]["related"]["features"][plant]
    assert feature["majority"] == pytest.approx(0.6, abs=0.05)
    assert feature["accuracy"] == pytest.approx(0.9, abs=0.06)
    assert feature["gain"] == pytest.approx(feature["accuracy"] - feature["majority"], abs=1e-5)
    low, high = feature["gain_interval"]
    assert 0 < low < feature["gain"] < high < 0.5
    assert 0.3 < feature["information"] < 0.8
    question = {
        "region_count": "region count < 3 => None, otherwise related",
        "picture_presence": "no picture => related, otherwise None",
        "picture_size": "picture height < 20 pixels => None, otherwise related",
        "text_length": "text length < 11 tokens => None, otherwise related",
    }[plant]
    assert feature["rule"]["text"].startswith(question)
    assert f"right for {100 * feature['rule']['accuracy']:.1f} % of the pairs" in (feature["rule"]["text"])


def test_without_a_leak_nothing_is_flagged(tmp_path):
    for seed in range(10):
        result = audit(random_corpus(tmp_path / f"{seed}.spacy", n=60, seed=seed), seed=seed)
        assert set(result["tasks"]) == {"relation", "related", "entity_type"}
        for task in result["tasks"]:
            assert not flagged(result, task), (seed, task)
            assert not flagged(result, task, "shift"), (seed, task)
            assert all(result["tasks"][task]["features"][name]["measured"] for name in SINGLE)


def test_unreadable_pictures_are_a_size_of_their_own(tmp_path):
    rng, vocab, docs = random.Random(0), Vocab(), []
    for i in range(80):
        PIL.Image.new("L", (rng.randint(4, 30), 8)).save(tmp_path / f"{i}.png")
        if i < 40:
            (tmp_path / f"{i}.png").write_bytes(b"" if i % 2 else b"no picture")
        relation = "None" if i < 40 else "couple"
        docs.append(make_doc(vocab, rng, image=f"{i}.png", regions=1, relation=relation))
    result = audit(save(tmp_path / "corpus.spacy", docs))
    assert flagged(result) == {"picture_size", "all_together"}
    rule = result["tasks"]["related"]["features"]["picture_size"]["rule"]
    assert rule["question"] == "picture unreadable"
    assert rule["accuracy"] == 1.0
    assert result["pictures"] == {"stated": 80, "unreadable": 40}


def test_a_shift_that_leaves_the_majority_is_told(tmp_path):
    rng, vocab, docs = random.Random(0), Vocab(), []
    for i in range(600):
        regions = i % 2
        ents = () if rng.random() < (0.3 if regions else 0.02) else ("PER",)
        docs.append(make_doc(vocab, rng, regions=regions, ents=ents))
    result = audit(save(tmp_path / "corpus.spacy", docs))
    assert not flagged(result, "has_entity")
    assert flagged(result, "has_entity", "shift") == {"region_count", "all_together"}
    rule = result["tasks"]["has_entity"]["features"]["region_count"]["rule"]
    assert rule["question"] == "region count < 1"
    assert rule["label"] in ("with entities", "without entities")
    assert abs(rule["shares"][0] - rule["shares"][1]) > 0.15


def test_related_or_not_is_told_of_any_negative_label(tmp_path):
    rng, vocab = random.Random(0), Vocab()
    docs = [
        make_doc(vocab, rng, regions=i % 2, relation=["a", "NA"][i % 2] if i > 30 else "b") for i in range(90)
    ]
    path = save(tmp_path / "corpus.spacy", docs)
    assert "'None'" in audit(path)["left_out"]["related"]
    result = audit(path, negative_label="NA")
    assert result["tasks"]["related"]["majority"] == "related"
    assert result["tasks"]["related"]["labels"] == 2
    # Whatever the negative label is called.
    docs = [make_doc(vocab, rng, relation=["a", "related"][i % 2]) for i in range(60)]
    result = audit(save(tmp_path / "corpus.spacy", docs), negative_label="related")
    assert result["tasks"]["related"]["labels"] == 2


# Posts are what is drawn and parted


@pytest.mark.parametrize("same", ["text", "picture"])
def test_repeated_posts_are_not_memorized(tmp_path, same):
    rng, vocab, docs = random.Random(0), Vocab(), []
    for i in range(40):
        words = [f"post{i}_{j}" for j in range(4 + i)]
        label = rng.choice(["None", "couple"])
        if same == "picture":
            PIL.Image.new("L", (10 + i, 10)).save(tmp_path / f"{i}.png")
        for _ in range(12):
            if same == "text":
                docs.append(make_doc(vocab, rng, words=words, relation=label))
            else:
                docs.append(make_doc(vocab, rng, image=f"{i}.png", relation=label))
    result = audit(save(tmp_path / "corpus.spacy", docs))
    assert result["posts"] == 480
    assert result["different_posts"] == 40
    assert result["tasks"]["related"]["posts"] == 40
    measured = "text_length" if same == "text" else "picture_size"
    assert result["tasks"]["related"]["features"][measured]["measured"]
    assert not flagged(result)
    assert not flagged(result, what="shift")


def test_posts_repeated_make_no_interval_narrower(tmp_path):
    widths = []
    for times in (1, 9):
        rng, vocab, docs = random.Random(0), Vocab(), []
        for i in range(80):
            words = [f"post{i}_{j}" for j in range(rng.randint(5, 15))]
            relation = ["None", "couple"][i % 2] if rng.random() < 0.8 else "None"
            for _ in range(times):
                docs.append(make_doc(vocab, rng, words=words, regions=i % 2, relation=relation))
        result = audit(save(tmp_path / "corpus.spacy", docs))
        low, high = result["tasks"]["related"]["features"]["region_count"]["gain_interval"]
        widths.append(high - low)
    assert widths[1] == pytest.approx(widths[0], rel=0.3)


def test_what_is_the_same_post(tmp_path):
    rng, vocab = random.Random(0), Vocab()
    docs = [
        make_doc(vocab, rng, words=["Hello", "you"]),
        make_doc(vocab, rng, words=["hello", "YOU"]),
        make_doc(vocab, rng, image="gone.png"),
        make_doc(vocab, rng, image="gone.png"),
        make_doc(vocab, rng, image="other.png"),
        Doc(vocab, words=[]),
    ]
    result = audit(save(tmp_path / "corpus.spacy", docs))
    assert result["posts"] == 5  # without text there is no post
    assert result["different_posts"] == 3


def test_placeholder_picture_does_not_make_one_post_of_many(tmp_path):
    rng, vocab, docs = random.Random(0), Vocab(), []
    PIL.Image.new("L", (5, 5)).save(tmp_path / "none.png")
    for i in range(100):
        PIL.Image.new("L", (rng.randint(10, 30), 10)).save(tmp_path / f"{i}.png")
        image = "none.png" if i % 2 else f"{i}.png"
        docs.append(make_doc(vocab, rng, image=image, relation="None" if i % 2 else "couple"))
    result = audit(save(tmp_path / "corpus.spacy", docs))
    assert result["different_posts"] == 100
    assert flagged(result) == {"picture_size", "all_together"}


def test_same_name_in_another_folder_is_another_picture(tmp_path):
    rng, vocab = random.Random(0), Vocab()
    for folder in ("a", "b"):
        docs = [make_doc(vocab, rng, image="p.png") for _ in range(3)]
        save(tmp_path / folder / "corpus.spacy", docs)
        PIL.Image.new("L", (5, 5)).save(tmp_path / folder / "p.png")
    assert audit(tmp_path)["different_posts"] == 2
    assert audit(tmp_path)["posts"] == 6


# What is counted


def test_counts_what_the_corpus_states(tmp_path):
    """Crops and pictures that are not there count: the reader would drop them."""
    rng, vocab, docs = random.Random(0), Vocab(), []
    for i in range(60):
        doc = make_doc(vocab, rng, image=f"gone_{i}.png", relation="None" if i % 2 else "couple")
        doc._.regions = ["gone.png"] * (2 if i % 2 else 4)
        docs.append(doc)
    result = audit(save(tmp_path / "corpus.spacy", docs))
    assert result["pictures"] == {"stated": 60, "unreadable": 60}
    assert flagged(result) == {"region_count", "all_together"}
    features = result["tasks"]["related"]["features"]
    assert features["picture_presence"] == {"measured": False, "why": "the same for all"}
    assert "--image-root" in features["picture_size"]["why"]


def test_pairs_that_are_asked_about_are_no_labels(tmp_path):
    rng, vocab = random.Random(0), Vocab()
    docs = [make_doc(vocab, rng, relation=["", "None", "couple"][i % 3]) for i in range(90)]
    result = audit(save(tmp_path / "corpus.spacy", docs))
    assert result["tasks"]["relation"]["instances"] == 60
    assert result["tasks"]["relation"]["labels"] == 2


def test_pictures_are_read_inside_the_root_only(tmp_path):
    rng, vocab = random.Random(0), Vocab()
    PIL.Image.new("L", (5, 5)).save(tmp_path / "outside.png")
    (tmp_path / "in").mkdir()
    docs = [make_doc(vocab, rng, image=image) for image in ("../outside.png", "nul\0.png", b"junk")]
    path = save(tmp_path / "in" / "corpus.spacy", docs)
    assert audit(path)["pictures"] == {"stated": 3, "unreadable": 3}
    assert audit(path, image_root=tmp_path / "in")["pictures"]["unreadable"] == 3
    docs = [make_doc(vocab, rng, image=image) for image in ("outside.png", None)]
    path = save(tmp_path / "in" / "corpus.spacy", docs)
    assert audit(path)["pictures"] == {"stated": 1, "unreadable": 1}
    assert audit(path, image_root=tmp_path)["pictures"] == {"stated": 1, "unreadable": 0}


def test_attached_pictures_have_sizes(tmp_path):
    rng, vocab, docs = random.Random(0), Vocab(), []
    for i in range(60):
        picture = PIL.Image.new("RGB", (rng.randint(5, 30), 5 if i % 2 else 9))
        PIL.Image.Image.save(picture, tmp_path / "p.png")
        image = picture if i % 4 < 2 else (tmp_path / "p.png").read_bytes()
        docs.append(make_doc(vocab, rng, image=image, relation="None" if i % 2 else "couple"))
    result = audit(save(tmp_path / "corpus.spacy", docs))
    assert result["pictures"]["unreadable"] == 0
    rule = result["tasks"]["related"]["features"]["picture_size"]["rule"]
    assert rule["question"] == "picture height < 9 pixels"


def test_notes_on_regions_are_passed_on(tmp_path):
    rng, vocab = random.Random(0), Vocab()
    docs = [make_doc(vocab, rng) for _ in range(5)]
    for doc in docs[:3]:
        set_regions_note(doc, "chosen with knowledge of the relation")
    path = save(tmp_path / "corpus.spacy", docs)
    expected = [{"note": "chosen with knowledge of the relation", "posts": 3}]
    assert audit(path)["leaks"] == expected
    assert "chosen with knowledge" in " ".join(run(path).output.split())


def test_bad_rows_take_no_neighbours_down(tmp_path):
    rng, vocab = random.Random(0), Vocab()
    docs = [make_doc(vocab, rng, relation="None" if i % 2 else "couple") for i in range(60)]
    docs[0].user_data[REGIONS_KEY] = 7
    docs[1].user_data[RELATIONS_KEY] = [["nonsense"]]
    docs[2].user_data[IMAGE_KEY] = 7
    result = audit(save(tmp_path / "corpus.spacy", docs))
    assert result["problems"] == {"regions that can't be read": 1, "relations that can't be read": 1}
    assert result["tasks"]["related"]["instances"] == 59
    assert result["pictures"] == {"stated": 1, "unreadable": 1}


def test_same_seed_same_result(tmp_path):
    path = random_corpus(tmp_path / "corpus.spacy", "region_count", n=60)
    first = audit(path, seed=3)
    assert audit(path, seed=3) == first
    assert audit(path, seed=4)["tasks"] != first["tasks"]
    assert json.loads(json.dumps(first)) == first


# Little or nothing to measure


@pytest.mark.parametrize("n", [1, 2, 5, 19])
def test_few_posts(tmp_path, n):
    result = audit(random_corpus(tmp_path / "corpus.spacy", "region_count", n=n))
    assert result["tasks"] == {}
    assert set(result["left_out"]) == TASKS
    if n == 19:
        assert "19 different posts are too few" in result["left_out"]["related"]


def test_rare_labels(tmp_path):
    rng, vocab = random.Random(0), Vocab()
    docs = [make_doc(vocab, rng, regions=i % 3, relation="None") for i in range(40)]
    docs[0]._.relations = [((0, 1), (1, 2), "once")]
    path = save(tmp_path / "corpus.spacy", docs)
    left_out = audit(path)["left_out"]
    assert left_out["relation"] == "all 40 pairs but those of a single post are 'None'"
    docs[1]._.relations = [((0, 1), (1, 2), "also once")]
    result = audit(save(tmp_path / "corpus.spacy", docs))
    assert result["tasks"]["relation"]["folds"] == 2
    assert result["tasks"]["relation"]["labels"] == 3
    assert result["left_out"]["entity_type"] == "all 40 entities are 'PER'"
    assert result["left_out"]["has_entity"] == "all 40 posts are 'with entities'"


def test_no_labels(tmp_path):
    vocab = Vocab()
    docs = [Doc(vocab, words=["nothing", str(i)]) for i in range(30)]
    path = save(tmp_path / "corpus.spacy", docs)
    assert audit(path)["left_out"] == {
        "relation": "no pairs are annotated",
        "related": "no pairs are annotated",
        "entity_type": "no entities are annotated",
        "has_entity": "no posts are annotated",
    }
    result = run(path)
    assert result.exit_code == 0
    assert "Nothing could be measured" in result.output


def test_nothing_differs(tmp_path):
    rng, vocab = random.Random(0), Vocab()
    docs = [make_doc(vocab, rng, length=5, relation=rng.choice(["None", "couple"])) for _ in range(40)]
    result = audit(save(tmp_path / "corpus.spacy", docs))
    features = result["tasks"]["related"]["features"]
    assert not any(feature["measured"] for feature in features.values())
    assert features["picture_size"]["why"] == "no post has a picture"
    assert "Nothing could be measured" in run(tmp_path / "corpus.spacy").output


def test_errors(tmp_path):
    with pytest.raises(EvaluationError, match="There is no corpus at"):
        audit(tmp_path / "nope.spacy")
    with pytest.raises(EvaluationError, match="There are no posts in"):
        audit(save(tmp_path / "empty.spacy", []))
    (tmp_path / "folder").mkdir()
    with pytest.raises(EvaluationError, match="There are no posts in"):
        audit(tmp_path / "folder")
    (tmp_path / "fake.spacy").write_text("not zipped")
    with pytest.raises(EvaluationError, match=r"fake\.spacy can't be read"):
        audit(tmp_path / "fake.spacy")
    docs = [make_doc(Vocab(), random.Random(0))]
    docbin = DocBin(docs=docs, store_user_data=True)
    docbin.user_data[0] = b"\xc1"
    docbin.to_disk(tmp_path / "damaged.spacy")
    with pytest.raises(EvaluationError, match=r"damaged\.spacy can't be read to its end"):
        audit(tmp_path / "damaged.spacy")
    with pytest.raises(ValueError, match="at least 2"):
        audit(tmp_path / "empty.spacy", folds=1)
    with pytest.raises(ValueError, match="between 0 and"):
        audit(tmp_path / "empty.spacy", seed=-1)


def test_without_sklearn(tmp_path, monkeypatch):
    path = random_corpus(tmp_path / "corpus.spacy", n=30)
    for name in [name for name in sys.modules if name.split(".")[0] == "sklearn"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(MissingExtraError, match=r'pip install "spacy-mmib\[audit\]"'):
        audit(path)
    result = run(path)
    assert result.exit_code == 1
    assert "spacy-mmib[audit]" in result.stderr
    assert isinstance(result.exception, SystemExit)


def test_sklearn_is_imported_when_measuring_only():
    code = (
        "import sys; sys.modules['torch'] = None;"  # seconds faster; nothing here needs it
        "import spacy_mmib.evaluation.audit, spacy_mmib.cli; assert 'sklearn' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


# The command


def test_command(tmp_path):
    path = random_corpus(tmp_path / "corpus.spacy", "region_count")
    output = tmp_path / "out" / "audit.json"
    result = run(path, "--output", output, "--folds", 4, "--seed", 2, "--image-root", tmp_path)
    assert result.exit_code == 0, (result.output, result.exception)
    said = " ".join(result.output.split())
    assert "region count: region count < 3 => None, otherwise related: right for" in said
    assert said.count("FLAGGED") == 7  # count and all together in three tasks, and the legend
    assert "Any entity in a post: not measured, because all 120 posts are 'with entities'" in said
    written = json.loads(output.read_text())
    assert written == audit(path, folds=4, seed=2, image_root=tmp_path)
    assert written["tasks"]["related"]["folds"] == 4


def test_command_without_findings(tmp_path):
    result = run(random_corpus(tmp_path / "corpus.spacy", n=60))
    assert result.exit_code == 0
    assert "Nothing that was measured predicts a label" in result.output
    assert "FLAGGED" not in result.output


def test_command_errors(tmp_path):
    for args in ([tmp_path / "nope.spacy"], [tmp_path, "--image-root", tmp_path / "nope"]):
        result = run(*args)
        assert result.exit_code == 1
        assert result.stderr.startswith("✘ ")


LOUD = """
import warnings
from spacy.cli import setup_cli
warnings.simplefilter("default")
setup_cli()
"""


def test_command_says_nothing_of_its_own_tools(tmp_path, monkeypatch):
    """Neither warnings nor tracebacks, where labels are rare and posts few."""
    monkeypatch.setenv("PYTHONWARNINGS", "default")  # of processes that it starts
    rng, vocab = random.Random(0), Vocab()
    docs = [make_doc(vocab, rng, regions=i % 3, relation=f"r{i % 19}") for i in range(40)]
    for path in (save(tmp_path / "rare.spacy", docs), save(tmp_path / "few.spacy", docs[:3])):
        result = run_forked("-c", LOUD, "mmib", "audit", path)
        assert result.returncode == 0, result.stderr
        assert "sklearn" not in result.stderr
        assert "Traceback" not in result.stderr


def test_the_order_of_head_and_tail_is_flagged_alone(tmp_path):
    """It is of pairs, not of posts: two pairs of one post differ in it."""
    rng, vocab, docs = random.Random(1), Vocab(), []
    for _ in range(100):
        doc = make_doc(vocab, rng, length=rng.randint(6, 20), ents=("PER",))
        first, second = ((0, 1), (2, 3)) if rng.random() < 0.95 else ((2, 3), (0, 1))
        doc._.relations = [(first, second, "None"), (second, first, "couple"), ((0, 2), (1, 3), "None")]
        docs.append(doc)
    result = audit(save(tmp_path / "corpus.spacy", docs))
    for task in ("relation", "related"):
        assert flagged(result, task) - {"all_together"} == {"pair_order"}
    rule = result["tasks"]["related"]["features"]["pair_order"]["rule"]
    assert rule["question"] == "head before tail or over it"
    assert rule["accuracy"] > 0.9
    assert all("pair_order" not in result["tasks"][task]["features"] for task in result["tasks"]
               if task not in ("relation", "related"))  # fmt: skip


# Real data

MNRE = {"train": ("train", 0.9934), "dev": ("val", 0.9908), "test": ("test", 0.9913)}


def mnre_corpus(mmib_data: Path, path: Path, split: str, text: str) -> Path:
    import torch

    dictionary = mmib_data / "sample" / "mnre" / "txt" / f"mre_{split}_dict.pth"
    crops = torch.load(dictionary, weights_only=True)
    lines = (mmib_data / "mnre" / f"mnre_{text}.txt").read_text(encoding="utf8").split("\n")
    vocab, docs = Vocab(), []
    for i, row in enumerate(ast.literal_eval(line) for line in lines if line.strip()):
        doc = Doc(vocab, words=row["token"])
        doc._.image = row["img_id"]
        doc._.regions = crops[i]
        doc._.relations = [(tuple(row["h"]["pos"]), tuple(row["t"]["pos"]), row["relation"])]
        docs.append(doc)
    return save(path, docs)


@pytest.mark.slow
@pytest.mark.parametrize("split", MNRE)
def test_published_mnre_crops_leak_the_answer(mmib_data, tmp_path, split):
    text, accuracy = MNRE[split]
    result = audit(mnre_corpus(mmib_data, tmp_path / "corpus.spacy", split, text))
    for task in ("relation", "related"):
        assert flagged(result, task) == {"region_count", "pair_order", "all_together"}
    order = result["tasks"]["related"]["features"]["pair_order"]["rule"]
    assert order["text"].startswith("head before tail")
    assert order["labels"] == ["None", "related"]
    assert 0.73 < order["accuracy"] < 0.75
    feature = result["tasks"]["related"]["features"]["region_count"]
    assert feature["rule"]["question"] == "region count < 3"
    assert feature["rule"]["labels"] == ["None", "related"]
    assert feature["rule"]["accuracy"] == pytest.approx(accuracy, abs=5e-5)
    assert feature["accuracy"] == pytest.approx(accuracy, abs=0.001)
    if split == "test":
        assert result["tasks"]["related"]["instances"] == 1614
        assert result["different_posts"] == 914
        assert feature["rule"]["text"] == (
            "region count < 3 => None, otherwise related: right for 99.1 % of the pairs (majority 60.3 %)"
        )


@pytest.mark.slow
def test_twitter17_types_are_not_told_by_the_length_of_the_text(mmib_data, tmp_path):
    convert_twitter(mmib_data / "twitter2017", tmp_path)
    result = audit(tmp_path / "train.spacy")
    assert result["tasks"]["entity_type"]["instances"] == 6049
    assert not flagged(result, "entity_type")
    assert not flagged(result, "entity_type", "shift")
    # Posts with more words have an entity more often, as any text does.
    assert not flagged(result, "has_entity")
    assert flagged(result, "has_entity", "shift") == {"text_length"}


def test_few_resamples_would_not_reach_the_tail():
    """The interval's bounds are quantiles of the resamples: some have to lie beyond them."""
    features = len(spacy_mmib.evaluation.audit.FEATURES)
    tail = (1 - spacy_mmib.evaluation.audit.CONFIDENCE) / (
        2 * features * spacy_mmib.evaluation.audit.MEASURES
    )
    assert tail * spacy_mmib.evaluation.audit.RESAMPLES >= 20


def test_posts_that_share_any_picture_are_one(tmp_path):
    vocab, rng = Vocab(), random.Random(0)
    docs = [make_doc(vocab, rng) for _ in range(30)]
    for doc, images in zip(docs, (["a", "b"], ["c", "b"], ["c"], ["d", b"x"], ["e", b"x"], ["f"])):
        doc._.images = images
    found = audit(save(tmp_path / "a.spacy", docs))
    assert found["pictures"] == {"stated": 6, "unreadable": 6}
    assert found["different_posts"] == 30 - 3
