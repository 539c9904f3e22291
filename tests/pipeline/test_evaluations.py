"""A training that ends before its second evaluation is said to be one when it starts."""

import warnings

import pytest
import spacy
from conftest import make_examples, make_nlp, make_rel_examples, make_rel_nlp
from spacy.util import registry

from spacy_mmib.pipeline.evaluations import warn_if_evaluated_once
from spacy_mmib.util import MMIBWarning


@registry.batchers("test_picky.v1")
def make_picky_batcher():
    """Wants to know more of a post than its length."""
    return lambda examples: ([example] for example in examples if example.predicted)


BY_SEQUENCE = {"@batchers": "spacy-mmib.batch_by_sequence.v1", "size": 8, "buffer": 4}
BY_WORDS = {
    "@batchers": "spacy.batch_by_words.v1",
    "size": 100,
    "tolerance": 0.2,
    "discard_oversize": False,
    "get_length": None,
}


@pytest.mark.parametrize(
    ("frequency", "training", "updates"),
    [
        # 3 batches an epoch. The second evaluation is after the update number eval_frequency + 1.
        (200, {"max_epochs": 5, "batcher": BY_SEQUENCE}, 15),
        (15, {"max_epochs": 5, "batcher": BY_SEQUENCE}, 15),
        (14, {"max_epochs": 5, "batcher": BY_SEQUENCE}, None),
        # It is the batch that is split.
        (14, {"max_epochs": 5, "accumulate_gradient": 4, "batcher": BY_SEQUENCE}, None),
        (200, {"max_epochs": 1, "batcher": BY_WORDS}, 2),
        (200, {"max_epochs": 5, "max_steps": 9, "batcher": BY_SEQUENCE}, 9),
        # Without end, or a stream of which nobody knows the length.
        (10**6, {"max_epochs": 0}, None),
        (10**6, {"max_epochs": -1}, None),
        (200, {"max_epochs": 0, "max_steps": 100}, 100),
        (100, {"max_epochs": -1, "max_steps": 100}, None),
        (200, {"max_epochs": 0, "patience": 150}, 150),
        # Nobody knows, or spaCy will complain.
        (200, {"max_epochs": 1, "batcher": {"@batchers": "test_picky.v1"}}, None),
        (200, {"max_epochs": 1, "batcher": {**BY_SEQUENCE, "size": "many"}}, None),
        ("often", {"max_epochs": 1}, None),
    ],
)
def test_of_20_posts(frequency, training, updates):
    nlp = spacy.blank("en")
    nlp.config["training"].update({"eval_frequency": frequency, "max_steps": 0, "patience": 0, **training})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_if_evaluated_once(nlp, [10] * 20)
    messages = [str(w.message) for w in caught]
    assert len(messages) == (updates is not None)
    for message in messages:
        assert f"eval_frequency is {frequency}" in message
        assert f"about {updates} updates" in message


def test_once_for_all_components():
    nlp = make_rel_nlp(joint=True)
    examples = make_rel_examples(nlp)
    nlp.config["training"].update({"eval_frequency": 200, "max_epochs": 2})
    with pytest.warns(MMIBWarning, match="eval_frequency is 200") as caught:
        nlp.initialize(lambda: examples)
    assert sum("eval_frequency" in str(w.message) for w in caught) == 1
    nlp = make_nlp()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*eval_frequency.*")
        nlp.initialize(lambda: make_examples(nlp))  # no epochs are set: there is no end
