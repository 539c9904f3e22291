import io
import logging
import random
import re
import warnings
import zlib

import numpy
import PIL.Image
import pytest
import spacy
from spacy.tokens import Doc, DocBin, Span
from spacy.training import Example
from spacy.util import registry
from spacy.vocab import Vocab

import spacy_mmib.post.extensions  # noqa: F401
from spacy_mmib.evaluation.ablation import shuffle_images
from spacy_mmib.training.corpus import MultimodalCorpus, create_corpus_v1, read_docs
from spacy_mmib.util import MMIBWarning


@pytest.fixture
def nlp():
    return spacy.blank("en")


@pytest.fixture
def folder(tmp_path):
    """Pictures good and bad, in a folder for a corpus, beside a file that is none of its business."""
    (tmp_path / "data" / "img").mkdir(parents=True)
    data = tmp_path / "data"
    for name in ("img/a.jpg", "img/b.jpg", "img/crop.png"):
        PIL.Image.new("RGB", (8, 6), "red").save(data / name)
    PIL.Image.new("RGB", (8, 6)).save(tmp_path / "secret.jpg")
    (data / "empty.jpg").write_bytes(b"")
    (data / "text.jpg").write_text("not a picture")
    truncated = io.BytesIO()
    noise = numpy.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype="uint8")
    PIL.Image.fromarray(noise).save(truncated, "JPEG")
    (data / "truncated.jpg").write_bytes(truncated.getvalue()[:-500])
    return data


def make_doc(nlp, text="Rob likes Paris", image=None, regions=None, ents=("B-PER", "O", "B-LOC")):
    doc = Doc(nlp.vocab, words=text.split(), ents=list(ents) if ents else None)
    doc._.image = image
    doc._.regions = regions
    return doc


def save(path, docs, **kwargs):
    DocBin(docs=docs, **{"store_user_data": True, **kwargs}).to_disk(path)
    return path


def read(corpus, nlp):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return list(corpus(nlp))


def test_registered(nlp, folder):
    path = save(folder / "train.spacy", [make_doc(nlp, image="img/a.jpg")])
    assert registry.get("readers", "spacy-mmib.Corpus.v1") is create_corpus_v1
    block = {"@readers": "spacy-mmib.Corpus.v1", "path": str(path), "image_root": None}
    corpus = registry.resolve({"corpus": block})["corpus"]
    assert isinstance(corpus, MultimodalCorpus)
    (example,) = corpus(nlp)
    assert example.predicted._.image == str((folder / "img/a.jpg").resolve())


def test_registered_by_entry_point():
    assert registry.readers.get_entry_point("spacy-mmib.Corpus.v1") is create_corpus_v1


def test_config_accepts_an_empty_image_root(nlp, folder):
    path = save(folder / "train.spacy", [make_doc(nlp, image="img/a.jpg")])
    block = {"@readers": "spacy-mmib.Corpus.v1", "path": str(path), "image_root": ""}
    (example,) = registry.resolve({"corpus": block})["corpus"](nlp)
    assert example.predicted._.image == str((folder / "img/a.jpg").resolve())


def test_predicted_has_picture_and_regions_but_nothing_gold(nlp, folder):
    regions = [(0, 0, 4, 4), "img/crop.png"]
    doc = make_doc(nlp, image="img/a.jpg", regions=regions)
    doc.user_data["gold"] = "secret"
    doc.spans["gold"] = [doc[0:1]]
    corpus = MultimodalCorpus(save(folder / "train.spacy", [doc]))
    (example,) = corpus(nlp)
    for side in (example.predicted, example.reference):
        assert side._.image == str((folder / "img/a.jpg").resolve())
        assert side._.regions[0]["box"] == [0, 0, 4, 4]
        assert side._.regions[1] == str((folder / "img/crop.png").resolve())
        assert side._.image_error is None
    assert [ent.label_ for ent in example.reference.ents] == ["PER", "LOC"]
    assert not example.predicted.ents
    assert not example.predicted.has_annotation("ENT_IOB")
    assert "gold" not in example.predicted.user_data
    assert not example.predicted.spans


