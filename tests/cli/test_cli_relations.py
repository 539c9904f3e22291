"""The commands `spacy mmib evaluate` and `spacy mmib predict` with relations."""

import json
import warnings

import numpy
import pytest
import spacy
from commands import run, run_alone, save_pairs
from conftest import PAIRS, make_picture, make_rel_nlp
from spacy.language import Language
from spacy.tokens import DocBin

from spacy_mmib.evaluation.evaluate import evaluate
from spacy_mmib.util import MMIBWarning

PER, ORG = "PER", "ORG"
BOXES = [[0, 0, 20, 20]]
TYPED = "all, with types"


@pytest.fixture(scope="module")
def folder(trained_rel, trained_joint, tmp_path_factory):
    """Both pipelines, pictures, and corpora of `PAIRS`."""
    path = tmp_path_factory.mktemp("relations")
    trained_rel.to_disk(path / "rel")
    trained_joint.to_disk(path / "joint")
    save_pairs(path / "test.spacy")
    save_pairs(path / "related.spacy", PAIRS[:4])
    return path


def prf(scores, kind="micro"):
    return tuple(round(scores[f"rel_{kind}_{key}"], 4) for key in "prf")


def with_ruler(joint, *names, label=PER) -> Language:
    """The joint pipeline, but with a recognizer that knows these names only."""
    nlp = make_rel_nlp(joint=True).from_bytes(joint.to_bytes())
    nlp.remove_pipe("mmib_ner")
    ruler = nlp.add_pipe("entity_ruler", first=True)
    ruler.add_patterns([{"label": label, "pattern": name} for name in names])
    return nlp


# --- evaluate -------------------------------------------------------------------------------------


def test_joint_pipeline_is_scored_end_to_end_and_on_given_entities(trained_joint, folder):
    metrics = evaluate(trained_joint, folder / "test.spacy")
    given = metrics["given_entities"]
    for scores in (metrics, given):
        assert prf(scores) == prf(scores, "macro") == prf(scores, "strict") == (1, 1, 1)
        assert set(scores["rel_per_type"]) == {"couple", "team"}
        assert scores["rel_accuracy"] == 1
    assert metrics["ents_f"] == 1
    assert all(key.startswith("rel_") for key in given)
    assert metrics["pictures"]["posts"] == len(PAIRS)
    assert metrics["pictures"]["shown"] == metrics["pictures"]["kept"] == 6


def test_an_entity_that_is_missed_costs_recall_end_to_end_only(trained_joint, folder):
    """Kim is unknown, in two of four posts with two relations each."""
    nlp = with_ruler(trained_joint, "Rob", "Mia")
    metrics = evaluate(nlp, folder / "test.spacy")
    assert prf(metrics) == prf(metrics, "strict") == (1, 0.5, 0.6667)
    # Of ten annotated pairs, the two of the unrelated post are right without any answer.
    assert metrics["rel_accuracy"] == pytest.approx(0.6)
    assert prf(metrics["given_entities"]) == (1, 1, 1)
    assert metrics["given_entities"]["rel_accuracy"] == 1
    nothing = evaluate(with_ruler(trained_joint, "Nobody"), folder / "test.spacy")
    assert prf(nothing) == (0, 0, 0)
    assert prf(nothing["given_entities"]) == (1, 1, 1)
    # The pipeline is as it was before.
    assert nlp.pipe_names == ["entity_ruler", "mmib_img2vec", "mmib_rel"]
    assert evaluate(nlp, folder / "test.spacy")["given_entities"] == metrics["given_entities"]


def test_an_entity_too_many_costs_precision_end_to_end_only(trained_joint, folder):
    exact = with_ruler(trained_joint, "Rob", "Mia", "Kim")
    assert prf(evaluate(exact, folder / "test.spacy")) == (1, 1, 1)
    metrics = evaluate(
        with_ruler(trained_joint, "Rob", "Mia", "Kim", "Oslo", "and", "met"), folder / "test.spacy"
    )
    right = round(metrics["rel_micro_r"] * 8)
    assert right == 8
    assert metrics["rel_micro_p"] < 1
    assert prf(metrics["given_entities"]) == (1, 1, 1)


