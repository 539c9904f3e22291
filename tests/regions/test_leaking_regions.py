"""The note that regions leak a label: who sets it, and that it is not lost on the way."""

import subprocess
import sys
import warnings
from pathlib import Path

import PIL.Image
import pytest
import spacy
from spacy.tokens import Doc, DocBin
from spacy.training import Example
from spacy.util import registry

from spacy_mmib.evaluation.ablation import remove_images, shuffle_images
from spacy_mmib.post.extensions import REGIONS_NOTE_KEY, get_regions_note, set_regions_note
from spacy_mmib.training.corpus import MultimodalCorpus

NOTE = "these regions leak"


@pytest.fixture
def vocab():
    return spacy.blank("en").vocab


@pytest.fixture
def doc(vocab):
    doc = Doc(vocab, words=["Rob", "sings"])
    doc._.image = "a.jpg"
    doc._.regions = ["x.png", (0, 0, 2, 2), "y.png"]
    set_regions_note(doc, f"{NOTE}\n")
    return doc


def test_note_is_kept_by_what_keeps_a_doc(doc, vocab):
    assert doc.user_data[REGIONS_NOTE_KEY] == NOTE
    docbin = DocBin(store_user_data=True, docs=[doc])
    copies = [
        doc.copy(),
        Doc(vocab).from_bytes(doc.to_bytes()),
        next(DocBin().from_bytes(docbin.to_bytes()).get_docs(vocab)),
    ]
    assert [get_regions_note(copy) for copy in copies] == [NOTE] * 3
    set_regions_note(doc, None)
    assert get_regions_note(doc) is None


def test_note_belongs_to_the_regions(doc):
    doc._.regions = doc._.regions[:2]  # the first so many are from the same source
    assert get_regions_note(doc) == NOTE
    doc._.regions = [(0, 0, 2, 2), "z.png"]
    assert get_regions_note(doc) == NOTE
    doc._.image = "a.jpg"
    assert get_regions_note(doc) == NOTE
    doc._.regions = ["q.png"]
    assert get_regions_note(doc) is None


@pytest.mark.parametrize("value", [None, [], [(1, 1, 2, 2)]])
def test_other_regions_drop_the_note(doc, value):
    doc._.regions = value
    assert get_regions_note(doc) is None


def test_another_picture_drops_the_note(doc):
    doc._.image = "b.jpg"
    assert doc._.regions == []
    assert get_regions_note(doc) is None


def test_note_goes_with_shuffled_regions(vocab):
    examples = []
    for name in "abc":
        doc = Doc(vocab, words=["x"])
        doc._.image = f"{name}.jpg"
        doc._.regions = [f"crop-of-{name}"]
        set_regions_note(doc, f"note-of-{name}")
        examples.append(Example(doc, Doc(vocab, words=["x"])))
    shuffled, _ = shuffle_images(examples)
    for example, before in zip(shuffled, examples):
        name = example.predicted._.image[0]
        assert name != before.predicted._.image[0]
        assert example.predicted._.regions == [f"crop-of-{name}"]
        assert get_regions_note(example.predicted) == f"note-of-{name}"
    for example in remove_images(examples):
        assert get_regions_note(example.predicted) is None
    assert get_regions_note(examples[0].predicted) == "note-of-a"


@pytest.fixture
def corpus_file(tmp_path, vocab):
    """Two posts with a note of three, in two sentences each."""
    for name in ("a.png", "crop.png"):
        PIL.Image.new("RGB", (8, 6)).save(tmp_path / name)
    docs = []
    for i in range(3):
        doc = Doc(
            vocab,
            words=["Rob", "sings", "Ann", "too"],
            spaces=[True] * 4,
            sent_starts=[True, False, True, False],
        )
        doc._.image = "a.png"
        doc._.regions = ["crop.png", "missing.png"]
        if i:
            set_regions_note(doc, NOTE)
        docs.append(doc)
    path = tmp_path / "train.spacy"
    DocBin(store_user_data=True, docs=docs).to_disk(path)
    return path


def read(corpus):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        examples = list(corpus(spacy.blank("en")))
    return examples, [str(w.message) for w in caught]


LOWER = registry.resolve({"a": {"@augmenters": "spacy.lower_case.v1", "level": 1.0}})["a"]


@pytest.mark.parametrize("settings", [{}, {"gold_preproc": True}, {"max_length": 3}, {"augmenter": LOWER}])
def test_reader_keeps_the_note_and_says_it_once(corpus_file, settings):
    corpus = MultimodalCorpus(corpus_file, **settings)
    examples, said = read(corpus)
    parts = len(examples) // 3
    assert parts == (2 if set(settings) & {"gold_preproc", "max_length"} else 1)
    expected = [None] * parts + [NOTE] * 2 * parts
    assert [get_regions_note(example.predicted) for example in examples] == expected
    assert [get_regions_note(example.reference) for example in examples] == expected
    # One of the crops is missing; the one that is left is still from the source.
    assert all(len(example.predicted._.regions) == 1 for example in examples)
    lines = [line for line in said if NOTE in line]
    assert lines == [f"[spacy-mmib] train.spacy: 2 of 3 posts have regions with a note: {NOTE}."]
    assert corpus.notes == {NOTE: 2}
    _, said = read(corpus)
    assert not any(NOTE in line for line in said)


def test_nothing_imports_it_by_itself():
    code = (
        "import sys; sys.modules['torch'] = None\n"  # seconds faster; nothing here needs it
        "import spacy, spacy_mmib, spacy_mmib.training.corpus, spacy_mmib.regions, spacy_mmib.cli\n"
        "assert 'spacy_mmib.training.corpus' in sys.modules\n"
        "assert 'spacy_mmib.regions.crops' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent)
