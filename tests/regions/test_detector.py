"""Objects found by torchvision's detection networks."""

import pickle
import shutil

import pytest
import spacy
import torch
import torchvision.models
from spacy.tokens import Doc
from spacy.util import registry
from spacy.vocab import Vocab
from tiny_detectors import draw_picture, save_torchvision_detector

import spacy_mmib.post.extensions  # noqa: F401
from spacy_mmib.regions.detector import DetectorRegions
from spacy_mmib.regions.vision import count_classes
from spacy_mmib.util import MMIBWarning

VOCAB = Vocab()
FASTER = "fasterrcnn_mobilenet_v3_large_320_fpn"
SSD = "ssdlite320_mobilenet_v3_large"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    return {
        FASTER: str(save_torchvision_detector(folder / "faster.pth", FASTER)),
        SSD: str(save_torchvision_detector(folder / "ssd.safetensors", SSD)),
    }


@pytest.fixture(scope="module")
def faster(weights):
    return DetectorRegions(FASTER, weights[FASTER], batch_size=3)


@pytest.fixture(scope="module")
def ssd(weights):
    return DetectorRegions(SSD, weights[SSD], batch_size=3)


@pytest.fixture(params=["faster", "ssd"])
def detector(request):
    return request.getfixturevalue(request.param)


def make_getter(arch=SSD, **settings):
    config = {"@region_getters": "spacy-mmib.detector.v1", "arch": arch, **settings}
    return registry.resolve({"getter": config})["getter"]


def detect(getter, pictures, threshold=0.5, nms=0.5, most=None):
    getter.threshold, getter.nms, getter.max_regions = threshold, nms, most
    return getter([make_doc() for _ in pictures], pictures)


def make_doc() -> Doc:
    return Doc(VOCAB, words=["Rob", "met", "Mia"])


def answer(monkeypatch, detector, boxes, labels, scores):
    """The network says this of every picture, in pixels of what it is given."""

    def forward(pictures):
        return [
            {"boxes": torch.tensor(boxes), "labels": torch.tensor(labels), "scores": torch.tensor(scores)}
            for _ in pictures
        ]

    monkeypatch.setattr(detector.loaded.network, "forward", forward)


# --- boxes ------------------------------------------------------------------------------------------


def test_boxes_labels_and_order(monkeypatch, weights):
    detector = DetectorRegions(SSD, weights[SSD])
    boxes = [
        [10.0, 10.0, 30.0, 30.0],
        [10.0, 10.0, 30.0, 29.0],  # nearly the same, another class
        [35.0, 5.0, 80.0, 20.0],  # leads out
        [50.0, 50.0, 60.0, 60.0],  # outside
        [1.0, 1.0, 5.0, 5.0],  # too low a score
        [12.0, 20.0, 22.0, 38.0],
    ]
    answer(monkeypatch, detector, boxes, [1, 2, 3, 1, 1, 2], [0.7, 0.8, 0.9, 0.99, 0.4, 0.6])
    picture = draw_picture(60, 40)
    (found,) = detect(detector, [picture], threshold=0.5)
    assert [(tuple(d["box"]), d["label"]) for d in found] == [
        ((35, 5, 60, 20), "3"),
        ((10, 10, 30, 29), "2"),
        ((12, 20, 22, 38), "2"),
    ]
    assert [d["score"] for d in found] == pytest.approx([0.9, 0.8, 0.6])
    (found,) = detect(detector, [picture], threshold=0.3, nms=None, most=4)
    assert [round(d["score"], 1) for d in found] == [0.9, 0.8, 0.7, 0.6]
    # The other boxes don't count at all: neither for the limit nor for suppression.
    only = DetectorRegions(SSD, weights[SSD], labels=["1"])
    answer(monkeypatch, only, boxes, [1, 2, 3, 1, 1, 2], [0.7, 0.8, 0.9, 0.99, 0.4, 0.6])
    (found,) = detect(only, [picture], threshold=0.3, most=2)
    assert [(tuple(d["box"]), d["label"]) for d in found] == [((10, 10, 30, 30), "1"), ((1, 1, 5, 5), "1")]


def test_the_same_as_torchvision_alone(detector):
    picture = draw_picture(90, 60)
    found = detect(detector, [picture], threshold=0.3, nms=None)[0]
    network = torchvision.models.get_model(
        SSD if "SSD" in type(detector.loaded.network).__name__ else FASTER,
        weights=None,
        weights_backbone=None,
        num_classes=4,
    ).eval()
    network.load_state_dict(detector.loaded.network.state_dict())
    pixels = torchvision.transforms.functional.to_tensor(picture)
    with torch.no_grad():
        (expected,) = network([pixels])
    chosen = [i for i, score in enumerate(expected["scores"]) if score >= 0.3]
    assert len(found) == len(chosen) > 3
    boxes = torch.tensor([d["box"] for d in found])
    assert torch.allclose(boxes, expected["boxes"][chosen], atol=1e-3)
    assert [int(d["label"]) for d in found] == expected["labels"][chosen].tolist()


