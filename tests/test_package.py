"""The package as spaCy sees it: light to import, everything found by name, every config complete."""

import configparser
import subprocess
import sys
from pathlib import Path

import pytest
import spacy
from forked import run_forked
from spacy.language import Language
from spacy.util import registry

from project.config import read_config
from spacy_mmib.regions.base import region_getters

ROOT = Path(__file__).parent.parent
CONFIGS = sorted(path.stem for path in ROOT.glob("configs/*.cfg"))


def entry_points() -> list[tuple[str, str, str]]:
    parser = configparser.ConfigParser(delimiters=["="], interpolation=None)
    parser.optionxform = str
    parser.read(ROOT / "setup.cfg")
    found = []
    for group, lines in parser["options.entry_points"].items():
        for line in filter(None, map(str.strip, lines.splitlines())):
            name, target = (part.strip() for part in line.split("=", 1))
            found.append((group, name, target))
    return found


@pytest.mark.parametrize(("group", "name", "target"), entry_points())
def test_every_entry_point_is_found_by_its_name(group, name, target):
    import importlib

    module, attribute = target.split(":")
    function = getattr(importlib.import_module(module), attribute)
    spacy_registries = {
        "spacy_architectures": registry.architectures,
        "spacy_readers": registry.readers,
        "spacy_scorers": registry.scorers,
        "spacy_misc": registry.misc,
        "spacy_cli": registry.cli,
        "spacy_batchers": registry.batchers,
        "spacy_region_getters": region_getters,
        "thinc_optimizers": registry.optimizers,
        "thinc_schedules": registry.schedules,
    }
    if group == "spacy_factories":
        assert Language.has_factory(name)
    elif group in spacy_registries:
        assert spacy_registries[group].get(name) is function
    else:
        assert group.startswith("srsly_msgpack_")


LIGHT = """
import sys
from importlib.abc import MetaPathFinder

class OnlyWithout(MetaPathFinder):
    '''As if torch, torchvision, torchcrf and Pillow weren't installed.'''
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision", "torchcrf", "PIL", "safetensors"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, OnlyWithout())
import catalogue
# spacy-transformers' own factory imports torch; what counts here is ours.
entry_points = catalogue.Registry.get_entry_points
catalogue.Registry.get_entry_points = lambda self: {
    e.name: e.load() for e in self._get_entry_points() if e.value.startswith("spacy_mmib")
}
import spacy
nlp = spacy.blank("en")
assert nlp.has_factory("mmib_ner")
doc = nlp("Rob had dinner")
doc._.image = "images/rob.jpg"
assert spacy.tokens.Doc(nlp.vocab).from_bytes(doc.to_bytes())._.image == "images/rob.jpg"
import spacy_mmib.cli
heavy = {"torch", "torchvision", "PIL", "torchcrf"} & set(sys.modules)
assert not heavy, heavy
print("light")
"""


def test_importing_spacy_needs_no_torch_because_of_us():
    result = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, check=False)
    assert result.stdout.strip() == "light", result.stderr[-3000:]


BROKEN = """
import sys
for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
    del sys.modules[name]
sys.path.insert(0, sys.argv[1])
import spacy
spacy.blank("en").add_pipe("mmib_ner")
"""


def test_a_torchvision_that_doesnt_fit_is_explained(tmp_path):
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')"
    )
    last = run_forked("-c", BROKEN, tmp_path).stderr.strip().splitlines()[-1]
    assert "ImportError: torchvision " in last
    assert "nms does not exist" in last
    assert "pip install --force-reinstall torchvision" in last


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> dict[str, str]:
    """What a config names as a pipeline to take components from: one of the same kinds of components."""
    folder = tmp_path_factory.mktemp("sources") / "entities"
    config = read_config("joint_trf")
    del config["components"]["mmib_rel"]
    config["nlp"]["pipeline"].remove("mmib_rel")
    spacy.util.load_model_from_config(config).to_disk(folder)
    return {"entities": str(folder)}


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_is_complete_and_resolves(name, sources):
    config = read_config(name)
    config["paths"].update({name: sources[name] for name in config["paths"] if name in sources})
    nlp = spacy.util.load_model_from_config(config, auto_fill=False, validate=True)
    filled = spacy.util.load_model_from_config(config, auto_fill=True, validate=True)
    assert nlp.config.to_str() == filled.config.to_str()
    config = nlp.config.interpolate()
    for section in ("train", "dev"):
        config["corpora"][section]["path"] = "corpus.spacy"
    training = registry.resolve(config["training"], schema=spacy.schemas.ConfigSchemaTraining)
    assert training["max_epochs"] or training["max_steps"]
    corpora = registry.resolve(config["corpora"])
    assert set(corpora) == {"train", "dev"}


def test_there_are_configs():
    assert set(CONFIGS) >= {
        "demo",
        "ner_trf",
        "ner_trf_released",
        "baseline_trf",
        "rel_trf",
        "rel_trf_released",
        "joint_demo",
        "joint_trf",
        "joint_trf_frozen",
        "umt",
        "gated",
        "no_fusion",
    }


@pytest.mark.parametrize(("kind", "more"), [("ner", set()), ("rel", {"entity_repr", "markers"})])
def test_the_released_configs_set_every_switch(kind, more):
    ours, released = (
        read_config(f"{kind}_trf{end}")["components"][f"mmib_{kind}"]["model"] for end in ("", "_released")
    )
    ours, released = ({**model, **model["fusion"]} for model in (ours, released))
    changed = {key for key in ours if ours[key] != released[key]} - {"img2vec", "fusion"}
    switches = {"feed_forward", "discriminator", "max_negatives", "initial_log_var"}
    switches |= {"alignment_pooling", "residual_dropout"}
    assert changed == switches | more
