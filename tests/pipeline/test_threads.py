"""One pipeline, many threads, as a web server has them: each post gets what it gets alone."""

import copy
import pickle
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated

import numpy
import pytest
import spacy
from conftest import (
    IMG2VEC,
    LANGUAGE,
    LISTENER,
    MODEL,
    REL_MODEL,
    make_examples,
    make_picture,
    make_rel_examples,
    train,
)
from test_transformer import bert  # noqa: F401
from test_transformer import make_nlp as make_transformer_nlp

from spacy_mmib.pipeline.locking import OneAtATime

THREADS, ROUNDS = 16, 3
WORDS = [
    "Rob",
    "Mia",
    "Kim",
    "met",
    "had",
    "dinner",
    "with",
    "us",
    "in",
    "the",
    "city",
    "of",
    "Oslo",
    "New",
    "Records",
    "and",
]
GIVEN = {"@misc": "spacy-mmib.given_pairs.v1"}


@pytest.fixture(autouse=True)
def _switch_often():
    """Threads take turns a hundred times as often as by default."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(5e-5)
    yield
    sys.setswitchinterval(before)


def make_posts(n: int = 16):
    """Posts of different lengths, with photos in which all pixels differ, objects, and without pictures."""
    random = numpy.random.RandomState(3)
    posts = []
    for i in range(n):
        text = " ".join(random.choice(WORDS, random.randint(3, 12)))
        picture = random.randint(0, 255, (30, 40, 3), dtype="uint8") if i % 4 else None
        boxes = [(0, 0, 20, 20), (5, 5, 30, 30)][: i % 3] if i % 4 else []
        posts.append((text, picture, boxes))
    return posts


def make_doc(nlp, text, picture, boxes):
    doc = nlp.make_doc(text)
    if picture is not None:
        doc._.image, doc._.regions = picture, boxes
    if nlp.has_pipe("mmib_rel") and not nlp.has_pipe("mmib_ner"):
        doc._.relations = [(doc[0:1], doc[-1:], ""), (doc[-1:], doc[0:1], "")]
    return doc


def answer(doc):
    """Everything that was said, to the last bit."""
    entities = [(e.start, e.end, e.label_, e._.confidence, tuple(e._.region_weights or ())) for e in doc.ents]
    found = [(r.head.start, r.tail.start, r.label, r.score) for r in doc._.relations]
    return entities, found, doc._.image_error


def check_threads(nlp, posts=None):
    posts = posts or make_posts()
    alone = [answer(nlp(make_doc(nlp, *post))) for post in posts]
    assert any(entities or found for entities, found, _ in alone)
    order = list(range(len(posts))) * ROUNDS
    with ThreadPoolExecutor(THREADS) as pool:
        got = list(pool.map(lambda i: answer(nlp(make_doc(nlp, *posts[i]))), order))
    assert got == [alone[i] for i in order]

    def stream(shift):
        docs = [make_doc(nlp, *post) for post in posts[shift:] + posts[:shift]]
        return [answer(doc) for doc in nlp.pipe(docs, batch_size=5)]  # which reads ahead

    shifts = [0, 3, 6, 9] * 2
    expected = {shift: stream(shift) for shift in set(shifts)}
    with ThreadPoolExecutor(THREADS) as pool:
        for shift, answers in zip(shifts, pool.map(stream, shifts)):
            assert answers == expected[shift]


def make_pipeline(kind: str, **img2vec):
    """Trained for a few steps only: any answers will do, as long as there are some."""
    nlp = spacy.blank(LANGUAGE)
    encoder = {**IMG2VEC, "arch": "resnet18", **img2vec}
    if kind == "text":
        nlp.add_pipe(
            "mmib_ner",
            config={"model": {"@architectures": "spacy-mmib.Text_NER.v1", "tok2vec": MODEL["tok2vec"]}},
        )
    elif kind == "joint":
        nlp.add_pipe("mmib_img2vec", config={"model": encoder})
        nlp.add_pipe("mmib_ner", config={"model": {**MODEL, "img2vec": LISTENER}})
        nlp.add_pipe("mmib_rel", config={"model": {**REL_MODEL, "img2vec": LISTENER}})
    elif kind == "rel":
        config = {"model": {**REL_MODEL, "img2vec": encoder}, "get_instances": GIVEN}
        nlp.add_pipe("mmib_rel", config=config)
    else:
        nlp.add_pipe("mmib_ner", config={"model": {**MODEL, "img2vec": encoder}})
    examples = make_examples(nlp) if kind in ("ner", "text") else make_rel_examples(nlp, ask=kind == "rel")
    train(nlp, examples, steps=12)
    return nlp


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("ner", {}),
        ("ner", {"trainable": True}),
        ("ner", {"region_features": "roi"}),
        ("rel", {}),
        ("joint", {"trainable": True}),
        ("text", {}),
    ],
)
def test_threads_get_what_each_gets_alone(kind, settings):
    check_threads(make_pipeline(kind, **settings))


def test_with_the_cache_on(tmp_path):
    cache = {"@misc": "spacy-mmib.feature_cache.v1", "path": str(tmp_path / "f.sqlite")}
    nlp = make_pipeline("joint", cache=cache)
    posts = []
    for i, (text, picture, boxes) in enumerate(make_posts()):
        path = None
        if picture is not None:
            path = str(tmp_path / f"{i}.png")
            import PIL.Image

            PIL.Image.fromarray(picture).save(path)
        posts.append((text, path, boxes))
    check_threads(nlp, posts)


@pytest.mark.slow
def test_while_another_pipeline_trains():
    nlp, other = make_pipeline("joint", trainable=True), make_pipeline("ner", trainable=True)
    examples = make_examples(other)
    stop, steps = threading.Event(), []

    def go_on():
        while not stop.is_set():
            steps.append(other.update(examples))

    trainer = threading.Thread(target=go_on)
    trainer.start()
    try:
        check_threads(nlp)
    finally:
        stop.set()
        trainer.join()
    assert steps


def test_a_transformer_is_run_by_one_thread_at_a_time(bert):  # noqa: F811
    nlp = make_transformer_nlp(bert)
    train(nlp, make_examples(nlp), steps=5)
    check_threads(nlp)
    layer = nlp.get_pipe("transformer").model
    assert isinstance(layer._func, OneAtATime)
    for again in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert isinstance(again._func, OneAtATime)
        assert again._func._lock is not layer._func._lock
    loaded = spacy.blank(nlp.lang).from_config(nlp.config).from_bytes(nlp.to_bytes())
    assert isinstance(loaded.get_pipe("transformer").model._func, OneAtATime)
    check_threads(loaded)


def test_the_lock_is_a_setting(bert):  # noqa: F811
    config = make_transformer_nlp(bert).config
    config["components"]["mmib_ner"]["lock_transformer"] = False
    nlp = spacy.blank(LANGUAGE).from_config(config)
    assert not isinstance(nlp.get_pipe("transformer").model._func, OneAtATime)


def test_no_prediction_switches_a_mode():
    nlp = make_pipeline("joint", trainable=True)
    shims = [s for _, pipe in nlp.pipeline for node in pipe.model.walk() for s in node.shims]
    assert len(shims) >= 5
    for shim in shims:
        shim._model.train = shim._model.eval = None  # calling them would raise
    assert nlp(make_doc(nlp, "Rob met Mia", numpy.asarray(make_picture("red")), [])).ents is not None


@pytest.mark.slow
def test_a_web_server_with_many_uploads(trained_joint):
    """FastAPI runs plain functions in a pool of threads: the README's way to serve."""
    import io

    httpx = pytest.importorskip("httpx")
    uvicorn = pytest.importorskip("uvicorn")
    fastapi = pytest.importorskip("fastapi")
    nlp = trained_joint
    app = fastapi.FastAPI()

    def annotate(
        text: Annotated[str, fastapi.Form()],
        picture: Annotated[fastapi.UploadFile | None, fastapi.File()] = None,
    ):
        doc = nlp.make_doc(text)
        doc._.image = None if picture is None else picture.file.read()
        entities, found, error = answer(nlp(doc))
        return {"entities": entities, "relations": found, "error": error}

    app.post("/")(annotate)
    posts = []
    for colour in ("red", "blue", "white", None):
        for text in ("Rob met Mia in Oslo", "Kim and Mia", "Mia sleeps"):
            data = io.BytesIO()
            if colour is not None:
                make_picture(colour).save(data, "PNG")
            posts.append((text, data.getvalue() or None))
    expected = []
    for text, data in posts:
        doc = nlp.make_doc(text)
        doc._.image = data
        expected.append(answer(nlp(doc)))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
        port = server.servers[0].sockets[0].getsockname()[1]

        def post(i):
            text, data = posts[i % len(posts)]
            files = {} if data is None else {"picture": ("a.png", data)}
            with httpx.Client(timeout=120) as client:
                return client.post(f"http://127.0.0.1:{port}/", data={"text": text}, files=files)

        with ThreadPoolExecutor(32) as pool:
            answers = list(pool.map(post, range(192)))
    finally:
        server.should_exit = True
        thread.join()
    assert {response.status_code for response in answers} == {200}
    for i, response in enumerate(answers):
        entities, found, error = expected[i % len(posts)]
        assert response.json() == {
            "entities": [[*e[:4], list(e[4])] for e in entities],
            "relations": [list(r) for r in found],
            "error": error,
        }
