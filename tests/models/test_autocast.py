"""`autocast` of whole models."""

import numpy
import pytest
import spacy
import torch
from conftest import (
    LANGUAGE,
    MODEL,
    REL_MODEL,
    make_examples,
    make_rel_examples,
    train,
)
from spacy.util import registry

from spacy_mmib.bridge.shim import get_module

POINTER = {"@architectures": "spacy-mmib.Pointer.v1"}


def find_dtypes(model):
    """RETURNS (Dict[str, Set[torch.dtype]]): What linear layers of each sub-layer compute in from now on."""
    found: dict[str, set[torch.dtype]] = {}

    def watch(name):
        return lambda module, args, output: found.setdefault(name, set()).add(output.dtype)

    for name in ("fusion", "head", "pointer"):
        layer = model.maybe_get_ref(name)
        for module in get_module(layer).modules() if layer is not None else ():
            if isinstance(module, torch.nn.Linear):
                module.register_forward_hook(watch(name))
    return found


def make_nlp(model, name="mmib_ner", **config):
    nlp = spacy.blank(LANGUAGE)
    if name == "mmib_rel":
        config["get_instances"] = {"@misc": "spacy-mmib.given_pairs.v1"}
    nlp.add_pipe(name, config={"model": model, **config})
    return nlp


def test_ner_in_half_precision_but_for_the_crf(tmp_path):
    nlp = make_nlp({**MODEL, "autocast": "bfloat16"})
    examples = make_examples(nlp)
    train(nlp, examples, steps=3)
    dtypes = find_dtypes(nlp.get_pipe("mmib_ner").model)
    nlp.update(examples, sgd=False)
    docs = list(nlp.pipe([eg.x.copy() for eg in examples]))
    assert dtypes == {"fusion": {torch.bfloat16}, "head": {torch.float32}}
    vectors = nlp.get_pipe("mmib_ner").model.predict(docs)
    assert {x.dtype for x in vectors.context} == {numpy.dtype("float32")}
    # What is saved is float32: another precision is a matter of settings.
    nlp.to_disk(tmp_path)
    exact = spacy.load(tmp_path, config={"components.mmib_ner.model.autocast": None})
    expected = exact.get_pipe("mmib_ner").model.predict(docs).context
    differences = [abs(x - y).max(initial=0.0) for x, y in zip(vectors.context, expected)]
    assert 0 < max(differences) < 0.1
    # Alone or beside others: the same but for the rounding of bfloat16.
    alone = nlp.get_pipe("mmib_ner").model.predict(docs[:1]).context[0]
    numpy.testing.assert_allclose(alone, vectors.context[0], atol=0.1)


@pytest.mark.parametrize("head", ["Pairs", "PCNN"])
def test_rel_in_half_precision(head):
    block = {"@architectures": f"spacy-mmib.{head}.v1", "dropout": 0.0}
    nlp = make_nlp({**REL_MODEL, "autocast": "bfloat16", "head": block}, "mmib_rel")
    examples = make_rel_examples(nlp, ask=True)
    train(nlp, examples, steps=2)
    dtypes = find_dtypes(nlp.get_pipe("mmib_rel").model)
    losses = nlp.update(examples, sgd=False)
    assert all(numpy.isfinite(x) for x in losses.values())
    docs = list(nlp.pipe([eg.x.copy() for eg in examples]))
    assert all(0 < rel.score <= 1 for doc in docs for rel in doc._.relations)
    assert dtypes == {"fusion": {torch.bfloat16}, "head": {torch.bfloat16}}


def test_settings_that_are_none():
    with pytest.raises(ValueError, match="bfloat16"):
        registry.resolve({"model": {**MODEL, "autocast": "int8"}})