def test_low_thresholds_reach_the_network(weights):
    """Below 0.05 this network drops boxes by itself."""
    low, high = (DetectorRegions(FASTER, weights[FASTER], threshold=x, max_regions=99) for x in (0.01, 0.5))
    assert low.loaded.network.roi_heads.score_thresh == 0.01
    assert high.loaded.network.roi_heads.score_thresh == 0.05
    (many,), (few,) = (getter([make_doc()], [draw_picture(60, 40)]) for getter in (low, high))
    assert 0 < len(few) < len(many)


# --- batches and odd pictures -----------------------------------------------------------------------


def test_neighbours_in_the_batch_change_nothing(detector):
    sizes = [(60, 40), (30, 80), (61, 40), (60, 40), (90, 60), (25, 25), (120, 80)]
    pictures = [draw_picture(*size, seed=i) for i, size in enumerate(sizes)]
    together = detect(detector, pictures, threshold=0.1, most=5)
    for picture, found in zip(pictures, together):
        (alone,) = detect(detector, [picture], threshold=0.1, most=5)
        assert found
        assert [d["label"] for d in found] == [d["label"] for d in alone]
        for a, b in zip(found, alone):
            assert a["box"] == pytest.approx(b["box"], abs=1e-2)
            assert a["score"] == pytest.approx(b["score"], abs=1e-4)
    assert together[0] != together[3]


def test_pictures_of_a_size_go_together(monkeypatch, weights):
    detector = DetectorRegions(FASTER, weights[FASTER], batch_size=4)
    batches = []

    def forward(pictures):
        batches.append([tuple(p.shape[1:]) for p in pictures])
        empty = torch.zeros(0)
        return [{"boxes": empty.view(0, 4), "labels": empty.long(), "scores": empty} for _ in pictures]

    monkeypatch.setattr(detector.loaded.network, "forward", forward)
    sizes = [(60, 40), (40, 60), (120, 80), (60, 40), (40, 60)] + [(90, 90)] * 5
    assert detect(detector, [draw_picture(*size) for size in sizes]) == [[]] * 10
    assert sorted(batches) == [
        [(40, 60), (40, 60)],
        [(60, 40), (60, 40)],
        [(80, 120)],
        [(90, 90)],
        [(90, 90)] * 4,
    ]


# --- the getter -------------------------------------------------------------------------------------


def test_labels_are_checked(weights):
    with pytest.raises(ValueError, match="knows no class 'cat'.*It knows: 0, 1, 2, 3") as info:
        make_getter(weights=weights[SSD], labels=["1", "cat"])([make_doc()], [draw_picture(60, 40)])
    assert "\n" not in str(info.value)
    with pytest.raises(ValueError, match="labels is empty"):
        make_getter(labels=[])


def test_defaults():
    getter = make_getter("fasterrcnn_resnet50_fpn_v2")
    assert (getter.weights, getter.max_regions, getter.labels) == ("DEFAULT", 4, None)


# --- weights ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("arch", torchvision.models.list_models(module=torchvision.models.detection))
def test_the_number_of_classes_is_found_out(arch, classes, tmp_path):
    with torch.device("meta"):
        state = torchvision.models.get_model(
            arch, weights=None, weights_backbone=None, num_classes=classes
        ).state_dict()
    assert count_classes(arch, state) == classes


def test_no_weights_on_this_machine(monkeypatch, tmp_path):
    tries = []

    def no_network(*args, **kwargs):
        tries.append(kwargs)
        raise OSError("no network")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", no_network)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    getter = make_getter("fasterrcnn_resnet50_fpn_v2")
    messages = set()
    for _ in range(3):
        with pytest.raises(OSError, match="neither on this machine") as info:
            getter([make_doc()], [draw_picture(60, 40)])
        messages.add(str(info.value))
    (message,) = messages
    assert "\n" not in message
    assert f"at {tmp_path}/checkpoints/fasterrcnn_resnet50_fpn_v2_coco" in message
    assert len(tries) == 1  # a failed load isn't tried again
    assert tries[0]["weights_only"] is True
    # Needs no weights: they are torchvision's, and never change.
    assert "COCO_V1" in make_getter("fasterrcnn_resnet50_fpn_v2").get_identity()


