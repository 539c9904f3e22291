"""Makes small pipelines with the code of version 0.1 (commit ae56d85), and what they predict.

python tests/helpers/old_pipeline.py FOLDER writes FOLDER/{ner,joint}/ and FOLDER/predicted.json. Needs the
history of the repository, and the packages that the project needs.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

COMMIT = "ae56d85"
ROOT = Path(__file__).parents[2]
POSTS = [
    ("Rob met Mia in Oslo", "red", "couple"),
    ("Rob met Mia in Oslo", "blue", "team"),
    ("Kim and Mia", "red", "couple"),
    ("Kim and Mia", "blue", "team"),
    ("Mia sleeps", None, None),
    ("a much longer post in which Kim and Rob are named at last , after all these words", "red", None),
]
TOK2VEC = {"@architectures": "spacy.HashEmbedCNN.v2", "width": 24, "depth": 2, "embed_size": 200}
TOK2VEC |= {"pretrained_vectors": None, "window_size": 1, "maxout_pieces": 2, "subword_features": True}
IMG2VEC = {"@architectures": "spacy-mmib.TorchvisionEncoder.v1", "arch": "squeezenet1_1", "image_size": 64}


def make_docs(nlp):
    import PIL.Image

    docs = []
    for text, colour, _ in POSTS:
        doc = nlp.make_doc(text)
        if colour is not None:
            doc._.image = PIL.Image.new("RGB", (40, 30), colour)
            doc._.regions = [(0, 0, 20, 20)] if len(doc) < 10 else []
        docs.append(doc)
    return docs


def make_examples(nlp):
    from spacy.tokens import Span
    from spacy.training import Example

    examples = []
    for doc, (_, _, label) in zip(make_docs(nlp), POSTS):
        reference = doc.copy()
        names = [token.i for token in doc if token.text in ("Rob", "Mia", "Kim")]
        reference.ents = [
            Span(reference, i, i + 1, label="PER" if label == "couple" else "ORG") for i in names
        ]
        pair = [reference[i : i + 1] for i in names[:2]]
        reference._.relations = [(*pair, label)] if label else []
        examples.append(Example(doc, reference))
    return examples


def make_pipeline(kind: str):
    import spacy

    nlp = spacy.blank("en")
    model = {"@architectures": "spacy-mmib.MMIB_NER.v1", "heads": 4, "tok2vec": TOK2VEC, "img2vec": IMG2VEC}
    if kind == "joint":
        nlp.add_pipe("mmib_img2vec", config={"model": IMG2VEC})
        model["img2vec"] = {"@architectures": "spacy-mmib.Img2VecListener.v1"}
    nlp.add_pipe("mmib_ner", config={"model": model, "beta1": 0.01, "beta2": 0.01})
    if kind == "joint":
        config = {
            "model": {**model, "@architectures": "spacy-mmib.MMIB_REL.v1"},
            "beta1": 0.01,
            "beta2": 0.01,
        }
        nlp.add_pipe("mmib_rel", config=config)
    return nlp


def predict(nlp) -> list:
    """RETURNS (List): Of each post the entities and the relations with their confidences."""
    found = []
    for doc in nlp.pipe(make_docs(nlp)):
        entities = [(e.start, e.end, e.label_, e._.confidence) for e in doc.ents]
        relations = [(r.head.start, r.tail.start, r.label, r.score) for r in doc._.relations]
        found.append([entities, relations])
    return found


def make_all(folder: Path) -> None:
    import spacy

    predicted = {}
    for kind in ("ner", "joint"):
        spacy.util.fix_random_seed(0)
        nlp = make_pipeline(kind)
        examples = make_examples(nlp)
        optimizer = nlp.initialize(lambda: examples)
        optimizer.learn_rate = 0.005
        for _ in range(60):
            nlp.update(examples, sgd=optimizer)
        nlp.to_disk(folder / kind)
        predicted[kind] = predict(nlp)
    (folder / "predicted.json").write_text(json.dumps(predicted))


def make_with_old_code(folder: Path) -> None:
    """folder (Path): Gets the pipelines and what they predict. RAISES (CalledProcessError): No such commit."""
    code = folder / "code"
    code.mkdir(parents=True)
    archive = subprocess.run(
        ["git", "archive", COMMIT, "spacy_mmib", "setup.py", "setup.cfg", "README.md", "LICENSE"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    ).stdout
    subprocess.run(["tar", "-x", "-C", str(code)], input=archive, check=True)
    # Its entry points come before those of the version that is installed, as its modules do.
    subprocess.run([sys.executable, "setup.py", "-q", "egg_info"], cwd=code, check=True, capture_output=True)
    env = {**os.environ, "PYTHONPATH": str(code)}
    command = [sys.executable, "-W", "ignore", __file__, "--here", str(folder)]
    subprocess.run(command, cwd=folder, env=env, check=True, capture_output=True, text=True)


if __name__ == "__main__":
    if "--here" in sys.argv:
        make_all(Path(sys.argv[-1]))
    else:
        make_with_old_code(Path(sys.argv[-1]).resolve())