def test_an_entity_of_another_type_costs_strict_scores_end_to_end_only(trained_joint, folder):
    metrics = evaluate(with_ruler(trained_joint, "Rob", "Mia", "Kim", label=ORG), folder / "test.spacy")
    assert prf(metrics) == (1, 1, 1)
    assert prf(metrics, "strict") == (0, 0, 0)
    assert prf(metrics["given_entities"], "strict") == (1, 1, 1)


def test_a_pipeline_for_given_pairs_has_no_end_to_end(trained_rel, trained_joint, folder):
    metrics = evaluate(trained_rel, folder / "test.spacy")
    assert not [key for key in metrics if key.startswith("rel_")]
    assert prf(metrics["given_entities"]) == (1, 1, 1)
    assert metrics["given_entities"]["rel_accuracy"] == 1
    nlp = make_rel_nlp(joint=True).from_bytes(trained_joint.to_bytes())
    nlp.remove_pipe("mmib_ner")
    metrics = evaluate(nlp, folder / "test.spacy")
    assert not [key for key in metrics if key.startswith("rel_")]
    assert prf(metrics["given_entities"]) == (1, 1, 1)


@pytest.mark.parametrize("model", ["rel", "joint"])
def test_nothing_is_wrong_so_nothing_is_warned_of(folder, model):
    """Not of pairs that are not given, either: they are, in the end."""
    nlp = spacy.load(folder / model)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        evaluate(nlp, folder / "test.spacy")
    assert not [str(w.message) for w in caught if issubclass(w.category, MMIBWarning)]


def test_no_relations_no_scores(trained, folder):
    metrics = evaluate(trained, folder / "test.spacy")
    assert "given_entities" not in metrics
    assert not [key for key in metrics if key.startswith("rel_")]


def test_posts_that_are_not_annotated_are_left_out(trained_joint, folder):
    docs = list(DocBin().from_disk(folder / "test.spacy").get_docs(trained_joint.vocab))
    for doc in docs[1:]:
        doc._.relations = None
    DocBin(docs=docs, store_user_data=True).to_disk(folder / "one.spacy")
    metrics = evaluate(trained_joint, folder / "one.spacy")
    assert prf(metrics) == prf(metrics["given_entities"]) == (1, 1, 1)
    docs[0]._.relations = None
    DocBin(docs=docs, store_user_data=True).to_disk(folder / "none.spacy")
    metrics = evaluate(trained_joint, folder / "none.spacy")
    assert metrics["rel_micro_f"] is None
    assert metrics["given_entities"]["rel_micro_f"] is None


@pytest.mark.parametrize("fixture", ["trained_rel", "trained_joint"])
def test_wrong_and_no_pictures(fixture, folder, request):
    nlp = request.getfixturevalue(fixture)
    own = evaluate(nlp, folder / "related.spacy")["given_entities"]
    assert own["rel_accuracy"] == 1
    # Red and blue alike: each gets the other.
    shuffled = evaluate(nlp, folder / "related.spacy", images="shuffled", seed=1)
    assert shuffled["pictures"]["kept"] == 0
    assert prf(shuffled["given_entities"]) == (0, 0, 0)
    assert shuffled["given_entities"]["rel_accuracy"] == 0
    # The same answer to both posts of a text, one of which is right at most.
    blind = evaluate(nlp, folder / "related.spacy", images="none")
    assert blind["given_entities"]["rel_accuracy"] <= 0.5
    assert blind["pictures"]["shown"] == 0
    if fixture == "trained_joint":
        assert prf(shuffled) == (0, 0, 0)
        assert blind["rel_micro_r"] <= 0.5


@pytest.mark.parametrize(
    ("option", "images", "accuracy"),
    [((), "own", [1]), (("--no-images",), "none", [0, 0.25, 0.5]), (("--shuffle-images",), "shuffled", [0])],
)
def test_evaluate_command(folder, tmp_path, option, images, accuracy):
    output = tmp_path / "new" / "metrics.json"
    result = run("evaluate", folder / "joint", folder / "related.spacy", "-o", output, *option)
    assert result.exit_code == 0, (result.output, result.exception)
    metrics = json.loads(output.read_text())
    assert metrics["images"] == images
    assert metrics["given_entities"]["rel_accuracy"] in accuracy
    assert metrics["rel_micro_r"] in accuracy
    assert metrics["ents_f"] == 1
    if not option:
        assert metrics["rel_per_type"]["team"] == {"p": 1, "r": 1, "f": 1}
        assert metrics["given_entities"]["rel_per_type"]["couple"] == {"p": 1, "r": 1, "f": 1}