def test_tokens_of_the_file_are_used_where_spaces_are_unknown(nlp, folder):
    words = ["don't", "stop", "#NBA"]
    doc = Doc(nlp.vocab, words=words, ents=["O", "O", "B-ORG"])
    (example,) = MultimodalCorpus(save(folder / "train.spacy", [doc]))(nlp)
    assert [token.text for token in example.predicted] == words


def test_without_pictures(nlp, folder):
    """For a model of the text alone: no picture is looked for, and none is missed."""
    docs = [make_doc(nlp, image=x, regions=[(0, 0, 4, 4)]) for x in ("img/a.jpg", "missing.jpg", None)]
    docs[0]._.relations = []
    corpus = MultimodalCorpus(save(folder / "train.spacy", docs), images="none")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        examples = list(corpus(nlp))
    for example, doc in zip(examples, docs):
        for side in (example.predicted, example.reference):
            assert side._.image is None
            assert side._.image_error == ("taken away" if doc._.image else None)
            assert not (doc._.image and side._.regions)
        assert len(example.reference.ents) == 2
    assert examples[0].reference._.relations == []
    assert (corpus.counts.posts, corpus.counts.with_picture, corpus.counts.missing) == (3, 0, 0)
    with pytest.raises(ValueError, match="images is 'all'; choose one of own, none, both, shuffled"):
        MultimodalCorpus(folder / "train.spacy", images="all")


def test_pictures_and_none(nlp, folder):
    """Each post with a picture once more without it; gold annotations stay."""
    docs = [make_doc(nlp, image=x, regions=[(0, 0, 4, 4)]) for x in ("img/a.jpg", None, "img/b.jpg")]
    corpus = MultimodalCorpus(save(folder / "dev.spacy", docs), images="both")
    examples = list(corpus(nlp))
    assert [eg.predicted._.image is None for eg in examples] == [False, True, True, False, True]
    assert [len(eg.reference.ents) for eg in examples] == [2] * 5
    assert examples[1].predicted._.image_error == "taken away"
    assert not examples[1].predicted._.regions
    assert examples[0].reference is examples[1].reference
    assert corpus.counts.posts == 3


@pytest.fixture
def illustrated(nlp, folder):
    """Ten posts, of which nine have a usable picture, two of these the same one; each of them with a box for
    an entity and a relation."""
    names = ["a", "b", "b", "c", None, "d", "e", "f", "lost", "g", "h"]
    docs = []
    for i, name in enumerate(names):
        if name and name != "lost":
            PIL.Image.new("RGB", (8, 6)).save(folder / f"{name}.png")
        doc = make_doc(
            nlp, f"Rob{i} likes Paris", name and f"{name}.png", [(0, 0, 4, 1 + i)] if name else None
        )
        doc.ents[0]._.boxes = [(0, 0, 2, 2)]
        doc._.relations = [(doc.ents[0], doc.ents[1], "visits")]
        docs.append(doc)
    return save(folder / "train.spacy", docs)


def pictures_of(examples):
    """The picture of each post and the heights of its objects, by the text."""
    return {
        example.text.strip(): (
            example.predicted._.image and example.predicted._.image.rsplit("/")[-1],
            [region["box"][3] for region in example.predicted._.regions],
        )
        for example in examples
    }


def test_shuffled_pictures(nlp, illustrated):
    own = pictures_of(read(MultimodalCorpus(illustrated), nlp))
    corpus = MultimodalCorpus(illustrated, images="shuffled")
    examples = read(corpus, nlp)
    found = pictures_of(examples)
    assert list(found) == list(own)
    assert sorted(map(str, found.values())) == sorted(map(str, own.values()))
    for example, (name, _) in zip(examples, own.values()):
        reference = example.reference
        assert pictures_of([Example(reference, reference)]) == {
            example.text.strip(): found[example.text.strip()]
        }
        assert (found[example.text.strip()][0] == name) == (name is None)
        # Its own objects, boxes and what was wrong with its picture stay only where it has none to give.
        assert reference.ents[0]._.boxes == (
            None if name else [{"box": [0, 0, 2, 2], "label": None, "score": None}]
        )
        assert [relation.label for relation in reference._.relations] == ["visits"]
    assert examples[8].predicted._.image_error
    assert sum(bool(example.predicted._.image_error) for example in examples) == 1
    assert (corpus.counts.posts, corpus.counts.with_picture, corpus.counts.missing) == (11, 9, 1)


