"""A picture that was inside its folder when it was checked, and leads out of it when it is opened."""

import pickle
from pathlib import Path

import PIL.Image
import pytest
import spacy
from conftest import docbin, make_encoder
from spacy.tokens import Doc, DocBin
from spacy.vocab import Vocab

from spacy_mmib import render
from spacy_mmib.cache.cache import FeatureCache
from spacy_mmib.evaluation.audit import look_up_picture
from spacy_mmib.images import files
from spacy_mmib.images.errors import ImageError, OutsideRootError, ReadingLimits
from spacy_mmib.images.files import bind
from spacy_mmib.images.reader import PictureReader
from spacy_mmib.images.reading import probe_image, read_image
from spacy_mmib.post.extensions import IMAGE_KEY, get_image_error, get_regions, get_stored_image
from spacy_mmib.regions.crops import PublishedCrops
from spacy_mmib.training.corpus import MultimodalCorpus
from spacy_mmib.training.local_pictures import PictureFolder
from spacy_mmib.util import MMIBWarning

pytestmark = pytest.mark.skipif(not files._CAN_WALK, reason="needs openat")


@pytest.fixture
def folder(tmp_path):
    """A corpus of one post, and files of the same names elsewhere."""
    for place, colour in (("corpus", "red"), ("elsewhere", "blue")):
        (tmp_path / place / "img" / "crops").mkdir(parents=True)
        for name in ("img/a.png", "img/crops/c.png"):
            PIL.Image.new("RGB", (40, 30), colour).save(tmp_path / place / name)
    nlp = spacy.blank("en")
    doc = nlp.make_doc("Rob had dinner")
    doc._.image = "img/a.png"
    doc._.regions = ["img/crops/c.png", (0, 0, 9, 9)]
    DocBin(docs=[doc], store_user_data=True).to_disk(tmp_path / "corpus" / "train.spacy")
    return tmp_path


def swap(folder, name):
    """Replace a file or a folder of the corpus by a link to what lies elsewhere."""
    victim = folder / "corpus" / name
    victim.rename(folder / "moved")
    victim.symlink_to(folder / "elsewhere" / name)


def from_corpus(folder, **settings):
    (example,) = MultimodalCorpus(folder / "corpus" / "train.spacy", **settings)(spacy.blank("en"))
    return example.predicted


def from_request(folder):
    doc = spacy.blank("en").make_doc("Rob had dinner")
    doc._.image = "img/a.png"
    doc._.regions = ["img/crops/c.png", (0, 0, 9, 9)]
    PictureFolder(folder / "corpus", "none").localize(doc)
    return doc


def copied_by_a_user(doc):
    other = Doc(doc.vocab, words=[token.text for token in doc])
    other._.image, other._.regions = doc._.image, doc._.regions
    return other


SOURCES = {
    "corpus": from_corpus,
    "corpus unchecked": lambda folder: from_corpus(folder, check_images="none"),
    "corpus with a root": lambda folder: from_corpus(folder, image_root=folder / "corpus"),
    "request": from_request,
    "stored": lambda folder: docbin(docbin(from_corpus(folder))),
    "to_bytes": lambda folder: Doc(Vocab()).from_bytes(from_request(folder).to_bytes()),
    "copy": lambda folder: from_corpus(folder).copy(),
    "pickle": lambda folder: pickle.loads(pickle.dumps(from_corpus(folder))),
    "copied by a user": lambda folder: copied_by_a_user(from_corpus(folder)),
}


@pytest.fixture(scope="module")
def encoder():
    return make_encoder()


@pytest.mark.parametrize("name", ["img/a.png", "img"])
@pytest.mark.parametrize("source", SOURCES)
def test_no_pixel_from_elsewhere(folder, encoder, source, name):
    doc = SOURCES[source](folder)
    assert len(encoder.predict([doc])[0]) == 3
    assert render(doc).count("<img") == 2
    assert get_image_error(doc) is None
    swap(folder, name)
    with pytest.warns(MMIBWarning, match="leads out of the image root"):
        (vectors,) = encoder.predict([doc])
    assert len(vectors) == 0
    assert "leads out of the image root" in get_image_error(doc)
    assert get_image_error(doc).count("leads out") == 1
    html = render(doc)
    assert html.count("<img") == (1 if name == "img/a.png" else 0)  # the crop is where it was
    assert "leads out of the image root" in html


@pytest.mark.parametrize("name", ["img/crops/c.png", "img/crops"])
@pytest.mark.parametrize("source", SOURCES)
def test_no_crop_from_elsewhere(folder, encoder, source, name):
    doc = SOURCES[source](folder)
    swap(folder, name)
    with pytest.warns(MMIBWarning, match=r"region 0: the path .* leads out of the image root"):
        (vectors,) = encoder.predict([doc])
    assert len(vectors) == 2
    assert render(doc).count("<img") == 1


def test_a_link_inside_the_folder_is_followed(folder, encoder):
    doc = from_corpus(folder)
    (folder / "corpus" / "img" / "a.png").rename(folder / "corpus" / "b.png")
    (folder / "corpus" / "img" / "a.png").symlink_to(folder / "corpus" / "b.png")
    assert len(encoder.predict([doc])[0]) == 3