def tables(output) -> dict[str, dict[str, list[str]]]:
    """Printed tables with P, R, F: {title: {row: numbers}}."""
    found: dict[str, dict[str, list[str]]] = {}
    rows = None
    for line in output.splitlines():
        words = line.split()
        if words[-3:] == ["P", "R", "F"]:
            rows = found.setdefault(" ".join(words[:-3]), {})
        elif rows is not None and words and set(words[0]) != {"-"}:
            rows[" ".join(words[:-3])] = words[-3:]
        elif not words:
            rows = None
    return found


def test_printed_tables(trained_joint, folder, tmp_path):
    result = run("evaluate", folder / "joint", folder / "test.spacy")
    assert result.exit_code == 0, result.output
    found = tables(result.output)
    full = ["100.00"] * 3
    both = {"all": full, "couple": full, "team": full}
    assert list(found) == ["Entities", "Relations, end to end", "Relations of given entities"]
    assert found["Entities"] == {"all": full, "PER": full}
    assert found["Relations, end to end"] == {**both, TYPED: full}
    assert found["Relations of given entities"] == both
    assert "accuracy on annotated pairs: 100.00" in result.output

    with_ruler(trained_joint, "Rob", "Mia", label=ORG).to_disk(tmp_path / "ruler")
    result = run("evaluate", tmp_path / "ruler", folder / "test.spacy")
    found = tables(result.output)
    half = ["100.00", "50.00", "66.67"]
    assert found["Relations, end to end"]["all"] == half
    assert found["Relations, end to end"]["couple"] == half
    assert found["Relations, end to end"][TYPED] == ["0.00"] * 3
    assert found["Relations of given entities"] == both


def test_printed_tables_without_end_to_end(folder):
    result = run("evaluate", folder / "rel", folder / "test.spacy")
    assert result.exit_code == 0, result.output
    assert list(tables(result.output)) == ["Relations of given entities"]
    assert "No component" not in result.output


def test_in_a_process_of_its_own(folder, tmp_path):
    """Nothing but the command line and a folder: factories and readers are found."""
    corpus, output = folder / "test.spacy", tmp_path / "metrics.json"
    result = run_alone("evaluate", folder / "joint", corpus, "-o", output)
    assert result.returncode == 0, result.stderr
    assert json.loads(output.read_text())["given_entities"]["rel_micro_f"] == 1
    assert "Relations of given entities" in result.stdout


# --- predict --------------------------------------------------------------------------------------


def predict(folder, model, lines, *args):
    posts = folder / "posts.jsonl"
    posts.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    result = run("predict", folder / model, posts, *args)
    assert result.exit_code == 0, (result.output, result.exception)
    return [json.loads(line) for line in result.stdout.splitlines()], result.stderr


def make_lines(posts=PAIRS):
    return [
        {"text": text, **({"image": f"{colour}.png", "regions": BOXES} if colour else {})}
        for text, colour, _ in posts
    ]


def question(head, tail, label=""):
    """Characters of both."""
    spans = [dict(zip(("start", "end"), span)) for span in (head, tail)]
    return {"head": spans[0], "tail": spans[1], "label": label}


ROB, MIA = (0, 3), (8, 11)  # in "Rob met Mia in Oslo"
ASKING = {**make_lines()[0], "relations": [question(ROB, MIA), question(MIA, ROB)]}


def labels(records):
    return [[relation["label"] for relation in record["relations"]] for record in records]


