"""The pages of docs/ do what they say."""

import configparser
import json
import re
from pathlib import Path

import pytest
import spacy
from conftest import make_examples, run_python
from spacy.tokens import DocBin
from spacy.util import dot_to_object
from thinc.api import Config

from project.model_pages import make_pages

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs").rglob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf8"), flags=re.S | re.M)
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def test_pages_of_models_are_in_step():
    """With the files of the models, the configs and the tables they are made of."""
    pages = {path.name: path.read_text(encoding="utf8") for path in (ROOT / "docs" / "models").glob("*.md")}
    made = make_pages()
    assert set(pages) == set(made)
    for name, text in made.items():
        assert pages[name] == text, f"docs/models/{name}: run 'python -m project.model_pages'"
        assert name == "README.md" or "## Settings" in text


@pytest.mark.slow
def test_add_a_model(tmp_path):
    """As a newcomer would: the file, the snippet, the block of the config, the commands."""
    text = (ROOT / "docs" / "add_a_model.md").read_text(encoding="utf8")
    model, use = re.findall(r"^```python\n(.*?)^```", text, flags=re.S | re.M)
    block = re.findall(r"^```ini\n(.*?)^```", text, flags=re.S | re.M)[0]
    commands = re.findall(r"^```bash\n(.*?)^```", text, flags=re.S | re.M)[0].strip().splitlines()
    (tmp_path / "max_fusion.py").write_text(model)
    (tmp_path / "use.py").write_text(use)
    assert "mmib_ner_size" in run_python("use.py", cwd=tmp_path).stdout

    corpus = tmp_path / "corpus"
    corpus.mkdir()
    nlp = spacy.blank("en")
    docs = []
    for example in make_examples(nlp):
        example.reference._.image = example.predicted._.image
        docs.append(example.reference)
    for name in ("train", "dev"):
        DocBin(docs=docs, store_user_data=True).to_disk(corpus / f"{name}.spacy")
    config = Config().from_disk(tmp_path / "config.cfg", interpolate=False)
    of_page = configparser.ConfigParser()
    of_page.read_string(block)
    for section in of_page.sections():
        values = {key: json.loads(value) for key, value in of_page[section].items()}
        assert {**dot_to_object(config, section), **values} == dot_to_object(config, section)
    for name in ("train", "dev"):
        config["corpora"][name] = {"@readers": "spacy-mmib.Corpus.v1", "path": f"${{paths.{name}}}"}
    config["training"].update(max_epochs=2, eval_frequency=5)
    config.to_disk(tmp_path / "config.cfg")
    for command in commands:
        printed = run_python(*command.removeprefix("python ").split(), cwd=tmp_path).stdout
    assert "micro" in printed or "F" in printed
