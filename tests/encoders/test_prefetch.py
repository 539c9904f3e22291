"""Which encoders read ahead for which posts, and that reading ahead never fails."""

import spacy

from spacy_mmib.encoders.prefetch import note_use, prefetch, set_planner


class Network:
    """Stands for a network: a key that can be referred to weakly."""


class Planner:
    def __init__(self, error=None):
        self.docs, self.error = [], error

    def prefetch(self, docs):
        self.docs += docs
        if self.error is not None:
            raise self.error


def make_docs():
    return [spacy.blank("en").make_doc("a post")]


def use(docs, error=None):
    network, planner = Network(), Planner(error)
    set_planner(network, planner)
    note_use(network, docs)
    return network, planner


def test_only_encoders_of_the_same_pipeline_read():
    docs, others = make_docs(), make_docs()
    mine, theirs = use(docs), use(others)
    prefetch(docs)
    assert (mine[1].docs, theirs[1].docs) == (docs, [])


def test_a_pipeline_that_is_gone_is_not_taken_for_a_new_one():
    # Its vocabulary's place in memory may be that of the next one.
    gone = [use(make_docs()) for _ in range(20)]
    for _ in range(50):
        prefetch(make_docs())
    assert not any(planner.docs for _, planner in gone)


def test_what_fails_ahead_stops_nothing():
    docs = make_docs()
    first, second = use(docs, ValueError("no such row")), use(docs)
    prefetch(docs)
    assert first[1].docs == second[1].docs == docs
