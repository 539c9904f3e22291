"""The real posts of Twitter-2017 and MNRE, with objects found by tiny detectors with random weights: what they
find means nothing, but all of the way is taken. The folder of the data comes from MMIB_DATA.
"""

import ast
import json

import PIL.Image
import pytest
import spacy
from conftest import IMG2VEC
from tiny_detectors import save_grounding_dino, save_owl, save_torchvision_detector


@pytest.fixture(scope="module")
def posts(mmib_data) -> list[tuple[list[str], str]]:
    """Tokens and the picture of each post or instance."""
    found = []
    sample = mmib_data / "sample" / "twitter_2017"
    for split in ("train", "dev", "test"):
        text = (sample / "texts" / split / f"{split}.json").read_text(encoding="utf8")
        for line in text.splitlines():
            post = json.loads(line)
            found.append((post["tokens"], str(sample / "images" / split / post["image_id"])))
    sample = mmib_data / "sample" / "mnre"
    for split in ("train", "val", "test"):
        text = (sample / "txt" / f"ours_{split}.txt").read_text(encoding="utf8")
        for line in filter(str.strip, text.splitlines()):
            row = ast.literal_eval(line)
            found.append((row["token"], str(sample / "img_org" / split / row["img_id"])))
    assert len(found) == 30
    return found


@pytest.fixture(scope="module")
def getters(tmp_path_factory) -> dict[str, dict]:
    folder = tmp_path_factory.mktemp("detectors")
    dino = save_grounding_dino(folder / "dino")
    owl = save_owl(folder / "owl")
    detector = save_torchvision_detector(folder / "ssd.pth", "ssdlite320_mobilenet_v3_large", 5)
    grounding = {"@region_getters": "spacy-mmib.grounding.v1", "threshold": 0.0}
    return {
        "grounding_dino": {**grounding, "name": str(dino)},
        "owlv2": {**grounding, "name": str(owl)},
        "detector": {
            "@region_getters": "spacy-mmib.detector.v1",
            "arch": "ssdlite320_mobilenet_v3_large",
            "weights": str(detector),
            "threshold": 0.1,
        },
    }


@pytest.mark.parametrize("kind", ["grounding_dino", "owlv2", "detector"])
def test_objects_of_real_pictures(kind, posts, getters, tmp_path):
    nlp = spacy.blank("en")
    cache = {"@misc": "spacy-mmib.feature_cache.v1", "path": str(tmp_path / "features.sqlite")}
    model = {**IMG2VEC, "get_regions": getters[kind], "cache": cache}
    nlp.add_pipe("mmib_img2vec", config={"model": model})
    nlp.initialize()

    def run():
        docs = [spacy.tokens.Doc(nlp.vocab, words=tokens) for tokens, _ in posts]
        for doc, (_, picture) in zip(docs, posts):
            doc._.image = picture
        return list(nlp.pipe(docs, batch_size=8))

    docs = run()
    found = 0
    for doc, (_, picture) in zip(docs, posts):
        assert doc._.image_error is None
        assert len(doc._.regions) <= 4
        found += len(doc._.regions)
        assert nlp.get_pipe("mmib_img2vec").kept.get(doc)[0].shape == (1 + len(doc._.regions), 512)
        with PIL.Image.open(picture) as image:
            width, height = image.size
        for region in doc._.regions:
            x0, y0, x1, y1 = region["box"]
            assert 0 <= x0 < x1 <= max(width, height)
            assert 0 <= y0 < y1 <= max(width, height)
            assert region["label"]
            assert 0 <= region["score"] <= 1
    assert found > 30
    again = run()  # from the cache
    assert [doc._.regions for doc in again] == [doc._.regions for doc in docs]
