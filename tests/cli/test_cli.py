import gzip
import json
import subprocess
import sys
from pathlib import Path

import numpy
import picture_components
import PIL.Image
import pytest
import spacy
import spacy.cli
from commands import run, run_alone
from spacy.cli._util import app
from spacy.tokens import Doc, DocBin
from spacy.util import registry
from typer.testing import CliRunner

from spacy_mmib.cli import mmib_cli

CODE = Path(picture_components.__file__)


@pytest.fixture
def model(tmp_path):
    nlp = spacy.blank("en")
    nlp.add_pipe("test_picture_ner")
    ruler = nlp.add_pipe("entity_ruler")
    ruler.add_patterns([{"label": "ORG", "pattern": "NBA"}])
    nlp.to_disk(tmp_path / "model")
    return str(tmp_path / "model")


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    (folder / "img").mkdir(parents=True)
    PIL.Image.new("RGB", (8, 8), "red").save(folder / "img" / "red.png")
    PIL.Image.new("RGB", (8, 8), "blue").save(folder / "img" / "blue.png")
    PIL.Image.new("RGB", (8, 8), "red").save(tmp_path / "secret.png")
    return folder


@pytest.fixture
def corpus(data):
    vocab = spacy.blank("en").vocab
    docs = []
    for image, label in [("red", "PER"), ("blue", "LOC")] * 4:
        doc = Doc(vocab, words=["Alex", "won", "NBA"], ents=[f"B-{label}", "O", "B-ORG"])
        doc._.image = f"img/{image}.png"
        docs.append(doc)
    DocBin(docs=docs, store_user_data=True).to_disk(data / "test.spacy")
    return data / "test.spacy"


def predict(model, data, lines, *args):
    posts = data / "posts.jsonl"
    raw = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    posts.write_bytes(b"\n".join(raw))
    result = run("predict", model, posts, *args)
    assert result.exit_code == 0, (result.output, result.exception)
    return [json.loads(line) for line in result.stdout.splitlines()], result.stderr


def test_group_is_in_spacys_own_app():
    assert registry.cli.get_entry_point("mmib") is mmib_cli
    result = CliRunner().invoke(app, ["mmib", "--help"])
    assert result.exit_code == 0
    assert "evaluate" in result.output
    assert "predict" in result.output


def test_import_of_the_commands_is_light():
    code = (
        "import sys; sys.modules['torch'] = None;"
        "import spacy.cli; before = set(sys.modules); import spacy_mmib.cli;"
        "new = {name.split('.')[0] for name in set(sys.modules) - before};"
        "assert not new & {'torch', 'torchvision', 'PIL', 'tqdm'}, new"
    )
    # spaCy's own modules import torch by way of Thinc, if it is there; what counts is what ours add.
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


# evaluate


def evaluate(model, corpus, *args):
    output = corpus.parent / "out" / "metrics.json"
    result = run("evaluate", model, corpus, "--output", output, *args)
    assert result.exit_code == 0, (result.output, result.exception)
    return json.loads(output.read_text()), result.output


def test_evaluate(model, corpus):
    metrics, output = evaluate(model, corpus)
    assert metrics["ents_f"] == 1.0
    assert set(metrics["ents_per_type"]) == {"PER", "LOC", "ORG"}
    assert metrics["images"] == "own"
    assert metrics["pictures"]["posts"] == metrics["pictures"]["with_picture"] == 8
    assert "100.00" in output
    assert "ORG" in output


def test_evaluate_without_images(model, corpus):
    metrics, output = evaluate(model, corpus, "--no-images")
    assert metrics["images"] == "none"
    assert metrics["ents_p"] == 1.0
    assert metrics["ents_r"] == 0.5
    assert metrics["pictures"]["with_picture"] == 8
    assert metrics["pictures"]["kept"] == 0
    assert "without pictures" in output


def test_evaluate_shuffled(model, corpus):
    metrics, output = evaluate(model, corpus, "--shuffle-images", "--seed", "3")
    assert (metrics["images"], metrics["seed"]) == ("shuffled", 3)
    assert metrics["ents_p"] == metrics["ents_r"] == 0.5  # two pictures: each gets the other
    assert metrics["pictures"]["kept"] == 0
    assert "shuffled" in output


