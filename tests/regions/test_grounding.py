"""Objects found by phrases."""

import copy
import math
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
import spacy
import torch
from conftest import make_picture
from spacy.tokens import Doc
from spacy.util import registry
from spacy.vocab import Vocab
from tiny_detectors import draw_picture, save_grounding_dino, save_owl

import spacy_mmib.post.extensions  # noqa: F401
from spacy_mmib.regions.detecting import DetectingGetter, tame
from spacy_mmib.regions.grounding import (
    FOUR_WORDS,
    GroundingRegions,
    find_model_folder,
    get_noun_chunks,
    identify_model,
)

EN = spacy.blank("en").vocab


@pytest.fixture(scope="module")
def dino(tmp_path_factory):
    return save_grounding_dino(tmp_path_factory.mktemp("dino"))


@pytest.fixture(scope="module")
def owl2(tmp_path_factory):
    return save_owl(tmp_path_factory.mktemp("owl2"))


@pytest.fixture(scope="module")
def owl1(tmp_path_factory):
    return save_owl(tmp_path_factory.mktemp("owl1"), version=1)


@pytest.fixture(scope="module", params=["dino", "owl2", "owl1"])
def detector(request):
    return GroundingRegions(str(request.getfixturevalue(request.param)), batch_size=3)


def make_getter(name, **settings):
    config = {"@region_getters": "spacy-mmib.grounding.v1", "name": str(name), **settings}
    return registry.resolve({"getter": config})["getter"]


def parsed(words, pos, heads, deps, vocab=EN) -> Doc:
    return Doc(vocab, words=words, pos=pos, heads=heads, deps=deps)


def make_doc() -> Doc:
    return parsed(
        ["The", "old", "man", "saw", "a", "Cat", "and", "us"],
        ["DET", "ADJ", "NOUN", "VERB", "DET", "NOUN", "CCONJ", "PRON"],
        [2, 2, 3, 3, 5, 3, 5, 5],
        ["det", "amod", "nsubj", "ROOT", "det", "dobj", "cc", "conj"],
    )


def detect(getter, pictures, queries, threshold=None, nms=0.5, most=None):
    getter.threshold, getter.nms, getter.max_regions = threshold, nms, most
    return getter.detect(pictures, [getter.loaded.make_prompts(phrases) for phrases in queries])


def answer(monkeypatch, detector, logits, boxes):
    """The model says this of every picture."""

    def forward(pixel_values, **inputs):
        count = len(pixel_values)
        return SimpleNamespace(
            logits=torch.tensor(logits).expand(count, -1, -1),
            pred_boxes=torch.tensor(boxes).expand(count, -1, -1),
        )

    monkeypatch.setattr(detector.loaded.model, "forward", forward)


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


# --- boxes and phrases ------------------------------------------------------------------------------


def test_dino_boxes_and_phrases(monkeypatch, dino):
    detector = GroundingRegions(str(dino))
    # [CLS] person . old man . q-u-x . [SEP]: columns 1; 3, 4; 6, 7, 8
    prompt = detector.loaded.make_prompts(["person", "Old man", "qux"])[0]
    assert prompt.spans == [(1, 2), (3, 5), (6, 9)]
    low = -9.0
    logits = [[low] * 32 for _ in range(5)]
    logits[0][4] = 1.0  # "old man", by its second word
    logits[0][1] = 0.5
    logits[1][1] = 2.0  # "person"
    logits[2][2] = 5.0  # the full stop is no phrase
    logits[3][8] = 0.0  # "qux", by its last piece
    logits[4][1] = 1.5  # nearly where box 1 is
    boxes = [
        [0.5, 0.5, 0.5, 0.5],  # center and size
        [0.25, 0.25, 0.5, 0.5],
        [0.5, 0.5, 0.1, 0.1],
        [0.95, 0.5, 0.2, 0.2],  # leads out of the picture
        [0.26, 0.25, 0.5, 0.5],
    ]
    answer(monkeypatch, detector, logits, boxes)
    queries = [["person", "Old man", "qux"]]
    found = detect(detector, [draw_picture(200, 100)], queries, threshold=0.3, nms=0.5)[0]
    assert [d["label"] for d in found] == ["person", "Old man", "qux"]
    assert [d["score"] for d in found] == pytest.approx([sigmoid(2.0), sigmoid(1.0), sigmoid(0.0)])
    assert found[0]["box"] == pytest.approx((0, 0, 100, 50))
    assert found[1]["box"] == pytest.approx((50, 25, 150, 75))
    assert found[2]["box"] == pytest.approx((170, 40, 200, 60))
    # Without suppression, with a limit, with the threshold of the family (0.25).
    both = detect(detector, [draw_picture(200, 100)], queries, nms=None, most=2)[0]
    assert [round(d["box"][0]) for d in both] == [0, 2]
    assert detector.loaded.threshold == 0.25