def test_relations_are_in_the_output(trained_joint, folder):
    records, stderr = predict(folder, "joint", make_lines())
    assert labels(records) == [["couple"] * 2, ["team"] * 2] * 2 + [[], [], []]
    for record in records:
        assert [ent["label"] for ent in record["entities"]] == [PER] * len(record["entities"])
        for relation in record["relations"]:
            assert list(relation) == ["head", "tail", "label", "score"]
            for span in (relation["head"], relation["tail"]):
                assert record["text"][span["start"] : span["end"]] == span["text"]
                tokens = record["tokens"][span["start_token"] : span["end_token"]]
                assert tokens == [span["text"]]
    assert f"{len(PAIRS)} posts predicted" in stderr
    assert "8 relations" in stderr

    doc = trained_joint.make_doc(PAIRS[0][0])
    doc._.image, doc._.regions = numpy.asarray(make_picture("red")), [(0, 0, 20, 20)]
    expected = [relation.to_json() for relation in trained_joint(doc)._.relations]
    for relation, known in zip(records[0]["relations"], expected):
        score = relation.pop("score")
        assert score == pytest.approx(known.pop("score"), abs=1e-4)
        assert score == round(score, 5)
        assert relation == known
    head = {"start": 0, "end": 3, "start_token": 0, "end_token": 1, "text": "Rob", "label": "PER"}
    assert expected[0]["head"] == head


def test_questions_are_answered(folder):
    lines = [
        ASKING,
        {**ASKING, "image": "blue.png", "id": 7},
        # The same pairs as tokens, and one more that is known already.
        {**ASKING, "relations": [[[0, 1], [2, 3], ""], [[2, 3], [0, 1], "cousins"]]},
        {**make_lines()[4], "relations": [question((0, 3), (8, 11))]},
        {**ASKING, "relations": []},
        {**ASKING, "relations": None},
        make_lines()[0],
    ]
    records, stderr = predict(folder, "rel", lines)
    assert labels(records[:5]) == [["couple"] * 2, ["team"] * 2, ["cousins", "couple"], ["None"], []]
    assert records[1]["id"] == 7
    assert records[2]["relations"][0]["score"] is None
    answers = [r for record in records[:5] for r in record["relations"] if r["label"] != "cousins"]
    assert all(0.4 < answer["score"] <= 1 for answer in answers)
    spans = [(r["head"]["text"], r["tail"]["text"]) for r in records[0]["relations"]]
    assert spans == [("Rob", "Mia"), ("Mia", "Rob")]
    assert all(record["entities"] == [] for record in records)
    # Asked nothing: nothing is said, in whatever way.
    assert all(not record.get("relations") for record in records[4:])
    assert "7 posts predicted" in stderr
    assert "skipped" not in stderr


def test_questions_with_types_and_tokens(folder):
    """The types of head and tail are handed through, and tokens are those of the line."""
    head, tail = {"start": 0, "end": 3, "label": "PER"}, {"start": 8, "end": 11, "label": "DOG"}
    line = {
        **ASKING,
        "tokens": ["Rob", "met", "Mia", "in", "Os", "lo"],
        "relations": [{"head": head, "tail": tail, "label": "", "score": None}],
    }
    (record,), _ = predict(folder, "rel", [line])
    (relation,) = record["relations"]
    assert (relation["head"]["label"], relation["tail"]["label"]) == ("PER", "DOG")
    assert relation["label"] == "couple"
    assert record["tokens"] == line["tokens"]


def test_the_joint_pipeline_answers_questions_about_what_it_finds(folder):
    records, _ = predict(folder, "joint", [ASKING, {**ASKING, "image": "white.png"}])
    assert labels(records)[0] == ["couple"] * 2
    # Asked for, so answered whatever the answer.
    assert len(records[1]["relations"]) == 2
    assert all(label for label in labels(records)[1])


FOREIGN_RELATIONS = [
    "couple",
    5,
    True,
    {"head": [0, 1], "tail": [2, 3], "label": ""},
    ["couple"],
    [None],
    [[]],
    [[[0, 1], [2, 3]]],
    [[[0, 1], [2, 3], 5]],
    [[[0, 1], [2, 3], None]],
    [{"head": 0, "child": 2, "label": "couple", "head_span": {"start": 0, "end": 3}}],
    [{"id": 0, "from_id": 1, "to_id": 2, "type": "couple"}],
]