@pytest.mark.parametrize(
    "settings", [{"shuffle": True}, {"limit": 6}, {"gold_preproc": True}, {"check_images": "none"}]
)
def test_a_post_has_the_same_other_picture_at_each_reading(nlp, illustrated, settings):
    corpus = MultimodalCorpus(illustrated, images="shuffled", **settings)
    found = [pictures_of(read(corpus, nlp)) for _ in range(3)]
    assert found[0] == found[1] == found[2]
    assert found[0] == pictures_of(read(MultimodalCorpus(illustrated, images="shuffled", **settings), nlp))
    if settings in ({"shuffle": True}, {"gold_preproc": True}):
        assert found[0] == pictures_of(read(MultimodalCorpus(illustrated, images="shuffled"), nlp))


def test_shuffled_pictures_are_those_of_evaluation(nlp, illustrated):
    shuffled, kept = shuffle_images(read(MultimodalCorpus(illustrated), nlp))
    assert kept == 0
    assert pictures_of(shuffled) == pictures_of(read(MultimodalCorpus(illustrated, images="shuffled"), nlp))


def test_posts_that_keep_their_picture_are_said(nlp, folder):
    docs = [
        make_doc(nlp, f"Rob{i} likes Paris", image)
        for i, image in enumerate(["img/a.jpg"] * 3 + ["img/b.jpg"])
    ]
    for doc in docs:
        doc.ents[0]._.boxes = [(0, 0, 2, 2)]
    corpus = MultimodalCorpus(save(folder / "train.spacy", docs), images="shuffled")
    with pytest.warns(MMIBWarning, match="2 posts are read with their own picture"):
        examples = list(corpus(nlp))
    boxes = [bool(example.reference.ents[0]._.boxes) for example in examples]
    assert sum(boxes) == 2
    assert not boxes[3]


def test_bytes_and_pixels_pass_through(nlp, folder):
    data = (folder / "img/a.jpg").read_bytes()
    pixels = numpy.zeros((2, 3, 3), dtype="uint8")
    docs = [
        make_doc(nlp, image=data),
        make_doc(nlp, image=pixels),
        make_doc(nlp, image=PIL.Image.new("RGB", (4, 5))),
    ]
    corpus = MultimodalCorpus(save(folder / "train.spacy", docs))
    first, second, third = (example.predicted._.image for example in corpus(nlp))
    assert first == data
    assert second.shape == (2, 3, 3)
    assert third.size == (4, 5)
    assert corpus.counts.with_picture == 3


def bad_docs(nlp):
    """Each with objects, which have to go with the picture."""
    images = {
        "missing": ["img/none.jpg", "img/a.jpg/x"],
        "unreadable": ["empty.jpg", "text.jpg", "img", "nul\0.jpg", "x" * 5000, " ", b"", b"junk"],
        "refused": ["../secret.jpg", "/etc/passwd", "img/../../secret.jpg"],
    }
    docs = [make_doc(nlp, image=image, regions=[(0, 0, 4, 4)]) for kind in images.values() for image in kind]
    return docs, {kind: len(values) for kind, values in images.items()}


def test_bad_pictures_are_counted_and_harm_no_other_post(nlp, folder):
    docs, expected = bad_docs(nlp)
    docs = [make_doc(nlp, image="img/a.jpg"), *docs, make_doc(nlp), make_doc(nlp, image="img/b.jpg")]
    corpus = MultimodalCorpus(save(folder / "train.spacy", docs))
    examples = read(corpus, nlp)
    assert len(examples) == len(docs)
    for example in examples[1:-2]:
        for side in (example.predicted, example.reference):
            assert side._.image is None
            assert side._.regions == []
            assert side._.image_error
            assert "\n" not in side._.image_error
    for example in (examples[0], examples[-1]):
        assert example.predicted._.image
        assert example.predicted._.image_error is None
    assert examples[-2].predicted._.image_error is None
    counts = corpus.counts
    assert (counts.posts, counts.with_picture) == (len(docs), 2)
    assert {kind: getattr(counts, kind) for kind in expected} == expected