def test_named_weights_have_named_classes(monkeypatch, tmp_path):
    """As after a download: the file in torch's folder is published, its name belongs to the weights."""
    entry = torchvision.models.get_model_weights(SSD)["DEFAULT"]
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    file = tmp_path / "checkpoints" / entry.url.rsplit("/", 1)[-1]
    save_torchvision_detector(file, SSD, num_classes=91)
    for weights in ("DEFAULT", "COCO_V1", str(file)):
        detector = DetectorRegions(SSD, weights, labels=["dog", "person"])
        assert detector.loaded.wanted.tolist() == [1, 18]
        assert detector.loaded.classes[18] == "dog"
        found = detect(detector, [draw_picture(60, 40)], threshold=0.0)[0]
        assert found
        assert {d["label"] for d in found} <= {"dog", "person"}
    with pytest.raises(ValueError, match="for 91 classes, not 4"):
        _ = DetectorRegions(SSD, "DEFAULT", num_classes=4).loaded
    with pytest.raises(ValueError, match="knows no class 'N/A'"):
        _ = DetectorRegions(SSD, "DEFAULT", labels=["N/A"]).loaded


def test_files_with_other_things_in_them_are_refused(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (tmp_path.joinpath("exploded").write_text, ("",))

    torch.save({"x": Bomb()}, tmp_path / "bomb.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save({"x": 1}, tmp_path / "numbers.pth")
    (tmp_path / "empty.pth").write_bytes(b"")
    for name in ("bomb.pth", "list.pth", "numbers.pth", "empty.pth"):
        with pytest.raises(ValueError, match=name) as info:
            _ = DetectorRegions(SSD, str(tmp_path / name)).loaded
        assert "\n" not in str(info.value)
    assert not (tmp_path / "exploded").exists()


def test_a_published_file_with_other_things_in_it_is_refused(monkeypatch, tmp_path):
    class Bomb:
        def __reduce__(self):
            return (tmp_path.joinpath("exploded").write_text, ("",))

    entry = torchvision.models.get_model_weights(SSD)["DEFAULT"]
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    file = tmp_path / "checkpoints" / entry.url.rsplit("/", 1)[-1]
    file.parent.mkdir()
    torch.save({"x": Bomb()}, file)
    with pytest.raises(OSError, match="COCO_V1|DEFAULT"):
        _ = DetectorRegions(SSD, "DEFAULT").loaded
    assert not (tmp_path / "exploded").exists()


def test_weights_that_dont_fit(weights, tmp_path):
    with pytest.raises(ValueError, match=f"don't fit a torchvision '{FASTER}'"):
        _ = DetectorRegions(FASTER, weights[SSD]).loaded
    with pytest.raises(ValueError, match=f"don't fit a torchvision '{SSD}'"):
        _ = DetectorRegions(SSD, weights[SSD], num_classes=7).loaded
    with pytest.raises(FileNotFoundError, match="neither a file nor one of torchvision's names"):
        _ = DetectorRegions(SSD, "nowhere.pth").loaded
    with pytest.raises(ValueError, match=r"no detection model 'resnet50'. It has: .*retinanet"):
        make_getter("resnet50").get_identity()


def test_random_weights_are_said_and_always_the_same():
    docs, pictures = [make_doc()], [draw_picture(60, 40)]
    spacy.util.fix_random_seed(1)
    state = torch.get_rng_state()
    getter = make_getter(weights=None, num_classes=3, threshold=0.0)
    with pytest.warns(MMIBWarning, match="random weights"):
        expected = getter(docs, pictures)
    assert torch.equal(torch.get_rng_state(), state)
    spacy.util.fix_random_seed(2)
    other = pickle.loads(pickle.dumps(getter))
    with pytest.warns(MMIBWarning, match="random weights"):
        assert other(docs, pictures) == expected
    assert expected[0]
    assert {region["label"] for region in expected[0]} <= {"1", "2"}


def test_identity(weights, tmp_path):
    base = make_getter(weights=weights[SSD])
    others = [
        make_getter(FASTER, weights=weights[SSD]),
        make_getter(weights=None),
        make_getter(),
        make_getter(weights=str(save_torchvision_detector(tmp_path / "a.pth", SSD, seed=1))),
        make_getter(weights=weights[SSD], labels=["1"]),
        make_getter(weights=weights[SSD], num_classes=4),
        make_getter(weights=weights[SSD], max_regions=3),
        make_getter(weights=weights[SSD], threshold=0.3),
        make_getter(weights=weights[SSD], nms=None),
    ]
    identities = [getter.get_identity() for getter in [base, *others]]
    assert len(set(identities)) == len(identities)
    moved = shutil.copy(weights[SSD], tmp_path / "moved.safetensors")
    assert make_getter(weights=str(moved)).get_identity() == identities[0]
    same = make_getter(weights=weights[SSD], device="cuda", batch_size=2)
    assert same.get_identity() == identities[0]
    assert make_getter(weights="COCO_V1").get_identity() == make_getter().get_identity()
    assert base._loaded is None