BAD_RELATIONS = [
    [[[0, 1], [2, 3], "", 0.5, 1]],
    [[[0, 1], [2, 3], "", "sure"]],
    [[[0, 1], [2, 3], "", [1]]],
    [[[0, 1], [2, 3], "", 10**400]],
    [[[0, 1], [2, 30], ""]],
    [[[0, 0], [2, 3], ""]],
    [[[1, 0], [2, 3], ""]],
    [[[-1, 1], [2, 3], ""]],
    [[[0, 1.5], [2, 3], ""]],
    [[["a", "b"], [2, 3], ""]],
    [["ab", [2, 3], ""]],
    [[[0, 10**400], [2, 3], ""]],
    [{"head": {"start": 0, "end": 3}, "label": ""}],
    [{"head": {"start": 0, "end": 3}, "tail": {"start": 8}, "label": ""}],
    [{"head": {"start": 0, "end": 3}, "tail": "Mia", "label": ""}],
    [question(ROB, (8, 900))],
    [question(ROB, (19, 20))],
    [question(ROB, (8, 8))],
    [question(ROB, (11, 8))],
    [question((-3, 3), MIA)],
    [question(ROB, (10**400, 10**400 + 1))],
    [question(ROB, ("8", "11"))],
    [question(ROB, (8.0, 11.0))],
    # The first one is right.
    [question(ROB, MIA), question(ROB, (8, 900))],
]


@pytest.mark.parametrize("model", ["rel", "joint"])
def test_bad_relations_are_skipped_with_their_number(folder, model):
    lines = [ASKING]
    for bad in BAD_RELATIONS:
        lines += [{**ASKING, "relations": bad}, ASKING]
    records, stderr = predict(folder, model, lines, "--batch-size", "3")
    assert len(records) == len(BAD_RELATIONS) + 1
    assert labels(records) == [["couple"] * 2] * len(records)
    skipped = [line for line in stderr.splitlines() if " skipped: " in line]
    assert len(skipped) == len(BAD_RELATIONS)
    for i, line in enumerate(skipped):
        assert line.startswith(f"line {2 + 2 * i} skipped: doc._.relations"), line
        assert "Traceback" not in line
    assert f"{len(BAD_RELATIONS)} lines skipped (line 2, 4, 6," in stderr
    assert "the characters 8 to 900 are no span of a text of 19 characters" in stderr
    assert "the tokens 2 to 30 are not in a doc of 5 tokens" in stderr


@pytest.mark.parametrize("model", ["rel", "joint"])
def test_relations_of_another_form_are_handed_through(folder, model):
    lines = [{**ASKING, "relations": foreign} for foreign in FOREIGN_RELATIONS]
    records, stderr = predict(folder, model, lines)
    assert "skipped" not in stderr
    for line, record in zip(lines, records, strict=True):
        assert record["relations_error"].startswith("doc._.relations")
        assert {**record, **record.get("as_given", {})}["relations"] == line["relations"]
        if model == "joint":
            assert {r["label"] for r in record["relations"]} == {"couple"}


def test_only_bad_lines(folder):
    (folder / "bad.jsonl").write_text(json.dumps({**ASKING, "relations": [[[0, 1], [2, 30], ""]]}))
    result = run("predict", folder / "rel", folder / "bad.jsonl")
    assert result.exit_code == 1
    assert "line 1 skipped" in result.stderr


@pytest.mark.parametrize("model", ["rel", "joint"])
def test_output_is_input(folder, model):
    lines = make_lines() if model == "joint" else [ASKING, *make_lines()[5:]]
    lines.append({**make_lines()[4], "relations": [question((0, 3), (8, 11))]})
    lines.append({"text": "Rob met Mia", "image": "none.png"})
    first, _ = predict(folder, model, lines)
    assert first[-1]["image_error"]
    assert sum(len(record.get("relations", ())) for record in first) > 2
    second, stderr = predict(folder, model, first)
    assert second == first
    assert "skipped" not in stderr
    third, _ = predict(folder, model, second)
    assert third == first


def test_predict_in_processes_and_from_stdin(folder):
    """Relations come back from other processes; questions and answers are those of one process."""
    lines = [ASKING, *make_lines()] * 2
    data = "\n".join(map(json.dumps, lines))
    alone, _ = predict(folder, "rel", lines)
    more = ("-n", 2, "-b", 3)
    result = run_alone("predict", folder / "rel", "-", *more, input=data, cwd=folder)
    assert result.returncode == 0, result.stderr
    records = [json.loads(line) for line in result.stdout.splitlines()]
    assert labels(records[:1]) == [["couple"] * 2]
    for record, known in zip(records, alone, strict=True):
        for a, b in zip(record.pop("relations", ()), known.pop("relations", ()), strict=True):
            assert a.pop("score") == pytest.approx(b.pop("score"), abs=1e-4)
            assert a == b
        assert record == known