@pytest.mark.parametrize(
    ("name", "size", "frame"),
    [("owl2", (200, 100), 200), ("owl2", (50, 100), 100), ("owl1", (200, 100), None)],
)
def test_owl_boxes_and_phrases(monkeypatch, request, name, size, frame):
    detector = GroundingRegions(str(request.getfixturevalue(name)))
    logits = [[-9.0, 1.0, -9.0], [0.5, -9.0, -9.0], [-9.0, -9.0, 3.0], [-9.0, -9.0, -9.0]]
    boxes = [[0.2, 0.2, 0.2, 0.2], [0.3, 0.4, 0.2, 0.1], [0.1, 0.1, 0.2, 0.2], [0.5, 0.5, 1.0, 1.0]]
    answer(monkeypatch, detector, logits, boxes)
    # The third column belongs to another picture of the batch, with more queries.
    found = detect(detector, [draw_picture(*size)], [["cat", "dog"]])[0]
    assert [d["label"] for d in found] == ["dog", "cat"]
    width, height = (frame, frame) if frame else size
    expected = [
        (0.1 * width, 0.1 * height, 0.3 * width, 0.3 * height),
        (0.2 * width, 0.35 * height, 0.4 * width, 0.45 * height),
    ]
    assert [d["box"] for d in found] == [pytest.approx(box, rel=1e-4) for box in expected]
    assert [d["score"] for d in found] == pytest.approx([sigmoid(1.0), sigmoid(0.5)])
    assert detector.loaded.threshold == 0.1


def test_owlv2_sees_the_picture_in_the_corner_of_a_square(owl2):
    detector = GroundingRegions(str(owl2))
    framed = detector.loaded.frame(make_picture("red", (40, 30)))
    assert framed.size == (40, 40)
    assert framed.getpixel((0, 0)) == (255, 0, 0)
    assert framed.getpixel((39, 29)) == (255, 0, 0)
    assert framed.getpixel((0, 30)) == (128, 128, 128)


def test_best_boxes():
    boxes = torch.tensor(
        [
            [0, 0, 10, 10],
            [1, 0, 11, 10],  # overlaps 0 by 9/11
            [20, 20, 30, 30],
            [-5, -5, 4, 4],
            [50, 5, 60, 9],  # outside
            [3, 3, 3.5, 9],  # less than a pixel
            [8, 8, 4, 4],  # inverted
            [float("nan"), 0, 5, 5],
            [0, 0, float("inf"), 5],
            [12, 12, 19, 19],
        ]
    )
    scores = torch.tensor([0.6, 0.7, 0.5, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, float("nan")])

    def choose(nms, most, threshold=0.3):
        getter = DetectingGetter(max_regions=most, threshold=threshold, nms=nms, device="cpu", batch_size=1)
        found = getter.choose([(boxes, scores, [str(i) for i in range(len(boxes))])], (40, 40))
        return [(region["label"], region["box"]) for region in found]

    assert choose(nms=0.5, most=9) == [("3", [0, 0, 4, 4]), ("1", [1, 0, 11, 10]), ("2", [20, 20, 30, 30])]
    assert [label for label, _ in choose(nms=None, most=3)] == ["3", "1", "0"]
    assert [label for label, _ in choose(nms=0.9, most=9)] == ["3", "1", "0", "2"]
    assert [label for label, _ in choose(threshold=0.65, nms=0.5, most=9)] == ["3", "1"]
    boxes, scores = torch.zeros(0, 4), torch.zeros(0)
    assert choose(nms=0.5, most=4) == []


# --- long prompts -----------------------------------------------------------------------------------