def test_evaluate_one_ablation_at_a_time(model, corpus):
    result = run("evaluate", model, corpus, "--no-images", "--shuffle-images")
    assert result.exit_code == 1
    assert "exclude each other" in result.output


@pytest.mark.filterwarnings("ignore:\\[mmib\\]")
def test_evaluate_image_root_and_missing_pictures(model, corpus, tmp_path):
    moved = tmp_path / "moved.spacy"
    moved.write_bytes(corpus.read_bytes())
    metrics, _ = evaluate(model, moved)
    assert metrics["pictures"]["missing"] == 8
    assert metrics["ents_r"] == 0.5
    metrics, _ = evaluate(model, moved, "--image-root", corpus.parent)
    assert metrics["ents_f"] == 1.0
    metrics, _ = evaluate(model, corpus, "--image-root", "")
    assert metrics["ents_f"] == 1.0


def test_evaluate_messages(model, corpus, tmp_path):
    result = run("evaluate", tmp_path / "nope", corpus)
    assert result.exit_code == 1
    assert "Can't load the pipeline" in result.output
    result = run("evaluate", model, tmp_path / "nope.spacy")
    assert result.exit_code == 1
    assert "There is no corpus" in result.output
    DocBin(store_user_data=True).to_disk(tmp_path / "empty.spacy")
    result = run("evaluate", model, tmp_path / "empty.spacy")
    assert result.exit_code == 1
    assert "no posts" in result.output


def test_evaluate_pipeline_that_scores_no_entities(corpus, tmp_path):
    spacy.blank("en").to_disk(tmp_path / "blank")
    metrics, output = evaluate(tmp_path / "blank", corpus)
    assert "ents_f" not in metrics
    assert "scores entities" in output


# predict


def test_predict(model, data):
    lines = [
        {"id": 7, "text": "Alex won NBA", "image": "img/red.png", "meta": {"a": [1, None]}},
        {"tokens": ["Alex", "won", "#", "NBA"], "image": "img/blue.png"},
        {"text": "Alex won"},
    ]
    (first, second, third), stderr = predict(model, data, lines)
    assert first["id"] == 7
    assert first["meta"] == {"a": [1, None]}
    assert first["text"] == "Alex won NBA"
    assert first["entities"] == [
        {"start": 0, "end": 4, "start_token": 0, "end_token": 1, "text": "Alex", "label": "PER", "confidence": 0.75},
        {"start": 9, "end": 12, "start_token": 2, "end_token": 3, "text": "NBA", "label": "ORG", "confidence": None},
    ]  # fmt: skip
    assert second["tokens"] == lines[1]["tokens"]
    assert second["text"] == "Alex won # NBA"
    assert [ent["label"] for ent in second["entities"]] == ["LOC", "ORG"]
    for record in (first, second):
        for ent in record["entities"]:
            assert record["text"][ent["start"] : ent["end"]] == ent["text"]
            assert record["tokens"][ent["start_token"] : ent["end_token"]] == [ent["text"]]
    assert third["entities"] == []
    assert all("image_error" not in record for record in (first, second, third))
    assert "3 posts predicted (2 with a picture, 0 with one that can't be used), 4 entities" in stderr
    assert "skipped" not in stderr


def test_predict_keeps_the_spaces_of_the_text(model, data):
    lines = [
        {"text": "a #NBA!", "tokens": ["a", "#", "NBA", "!"]},
        {"text": "other text", "tokens": ["a", "NBA"]},
        {"text": "a  NBA", "tokens": ["a", "NBA"]},
    ]
    records, _ = predict(model, data, lines)
    assert [record["text"] for record in records] == ["a #NBA!", "a NBA", "a NBA"]
    assert [record["tokens"] for record in records] == [line["tokens"] for line in lines]
    assert [record["entities"][0]["start"] for record in records] == [3, 2, 2]