def test_whoever_attaches_a_path_may_attach_any(folder, encoder):
    doc = from_corpus(folder)
    doc._.image = str(folder / "elsewhere" / "img" / "a.png")
    assert len(encoder.predict([doc])[0]) == 1


@pytest.mark.filterwarnings("ignore::spacy_mmib.util.MMIBWarning")
@pytest.mark.parametrize("cached", [True, False])
def test_what_others_look_at_is_not_shared(folder, cached):
    """The file outside is a picture of the same batch, and in the cache."""
    cache = {"@misc": "spacy-mmib.feature_cache.v1", "path": str(folder / "features.sqlite")}
    encoder = make_encoder(cache=cache if cached else None)
    doc = from_corpus(folder)
    doc._.regions = None
    other = doc.copy()
    other._.image = str(folder / "elsewhere" / "img" / "a.png")
    encoder.predict([other.copy()])
    swap(folder, "img/a.png")
    for order in ([doc, other], [other, doc]):
        vectors = encoder.predict(order)
        assert len(vectors[order.index(doc)]) == 0
        assert len(vectors[order.index(other)]) == 1


def test_digests_are_of_files_inside(folder):
    cache = FeatureCache(folder / "features.sqlite")
    outside = cache.digest(str(folder / "elsewhere" / "img" / "a.png"))
    image = get_stored_image(from_corpus(folder))
    inside = cache.digest(image)
    assert inside == cache.digest(str(image)) == cache.digest(image)
    assert None is not inside != outside is not None
    swap(folder, "img/a.png")
    assert cache.digest(image) is None
    assert cache.digest(image, ReadingLimits(max_bytes=10)) is None


@pytest.mark.parametrize("changed", ["img/a.png", "img"])
def test_swapped_between_look_and_open(folder, monkeypatch, changed):
    image = get_stored_image(from_corpus(folder))
    real, looked = files.os.lstat, []

    def look_then_change(path, **kwargs):
        info = real(path, **kwargs)
        if isinstance(path, Path) and str(path) == image and not looked:
            looked.append(path)
            swap(folder, changed)
        return info

    monkeypatch.setattr(files.os, "lstat", look_then_change)
    with pytest.raises(OutsideRootError, match="became a link while it was opened"):
        read_image(image)
    assert looked


def test_both_folders_count(folder):
    image = get_stored_image(from_corpus(folder))
    reader = PictureReader(image_root=folder)
    assert reader.read(image).size == (40, 30)
    assert bind(image, folder).root == str((folder / "corpus").resolve())
    assert bind(image, folder / "corpus" / "img").root == str((folder / "corpus" / "img").resolve())
    with pytest.raises(OutsideRootError, match="leads out of the image root"):
        PictureReader(image_root=folder / "elsewhere").read(image)
    swap(folder, "img/a.png")  # still inside the reader's
    with pytest.raises(OutsideRootError, match="leads out of the image root"):
        reader.read(image)
    for look in (read_image, probe_image):
        with pytest.raises(OutsideRootError):
            look(image)


def test_read_with_another_root(folder):
    """What a file says of its folder doesn't widen that of whoever reads it."""
    doc = from_request(folder)
    assert PictureFolder(folder / "elsewhere").localize(doc) == "refused"
    doc = from_request(folder)
    hostile = spacy.blank("en").make_doc("Rob")
    hostile._.image = bind(str(folder / "elsewhere" / "img" / "a.png"), "/")
    assert PictureFolder(folder / "corpus").localize(docbin(hostile)) == "refused"
    for root in (b"a\0b", b"\xed\xa0\xbd", b""):  # the second is half a surrogate pair
        hostile.user_data[IMAGE_KEY] = ("path", "a.png", root)
        with pytest.raises(ImageError):
            read_image(get_stored_image(hostile))


def test_crops_of_a_getter(folder, encoder):
    place = folder / "corpus" / "a"
    place.mkdir()
    PIL.Image.new("RGB", (9, 9)).save(place / "crop_person_a.jpg")
    doc = from_corpus(folder)
    getter = PublishedCrops(folder / "corpus", "umgf")
    (crops,) = getter([doc], [None])
    assert read_image(crops[0]).size == (9, 9)
    (place / "crop_person_a.jpg").unlink()
    (place / "crop_person_a.jpg").symlink_to(folder / "elsewhere" / "img" / "a.png")
    with pytest.raises(OutsideRootError):
        read_image(crops[0])


def test_audit_looks_inside_only(folder):
    doc = from_corpus(folder)
    assert look_up_picture(doc._.image, folder / "corpus", {})[1] == (40.0, 30.0)
    swap(folder, "img/a.png")
    assert look_up_picture(doc._.image, folder / "corpus", {})[1] == (-1.0, -1.0)


def test_regions_stay_bound(folder):
    doc = from_corpus(folder)
    crop, box = get_regions(doc)
    assert crop.root == str((folder / "corpus").resolve())
    assert doc._.regions == [str(folder.resolve() / "corpus/img/crops/c.png"), box]