def test_long_prompts_are_asked_in_parts(dino):
    detector = GroundingRegions(str(dino))
    queries = [f"the old man of {a}-{b}" for a in "abcd" for b in "efg"]
    prompts = detector.loaded.make_prompts(queries)
    assert len(prompts) > 1
    assert [query for prompt in prompts for query in prompt.phrases] == queries
    for prompt in prompts:
        assert len(prompt.rows[0]) <= detector.loaded.model.config.max_text_len
        decode = detector.loaded.tokenizer.decode
        asked = [decode(prompt.rows[0][a:b]).replace(" ", "") for a, b in prompt.spans]
        assert asked == [query.replace(" ", "") for query in prompt.phrases]
    # All are asked: the labels of the boxes come from all parts.
    found = detect(detector, [draw_picture(80, 60)], [queries], threshold=0.0, nms=None)[0]
    assert len(found) > detector.loaded.model.config.num_queries
    assert {queries.index(d["label"]) // 6 for d in found} == {0, 1}
    assert {d["label"] for d in found} <= set(queries)


def test_the_prompt_is_what_transformers_own_processor_makes(dino):
    from transformers import GroundingDinoProcessor

    detector = GroundingRegions(str(dino))
    processor = GroundingDinoProcessor(detector.loaded.image_processor, detector.loaded.tokenizer)
    expected = processor(text="person. organization. a red car.", return_tensors="pt")["input_ids"]
    prompts = detector.loaded.make_prompts(["person", "organization", "a red car"])
    assert [list(ids) for ids in prompts[0].rows] == expected.tolist()


def test_one_very_long_phrase_is_cut(dino):
    detector = GroundingRegions(str(dino))
    prompts = detector.loaded.make_prompts(["cat " * 500, "dog"])
    assert [len(prompt.rows[0]) for prompt in prompts] == [32, 4]


def test_full_stops_dont_split_a_phrase(dino):
    detector = GroundingRegions(str(dino))
    period, question = detector.loaded.tokenizer.convert_tokens_to_ids([".", "?"])
    (prompt,) = detector.loaded.make_prompts(["u.s. cat?", "...", "dog"])
    assert prompt.phrases == ["u.s. cat?", "dog"]
    assert prompt.rows[0].count(period) == 2
    assert question not in prompt.rows[0]


def test_nothing_to_look_for(detector):
    pictures = [draw_picture(40, 30), draw_picture(40, 30, seed=1)]
    found = detect(detector, pictures, [[], ["cat"]], threshold=0.0)
    assert found[0] == []
    assert found[1]
    assert detect(detector, pictures, [[" "], []], threshold=0.0) == [[], []]
    assert detect(detector, [], []) == []


# --- batches and odd pictures -----------------------------------------------------------------------


def as_numbers(found):
    return [
        [(d["label"], *(round(x / 10, 2) for x in d["box"]), round(d["score"], 3)) for d in one]
        for one in found
    ]


def test_neighbours_in_the_batch_change_nothing(detector):
    sizes = [(60, 40), (30, 80), (61, 40), (60, 40), (90, 60), (25, 25), (60, 40)]
    pictures = [draw_picture(*size, seed=i) for i, size in enumerate(sizes)]
    queries = [
        ["person", "cat", "old man in the red car"],
        ["dog"],
        ["cat"],
        ["dog", "a"],
        ["person"],
        [f"cat of {letter}" for letter in "abcdefghijkl"],
        ["the red car"],
    ]
    together = detect(detector, pictures, queries, threshold=0.0, nms=None)
    alone = [detect(detector, [p], [q], threshold=0.0, nms=None)[0] for p, q in zip(pictures, queries)]
    assert all(together)
    for a, b in zip(together, alone):
        assert sorted(as_numbers([a])[0]) == sorted(as_numbers([b])[0])
    backwards = detect(detector, pictures[::-1], queries[::-1], threshold=0.0, nms=None)[::-1]
    for a, b in zip(together, backwards):
        assert sorted(as_numbers([a])[0]) == sorted(as_numbers([b])[0])
    # Other pictures and other phrases do: the results aren't constant.
    assert as_numbers(alone[:1]) != as_numbers(alone[3:4])


@pytest.mark.parametrize("size", [(1, 1), (5000, 3), (3, 5000), (16, 160), (4000, 2500), (40, 30)])
def test_pictures_are_brought_into_bounds(size):
    picture = make_picture("red", size)
    tamed, (x, y) = tame(picture)
    assert max(tamed.size) <= 2048
    assert min(tamed.size) >= 16
    assert max(tamed.size) <= 10 * min(tamed.size)
    # The last pixel of the picture is where the scale says, and what follows is margin.
    column, row = math.ceil(size[0] / x) - 1, math.ceil(size[1] / y) - 1
    assert tamed.getpixel((column, row)) == (255, 0, 0)
    assert column + 1 == tamed.width or tamed.getpixel((column + 1, row)) != (255, 0, 0)
    assert row + 1 == tamed.height or tamed.getpixel((column, row + 1)) != (255, 0, 0)
    if size in ((40, 30), (16, 160)):
        assert tamed == picture


def test_boxes_of_huge_pictures_are_in_their_own_pixels(monkeypatch, dino):
    detector = GroundingRegions(str(dino))
    logits = [[-9.0] * 32]
    logits[0][1] = 3.0
    answer(monkeypatch, detector, logits, [[0.5, 0.5, 0.5, 0.5]])
    (found,) = detect(detector, [make_picture("red", (4096, 3000))], [["cat"]])
    assert found[0]["box"] == pytest.approx((1024, 750, 3072, 2250), rel=1e-3)


def test_nothing_not_finite_comes_out(monkeypatch, dino):
    detector = GroundingRegions(str(dino))
    logits = [[2.0] * 32 for _ in range(3)]
    logits[0][1] = float("nan")
    boxes = [[0.5, 0.5, 0.5, 0.5], [float("nan"), 0.5, 0.5, 0.5], [0.5, 0.5, float("inf"), 0.5]]
    answer(monkeypatch, detector, logits, boxes)
    assert detect(detector, [draw_picture(40, 30)], [["cat"]]) == [[]]


# --- the getter -------------------------------------------------------------------------------------


def test_defaults():
    getter = make_getter("IDEA-Research/grounding-dino-tiny")
    assert getter.phrases == ["person", "organization", "location", "miscellaneous"]
    assert getter.max_regions == 4
    assert getter.get_query(make_doc()) == ""
    filled = registry.fill({"getter": {"@region_getters": "spacy-mmib.grounding.v1"}})
    assert filled["getter"]["phrases"] == list(FOUR_WORDS)


@pytest.mark.parametrize("phrases", [[], ["", " "], "person"])
def test_phrases_are_a_list(phrases):
    with pytest.raises(ValueError, match="phrases"):
        make_getter("x", phrases=phrases)


def test_annotations_are_never_read(monkeypatch, dino):
    class Blind:
        """A doc whose entities and relations can't be looked at."""

        def __init__(self, doc):
            self._doc = doc

        def __len__(self):
            return len(self._doc)

        def __getattr__(self, name):
            assert name in ("noun_chunks_iterator", "noun_chunks", "has_annotation", "text", "lang_"), name
            return getattr(self._doc, name)

    getter = make_getter(dino, phrases="noun_chunks", threshold=0.0)
    doc = make_doc()
    blind = Blind(doc)
    assert getter.get_query(blind) == getter.get_query(doc)
    picture = draw_picture(60, 40)
    assert getter([blind], [picture]) == getter([doc], [picture])
    with pytest.raises(AssertionError, match="ents"):
        _ = blind.ents


# --- noun chunks ------------------------------------------------------------------------------------


def test_noun_chunks_are_looked_for(dino):
    doc = make_doc()
    assert get_noun_chunks(doc) == ["the old man", "a cat"]
    getter = make_getter(dino, phrases="noun_chunks", threshold=0.0, max_regions=20, nms=None)
    assert getter.get_query(doc) == "the old man\na cat"
    (regions,) = getter([doc], [draw_picture(80, 60)])
    assert {region["label"] for region in regions} == {"the old man", "a cat"}


def test_each_noun_chunk_once():
    doc = parsed(["Cats", "see", "cats"], ["NOUN", "VERB", "NOUN"], [1, 1, 1], ["nsubj", "ROOT", "dobj"])
    assert get_noun_chunks(doc) == ["cats"]


def test_texts_without_noun_chunks(dino, monkeypatch):
    getter = make_getter("nowhere", phrases="noun_chunks")  # the detector isn't even loaded
    silent = parsed(["Run", "!"], ["VERB", "PUNCT"], [0, 0], ["ROOT", "punct"])
    empty = Doc(EN)
    assert getter([silent, empty], [draw_picture(40, 30)] * 2) == [[], []]
    assert getter.get_query(empty) == ""


def test_noun_chunks_need_a_parser():
    getter = make_getter("x", phrases="noun_chunks")
    doc = Doc(EN, words=["a", "cat"])
    for call in (lambda: getter([doc], [draw_picture(40, 30)]), lambda: getter.get_query(doc)):
        with pytest.raises(ValueError, match="Put a parser") as info:
            call()
        assert "\n" not in str(info.value)
        assert "'a cat ' has no DEP and no POS" in str(info.value)
    untagged = Doc(EN, words=["a", "cat"], heads=[1, 1], deps=["det", "ROOT"])
    with pytest.raises(ValueError, match="'a cat ' has no POS"):
        getter.get_query(untagged)


def test_languages_without_noun_chunks():
    getter = make_getter("x", phrases="noun_chunks")
    for vocab in (spacy.blank("zh").vocab, Vocab()):
        with pytest.raises(ValueError, match="no noun chunks for the language"):
            getter.get_query(Doc(vocab, words=["x"]))


# --- weights ----------------------------------------------------------------------------------------


@pytest.fixture
def no_hub(monkeypatch, tmp_path):
    """An empty cache, and no network."""
    import huggingface_hub

    calls = []

    def snapshot_download(name, **kwargs):
        calls.append(kwargs)
        raise ConnectionError("no network\nat all")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return calls


def test_one_message_without_weights(no_hub):
    getter = make_getter("some/detector")
    docs = [Doc(EN, words=["a"])]
    messages = []
    tries = []
    for _ in range(3):
        with pytest.raises(OSError, match="some/detector") as info:
            getter(docs, [draw_picture(40, 30)])
        messages.append(str(info.value))
        tries.append(len(no_hub))
        assert info.value.__cause__ is None
        assert info.value.__suppress_context__ or info.value.__context__ is None
    with pytest.raises(OSError, match="some/detector"):
        getter.get_identity()
    assert len(set(messages)) == 1
    assert "\n" not in messages[0]
    assert "--local-dir detector" in messages[0]
    assert "set 'name' to its path" in messages[0]
    assert "no network at all" in messages[0]
    assert tries[0] > 0
    assert tries == tries[:1] * 3  # it isn't tried again
    with pytest.raises(OSError, match="some/detector"):
        copy.deepcopy(getter)(docs, [draw_picture(40, 30)])
    assert len(no_hub) > tries[0]  # a copy may, e.g. on another machine


def test_what_is_in_the_cache_is_taken_without_asking(monkeypatch, dino, tmp_path):
    import huggingface_hub

    snapshot = tmp_path / "0123abcd"
    snapshot.symlink_to(dino)

    def snapshot_download(name, local_files_only=False, **kwargs):
        assert local_files_only, "asked the hub"
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert find_model_folder("some/detector") == snapshot
    assert identify_model("some/detector") == "some/detector@0123abcd"
    getter = make_getter("some/detector", threshold=0.0)
    assert getter([Doc(EN)], [draw_picture(40, 30)])[0]
    assert "some/detector@0123abcd" in getter.get_identity()


def test_a_download_that_was_cut_short_goes_on(monkeypatch, dino, tmp_path):
    import huggingface_hub

    folder = tmp_path / "4567"
    folder.mkdir()
    fetched = []

    def snapshot_download(name, local_files_only=False, allow_patterns=()):
        if not local_files_only:
            fetched.extend(allow_patterns)
            for pattern in allow_patterns:
                for path in dino.glob(pattern):
                    shutil.copy(path, folder)
        return str(folder)

    shutil.copy(dino / "config.json", folder)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert find_model_folder("some/detector") == folder
    assert "*.safetensors" in fetched
    assert GroundingRegions("some/detector").loaded.family == "grounding-dino"


def test_folders_that_hold_no_detector(tmp_path, dino):
    with pytest.raises(OSError, match=r"holds no transformers model.*config.json"):
        _ = GroundingRegions(str(tmp_path)).loaded
    (tmp_path / "model.safetensors").write_bytes(b"")
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ValueError, match=r"can't be loaded"):
        _ = GroundingRegions(str(tmp_path)).loaded
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match=r"'bert' doesn't look for phrases"):
        _ = GroundingRegions(str(tmp_path)).loaded
    shutil.copytree(dino, tmp_path, dirs_exist_ok=True)
    (tmp_path / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="can't be loaded") as info:
        _ = GroundingRegions(str(tmp_path)).loaded
    assert "\n" not in str(info.value)