def test_predict_bad_lines_are_skipped_with_their_number(model, data):
    bad = [
        b"{not json",
        b"[1, 2]",
        b"null",
        b'"text"',
        {"image": "img/red.png"},
        {"text": None},
        {"text": 5},
        {"tokens": "Alex won"},
        {"tokens": ["Alex", 1]},
        {"tokens": ["Alex", ""]},
        b'{"text": "\xff"}',
        b'{"text": "half \\ud83d"}',
        b"[" * 100_000,
        {"text": "x" * 1_000_001},
    ]
    good = {"text": "Alex won NBA", "image": "img/red.png"}
    lines = [good, b"", b"   "]
    for line in bad:
        lines += [line, good]
    records, stderr = predict(model, data, lines, "--batch-size", "3")
    assert len(records) == len(bad) + 1
    assert all(len(record["entities"]) == 2 for record in records)
    for i in range(len(bad)):
        assert f"line {4 + 2 * i} skipped: " in stderr
    assert f"{len(bad)} lines skipped (line 4, 6, 8," in stderr


def test_predict_pictures_that_cannot_be_used(model, data):
    images = ["img/none.png", "../secret.png", "/etc/passwd", "", "nul\0.png", "x" * 5000]
    lines = [{"text": "Alex won NBA", "image": image, "regions": [[0, 0, 2, 2]]} for image in images]
    records, stderr = predict(model, data, [*lines, {"text": "Alex", "image": "img/red.png"}])
    assert len(records) == 7
    for record in records[:-1]:
        assert record["image_error"]
        assert [ent["label"] for ent in record["entities"]] == ["ORG"]
    assert "leads out of the image root" in records[1]["image_error"]
    assert records[-1]["entities"][0]["label"] == "PER"
    assert "1 with a picture, 6 with one that can't be used" in stderr


def test_predict_image_root(model, data, tmp_path):
    lines = [{"text": "Alex", "image": "red.png"}]
    records, _ = predict(model, data, lines, "--image-root", data / "img")
    assert records[0]["entities"][0]["label"] == "PER"


def test_predict_odd_posts(model, data):
    lines = [{"text": ""}, {"tokens": []}, {"text": " "}, {"tokens": ["\ufe0f", "\u00a0", "NBA"]}]
    lines += [{"text": "NBA", "entities": ["gold"], "image_error": "old"}]
    records, _ = predict(model, data, [b"\xef\xbb\xbf" + json.dumps(lines[0]).encode(), *lines[1:]])
    assert [len(record["entities"]) for record in records] == [0, 0, 0, 1, 1]
    assert records[4]["entities"][0]["label"] == "ORG"
    assert "image_error" not in records[4]


def test_predict_to_a_file_and_from_stdin(model, data, tmp_path, monkeypatch):
    output = tmp_path / "new" / "out.jsonl"
    (data / "posts.jsonl").write_text('{"text": "NBA \u2764"}', encoding="utf8")
    result = run("predict", model, data / "posts.jsonl", "--output", output)
    assert result.exit_code == 0, result.output
    assert "NBA" not in result.stdout
    assert json.loads(output.read_text(encoding="utf8"))["text"] == "NBA \u2764"
    monkeypatch.chdir(data)
    result = run("predict", model, "-", input='{"text": "Alex", "image": "img/blue.png"}\n')
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["entities"][0]["label"] == "LOC"


def test_predict_messages(model, data):
    result = run("predict", model, data / "nope.jsonl")
    assert result.exit_code == 1
    assert "There is no file" in result.output
    (data / "posts.jsonl").write_text('{"text": "x"}')
    result = run("predict", model, data / "posts.jsonl", "-o", data / "img/../posts.jsonl")
    assert result.exit_code == 1
    assert "overwrite" in result.output
    assert (data / "posts.jsonl").read_text()


@pytest.mark.parametrize("bypass", [False, True])
def test_predict_post_that_breaks_the_pipeline(model, data, tmp_path, bypass):
    nlp = spacy.load(model)
    nlp.add_pipe("test_fragile", config={"bypass": bypass})
    nlp.to_disk(tmp_path / "fragile")
    texts = [f"NBA {i}" for i in range(12)]
    for i in (0, 5, 6, 11):
        texts[i] = f"BAD {i}"
    args = ("--batch-size", "4")
    records, stderr = predict(tmp_path / "fragile", data, [{"text": text} for text in texts], *args)
    assert [record["text"] for record in records] == [t for t in texts if "BAD" not in t]
    assert all(len(record["entities"]) == 1 for record in records)
    for line in (1, 6, 7, 12):
        assert f"line {line} skipped: the pipeline failed on it (RuntimeError: can't do" in stderr
    assert "4 lines skipped" in stderr