def test_link_out_of_the_root_is_refused(nlp, folder):
    (folder / "link.jpg").symlink_to(folder.parent / "secret.jpg")
    corpus = MultimodalCorpus(save(folder / "train.spacy", [make_doc(nlp, image="link.jpg")]))
    (example,) = read(corpus, nlp)
    assert example.predicted._.image is None
    assert corpus.counts.refused == 1
    path = save(folder / "train.spacy", [make_doc(nlp, image="data/link.jpg")])
    (example,) = read(MultimodalCorpus(path, image_root=folder.parent), nlp)
    assert example.predicted._.image == str((folder.parent / "secret.jpg").resolve())


def test_something_foreign_in_user_data(nlp, folder):
    doc = make_doc(nlp)
    doc.user_data[("._.", "image", None, None)] = 7
    other = make_doc(nlp, image="img/a.jpg")
    other.user_data[("._.", "regions", None, None)] = "img/crop.png"
    corpus = MultimodalCorpus(save(folder / "train.spacy", [doc, other]))
    first, second = read(corpus, nlp)
    assert first.predicted._.image is None
    assert corpus.counts.unreadable == 1
    assert second.predicted._.image is not None
    assert second.predicted._.regions == []


def test_bad_crops_are_left_out_alone(nlp, folder):
    regions = ["img/crop.png", "img/none.png", "../secret.jpg", (0, 0, 2, 2), "text.jpg"]
    doc = make_doc(nlp, image="img/a.jpg", regions=regions)
    corpus = MultimodalCorpus(save(folder / "train.spacy", [doc]))
    (example,) = read(corpus, nlp)
    kept = example.predicted._.regions
    assert kept[0] == str((folder / "img/crop.png").resolve())
    assert kept[1]["box"] == [0, 0, 2, 2]
    assert len(kept) == 2
    assert example.predicted._.image
    assert corpus.counts.dropped_crops == 3
    assert "3 crops" in corpus.counts.summary()


@pytest.mark.parametrize(("check", "unreadable"), [("none", 0), ("header", 1), ("decode", 2)])
def test_check_images(nlp, folder, check, unreadable):
    docs = [make_doc(nlp, image=name) for name in ("img/a.jpg", "truncated.jpg", "text.jpg", "no.jpg")]
    corpus = MultimodalCorpus(save(folder / "train.spacy", docs), check_images=check)
    read(corpus, nlp)
    assert (corpus.counts.unreadable, corpus.counts.missing) == (unreadable, 1)


def test_unknown_check_is_said_at_once(folder):
    with pytest.raises(ValueError, match="header, decode, none"):
        MultimodalCorpus(folder / "train.spacy", check_images="fully")


def test_repaired_picture_is_seen(nlp, folder):
    corpus = MultimodalCorpus(save(folder / "train.spacy", [make_doc(nlp, image="late.jpg")]))
    assert read(corpus, nlp)[0].predicted._.image is None
    PIL.Image.new("RGB", (3, 3)).save(folder / "late.jpg")
    assert read(corpus, nlp)[0].predicted._.image is not None


def test_image_root(nlp, folder, tmp_path):
    elsewhere = tmp_path / "corpus"
    elsewhere.mkdir()
    path = save(elsewhere / "train.spacy", [make_doc(nlp, image="img/a.jpg")])
    corpus = MultimodalCorpus(path)
    read(corpus, nlp)
    assert corpus.counts.missing == 1
    corpus = MultimodalCorpus(path, image_root=folder)
    read(corpus, nlp)
    assert corpus.counts.with_picture == 1


