"""A training that ends before its second evaluation is said to be one when it starts."""

import random
import warnings

import pytest
import spacy
from conftest import make_examples, make_nlp, make_rel_examples, make_rel_nlp
from spacy.util import registry

from spacy_mmib.pipeline.evaluations import warn_if_evaluated_once
from spacy_mmib.util import MMIBWarning

POSTS = 20


@registry.batchers("test_picky.v1")
def make_picky_batcher():
    """Wants to know more of a post than its length."""
    return lambda examples: ([example] for example in examples if example.predicted)


def said(training, lengths=(10,) * POSTS, corpus=None):
    nlp = spacy.blank("en")
    nlp.config["training"].update({"max_steps": 0, "patience": 0, **training})
    nlp.config["corpora"]["train"].update(corpus or {})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_if_evaluated_once(nlp, lengths)
    assert len(caught) <= 1
    return str(caught[0].message) if caught else None


def batcher(name, **settings):
    return {"@batchers": name, **settings}


def by_sequence(size):
    return batcher("spacy.batch_by_sequence.v1", size=size, get_length=None)


def by_words(size):
    name = "spacy.batch_by_words.v1"
    return batcher(name, size=size, tolerance=0.2, discard_oversize=False, get_length=None)


@pytest.mark.parametrize(
    ("training", "updates"),
    [
        # 3 batches an epoch. The second evaluation is after the update number eval_frequency + 1.
        ({"eval_frequency": 200, "max_epochs": 5, "batcher": by_sequence(8)}, 15),
        ({"eval_frequency": 15, "max_epochs": 5, "batcher": by_sequence(8)}, 15),
        ({"eval_frequency": 14, "max_epochs": 5, "batcher": by_sequence(8)}, None),
        # It is the batch that is split.
        (
            {
                "eval_frequency": 14,
                "max_epochs": 5,
                "accumulate_gradient": 4,
                "batcher": by_sequence(8),
            },
            None,
        ),
        (
            {
                "eval_frequency": 20,
                "max_epochs": 1,
                "batcher": batcher("spacy-mmib.batch_by_sequence.v1", size=2, buffer=4),
            },
            10,
        ),
        # Sizes in words: how many batches there are depends on the order.
        ({"eval_frequency": 200, "max_epochs": 1, "batcher": by_words(100)}, 4),
        ({"eval_frequency": 3, "max_epochs": 1, "batcher": by_words(100)}, None),
        ({"eval_frequency": 1000, "max_epochs": 1, "batcher": batcher("test_picky.v1")}, 20),
        ({"eval_frequency": 10, "max_epochs": 1, "batcher": batcher("test_picky.v1")}, None),
        # Without end, or a stream of which nobody knows the length.
        ({"eval_frequency": 10**6, "max_epochs": 0}, None),
        ({"eval_frequency": 10**6, "max_epochs": -1}, None),
        ({"eval_frequency": 200, "max_epochs": 0, "max_steps": 100}, 100),
        ({"eval_frequency": 100, "max_epochs": -1, "max_steps": 100}, None),
        ({"eval_frequency": 200, "max_epochs": 0, "patience": 150}, 150),
        ({"eval_frequency": 200, "max_epochs": 5, "max_steps": 9, "batcher": by_sequence(8)}, 9),
        ({"eval_frequency": 200, "max_epochs": 5, "batcher": by_sequence("many")}, 100),
    ],
)
def test_only_what_is_certain_is_said(training, updates):
    message = said(training)
    if updates is None:
        assert message is None
    else:
        assert f"eval_frequency is {training['eval_frequency']}" in message
        assert f"at most {updates} updates" in message


def test_an_augmenter_may_make_more_posts():
    training = {"eval_frequency": 15, "max_epochs": 5, "batcher": by_sequence(8)}
    corpus = {"augmenter": {"@augmenters": "spacy.lower_case.v1", "level": 0.5}}
    assert said(training, corpus=corpus) is None
    assert said({**training, "eval_frequency": 200}, corpus=corpus)


def test_settings_that_make_no_sense_are_left_to_spacy():
    assert said({"eval_frequency": "often", "max_epochs": 1}) is None


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


def test_counting_leaves_the_random_numbers_of_the_training_alone():
    state = random.getstate()
    size = batcher("spacy-mmib.batch_by_sequence.v1", size=2, buffer=4)
    assert said({"eval_frequency": 200, "max_epochs": 1, "batcher": size})
    assert random.getstate() == state