def test_predict_two_processes(model, data):
    nlp = spacy.load(model)
    nlp.add_pipe("test_fragile")
    nlp.to_disk(model)
    lines = [{"text": f"NBA {i}", "image": "img/red.png"} for i in range(7)] + [{"text": "BAD"}]
    lines += [{"text": f"NBA {i}"} for i in range(7)]
    (data / "posts.jsonl").write_text("\n".join(map(json.dumps, lines)))
    more = ("--n-process", 2, "--batch-size", 2, "--code", CODE)
    result = run_alone("predict", model, data / "posts.jsonl", *more)
    assert result.returncode == 0, result.stderr
    records = [json.loads(line) for line in result.stdout.splitlines()]
    assert [record["text"] for record in records] == [line["text"] for line in lines if line["text"] != "BAD"]
    assert records[0]["entities"][0]["confidence"] == 0.75
    assert "line 8 skipped: the pipeline failed on it" in result.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="no pipes of this kind")
def test_predict_reader_that_stops(model, data):
    lines = [json.dumps({"text": f"NBA {i} " + "x" * 500}) for i in range(3000)]
    (data / "posts.jsonl").write_text("\n".join(lines))
    with subprocess.Popen(["head", "-n", "1"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as head:
        result = run_alone("predict", model, data / "posts.jsonl", "-c", CODE, stdout=head.stdin)
        assert json.loads(head.communicate()[0])["text"].startswith("NBA 0")
    assert "Traceback" not in result.stderr


PRODIGY = [
    {
        "text": "Alex won NBA",
        "tokens": [
            {"text": "Alex", "start": 0, "end": 4, "id": 0, "ws": True},
            {"text": "won", "start": 5, "end": 8, "id": 1, "ws": True},
            {"text": "NBA", "start": 9, "end": 12, "id": 2, "ws": False},
        ],
        "spans": [{"start": 0, "end": 4, "token_start": 0, "token_end": 0, "label": "PER"}],
        "answer": "accept",
        "_view_id": "ner_manual",
    },
    {
        "text": "Alex won NBA",
        "relations": [{"head": 0, "child": 2, "label": "x", "head_span": {"start": 0, "end": 4}}],
    },
    # Pieces of words, with special ones.
    {"text": "Alex won NBA", "tokens": [{"text": "[CLS]"}, {"text": "al"}, {"text": "##ex"}]},
    {"text": "Alex won NBA", "tokens": "Alex won"},
    {"text": "Alex won NBA", "tokens": ["Alex", 1]},
    {"text": "Alex won NBA", "tokens": [["Alex", 0]]},
    {"text": "Alex won NBA", "tokens": []},
    {"text": "Alex won NBA", "entities": [[0, 4, "PER"]]},
]


def test_predict_lines_of_other_programs(model, data):
    records, stderr = predict(model, data, PRODIGY)
    assert "skipped" not in stderr
    for line, record in zip(PRODIGY, records, strict=True):
        assert record["text"] == "Alex won NBA"
        assert record["tokens"] == ["Alex", "won", "NBA"]
        assert [ent["text"] for ent in record["entities"]] == ["NBA"]
        # Nothing is lost, be it under a name that the output has for itself.
        said = {**record, **record.get("as_given", {})}
        assert {key: said[key] for key in line if line[key] != []} == {
            key: value for key, value in line.items() if value != []
        }
    assert "relations_error" in records[1]
    again, stderr = predict(model, data, records)
    assert "skipped" not in stderr
    assert again == records


def test_predict_tokens_of_other_programs(model, data):
    """Their tokens are kept, with their spaces."""
    words = [{"text": "#", "ws": False}, {"text": "NBA", "ws": False}, {"text": "!", "ws": True}]
    lines = [{"text": "#NBA! ", "tokens": words}, {"tokens": words}, {"text": None, "tokens": words}]
    records, _ = predict(model, data, lines)
    for record in records:
        assert record["tokens"] == ["#", "NBA", "!"]
        assert record["text"].strip() == "#NBA!"
        assert record["entities"][0]["start"] == 1
        assert record["as_given"]["tokens"] == words


def test_predict_lines_of_label_studio(model, data):
    task = {
        "id": 1,
        "data": {"text": "Alex won NBA", "image": "img/red.png"},
        "annotations": [{"result": [{"value": {"start": 0, "end": 4, "labels": ["PER"]}}]}],
        "predictions": [],
    }
    (record,), _ = predict(model, data, [task])
    assert {key: record[key] for key in task} == task
    assert [ent["label"] for ent in record["entities"]] == ["PER", "ORG"]


def test_predict_pictures_of_other_forms(model, data):
    lines = [
        {"text": "NBA", "image": 5},
        {"text": "NBA", "image": ["img/red.png"]},
        {"text": "NBA", "image": "data:image/png;base64,####="},
        {"text": "NBA", "image": "data:nothing"},
        {"text": "NBA", "image": "img/red.png", "regions": "everywhere"},
        {"text": "NBA", "image": "img/red.png", "regions": [[1, 2]]},
        {"text": "NBA", "image": "file\udce9.png"},
    ]
    records, stderr = predict(model, data, [*lines, {"text": "NBA", "image": "img/red.png"}])
    assert "skipped" not in stderr
    for line, record in zip(lines, records):
        assert record["image_error"]
        assert {key: record[key] for key in line} == line
    assert records[4]["entities"] == records[-1]["entities"]  # the picture itself is used
    assert "4 no picture at all" in stderr


def test_predict_numbers_that_json_does_not_have(model, data):
    lines = [
        b'{"text": "Alex", "image": NaN, "regions": NaN, "relations": NaN, "tokens": NaN}',
        b'{"text": "Alex", "image": "img/red.png", "a": [NaN, -Infinity, 1e999, 0.5]}',
    ]
    records, stderr = predict(model, data, lines)
    assert "skipped" not in stderr
    assert "image_error" not in records[0]
    assert records[0]["image"] is None
    assert records[1]["a"] == [None, None, None, 0.5]
    assert records[1]["entities"][0]["label"] == "PER"


def columns(separator):
    return f"id{separator}text\n" + "".join(f"{i}{separator}Alex won NBA\n" for i in range(200))


POST = '{"text": "Alex won NBA"}\n'


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"PAR1" + bytes(range(256)) * 20, "a Parquet file"),
        # Without the time of day: it would name the test, and each of two processes would name its own.
        (gzip.compress(POST.encode() * 200, mtime=0), "compressed with gzip"),
        (b"PK\x03\x04" + bytes(200), "a ZIP archive, as Excel's .xlsx files are"),
        ((POST * 200).encode("utf-16"), "text in UTF-16"),
        ((POST * 200).encode("utf-16-le"), "text in UTF-16"),
        (columns(",").encode(), "CSV, with ','"),
        (columns("\t").encode("utf-8-sig"), r"CSV, with '\t'"),
        (columns(";").encode(), "CSV, with ';'"),
        (json.dumps([json.loads(POST)] * 200).encode(), "a JSON array"),
        (json.dumps([json.loads(POST)] * 200, indent=1).encode(), "a JSON array"),
        (json.dumps(json.loads(POST), indent=1).encode(), "one JSON object over several lines"),
        (b"Alex won NBA\n" * 200, "none of its first 10 lines begins with {"),
    ],
)
def test_predict_what_is_no_file_of_json_lines(model, data, content, what):
    (data / "posts").write_bytes(content)
    for source in ({"input": content}, {}):
        result = run("predict", model, "-" if source else data / "posts", **source)
        assert result.exit_code == 1
        assert result.stdout == ""
        assert what in result.stderr
        assert len(result.stderr.strip().splitlines()) == 1
    DocBin(store_user_data=True).to_disk(data / "posts")
    assert "a .spacy file" in run("predict", model, data / "posts").stderr