def test_root_that_is_not_there_counts_as_missing(nlp, folder):
    path = save(folder / "train.spacy", [make_doc(nlp, image="img/a.jpg")])
    with pytest.warns(UserWarning, match="no such folder"):
        list(MultimodalCorpus(path, image_root=folder / "nope")(nlp))


def test_folder_of_files_has_a_root_each(nlp, folder):
    for name in ("x", "y"):
        (folder / name).mkdir()
        PIL.Image.new("RGB", (2, 2)).save(folder / name / "p.png")
        save(folder / name / "part.spacy", [make_doc(nlp, image="p.png")] * 3)
    corpus = MultimodalCorpus(folder)
    images = [example.predicted._.image for example in corpus(nlp)]
    assert images == [str((folder / n / "p.png").resolve()) for n in "xxxyyy"]
    limited = MultimodalCorpus(folder, limit=4)
    assert len(list(limited(nlp))) == limited.counts.posts == 4


def test_summary_is_said_once(nlp, folder, caplog):
    docs = [make_doc(nlp, image="img/a.jpg"), make_doc(nlp, image="img/none.jpg"), make_doc(nlp)]
    path = save(folder / "train.spacy", docs)
    corpus = MultimodalCorpus(path)
    caplog.set_level(logging.INFO, logger="spacy")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            list(corpus(nlp))
    line = "train.spacy: 3 posts, 1 with a picture, 1 files missing, 0 unreadable, 0 outside the image root"
    logged = [record.getMessage() for record in caplog.records if record.name == "spacy.mmib"]
    assert logged == [line]
    warned = [str(w.message) for w in caught if w.category is MMIBWarning]
    assert [message.startswith(f"[spacy-mmib] {line}") for message in warned] == [True]
    assert "none.jpg" in str(caught[-1].message)
    (folder / "img/none.jpg").write_bytes((folder / "img/a.jpg").read_bytes())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        list(corpus(nlp))
    assert "2 with a picture, 0 files missing" in caplog.text


def test_no_summary_for_half_a_reading(nlp, folder):
    path = save(folder / "train.spacy", [make_doc(nlp, image="img/a.jpg")] * 5)
    corpus = MultimodalCorpus(path)
    next(iter(corpus(nlp)))
    assert corpus.counts is None


def test_sentences_keep_the_picture(nlp, folder):
    doc = Doc(
        nlp.vocab,
        words=["Rob", "sings", "Ann", "too"],
        spaces=[True] * 4,
        sent_starts=[True, False, True, False],
        ents=["B-PER", "O", "B-PER", "O"],
    )
    doc._.image = "img/a.jpg"
    doc._.regions = [(0, 0, 2, 2)]
    path = save(folder / "train.spacy", [doc])
    for settings in ({"gold_preproc": True}, {"max_length": 3}):
        examples = list(MultimodalCorpus(path, **settings)(nlp))
        assert [len(example.predicted) for example in examples] == [2, 2]
        for example in examples:
            assert example.predicted._.image == example.reference._.image
            assert example.predicted._.image.endswith("a.jpg")
            assert len(example.predicted._.regions) == 1
            assert len(example.reference.ents) == 1
            assert not example.predicted.ents


def test_augmenter_keeps_the_picture_but_may_take_it_off(nlp, folder):
    path = save(folder / "train.spacy", [make_doc(nlp, image="img/a.jpg", regions=[(0, 0, 2, 2)])])
    lower = registry.resolve({"a": {"@augmenters": "spacy.lower_case.v1", "level": 1.0}})["a"]
    examples = list(MultimodalCorpus(path, augmenter=lower)(nlp))
    assert any(example.text.strip() == "rob likes paris" for example in examples)
    for example in examples:
        assert example.predicted._.image.endswith("a.jpg")
        assert len(example.predicted._.regions) == 1

    def take_off(nlp, example):
        doc = example.predicted.copy()
        doc._.image = doc._.regions = None
        yield Example(doc, example.reference)

    (example,) = MultimodalCorpus(path, augmenter=take_off)(nlp)
    assert example.predicted._.image is None