def test_weights_of_a_part_are_refused(tmp_path, dino):
    import safetensors.torch

    shutil.copytree(dino, tmp_path, dirs_exist_ok=True)
    state = safetensors.torch.load_file(tmp_path / "model.safetensors")
    part = {key: value for key, value in state.items() if "text_projection" not in key}
    assert len(part) < len(state)
    safetensors.torch.save_file(part, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="2 tensors are missing"):
        _ = GroundingRegions(str(tmp_path)).loaded


def test_pickled_weights_are_not_unpickled(tmp_path, dino):
    shutil.copytree(dino, tmp_path, dirs_exist_ok=True)
    (tmp_path / "model.safetensors").unlink()

    class Bomb:
        def __reduce__(self):
            return (tmp_path.joinpath("exploded").write_text, ("",))

    torch.save({"weights": Bomb()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="can't be loaded"):
        _ = GroundingRegions(str(tmp_path)).loaded
    assert not (tmp_path / "exploded").exists()


def test_a_missing_package_is_named(monkeypatch, owl2):
    def resize(self, *args, **kwargs):
        raise ImportError("Owlv2ImageProcessor requires the scipy library\nbut ...")

    monkeypatch.setattr("transformers.Owlv2ImageProcessor.__call__", resize)
    with pytest.raises(ImportError, match=r"pip install .spacy-mmib\[grounding\]") as info:
        _ = GroundingRegions(str(owl2)).loaded
    assert "\n" not in str(info.value)


def test_an_unusable_device_is_named(dino):
    with pytest.raises(ValueError, match="device = 'cuda:77' can't be used"):
        make_getter(dino, device="cuda:77")([Doc(EN)], [draw_picture(40, 30)])


def test_loading_draws_nothing_from_others_random_numbers(dino):
    state = torch.get_rng_state()
    detect(GroundingRegions(str(dino)), [draw_picture(40, 30)], [["cat"]])
    assert torch.equal(torch.get_rng_state(), state)


def test_the_network_is_loaded_once_and_only_for_pictures(monkeypatch, dino):
    built = []
    load = GroundingRegions._load
    monkeypatch.setattr(
        GroundingRegions, "_load", lambda self, device: built.append(self.name) or load(self, device)
    )
    getter = make_getter(dino)
    getter([Doc(EN)], [None])
    assert built == []
    for _ in range(2):
        getter([Doc(EN)], [draw_picture(40, 30)])
    assert built == [str(dino)]
    model = getter.loaded.model
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_identity(dino, owl2, tmp_path):
    base = make_getter(dino)
    others = [
        make_getter(owl2),
        make_getter(dino, phrases=["cat"]),
        make_getter(dino, phrases="noun_chunks"),
        make_getter(dino, max_regions=3),
        make_getter(dino, threshold=0.3),
        make_getter(dino, nms=None),
        make_getter(save_grounding_dino(tmp_path / "other", seed=1)),
    ]
    identities = [getter.get_identity() for getter in [base, *others]]
    assert len(set(identities)) == len(identities)
    # Where it runs, and where its folder is, makes no difference.
    moved = shutil.copytree(dino, tmp_path / "moved")
    assert make_getter(moved).get_identity() == identities[0]
    assert make_getter(dino, device="cuda", batch_size=2).get_identity() == identities[0]
    assert base._loaded is None  # not loaded for it


LIGHT = """
import sys
from importlib.abc import MetaPathFinder

class OnlyWithout(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision", "transformers", "PIL", "huggingface_hub"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, OnlyWithout())
from spacy_mmib.regions import grounding, detector
getter = grounding.GroundingRegions(phrases="noun_chunks")
detector.DetectorRegions()
from spacy.tokens import Doc
from spacy.vocab import Vocab
assert getter([Doc(Vocab())], [None]) == [[]]
print("light")
"""


def test_the_getters_are_light_until_they_are_used():
    result = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, check=False)
    assert result.stdout.strip() == "light", result.stderr[-2000:]