def test_predict_bad_first_lines_are_no_other_format(model, data):
    for first in (b"[1, 2]", b"a, b", b"null", b"\xef\xbb\xbf\n", b"{not json"):
        records, _ = predict(model, data, [first, *[{"text": "NBA"}] * 3])
        assert len(records) == 3
    long = {"text": "NBA", "image": "x" * 20_000}  # more than is looked at
    records, _ = predict(model, data, [long, long])
    assert [record["image"] for record in records] == [long["image"]] * 2


# outputs


COMMANDS = {
    "predict": ("posts.jsonl", "--output", "out.jsonl"),
    "evaluate": ("test.spacy", "--output", "out.json"),
    "report": ("test.spacy", "--output", "out.html"),
    "errors": ("test.spacy", "--output", "out.jsonl"),
    "contributions": ("test.spacy", "--output", "out.html"),
    "gap": ("test.spacy", "--json", "out.json"),
    "audit": ("test.spacy", "--output", "out.json"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_an_output_that_cannot_be_written_is_said_before_the_work(model, corpus, data, command, monkeypatch):
    posts, option, name = COMMANDS[command]
    (data / "posts.jsonl").write_text(POST)
    (data / "file").write_text("mine")
    monkeypatch.setattr("spacy.util.load_model", lambda *args, **kwargs: pytest.fail("worked"))
    for place in (data / "file" / name, data / ("x" * 300 + name)):
        pipeline = () if command == "audit" else (model,)
        result = run(command, *pipeline, data / posts, option, place)
        assert result.exit_code == 1, result.output
        assert f"{option} " in result.stderr
        assert "can't be written" in result.stderr
        assert len(result.stderr.strip().splitlines()) == 1
    assert (data / "file").read_text() == "mine"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk(model, corpus, data):
    (data / "posts.jsonl").write_text(POST)
    with open("/dev/full", "w") as full:
        result = run_alone("predict", model, data / "posts.jsonl", "-c", CODE, stdout=full)
    assert result.returncode == 1
    assert "--output -: can't be written (No space left on device)" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    for args in (("predict", model, data / "posts.jsonl"), ("evaluate", model, corpus)):
        result = run(*args, "--output", "/dev/full")
        assert result.exit_code == 1
        assert result.stderr.strip().splitlines() == [
            "✘ --output /dev/full: can't be written (No space left on device). Choose another place."
        ]


def test_looking_at_an_output_changes_nothing(model, data):
    from spacy_mmib.cli.app import check_output

    (data / "old.json").write_text("old")
    check_output(data / "old.json")
    check_output(data / "new" / "new.json")
    assert (data / "old.json").read_text() == "old"
    assert list((data / "new").iterdir()) == []


@pytest.mark.parametrize(
    "value", [float("nan"), numpy.float32("nan"), numpy.float64("nan"), type("NAType", (), {})()]
)
def test_no_picture_in_a_data_frame(value):
    """What pandas has where a cell is empty; pandas.NA is of a type of this name."""
    doc = spacy.blank("en").make_doc("x")
    doc._.image = "a.png"
    doc._.image = value
    assert doc._.image is None
    assert doc.copy()._.image is None
    with pytest.raises(TypeError, match="doc._.image takes"):
        doc._.image = 1.5


def test_spacy_apply_and_relative_paths(data, tmp_path, monkeypatch):
    """spaCy's command knows no image root: paths start from the folder it is called in, and it is said."""
    from conftest import IMG2VEC

    nlp = spacy.blank("en")
    nlp.add_pipe("mmib_img2vec", config={"model": IMG2VEC})
    nlp.initialize()
    nlp.to_disk(tmp_path / "pictures")
    doc = nlp.make_doc("Alex")
    doc._.image = "img/red.png"
    DocBin(docs=[doc], store_user_data=True).to_disk(data / "in.spacy")
    errors = []
    for folder in (data, tmp_path):
        monkeypatch.chdir(folder)
        args = ["apply", str(tmp_path / "pictures"), str(data / "in.spacy"), "out.spacy"]
        assert CliRunner().invoke(app, args).exit_code == 0
        (found,) = DocBin().from_disk("out.spacy").get_docs(nlp.vocab)
        assert found._.image == "img/red.png"
        errors.append(found._.image_error)
    assert errors[0] is None
    assert "no such file" in errors[1]
    assert "img/red.png" in errors[1]
    assert f"current folder, {str(tmp_path)!r}" in errors[1]