def test_shuffle_reads_all(nlp, folder):
    docs = [make_doc(nlp, text=f"post {i}", ents=None, image="img/a.jpg") for i in range(20)]
    corpus = MultimodalCorpus(save(folder / "train.spacy", docs), shuffle=True)
    assert {example.text for example in corpus(nlp)} == {doc.text for doc in docs}


def test_trains(nlp, folder):
    path = save(folder / "train.spacy", [make_doc(nlp, image="img/a.jpg")] * 4)
    corpus = MultimodalCorpus(path)
    nlp.add_pipe("ner")
    nlp.initialize(lambda: corpus(nlp))
    losses = nlp.update(list(corpus(nlp)))
    assert losses["ner"] > 0


def test_error_no_path():
    with pytest.raises(ValueError, match=r"--paths\.train"):
        create_corpus_v1(None)


def test_error_missing_path(nlp, tmp_path):
    with pytest.raises(ValueError, match=r"There is no corpus at .*nope\.spacy"):
        list(MultimodalCorpus(tmp_path / "nope.spacy")(nlp))


def test_error_wrong_file(nlp, tmp_path):
    (tmp_path / "posts.jsonl").write_text("{}")
    with pytest.raises(ValueError, match=r"not a \.spacy file"):
        list(MultimodalCorpus(tmp_path / "posts.jsonl")(nlp))
    (tmp_path / "fake.spacy").write_text("not zipped")
    with pytest.raises(ValueError, match=r"fake\.spacy can't be read.*DocBin"):
        list(MultimodalCorpus(tmp_path / "fake.spacy")(nlp))


def test_error_no_user_data(nlp, folder):
    path = save(folder / "train.spacy", [make_doc(nlp, image="img/a.jpg")], store_user_data=False)
    with pytest.raises(ValueError, match=r"store_user_data=True.*spacy\.Corpus\.v1"):
        list(MultimodalCorpus(path)(nlp))


def test_empty_corpus(nlp, folder):
    corpus = MultimodalCorpus(save(folder / "train.spacy", []))
    assert list(corpus(nlp)) == []
    assert corpus.counts.posts == 0


# Files that are damaged, and texts that are too long


def test_flipped_bits_are_one_sentence_with_the_name_of_the_file(nlp, folder):
    docs = []
    for i in range(4):
        doc = make_doc(nlp, f"Rob{i} likes Paris", image="img/a.jpg", regions=[(0, 0, 2, 2)])
        doc.spans["sc"] = [Span(doc, 1, 3, label="X")]
        doc.cats = {"sports": 1.0}
        docs.append(doc)
    packed = DocBin(docs=docs, store_user_data=True).to_bytes()
    plain = zlib.decompress(packed)
    rng = random.Random(0)
    refused = []
    path = folder / "a b.spacy"
    for i in range(200):
        data = bytearray(plain if i % 8 else packed)
        for _ in range(rng.choice([1, 1, 2, 5])):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(zlib.compress(bytes(data), 1) if i % 8 else data)
        try:
            found = list(read_docs(path, Vocab()))
        except ValueError as err:
            refused.append(str(err))
            continue
        for doc in found:  # what could be read can be used
            doc.copy().to_bytes()
            Example(Doc(doc.vocab, words=[token.text for token in doc]), doc).to_dict()
    assert len(refused) > 100
    for line in refused:
        assert re.search(r"a b\.spacy (can't be read|was saved without user data)", line)
        assert "\n" not in line
    path.write_bytes(zlib.compress(plain.replace(b"spans", b"spons")))
    with pytest.raises(ValueError, match=r"a b\.spacy can't be read"):
        list(MultimodalCorpus(path)(nlp))


def test_docs_are_those_that_spacy_reads(nlp, folder):
    docs = [make_doc(nlp, image="img/a.jpg"), make_doc(nlp), nlp.make_doc("")]
    docs[0].user_data["more"] = {"list": [1, "two", None], "bytes": b"\0\xff", "array": numpy.arange(3)}
    path = save(folder / "train.spacy", docs)
    expected = list(DocBin().from_disk(path).get_docs(nlp.vocab))
    found = list(read_docs(path, nlp.vocab))
    assert [doc.to_bytes() for doc in found] == [doc.to_bytes() for doc in expected]
    assert str(found[0].user_data) == str(expected[0].user_data)


