"""The README's Python snippets run as they stand, its commands exist, its links lead somewhere."""

import re
import shlex
import warnings
from pathlib import Path

import pytest
import srsly
from conftest import (
    make_examples,
    make_nlp,
    make_picture,
    make_rel_examples,
    make_rel_nlp,
    run_python,
    train,
)

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf8")
SNIPPETS = re.findall(r"^```python\n(.*?)^```", README, flags=re.S | re.M)
SHELL = [
    line
    for block in re.findall(r"^```bash\n(.*?)^```", README, flags=re.S | re.M)
    for line in block.replace("\\\n", " ").splitlines()
    if line.strip() and not line.startswith("#")
]


def test_there_are_snippets():
    assert len(SNIPPETS) >= 3
    assert len(SHELL) >= 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with what the snippets name: a trained pipeline and a picture."""
    folder = tmp_path_factory.mktemp("readme")
    nlp = make_nlp()
    train(nlp, make_examples(nlp), steps=20)
    nlp.to_disk(folder / "my_pipeline")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, joint in (("project/training/demo/joint_0/model-best", True), ("my_relations", False)):
            nlp = make_rel_nlp(joint=joint)
            train(nlp, make_rel_examples(nlp), steps=3)
            (folder / name).mkdir(parents=True)
            nlp.to_disk(folder / name)
    make_picture("red").save(folder / "rob.jpg")
    (folder / "project/data/demo/images/test").mkdir(parents=True)
    make_picture("red", (128, 128)).save(folder / "project/data/demo/images/test/0048.png")
    return folder


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_snippet(number, folder):
    """Each in a process of its own, as a reader would run it."""
    run_python("-c", SNIPPETS[number], cwd=folder)


def test_commands_exist():
    import typer
    from spacy.cli._util import app
    from spacy.util import registry

    registry.cli.get_all()
    command = typer.main.get_command(app)
    project = srsly.read_yaml(ROOT / "project.yml")
    known = {c["name"] for c in project["commands"]} | set(project["workflows"])
    for line in SHELL:
        words = shlex.split(line, comments=True)
        if "spacy" not in words:
            continue
        words = words[words.index("spacy") + 1 :]
        if words[:2] == ["project", "run"]:
            assert words[2] in known, line
            # An option right behind the name would be taken for the project's folder.
            assert len(words) == 3 or words[3] == ".", line
            for word in words[3:]:
                if word.startswith("--vars."):
                    assert word.removeprefix("--vars.").split("=")[0] in project["vars"], line
            continue
        group = command
        while words and hasattr(group, "commands") and words[0] in group.commands:
            group = group.commands[words.pop(0)]
        assert not hasattr(group, "commands"), f"no such command: {line}"
        options = {o for p in group.params for o in (*p.opts, *p.secondary_opts)}
        for word in words:
            if word.startswith("--") and "." not in word:  # overrides of a config have a dot
                assert word in options, f"no option {word}: {line}"


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if not target.startswith("http"):
            assert (ROOT / target).exists(), target


def test_registered_names_are_documented():
    names = re.findall(r"^\s+(spacy-mmib\.\S+|mmib_\w+) =", (ROOT / "setup.cfg").read_text(), flags=re.M)
    assert names
    for name in names:
        assert name in README, name


def test_the_projects_commands_name_scripts_that_exist():
    project = srsly.read_yaml(ROOT / "project.yml")
    commands = {command["name"]: command for command in project["commands"]}
    for steps in project["workflows"].values():
        assert set(steps) <= set(commands)
    for command in commands.values():
        for line in command["script"]:
            words = line.split()
            if words[1] == "-m" and words[2] != "spacy":
                assert (ROOT / f"{words[2].replace('.', '/')}.py").is_file(), line
            elif words[1] != "-m":
                assert (ROOT / words[1]).is_file(), line
            for variable in re.findall(r"\$\{vars\.(\w+)\}", line):
                assert variable in project["vars"], line


def test_overrides_of_the_project_come_with_or_without_dashes():
    from project.config import parse_overrides as parse

    expected = {"training.max_epochs": 3, "training.dropout": 0.2, "paths.encoder": "a b.pth"}
    assert parse("training.max_epochs 3 training.dropout=0.2 paths.encoder 'a b.pth'") == expected
    assert parse("--training.max_epochs 3 --training.dropout 0.2 --paths.encoder='a b.pth'") == expected
    assert parse("") == {}