@pytest.mark.parametrize("packed", [b"", b"\x80\x80", b"\x93\x01", b"\x01"])
def test_damaged_user_data_is_said_with_its_post(nlp, folder, packed):
    docbin = DocBin(docs=[make_doc(nlp, image="img/a.jpg") for _ in range(3)], store_user_data=True)
    docbin.user_data[1] = packed
    docbin.to_disk(folder / "train.spacy")
    docs = read_docs(folder / "train.spacy", nlp.vocab)
    assert next(docs)._.image == "img/a.jpg"
    with pytest.raises(ValueError, match=r"train\.spacy can't be read to its end \(post 2"):
        next(docs)


def test_neighbours_of_a_post_that_is_too_long(nlp, folder):
    nlp.max_length = 30
    texts = ["Rob likes Paris", "Rob likes " + "Paris " * 9, "Mia likes Oslo", "Kim " * 20]
    docs = [make_doc(nlp, text, image="img/a.jpg", ents=None) for text in texts]
    path = save(folder / "train.spacy", docs)
    for settings in ({}, {"gold_preproc": True}, {"shuffle": True}):
        corpus = MultimodalCorpus(path, **settings)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            examples = list(corpus(nlp))
        assert sorted(example.text.strip() for example in examples) == [texts[2], texts[0]]
        nlp.evaluate(examples)
        (said,) = [str(w.message) for w in caught if "max_length" in str(w.message)]
        assert "2 posts have more characters than nlp.max_length (30)" in said
        assert settings == {"shuffle": True} or "The first: 'Rob likes Paris" in said
    nlp.max_length = 1000
    assert len(list(MultimodalCorpus(path)(nlp))) == 4


def test_sentences_of_a_post_that_is_too_long(nlp, folder):
    doc = make_doc(nlp, "Rob likes Paris Mia likes Oslo and Rome too", ents=None)
    for i, token in enumerate(doc):
        token.is_sent_start = i in (0, 3)
    nlp.max_length = 25
    corpus = MultimodalCorpus(save(folder / "train.spacy", [doc]), max_length=8)
    with pytest.warns(MMIBWarning, match="1 posts have more characters.*The first: 'Mia likes"):
        (example,) = corpus(nlp)
    assert example.text.strip() == "Rob likes Paris"


def test_posts_with_several_pictures(nlp, folder):
    """All of them reach the predicted doc, those of a post that is split each of its parts."""
    docs = [make_doc(nlp), make_doc(nlp, image="img/a.jpg")]
    docs[0]._.images = ["img/a.jpg", "../secret.jpg", "img/b.jpg", "text.jpg"]
    docs[0]._.regions = [{"box": (0, 0, 2, 2), "image": 2}, {"box": (0, 0, 2, 2), "image": 1}, "img/crop.png"]
    for token in docs[0]:
        token.is_sent_start = token.i != 1
    path = save(folder / "train.spacy", docs)
    corpus = MultimodalCorpus(path)
    with pytest.warns(MMIBWarning, match="2 further pictures left out") as said:
        examples = list(corpus(nlp))
    assert len(said) == 1
    assert (corpus.counts.with_picture, corpus.counts.dropped_pictures, corpus.counts.refused) == (2, 2, 0)
    parts = read(MultimodalCorpus(path, max_length=3), nlp)
    assert len(parts) == 2 + 0  # the second post has no sentences
    for doc in (*(eg.predicted for eg in parts), examples[0].predicted, examples[0].reference):
        assert doc._.images == [str(folder / "img/a.jpg"), str(folder / "img/b.jpg")]
        box, crop = doc._.regions
        assert (box["image"], crop) == (1, str(folder / "img/crop.png"))
        assert "picture 2 of 4: " in doc._.image_error
        assert "; picture 4 of 4: " in doc._.image_error
    assert examples[1].predicted._.images == [str(folder / "img/a.jpg")]
